//! Server-sent events: one thread of a worker for each open stream. How many there can be, what each costs, how long an
//! event takes when many are open, and what a client gets beyond them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, combinators::BoxBody};
use hyper::body::Incoming;

use crate::{
    aborts::monotonic,
    harness::{Gate, Http, PATIENCE, Setup, resident_kib},
    stream::Stream,
};

const OPEN: &str = "methods = [\"unauthenticated\"]\ndefault = \"anyone\"\n";

/// Streams over one HTTP/2 connection; the gateway takes up to 128.
const BY_CONNECTION: usize = 125;

async fn open(gate: &Gate) -> usize {
    gate.get("/app/").over(Http::Two).await.text().parse().expect("a number")
}

/// The pieces of one stream until one holds that.
async fn hear(body: &mut Incoming, wanted: &str) -> String {
    loop {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("an event in time");
        let data = frame.expect("more").expect("a piece").into_data().unwrap_or_default();
        let text = String::from_utf8_lossy(&data).into_owned();
        if text.contains(wanted) {
            return text;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_of_256_threads_holds_250_event_streams_and_answers_beside_them() {
    let gate = Setup::level("minimal").app("/app", "events", &format!("{OPEN}threads = 256")).start();
    let worker = gate.await_workers("/app", 1)[0];
    assert_eq!(open(&gate).await, 0);
    let before = (resident_kib(worker), gate.resident_kib());

    let mut streams = Vec::new();
    for _ in 0..250 / BY_CONNECTION {
        let mut connection = gate.http2().await;
        for _ in 0..BY_CONNECTION {
            let body = BoxBody::new(Empty::<Bytes>::new().map_err(|never| match never {}));
            let request = http::Request::get("https://localhost/app/stream").body(body).expect("a request");
            let answer = tokio::time::timeout(PATIENCE, connection.send_request(request)).await.expect("in time");
            let mut body = answer.expect("an answer").into_body();
            hear(&mut body, ": open").await;
            streams.push(body);
        }
    }
    assert_eq!(open(&gate).await, 250);
    let after = (resident_kib(worker), gate.resident_kib());
    println!(
        "250 streams: {} KiB each in the worker, {} KiB each in the gateway",
        (after.0 - before.0) / 250,
        after.1.saturating_sub(before.1) / 250
    );
    assert!(after.0 - before.0 < 250 * 512, "{before:?} {after:?}: more than 512 KiB for a stream");

    let mut latencies = Vec::new();
    for number in 1..=3 {
        let wanted: Arc<str> = format!("id: {number}\n").into();
        let listeners: Vec<_> = streams
            .drain(..)
            .map(|mut body| {
                let wanted = Arc::clone(&wanted);
                tokio::spawn(async move {
                    let event = hear(&mut body, &wanted).await;
                    let now = monotonic();
                    let sent = event.split("data: ").nth(1).and_then(|text| text.trim().parse::<f64>().ok());
                    (body, now - sent.expect("a time"))
                })
            })
            .collect();
        assert_eq!(gate.get("/app/send").over(Http::One).await.code(), 200, "the other threads answer");
        for listener in listeners {
            let (body, latency) = listener.await.expect("an event");
            streams.push(body);
            latencies.push(latency);
        }
    }
    latencies.sort_by(f64::total_cmp);
    let (median, last) = (latencies[latencies.len() / 2], latencies[latencies.len() - 1]);
    println!("one event to 250 streams: median {:.1} ms, the last {:.1} ms", median * 1e3, last * 1e3);
    assert!(last < 2.0, "the last of 250 took {last} s");

    drop(streams);
    // Each generator is closed at its next comment.
    let deadline = Instant::now() + PATIENCE;
    while open(&gate).await > 0 {
        assert!(Instant::now() < deadline, "streams stay open without their clients");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_beyond_the_last_thread_waits_and_is_then_told_that_it_waited_in_vain() {
    let policy = format!("{OPEN}threads = 2\nqueue_timeout = \"500ms\"");
    let gate = Setup::level("minimal").app("/app", "events", &policy).start();
    // What is waited for is a thread, and not the start of the worker.
    gate.await_workers("/app", 1);
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = Stream::open(&gate, Http::Two, "/app/stream").await;
        assert!(stream.piece().await.starts_with(": open\n\n"));
        streams.push(stream);
    }
    let began = Instant::now();
    let beyond = gate.get("/app/stream").over(Http::Two).await;
    assert_eq!((beyond.code(), beyond.reason()), (503, "queue-timeout"));
    assert!(beyond.header("retry-after").is_some() && began.elapsed() >= Duration::from_millis(500));
    streams.clear();
    let deadline = Instant::now() + PATIENCE;
    while gate.get("/app/").over(Http::One).await.code() != 200 {
        assert!(Instant::now() < deadline, "streams hold their threads without their clients");
    }
}
