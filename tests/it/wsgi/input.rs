//! `wsgi.input` and the connection around it. Behaviours 23 to 27.

use serde_json::json;

use super::{OPEN, Wire, contract};
use crate::harness::{BOTH, Gate, Http, Setup, text};

/// That no request for `path` was logged before the one for `/app/after`.
fn assert_never_ran(gate: &Gate, path: &str) {
    gate.await_log("access.log", |line| line["path"] == "/app/after");
    let log = gate.log("access.log");
    assert!(log.iter().all(|line| line["path"] != path), "{log:#?}");
}

#[tokio::test]
async fn the_body_is_read_as_a_file_and_never_past_its_end() {
    let gate = contract("");
    for http in BOTH {
        let answer = gate.ask("POST", "/app/readline").body("one\nlonger line\nxyz\nrest\nno newline").over(http).await;
        let parts = answer.json();
        let expected = ["one\n", "lon", "ger line\n", "xy", "", "lines", "rest\n", "no newline", "", ""];
        assert_eq!(parts, json!(expected), "over {http:?}");
    }
}

#[tokio::test]
async fn bodies_of_every_size_arrive_whole_and_bounded_reads_are_exact() {
    let gate = contract("");
    // Around what travels with the head, one window, and several.
    for length in [0usize, 1, 65_535, 65_536, 65_537, 300_000, 5_000_000] {
        let body: Vec<u8> = (0..=250u8).cycle().take(length).collect();
        for http in BOTH {
            for path in ["echo", "stream_echo"] {
                let ask = gate.ask("POST", &format!("/app/{path}")).body(body.clone());
                for answer in [ask.over(http).await, ask.over_without_length(http).await] {
                    assert!(
                        answer.code() == 200 && !answer.cut && answer.body == body,
                        "{path} {length} over {http:?}"
                    );
                }
            }
            let answer = gate.ask("POST", "/app/count?block=1000").body(body.clone()).over(http).await;
            assert_eq!(answer.text(), length.to_string());
        }
    }
}

