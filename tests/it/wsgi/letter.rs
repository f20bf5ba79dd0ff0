//! The letter of PEP 3333 where `contract.py` does not ask for it: clauses of nearly every behaviour, by `letter.py`.

use serde_json::json;

use super::{OPEN, is_broken};
use crate::harness::{ADMIN, BOTH, Gate, Http, Setup};

fn letter(more: &str) -> Gate {
    Setup::level("minimal").app("/app", "letter", &format!("{OPEN}{more}")).start()
}

async fn closed(gate: &Gate) -> usize {
    gate.get("/app/count").over(Http::One).await.text().parse().unwrap()
}

#[tokio::test]
async fn environ_is_fresh_for_every_request_and_holds_nothing_of_os_environ() {
    let gate = letter("threads = 1\nenvironment = { PROBE = \"set\" }");
    let mut sizes = Vec::new();
    for http in [Http::One, Http::One, Http::Two, Http::Two] {
        let document = gate.get("/app/fresh").admin().over(http).await.json();
        assert_eq!((&document["seen"], &document["probe"]), (&json!([]), &json!("set")), "over {http:?}");
        sizes.push(document["size"].as_u64().unwrap());
    }
    assert!(sizes.iter().all(|size| *size == sizes[0]), "{sizes:?}");
}

#[tokio::test]
async fn values_of_environ_are_exactly_of_their_types_and_nothing_can_be_called() {
    let gate = letter("identity_headers = true");
    for http in BOTH {
        let ask = gate.ask("POST", "/app/types?q=%C3%A9").header("x-name", "Andr\u{e9}").header("content-type", "a/b");
        for answer in [ask.clone().body("x").over(http).await, ask.admin().over(http).await] {
            assert_eq!(answer.json(), json!({ "wrong": [], "dict": true }), "over {http:?}");
        }
    }
}

#[tokio::test]
async fn headers_that_are_no_native_pairs_raise_in_the_application() {
    let gate = letter("");
    for (which, said) in [
        ("bytes-name", "TypeError"),
        ("bytes-value", "TypeError: the value of header 'X-A' must be a str"),
        ("list-pair", "TypeError"),
        ("three", "TypeError"),
        ("empty-name", "ValueError"),
        ("colon", "ValueError"),
        ("nul", "ValueError"),
        ("del", "ValueError"),
        ("lf", "ValueError: the value of header 'X-A' holds a control character"),
        ("beyond", "ValueError"),
        ("surrogate", "ValueError"),
        ("none", "TypeError"),
        ("two-lengths", "ValueError: two Content-Length headers"),
        ("minus", "ValueError"),
        ("list-of-lengths", "ValueError"),
    ] {
        for http in BOTH {
            let answer = gate.get(&format!("/app/bad_headers?which={which}")).over(http).await;
            assert_eq!((answer.code(), answer.reason()), (500, "application-error"), "{which} over {http:?}");
            let heard = gate.get("/app/said").over(http).await.json();
            assert!(heard.as_str().is_some_and(|heard| heard.starts_with(said)), "{which}: {heard}");
        }
    }
    for http in BOTH {
        let answer = gate.get("/app/recovers").over(http).await;
        assert_eq!((answer.code(), answer.text().as_str(), answer.header("x-left")), (500, "recovered", None));
        let answer = gate.get("/app/text_subclass").over(http).await;
        assert_eq!((answer.code(), answer.header("x-a")), (200, Some("b")));
    }
}

#[tokio::test]
async fn exc_info_comes_back_as_it_is_and_is_not_kept() {
    let gate = letter("threads = 1");
    for http in BOTH {
        assert_eq!(gate.get("/app/exc_info_reraised").over(http).await.text(), "sent the same", "over {http:?}");
        assert_eq!(gate.get("/app/exc_info_dropped").over(http).await.code(), 500);
        let looked = gate.get("/app/exc_info_dropped?look").over(http).await.json();
        assert_eq!(looked, json!({ "alive": false }), "over {http:?}");
    }
}

