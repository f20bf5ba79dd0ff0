//! `start_response`, `write` and the iterable: what the client gets. Behaviours 9 to 16, 18 to 22.

use super::{Stream, contract, is_broken, tell};
use crate::harness::{BOTH, Http, text};

fn raw_get(path: &str, version: &str) -> Vec<u8> {
    format!("GET {path} HTTP/{version}\r\nHost: localhost\r\nConnection: close\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn the_reason_phrase_is_the_applications_own() {
    let gate = contract("");
    for (path, line) in [
        ("/app/hello", &b"HTTP/1.1 200 OK\r\n"[..]),
        ("/app/generator", b"HTTP/1.1 201 Made\r\n"),
        ("/app/exc_info_before", b"HTTP/1.1 503 Replaced\r\n"),
        ("/app/latin1_header", b"HTTP/1.1 200 Tr\xe8s bien\r\n"),
    ] {
        let answer = gate.raw(&raw_get(path, "1.1")).await;
        assert!(answer.starts_with(line), "{path}: {}", text(&answer));
    }
    let answer = gate.get("/app/latin1_header").over(Http::Two).await;
    assert_eq!((answer.code(), answer.headers["x-name"].as_bytes()), (200, &b"Andr\xe9"[..]));
}

#[tokio::test]
async fn a_status_that_is_none_is_an_error_of_the_application() {
    let gate = contract("");
    for status in [
        "OK",
        "200",
        "200OK",
        "2000%20OK",
        "20%20OK",
        "%20200%20OK",
        "100%20Continue",
        "200%20a%0Ab",
        "200%20%E2%82%AC",
    ] {
        for http in BOTH {
            let answer = gate.get(&format!("/app/bad_status?status={status}")).over(http).await;
            assert_eq!((answer.code(), answer.reason()), (500, "application-error"), "{status} over {http:?}");
        }
    }
    let answer = gate.get("/app/bytes_status").over(Http::One).await;
    assert_eq!(answer.code(), 500);
    gate.await_log("app/wsgi.log", |line| line["message"].as_str().is_some_and(|text| text.contains("must be a str")));
}

#[tokio::test]
async fn headers_that_are_none_are_an_error_and_never_dropped_in_silence() {
    let gate = contract("");
    for path in ["bad_header", "bad_header_name", "header_tuple", "crlf_header"] {
        for http in BOTH {
            let answer = gate.get(&format!("/app/{path}")).over(http).await;
            assert_eq!((answer.code(), answer.reason()), (500, "application-error"), "{path} over {http:?}");
            assert!(!answer.headers.contains_key("set-cookie"));
        }
        gate.await_log("app/wsgi.log", |line| {
            line["source"] == "error"
                && line["message"].as_str().is_some_and(|text| text.contains(&format!("/{path} failed")))
        });
    }
}

#[tokio::test]
async fn response_headers_of_the_connection_are_left_out_with_one_warning() {
    let gate = contract("");
    for http in [Http::One, Http::Two, Http::One] {
        let answer = gate.get("/app/hop_by_hop").over(http).await;
        assert_eq!((answer.code(), answer.text().as_str(), answer.cut), (200, "ok", false), "over {http:?}");
        assert!(!answer.headers.contains_key("connection") && !answer.headers.contains_key("transfer-encoding"));
        assert_eq!(answer.header("x-kept"), Some("yes"));
    }
    let warned = |line: &serde_json::Value| {
        line["source"] == "warning" && line["message"].as_str().is_some_and(|text| text.contains("\"Connection\""))
    };
    gate.await_log("app/wsgi.log", warned);
    assert_eq!(gate.log("app/wsgi.log").into_iter().filter(warned).count(), 1);
}

#[tokio::test]
async fn a_second_start_response_is_an_error_unless_it_brings_exc_info_in_time() {
    let gate = contract("");
    for http in BOTH {
        assert_eq!(gate.get("/app/twice").over(http).await.text(), "AssertionError");
        let replaced = gate.get("/app/exc_info_before").over(http).await;
        assert_eq!((replaced.code(), replaced.header("x-replaced")), (503, Some("yes")));
        assert_eq!((replaced.text().as_str(), replaced.header("content-type")), ("replaced", None));
        let late = gate.get("/app/exc_info_after").over(http).await;
        assert!(is_broken(&late), "{late:?}");
        let never = gate.get("/app/no_start_response").over(http).await;
        assert_eq!((never.code(), never.reason()), (500, "application-error"));
    }
    gate.await_log("app/wsgi.log", |line| {
        line["message"].as_str().is_some_and(|text| text.contains("ValueError: late"))
    });
}

#[tokio::test]
async fn write_precedes_the_iterable_and_sends_before_it_returns() {
    let gate = contract("");
    for http in BOTH {
        assert_eq!(gate.get("/app/write").over(http).await.text(), "written twice returned");
        let mut stream = Stream::open(&gate, http, "/app/write_when_told").await;
        assert_eq!(stream.piece().await, "written ");
        tell(&gate).await;
        assert_eq!(stream.piece().await, "returned");
        assert!(stream.next().await.is_none());
    }
}

#[tokio::test]
async fn a_generator_may_call_start_response_at_its_first_block() {
    let gate = contract("");
    for http in BOTH {
        let answer = gate.get("/app/generator").over(http).await;
        assert_eq!(
            (answer.code(), answer.header("x-from"), answer.text().as_str()),
            (201, Some("generator"), "one two")
        );
        assert!(!answer.cut);
    }
}

#[tokio::test]
async fn a_whole_answer_gets_its_content_length() {
    let gate = contract("");
    for (path, length) in [("hello", "14"), ("multi_chunks", "6"), ("empty", "0"), ("plain_bytes", "5"), ("head", "5")]
    {
        for http in BOTH {
            let answer = gate.get(&format!("/app/{path}")).over(http).await;
            assert_eq!((answer.code(), answer.header("content-length")), (200, Some(length)), "{path} over {http:?}");
            assert_eq!(answer.body.len().to_string(), length);
        }
    }
    assert_eq!(gate.get("/app/multi_chunks").over(Http::One).await.text(), "abcdef");
    gate.await_log("app/wsgi.log", |line| {
        line["source"] == "warning" && line["message"].as_str().is_some_and(|text| text.contains("returned bytes"))
    });
}

#[tokio::test]
async fn an_event_arrives_when_it_is_yielded() {
    let gate = contract("");
    for http in BOTH {
        let mut stream = Stream::open(&gate, http, "/app/events_when_told").await;
        assert_eq!((stream.status, stream.headers["content-type"].to_str().unwrap()), (200, "text/event-stream"));
        for number in 0..3 {
            // The application goes on only after the word, and the word is given only after the event has come.
            if number > 0 {
                tell(&gate).await;
            }
            assert_eq!(stream.piece().await, format!("data: {number}\n\n"), "over {http:?}");
        }
        assert!(stream.next().await.is_none());
    }
}

#[tokio::test]
async fn only_bytes_are_a_body() {
    let gate = contract("");
    for http in BOTH {
        let answer = gate.get("/app/not_bytes").over(http).await;
        assert_eq!((answer.code(), answer.reason()), (500, "application-error"));
        let later = gate.get("/app/not_bytes_later").over(http).await;
        assert!(is_broken(&later), "{later:?}");
    }
    gate.await_log("app/wsgi.log", |line| line["message"].as_str().is_some_and(|text| text.contains("bytes, not str")));
}

#[tokio::test]
async fn an_exception_before_the_first_byte_is_500_with_its_traceback_in_the_log() {
    let gate = contract("");
    for (path, said) in [("raise_before", "RuntimeError: before"), ("raise_base", "SystemExit: application called")] {
        for http in BOTH {
            let answer = gate.get(&format!("/app/{path}")).over(http).await;
            assert_eq!((answer.code(), answer.reason()), (500, "application-error"), "{path} over {http:?}");
            assert!(!answer.text().contains("RuntimeError"), "the client learns nothing: {}", answer.text());
            let request = answer.header("portcullis-request").unwrap();
            let line = gate.await_log("app/wsgi.log", |line| line["request"] == request);
            let message = line["message"].as_str().unwrap();
            assert!(message.contains("Traceback") && message.contains(said), "{message}");
        }
    }
    let before = gate.workers("/app");
    assert_eq!(gate.get("/app/hello").over(Http::One).await.code(), 200);
    assert_eq!(gate.workers("/app"), before, "sys.exit() is not the worker's end");
}

#[tokio::test]
async fn an_exception_in_mid_body_is_a_visible_truncation() {
    let gate = contract("");
    for http in BOTH {
        for (path, beginning) in [("raise_when_told", "some"), ("short_when_told", "four")] {
            let mut stream = Stream::open(&gate, http, &format!("/app/{path}")).await;
            assert_eq!((stream.status, stream.piece().await.as_str()), (200, beginning));
            tell(&gate).await;
            let end = stream.next().await;
            assert!(matches!(end, Some(Err(_))), "{path} over {http:?}: {end:?}");
        }
        let answer = gate.get("/app/raise_after").over(http).await;
        assert!(is_broken(&answer), "{answer:?}");
    }
    gate.await_log("app/wsgi.log", |line| {
        line["message"].as_str().is_some_and(|text| text.contains("RuntimeError: after"))
    });
    gate.await_log("app/wsgi.log", |line| {
        line["message"].as_str().is_some_and(|text| text.contains("shorter than its Content-Length"))
    });
    let line = gate.await_log("access.log", |line| line["path"] == "/app/raise_when_told");
    assert_eq!(line["status"], 200);
}

#[tokio::test]
async fn a_chunked_body_that_breaks_off_has_no_last_chunk() {
    let gate = contract("");
    let mut wire = super::Wire::open(&gate).await;
    wire.say("GET /app/raise_when_told HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let head = wire.hear_until("some\r\n").await;
    assert!(head.to_ascii_lowercase().contains("transfer-encoding: chunked"), "{head}");
    tell(&gate).await;
    assert_eq!(wire.hear_rest().await, "", "closed without the final chunk");
}

#[tokio::test]
async fn a_content_length_is_kept_to_the_byte() {
    let gate = contract("");
    for http in BOTH {
        let long = gate.get("/app/too_long").over(http).await;
        assert_eq!((long.code(), long.text().as_str(), long.cut), (200, "four", false), "over {http:?}");
        assert_eq!(long.header("content-length"), Some("4"));
        let short = gate.get("/app/too_short").over(http).await;
        assert!(is_broken(&short), "{short:?}");
        for path in ["too_short_list", "bad_length"] {
            let answer = gate.get(&format!("/app/{path}")).over(http).await;
            assert_eq!((answer.code(), answer.reason()), (500, "application-error"), "{path} over {http:?}");
        }
    }
    gate.await_log("app/wsgi.log", |line| {
        line["source"] == "warning"
            && line["message"].as_str().is_some_and(|text| text.contains("more than its Content-Length of 4"))
    });
    // The connection is still in step after the part that was cut off.
    let twice = "GET /app/too_long HTTP/1.1\r\nHost: localhost\r\n\r\n\
                 GET /app/hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = text(&gate.raw(twice.as_bytes()).await);
    assert!(answer.ends_with("\r\n\r\nHello, world!\n") && answer.contains("\r\n\r\nfourHTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn head_runs_the_application_and_has_no_body() {
    let gate = contract("");
    for (path, length) in
        [("head", Some("5")), ("hello", Some("14")), ("multi_chunks", Some("6")), ("sse?n=1&ms=0", None)]
    {
        for http in BOTH {
            let answer = gate.ask("HEAD", &format!("/app/{path}")).over(http).await;
            assert_eq!((answer.code(), answer.header("content-length")), (200, length), "{path} over {http:?}");
            assert!(answer.body.is_empty() && !answer.cut);
        }
        let raw = format!("HEAD /app/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = text(&gate.raw(raw.as_bytes()).await);
        assert!(answer.ends_with("\r\n\r\n"), "{path}: {answer}");
    }
    let refused = gate.ask("HEAD", "/app/raise_before").over(Http::One).await;
    assert_eq!((refused.code(), refused.body.len()), (500, 0));
}

#[tokio::test]
async fn no_content_and_not_modified_have_no_body() {
    let gate = contract("");
    for (path, code) in [("204", 204), ("304", 304)] {
        for http in BOTH {
            let answer = gate.get(&format!("/app/{path}")).over(http).await;
            assert_eq!((answer.code(), answer.body.len(), answer.cut), (code, 0, false), "over {http:?}");
        }
        let answer = text(&gate.raw(&raw_get(&format!("/app/{path}"), "1.1")).await);
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        assert!(!answer.to_ascii_lowercase().contains("transfer-encoding"), "{answer}");
        assert!(!answer.to_ascii_lowercase().contains("content-length"), "{answer}");
    }
    assert_eq!(gate.get("/app/304").over(Http::Two).await.header("etag"), Some("\"1\""));
}

#[tokio::test]
async fn http_1_0_gets_no_chunks() {
    let gate = contract("");
    let answer = text(&gate.raw(b"GET /app/generator HTTP/1.0\r\n\r\n").await);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 201 Made") && !head.to_ascii_lowercase().contains("transfer-encoding"), "{answer}");
    assert_eq!(body, "one two");
}

#[tokio::test]
async fn date_and_server_are_set_where_the_application_did_not() {
    let gate = contract("");
    for http in BOTH {
        let plain = gate.get("/app/hello").over(http).await;
        assert_eq!(plain.headers.get_all("date").iter().count(), 1);
        assert_eq!(plain.header("server"), Some("Portcullis"));
        let own = gate.get("/app/own_date").over(http).await;
        for (name, value) in [("date", "Thu, 01 Jan 1970 00:00:00 GMT"), ("server", "own")] {
            assert_eq!(own.headers.get_all(name).iter().collect::<Vec<_>>(), [value], "over {http:?}");
        }
    }
}

#[tokio::test]
async fn a_wrapped_file_is_sent_from_where_it_stands() {
    let gate = contract("");
    for http in BOTH {
        let answer = gate.get("/app/file_wrapper").over(http).await;
        assert_eq!((answer.code(), answer.body.len(), answer.cut), (200, 200_000, false));
        assert!(answer.body.chunks(4).all(|word| word == b"file"));
    }
}

#[tokio::test]
async fn a_file_on_disk_is_handed_over_and_arrives_as_reading_it_would_give() {
    let gate = contract("");
    let content: Vec<u8> = (0..251u8).cycle().take(251 * (1024 * 1024 / 251 + 1)).collect();
    for http in BOTH {
        for (query, expected) in [
            ("kind=plain", &content[..]),
            ("kind=raw", &content),
            ("kind=named", &content),
            ("kind=gzip", &content),
            ("kind=plain&at=100000", &content[100_001..]),
            ("kind=gzip&at=100000", &content[100_001..]),
            ("kind=plain&at=100000&length=300000", &content[100_001..400_001]),
        ] {
            let answer = gate.get(&format!("/app/disk_file?{query}")).over(http).await;
            assert!(answer.code() == 200 && !answer.cut && answer.body == expected, "{query} over {http:?}");
            let length = expected.len().to_string();
            let announced = answer.header("content-length");
            assert!(announced == Some(&length) || query.contains("gzip"), "{query}: {announced:?}");
        }
        let mixed = gate.get("/app/file_after_write").over(http).await;
        assert!(mixed.body.starts_with(b"first x") && mixed.body.len() == 200_006 && !mixed.cut);
        let head = gate.ask("HEAD", "/app/disk_file").over(http).await;
        assert_eq!((head.code(), head.body.len(), head.cut), (200, 0, false));
        let long = gate.get("/app/disk_file?kib=100&length=300000").over(http).await;
        assert!(is_broken(&long), "a file shorter than its Content-Length");
    }
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", gate.pid())).unwrap().flatten();
    let files = descriptors.filter_map(|fd| std::fs::read_link(fd.path()).ok());
    let left: Vec<_> = files.filter(|file| file.to_string_lossy().contains("/tmp")).collect();
    let left: Vec<_> = left.iter().filter(|file| file.to_string_lossy().contains("deleted")).collect();
    assert!(left.is_empty(), "descriptors are left: {left:?}");
}

#[tokio::test]
async fn a_file_that_is_cut_while_it_is_sent_is_a_visible_abort() {
    let gate = contract("");
    for http in BOTH {
        let mut stream = Stream::open(&gate, http, "/app/shrinking_file").await;
        assert_eq!(stream.headers["content-length"], "67108864");
        gate.await_log("app/wsgi.log", |line| line["message"] == "the file was cut");
        let broken = loop {
            match stream.next().await {
                Some(Ok(_)) => {}
                Some(Err(_)) => break true,
                None => break false,
            }
        };
        assert!(broken, "over {http:?}");
        assert_eq!(gate.get("/app/hello").over(http).await.code(), 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_downloads_a_file_slowly_holds_no_thread() {
    let gate = contract("threads = 1");
    for http in BOTH {
        let slow = Stream::open(&gate, http, "/app/disk_file?kib=65536").await;
        assert_eq!(slow.headers["content-length"], "67108866");
        assert_eq!(gate.get("/app/hello").over(http).await.code(), 200);
    }
}

#[tokio::test]
async fn a_large_answer_arrives_whole_in_one_block_or_many() {
    let gate = contract("");
    for http in BOTH {
        let answer = gate.get("/app/big?mib=3").over(http).await;
        assert_eq!((answer.body.len(), answer.header("content-length"), answer.cut), (3 << 20, Some("3145728"), false));
        assert!(answer.body.chunks(16).all(|block| block == b"0123456789abcdef"));
        let answer = gate.get("/app/big_stream?mib=3").over(http).await;
        assert_eq!((answer.body.len(), answer.cut), (3 << 20, false));
    }
}