#[tokio::test]
async fn wrappers_of_module_io_can_read_the_body() {
    let gate = contract("");
    for lines in [3, 30_000] {
        let answer = gate.ask("POST", "/app/text_wrapper").body("z\u{e4}hl mich\n".repeat(lines)).over(Http::One).await;
        assert_eq!(answer.text(), lines.to_string());
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_mid_body_is_an_error_and_never_a_short_body() {
    let gate = contract("stream_bodies = true");
    let mut wire = Wire::open(&gate).await;
    wire.say("POST /app/read_aborted HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n").await;
    wire.say(vec![b'x'; 100_000]).await;
    drop(wire);
    let line =
        gate.await_log("app/wsgi.log", |line| line["message"].as_str().is_some_and(|text| text.starts_with("read ")));
    let said = line["message"].as_str().unwrap();
    assert!(["read raised OSError", "read raised ConnectionAbortedError"].contains(&said), "{said}");
    assert_eq!(gate.get("/app/hello").over(Http::One).await.code(), 200);
}

#[tokio::test]
async fn a_body_is_complete_before_the_application_is_called() {
    let gate = contract("threads = 1");
    for framing in ["Content-Length: 3000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n2dc6c0\r\n"] {
        let mut wire = Wire::open(&gate).await;
        wire.say(format!("POST /app/count HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{framing}")).await;
        wire.say(vec![b'x'; 2_000_000]).await;
        // The only thread is free while the body is under way.
        assert_eq!(gate.get("/app/hello").over(Http::One).await.code(), 200);
        wire.say(vec![b'x'; 1_000_000]).await;
        wire.say("\r\n0\r\n\r\n").await;
        let answer = wire.hear_rest().await;
        assert!(answer.ends_with("\r\n\r\n3000000"), "{answer}");

        let mut wire = Wire::open(&gate).await;
        wire.say(format!("POST /app/read_aborted HTTP/1.1\r\nHost: localhost\r\n{framing}")).await;
        wire.say(vec![b'x'; 2_000_000]).await;
        drop(wire);
    }
    gate.await_log("access.log", |line| line["path"] == "/app/read_aborted");
    assert!(gate.log("app/wsgi.log").iter().all(|line| !line["message"].to_string().contains("read ")));
}

#[tokio::test]
async fn bodies_that_wait_are_bounded_in_memory_and_on_disk() {
    let setup = |memory: &str, disk: &str| {
        let setup = Setup::level("minimal").config("limits", memory).config("limits", disk);
        setup.app("/app", "contract", OPEN).start()
    };
    let all_on_disk = setup("body_memory = 0", "body_disk = \"1MiB\"");
    let answer = all_on_disk.ask("POST", "/app/echo").body(vec![b'x'; 500_000]).over(Http::One).await;
    assert!(answer.code() == 200 && answer.body.len() == 500_000);
    let nowhere = setup("body_memory = 0", "body_disk = 0");
    let answer = nowhere.ask("POST", "/app/echo").body(vec![b'x'; 500_000]).over(Http::Two).await;
    assert_eq!((answer.code(), answer.reason()), (503, "queue-full"));
    assert_eq!(nowhere.ask("POST", "/app/echo").body(vec![b'x'; 60_000]).over(Http::One).await.code(), 200);
    nowhere.await_log("messages.log", |line| line["message"].to_string().contains("body_disk"));
}

#[tokio::test]
async fn what_was_not_read_of_a_body_is_never_the_next_request() {
    let gate = contract("");
    let trap = "GET /app/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // Inline, within the first window, and more than the gateway is ready to throw away.
    for repeat in [1, 4_000, 40_000] {
        let body = trap.repeat(repeat);
        for framed in [
            format!("Content-Length: {}\r\n\r\n{body}", body.len()),
            format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len()),
        ] {
            let request = format!(
                "POST /app/unread HTTP/1.1\r\nHost: localhost\r\n{framed}\
                 GET /app/hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            );
            let answer = text(&gate.raw(request.as_bytes()).await);
            let (statuses, ends) = (answer.matches("HTTP/1.1 ").count(), answer.ends_with("Hello, world!\n"));
            assert!(statuses == 1 || statuses == 2 && ends, "{repeat}: {answer}");
            assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("unread"), "{repeat}: {answer}");
            if repeat == 1 {
                assert_eq!(statuses, 2, "a small rest does not cost the connection: {answer}");
            }
        }
    }
    assert_eq!(gate.get("/app/after").over(Http::One).await.code(), 404);
    assert_never_ran(&gate, "/app/smuggled");
}

#[tokio::test]
async fn the_go_ahead_for_a_body_comes_after_the_decision() {
    let gate = Setup::level("normal")
        .app("/app", "contract", "methods = [\"password\"]\ndefault = \"signed-in\"\nbody_bytes = \"1MiB\"")
        .start();
    let head = |auth: &str, length: usize| {
        format!(
            "POST /app/count HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nConnection: close\r\n\
             Content-Length: {length}\r\n{auth}\r\n"
        )
    };
    let denied = text(&gate.raw(head("", 5).as_bytes()).await);
    assert!(denied.starts_with("HTTP/1.1 401 ") && !denied.contains("100 Continue"), "{denied}");

    // root:correct horse battery
    let auth = "Authorization: Basic cm9vdDpjb3JyZWN0IGhvcnNlIGJhdHRlcnk=\r\n";
    let large = text(&gate.raw(head(auth, 2 << 20).as_bytes()).await);
    assert!(large.starts_with("HTTP/1.1 413 ") && !large.contains("100 Continue"), "{large}");

    for length in [5, 500_000] {
        let mut wire = Wire::open(&gate).await;
        wire.say(head(auth, length)).await;
        let interim = wire.hear_until("\r\n\r\n").await;
        assert!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
        wire.say(vec![b'x'; length]).await;
        let answer = wire.hear_rest().await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with(&format!("\r\n\r\n{length}")), "{answer}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_however_it_is_framed() {
    let gate = contract("body_bytes = \"100KiB\"");
    for http in BOTH {
        let fits = gate.ask("POST", "/app/count").body(vec![0; 100 << 10]);
        for answer in [fits.over(http).await, fits.over_without_length(http).await] {
            assert_eq!((answer.code(), answer.text().as_str()), (200, "102400"), "over {http:?}");
        }
    }
    let large = gate.ask("POST", "/app/count").body(vec![0; (100 << 10) + 1]);
    for answer in [large.over(Http::Two).await, large.over_without_length(Http::Two).await] {
        assert_eq!((answer.code(), answer.reason()), (413, "body-too-large"));
    }
    // Over HTTP/1 the connection is closed in the middle of a body that nobody reads, so nothing more is sent than the
    // gateway needs to know.
    for request in [
        "Content-Length: 102401\r\n\r\n".to_owned(),
        format!("Transfer-Encoding: chunked\r\n\r\n19001\r\n{}", "x".repeat(102_401)),
    ] {
        let mut wire = Wire::open(&gate).await;
        wire.say(format!("POST /app/count HTTP/1.1\r\nHost: localhost\r\n{request}")).await;
        let answer = wire.hear_rest().await;
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("reason: body-too-large"), "{answer}");
    }
}

#[tokio::test]
async fn streamed_bodies_come_without_a_length_and_as_they_come() {
    let policy = format!("{OPEN}stream_bodies = true\nbody_bytes = \"1MiB\"");
    let gate = Setup::level("minimal").app("/app", "contract", &policy).app("/environ", "environ_app", &policy).start();
    for http in BOTH {
        let environ = gate.ask("POST", "/environ/").body("abc").over_without_length(http).await;
        assert!(environ.environ().get("CONTENT_LENGTH").is_none(), "{}", environ.text());
        assert_eq!(environ.json()["body"], "abc");
        let body = vec![b'x'; 300_000];
        let answer = gate.ask("POST", "/app/stream_echo").body(body.clone()).over_without_length(http).await;
        assert!(answer.body == body && !answer.cut);
    }
    let mut wire = Wire::open(&gate).await;
    wire.say("POST /app/stream_echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    // stream_echo asks for 64 KiB before it answers: the answer begins while the body still comes.
    wire.say(format!("10000\r\n{}\r\n", "y".repeat(65536))).await;
    wire.hear_until("yyyyyyyy").await;
    wire.say("3\r\nend\r\n0\r\n\r\n").await;
    wire.hear_until("end\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn framing_with_two_readings_is_refused_and_the_connection_closed() {
    let gate = contract("");
    for (what, head) in [
        ("chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("not chunked last", "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        ("unknown coding", "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ("length and chunks", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("chunks and length", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
        ("the same length twice", "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
        ("a list of lengths", "Content-Length: 5, 5\r\n\r\nhello"),
        ("a sign", "Content-Length: +5\r\n\r\nhello"),
        ("space before the colon", "Content-Length : 5\r\n\r\nhello"),
        ("obs-fold", "X-A: b\r\n c\r\nContent-Length: 5\r\n\r\nhello"),
        ("hexadecimal prefix", "Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n"),
        ("signed chunk", "Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n"),
        ("bare LF after a chunk's size", "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n"),
    ] {
        let request = format!(
            "POST /app/count HTTP/1.1\r\nHost: localhost\r\n{head}GET /app/smuggled HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        );
        let answer = text(&gate.raw(request.as_bytes()).await);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: {answer}");
    }
    assert_eq!(gate.get("/app/after").over(Http::One).await.code(), 404);
    assert_never_ran(&gate, "/app/smuggled");
}

#[tokio::test]
async fn an_answer_arrives_although_bytes_that_nobody_wants_follow_the_request() {
    let gate = contract("");
    for rest in ["\r\n", "no request", "GET /app/smuggled HTTP/1.1\r\n\r\n"] {
        let request = format!(
            "POST /app/echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody{rest}"
        );
        let answer = text(&gate.raw(request.as_bytes()).await);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nbody"), "{rest:?}: {answer}");
    }
    let answer = gate.raw_status(b"GET /app/hello HTTP/1.1\r\nHost: localhost\r\nno header\r\n\r\n").await;
    assert_eq!(answer, 400);
}