#[tokio::test]
async fn write_takes_bytes_only_and_only_while_the_request_lasts() {
    let gate = letter("threads = 1");
    for http in BOTH {
        assert_eq!(gate.get("/app/write_kinds").over(http).await.text(), "a!!!!z", "over {http:?}");
        assert_eq!(gate.get("/app/write_only").over(http).await.text(), "all of it");
        assert_eq!(gate.get("/app/keep_write").over(http).await.text(), "kept");
        let late = gate.get("/app/late_write").over(http).await;
        assert_eq!(late.text(), "AssertionError AssertionError", "over {http:?}");
        assert_eq!(late.header("x-stolen"), None);
    }
}

#[tokio::test]
async fn the_head_leaves_at_the_end_of_an_empty_iteration_and_never_after_the_body() {
    let gate = letter("");
    for http in BOTH {
        let empty = gate.get("/app/generator_empty").over(http).await;
        assert_eq!((empty.code(), empty.header("content-length"), empty.body.len()), (202, Some("0"), 0), "{http:?}");
        let early = gate.get("/app/body_first").over(http).await;
        assert_eq!((early.code(), early.reason()), (500, "application-error"), "over {http:?}");
        let tuple = gate.get("/app/several").over(http).await;
        assert_eq!((tuple.text().as_str(), tuple.header("content-length")), ("abc", Some("3")), "over {http:?}");
    }
}

#[tokio::test]
async fn only_bytes_are_bytes_wherever_they_stand() {
    let gate = letter("");
    for kind in ["str", "int", "none", "bytearray", "memoryview", "list"] {
        for http in BOTH {
            for place in ["where=list", "where=iterable"] {
                let answer = gate.get(&format!("/app/kinds?kind={kind}&{place}")).over(http).await;
                assert_eq!((answer.code(), answer.reason()), (500, "application-error"), "{kind} {place} {http:?}");
            }
            let later = gate.get(&format!("/app/kinds?kind={kind}&where=iterable&after=1")).over(http).await;
            assert!(is_broken(&later), "{kind} over {http:?}: {later:?}");
        }
    }
}

#[tokio::test]
async fn close_is_called_although_nothing_was_iterated_or_begun() {
    let gate = letter("threads = 1");
    let mut expected = 0;
    for http in BOTH {
        for path in ["never_started", "iter_raises"] {
            let answer = gate.get(&format!("/app/{path}")).over(http).await;
            assert_eq!((answer.code(), answer.reason()), (500, "application-error"), "{path} over {http:?}");
            expected += 1;
            assert_eq!(closed(&gate).await, expected, "{path} over {http:?}");
        }
        let answer = gate.get("/app/base_later").over(http).await;
        assert!(is_broken(&answer), "{answer:?}");
        expected += 1;
        assert_eq!(closed(&gate).await, expected, "SystemExit over {http:?}");
    }
}

#[tokio::test]
async fn nothing_goes_beyond_a_content_length_by_list_or_write() {
    let gate = letter("");
    for http in BOTH {
        for path in ["too_long_list", "too_long_write"] {
            let answer = gate.get(&format!("/app/{path}")).over(http).await;
            assert_eq!((answer.code(), answer.text().as_str(), answer.cut), (200, "four", false), "{path} {http:?}");
        }
    }
}

