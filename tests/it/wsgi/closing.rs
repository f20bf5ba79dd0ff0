//! `close()` exactly once, whatever becomes of the answer. Behaviour 17.

use super::{OPEN, Stream, Wire, contract, tell};
use crate::harness::{Answer, BOTH, Gate, Http, PATIENCE, Setup};

/// How often the application's iterables have been closed so far.
async fn closed(gate: &Gate) -> usize {
    gate.get("/app/close_count").over(Http::One).await.text().parse().unwrap()
}

/// Waits until that many were closed; more are an error.
async fn await_closed(gate: &Gate, count: usize, after: &str) {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let now = closed(gate).await;
        assert!(now <= count, "{after}: closed {now} times, not {count}");
        if now == count {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{after}: closed {now} times, not {count}");
    }
}

#[tokio::test]
async fn close_is_called_once_however_the_answer_ends() {
    let gate = contract("");
    let mut expected = 0;
    for http in BOTH {
        for path in ["close_count?add", "raise_after", "too_long", "too_short", "not_bytes_later", "big_stream"] {
            let _: Answer = gate.get(&format!("/app/{path}")).over(http).await;
            expected += 1;
            await_closed(&gate, expected, path).await;
        }
        let _ = gate.ask("HEAD", "/app/big_stream").over(http).await;
        expected += 1;
        await_closed(&gate, expected, "HEAD").await;
        let answer = gate.get("/app/close_raises").over(http).await;
        assert_eq!((answer.text().as_str(), answer.cut), ("fine", false), "what close() raises is not the client's");
        expected += 1;
        await_closed(&gate, expected, "close_raises").await;
    }
    gate.await_log("app/wsgi.log", |line| {
        line["message"].as_str().is_some_and(|text| text.contains("RuntimeError: close failed"))
    });
    assert_eq!(closed(&gate).await, expected);
}

#[tokio::test]
async fn close_is_called_once_when_the_client_leaves_in_mid_stream() {
    let gate = contract("");
    // More than the windows hold: the application waits for credit when the client goes.
    let mut wire = Wire::open(&gate).await;
    wire.say("GET /app/big_stream?mib=500 HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    wire.hear_until("xxxxxxxx").await;
    drop(wire);
    await_closed(&gate, 1, "HTTP/1.1, waiting for credit").await;

    let mut stream = Stream::open(&gate, Http::Two, "/app/big_stream?mib=500").await;
    assert!(stream.piece().await.starts_with('x'));
    drop(stream);
    await_closed(&gate, 2, "HTTP/2, waiting for credit").await;

    // Nothing is sent when the client goes: it is noticed all the same, and the application stops at its next block.
    let mut wire = Wire::open(&gate).await;
    wire.say("GET /app/events_when_told HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    wire.hear_until("data: 0\n\n").await;
    drop(wire);
    gate.await_log("access.log", |line| line["path"] == "/app/events_when_told");
    tell(&gate).await;
    await_closed(&gate, 3, "between two blocks").await;
    assert_eq!(closed(&gate).await, 3);
}

#[tokio::test]
async fn close_is_called_once_when_the_time_is_up() {
    let policy = format!("{OPEN}threads = 2\nrequest_timeout = \"500ms\"");
    let gate = Setup::level("minimal").app("/app", "contract", &policy).start();
    let answer = gate.get("/app/never_first").over(Http::One).await;
    assert_eq!((answer.code(), answer.reason()), (504, "application-timeout"));
    await_closed(&gate, 1, "time-out").await;
    assert_eq!(gate.get("/app/hello").over(Http::One).await.code(), 200);
}
