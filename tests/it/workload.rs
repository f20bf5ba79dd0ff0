//! More work than threads, work that does not end, interpreters that hang, workers that have served enough.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::{
    harness::{Gate, Http, Setup, await_gone, signal},
    load::Load,
    stream::Stream,
    wsgi::OPEN,
};

fn contract(more: &str) -> Gate {
    Setup::level("minimal").app("/app", "contract", &format!("{OPEN}{more}")).start()
}

fn holds(line: &serde_json::Value, text: &str) -> bool {
    line["message"].as_str().is_some_and(|message| message.contains(text))
}

#[tokio::test]
async fn a_request_that_no_thread_takes_in_time_is_503_and_was_never_called() {
    let gate = contract("threads = 1\nqueue_timeout = \"300ms\"");
    gate.await_workers("/app", 1);
    // Its head has come, so the only thread is taken.
    let mut stream = Stream::open(&gate, Http::One, "/app/sse?n=2&ms=2000").await;
    assert_eq!(stream.piece().await, "data: 0\n\n");
    let began = Instant::now();
    let answer = gate.get("/app/print").over(Http::One).await;
    assert_eq!((answer.code(), answer.reason()), (503, "queue-timeout"));
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    let line = gate.await_log("access.log", |line| line["path"] == "/app/print");
    assert!(line["queue_us"].as_u64() >= Some(300_000), "{line}");
    assert_eq!(stream.piece().await, "data: 1\n\n", "what runs is not disturbed");
    assert!(stream.next().await.is_none());
    assert_eq!(gate.get("/app/hello").over(Http::One).await.code(), 200);
    assert!(gate.log("app/wsgi.log").iter().all(|line| !holds(line, "printed")));
}

#[tokio::test]
async fn time_in_the_queue_is_not_time_of_the_request() {
    let gate = contract("threads = 1\nqueue_timeout = \"30s\"\nrequest_timeout = \"1s\"");
    let ask = gate.get("/app/sleep?ms=600");
    let (a, b, c) = tokio::join!(ask.over(Http::One), ask.over(Http::Two), ask.over(Http::One));
    assert_eq!([a.code(), b.code(), c.code()], [200; 3], "each ran 0.6 s, the last one waited 1.2 s");
    let late = gate.get("/app/sleep?ms=5000").over(Http::One).await;
    assert_eq!((late.code(), late.reason()), (504, "application-timeout"));
}

#[tokio::test]
async fn the_queue_of_an_application_is_bounded() {
    let policy = format!("{OPEN}threads = 1");
    let gate = Setup::level("minimal").config("limits", "queue = 1").app("/app", "contract", &policy).start();
    // What runs counts: one place, and it is taken.
    let mut first = Stream::open(&gate, Http::One, "/app/sse?n=2&ms=1000").await;
    assert_eq!(first.piece().await, "data: 0\n\n");
    let full = gate.get("/app/hello").over(Http::Two).await;
    assert_eq!((full.code(), full.reason(), full.header("retry-after")), (503, "queue-full", Some("1")));
    assert_eq!(first.piece().await, "data: 1\n\n");
    assert!(first.next().await.is_none());
    assert_eq!(gate.get("/app/hello").over(Http::Two).await.code(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interpreter_that_hangs_is_replaced_and_its_stacks_are_in_the_log() {
    let gate = contract("threads = 2\ndeadlock_timeout = \"1s\"");
    let before = gate.await_workers("/app", 1);
    let answer = gate.get("/app/hold_gil?s=50").over(Http::One).await;
    assert_eq!((answer.code(), answer.reason()), (502, "worker-lost"));
    await_gone(before[0]);
    gate.await_log("messages.log", |line| holds(line, "gave no sign of life (`deadlock_timeout`)"));
    gate.await_log("app/wsgi.log", |line| holds(line, "Fatal Python error: Aborted"));
    gate.await_log("app/wsgi.log", |line| holds(line, "in hold_gil"));
    assert_eq!(gate.get("/app/hello").over(Http::One).await.code(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_worker_is_replaced_without_being_asked_for_anything() {
    let gate = contract("deadlock_timeout = \"500ms\"");
    let before = gate.await_workers("/app", 1);
    signal(before[0], Signal::STOP);
    await_gone(before[0]);
    assert_ne!(gate.await_workers("/app", 1), before);
    assert_eq!(gate.get("/app/hello").over(Http::One).await.code(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_no_interruption_reaches_ends_its_worker_with_the_stacks_in_the_log() {
    let gate = contract("threads = 1\nrequest_timeout = \"200ms\"");
    let before = gate.await_workers("/app", 1);
    let answer = gate.get("/app/stuck_hard").over(Http::One).await;
    assert_eq!((answer.code(), answer.reason()), (504, "application-timeout"));
    await_gone(before[0]);
    gate.await_log("app/wsgi.log", |line| holds(line, "in stuck_hard"));
    assert_eq!(gate.get("/app/hello").over(Http::One).await.code(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_have_served_enough_are_replaced_under_load_and_nothing_is_lost() {
    let gate = contract("workers = 2\nthreads = 2\nmax_requests = 100");
    let before = gate.await_workers("/app", 2);
    let load = Load::start(&gate, "/app/hello", 8).await;
    for worker in before {
        await_gone(worker);
    }
    let recycled = gate.await_status("/app", |app| app["recycled"].as_u64() >= Some(5));
    let codes = load.finish().await;
    assert!(codes.len() > 500 && codes.iter().all(|code| *code == 200), "{:?}", Load::failures(&codes));
    assert_eq!(recycled["restarts"], 0, "{recycled}");
    gate.await_log("messages.log", |line| holds(line, "requests (`max_requests`)"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_has_grown_too_large_is_replaced() {
    let gate = contract("max_memory = \"128MiB\"");
    let before = gate.await_workers("/app", 1);
    assert_eq!(gate.get("/app/grow?mib=150").over(Http::One).await.code(), 200);
    await_gone(before[0]);
    gate.await_log("messages.log", |line| holds(line, "MiB of memory (`max_memory`)"));
    assert_eq!(gate.get("/app/hello").over(Http::One).await.code(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_requests_do_not_delay_fast_ones_while_a_thread_is_free() {
    let gate = contract("threads = 4");
    assert_eq!(gate.get("/app/hello").over(Http::One).await.code(), 200);
    // Three in flight, one in ten of them sleeps for a second: a thread is always free.
    let rounds = if cfg!(debug_assertions) { 60 } else { 300 };
    let mut clients = Vec::new();
    for client in 0..3u32 {
        let mut sender = gate.http1().await;
        clients.push(tokio::spawn(async move {
            let mut fast = Vec::new();
            for round in 0..rounds {
                let slow = (round * 3 + client) % 10 == 0;
                let path = if slow { "/app/sleep?ms=1000" } else { "/app/hello" };
                let began = Instant::now();
                assert_eq!(crate::load::get(&mut sender, path).await, 200);
                if !slow {
                    fast.push(began.elapsed());
                }
            }
            fast
        }));
    }
    let mut fast = Vec::new();
    for client in clients {
        fast.extend(client.await.unwrap());
    }
    fast.sort();
    let [p90, p99] = [90, 99].map(|percent| fast[fast.len() * percent / 100]);
    println!("{} fast requests beside slow ones: median {:?}, p99 {p99:?}", fast.len(), fast[fast.len() / 2]);
    // Other tests share the machine with this one: without optimisation only most of them have to be fast.
    let bound = if cfg!(debug_assertions) { p90 < Duration::from_millis(100) } else { p99 < Duration::from_millis(10) };
    assert!(bound, "{p90:?} {p99:?}");
}