#[tokio::test]
async fn head_runs_generators_and_write_and_sends_no_body() {
    let gate = Setup::level("minimal").app("/app", "letter", OPEN).app("/contract", "contract", OPEN).start();
    for (path, code) in [
        ("/app/write_only", 200),
        ("/app/generator_empty", 202),
        ("/contract/generator", 201),
        ("/contract/write", 200),
    ] {
        for http in BOTH {
            let answer = gate.ask("HEAD", path).over(http).await;
            assert_eq!((answer.code(), answer.body.len(), answer.cut), (code, 0, false), "{path} over {http:?}");
        }
        let both = format!(
            "HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\nGET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        );
        let answers = crate::harness::text(&gate.raw(both.as_bytes()).await);
        assert_eq!(answers.matches(&format!("HTTP/1.1 {code} ")).count(), 2, "the connection is in step: {answers}");
    }
}

#[tokio::test]
async fn a_file_wrapper_is_a_class_that_takes_whatever_can_be_read() {
    let gate = letter("threads = 1");
    for http in BOTH {
        assert_eq!(gate.get("/app/wrapper").over(http).await.json(), json!([true, true]));
        for (which, byte, length) in [("bytesio", b'x', 100_000), ("real", b'y', 200_000), ("read", b'z', 100_000)] {
            let answer = gate.get(&format!("/app/wrapper?which={which}")).over(http).await;
            assert_eq!((answer.code(), answer.body.len(), answer.cut), (200, length, false), "{which} over {http:?}");
            assert!(answer.body.iter().all(|got| *got == byte), "{which} over {http:?}");
        }
        let mapped = gate.get("/app/wrapper?which=mapped").over(http).await;
        assert_eq!(mapped.text(), "LOWER", "inside another iterable it is an iterable like any other");
        let text = gate.get("/app/wrapper?which=text").over(http).await;
        assert_eq!((text.code(), text.reason()), (500, "application-error"), "over {http:?}");
    }
    assert_eq!(closed(&gate).await, 2, "the wrapped file was closed once per request");
}

#[tokio::test]
async fn every_way_to_read_everything_gives_the_same_and_then_nothing_for_ever() {
    let gate = letter("");
    for lines in [0, 3, 20_000] {
        let body = "a line\n".repeat(lines) + if lines > 0 { "no newline" } else { "" };
        for how in ["read", "minus", "none", "lines", "iter", "readline", "read1", "into", "beyond"] {
            for http in BOTH {
                let answer = gate.ask("POST", &format!("/app/all_of?how={how}")).body(body.clone()).over(http).await;
                let document = answer.json();
                assert!(document["body"] == body.as_str(), "{how} {lines} over {http:?}");
                assert_eq!(document["ends"], json!([0, 0, 0, 0, 0, 0, 0]), "{how} {lines} over {http:?}");
            }
        }
    }
}

#[tokio::test]
async fn lines_of_several_threads_never_share_a_line() {
    let gate = letter("");
    assert_eq!(gate.get("/app/errors_kinds").over(Http::Two).await.text(), "logged");
    for message in ["listed", "bytes are refused"] {
        gate.await_log("app/wsgi.log", |line| line["message"] == message && line["source"] == "wsgi.errors");
    }
    let log = gate.log("app/wsgi.log");
    let lines: std::collections::BTreeSet<_> = log
        .iter()
        .filter_map(|line| line["message"].as_str())
        .filter(|message| message.starts_with("thread "))
        .map(str::to_owned)
        .collect();
    let expected = (0..4).flat_map(|thread| (0..50).map(move |line| format!("thread {thread} line {line}"))).collect();
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn over_http_2_the_connections_headers_and_trailers_stay_outside_too() {
    let gate = Setup::level("minimal").app("/app", "environ_app", OPEN).start();
    let environ = gate.get("/app/").header("te", "trailers").header("x-kept", "yes").over(Http::Two).await.environ();
    assert_eq!(environ["HTTP_X_KEPT"], "yes");
    assert!(environ.get("HTTP_TE").is_none(), "{environ}");
    let twice = gate.ask("POST", "/app/").header("content-type", "a/b").header("content-type", "a/c");
    assert_eq!(twice.over(Http::Two).await.code(), 400);
    let authority = gate.get("/app/").header("host", "other").over(Http::Two).await;
    assert_eq!(authority.code(), 400, "two hosts");
}

#[tokio::test]
async fn a_body_is_not_asked_for_where_it_would_be_refused() {
    let gate = Setup::level("minimal")
        .app("/app", "contract", "methods = [\"password\", \"unauthenticated\"]\ndefault = \"anyone\"\n[[deny]]\npath = \"/count\"\nunless_who = \"user:nobody\"")
        .start();
    let auth = format!("Authorization: Basic {}\r\n", {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", ADMIN.0, ADMIN.1))
    });
    for (path, code) in [("/app/count", 403), ("/nothing/here", 404), ("/app/a%2fb", 400)] {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\n{auth}Expect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
        );
        let answer = crate::harness::text(&gate.raw(request.as_bytes()).await);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {code} ")) && !answer.contains("100 Continue"),
            "{path}: {answer}"
        );
    }
}
