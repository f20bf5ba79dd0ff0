//! A worker that speaks as no worker should: nonsense, floods and silence on every socket it has. It costs itself its
//! life, and nobody else notices.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, combinators::BoxBody};

use crate::harness::{Gate, Http, PATIENCE, Setup};

const POLICY: &str = "methods = [\"unauthenticated\"]\ndefault = \"anyone\"\nworkers = 1\nthreads = 2\n";

/// What a flood may leave behind in the gateway: buffers of a few lanes and of the log, not what was said.
const GROWTH_KIB: u64 = 64 * 1024;

/// How long one of a hundred requests to the neighbour may take, on a machine that runs other tests meanwhile.
const P99: Duration = Duration::from_secs(2);

fn gate() -> Gate {
    Setup::level("minimal")
        .config("gateway", "threads = 2")
        .config("logs", "max_bytes = \"1MiB\"")
        .app("/evil", "hostile", POLICY)
        .app("/other", "environ_app", POLICY)
        .start()
}

/// Asks the neighbour on one connection until `end` says so; how long each answer took.
async fn neighbour(gate: &Gate, end: impl Fn() -> bool) -> Vec<Duration> {
    let mut sender = gate.http1().await;
    let mut times = Vec::new();
    while !end() || times.len() < 100 {
        let began = Instant::now();
        let body: BoxBody<Bytes, std::io::Error> = BoxBody::new(Empty::new().map_err(|never| match never {}));
        let request = http::Request::get("/other/x").header("host", "localhost").body(body).unwrap();
        let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.expect("an answer in time");
        let answer = answer.expect("an answer");
        assert_eq!(answer.status().as_u16(), 200);
        answer.into_body().collect().await.unwrap();
        times.push(began.elapsed());
    }
    times.sort();
    times
}

async fn survive(how: &str) {
    let gate = gate();
    assert_eq!(gate.get("/evil/here").over(Http::One).await.code(), 200);
    neighbour(&gate, || true).await;
    let before = gate.resident_kib();
    let done = std::cell::Cell::new(false);
    let wreck = async {
        let answer = gate.get(&format!("/evil/wreck?path={how}")).over(Http::One).await;
        done.set(true);
        answer.code()
    };
    let (code, times) = tokio::join!(wreck, neighbour(&gate, || done.get()));
    let p99 = times[times.len() * 99 / 100];
    // Back again, by itself if it has survived, else in a new process.
    let end = Instant::now() + PATIENCE;
    while gate.get("/evil/here").over(Http::One).await.code() != 200 {
        assert!(Instant::now() < end, "{how}: the application did not come back");
    }
    let grown = gate.resident_kib().saturating_sub(before);
    println!("{how}: {code}, {} answers beside it, p99 {p99:?}, grown by {grown} KiB", times.len());
    assert!(p99 < P99, "{how}: {p99:?}");
    assert!(grown < GROWTH_KIB, "{how}: the gateway grew by {grown} KiB");
}

#[tokio::test]
async fn random_bytes_on_every_socket_cost_the_worker_alone() {
    survive("random").await;
}

#[tokio::test]
async fn lengths_beyond_the_limit_cost_the_worker_alone() {
    survive("lengths").await;
}

#[tokio::test]
async fn frames_that_do_not_belong_there_cost_the_worker_alone() {
    survive("frames").await;
}

#[tokio::test]
async fn answers_to_what_nobody_asked_cost_the_worker_alone() {
    survive("answers").await;
}

#[tokio::test]
async fn sockets_that_are_closed_cost_the_worker_alone() {
    survive("close").await;
}

#[tokio::test]
async fn a_flood_of_output_costs_the_worker_alone() {
    survive("stdout").await;
}

#[tokio::test]
async fn a_flood_of_log_frames_costs_the_worker_alone() {
    survive("logs").await;
}
