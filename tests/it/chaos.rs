//! Everything goes wrong at once, under load: workers are killed, stopped, hang, grow and talk nonsense; clients vanish,
//! trickle and never read. What has to be left over in the end is a gateway as it was in the beginning.
//!
//! `make test` does it for some seconds, `make soak` for a minute: `PORTCULLIS_CHAOS_SECONDS`.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::interval,
};

use crate::{
    harness::{Gate, Http, PATIENCE, Setup, children, effort, signal},
    wsgi::OPEN,
};

const WORKERS: usize = 3;
/// Descriptors that may have come for good reasons.
const SPARE: usize = 6;
const POLICY: &str = "workers = 3\nthreads = 4\nstream_bodies = true\nrequest_timeout = \"2s\"\nqueue_timeout = \"2s\"\n\
                      deadlock_timeout = \"1s\"\nmax_memory = \"256MiB\"\nmax_requests = 5000\n";

/// How an exchange ended, for the report at the end; a client that waits in vain fails the test.
type Outcomes = Arc<Mutex<BTreeMap<String, u64>>>;

fn count(outcomes: &Outcomes, what: impl Into<String>) {
    *outcomes.lock().unwrap().entry(what.into()).or_default() += 1;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_every_request_ends_and_nothing_is_left_behind() {
    let gate = Arc::new(Setup::level("minimal").app("/app", "chaos", &format!("{OPEN}{POLICY}")).start());
    let outcomes = Outcomes::default();
    gate.await_workers("/app", WORKERS);
    // Each data thread grows once, to the size of its buffers.
    storm(&gate, &outcomes, Duration::from_secs(2), false).await;
    let (memory, descriptors) = (gate.resident_kib(), settled_descriptors(&gate));
    outcomes.lock().unwrap().clear();

    let killed = storm(&gate, &outcomes, Duration::from_secs(effort("PORTCULLIS_CHAOS_SECONDS", 8)), true).await;

    let outcomes = outcomes.lock().unwrap().clone();
    println!("{outcomes:#?}");
    assert!(outcomes["load: 200"] > 50, "{outcomes:?}");
    let odd: Vec<_> = outcomes.keys().filter(|what| !is_answer_or_visible_abort(what)).collect();
    assert!(odd.is_empty(), "{odd:?} of {outcomes:?}");

    // Killed ones come back, with pauses that grow while they keep dying.
    gate.await_workers("/app", WORKERS);
    let deadline = Instant::now() + PATIENCE;
    let left = loop {
        let left = (gate.resident_kib().saturating_sub(memory), gate.open_descriptors(), children(gate.pid()).len());
        let (grown, open, processes) = left;
        // The store opens another connection when two are needed at once; a leak is several for each worker that died.
        if grown < 10 * 1024 && open <= descriptors + SPARE && processes == WORKERS {
            break left;
        }
        assert!(
            Instant::now() < deadline,
            "grown by {grown} KiB, {open} descriptors (were {descriptors}), {processes} processes"
        );
    };
    println!("memory grew by {} KiB, {} descriptors, {} workers", left.0, left.1, left.2);
    assert_eq!(gate.get("/app/hello").over(Http::Two).await.code(), 200);
    check_book(&gate, &killed);
}

/// Load for that long, and with `chaos` everything that can go wrong. Tells which workers were sent a signal.
async fn storm(gate: &Arc<Gate>, outcomes: &Outcomes, time: Duration, chaos: bool) -> HashSet<i32> {
    let end = Instant::now() + time;
    let mut tasks = JoinSet::new();
    for number in 0..6 {
        tasks.spawn(load(Arc::clone(gate), Arc::clone(outcomes), number, end));
    }
    for client in [Client::Vanishes, Client::Trickles, Client::NeverReads] {
        tasks.spawn(misbehave(Arc::clone(gate), client, end));
    }
    let killed = Arc::new(Mutex::new(HashSet::new()));
    if chaos {
        tasks.spawn(send_signals(Arc::clone(gate), Arc::clone(&killed), end));
        for (path, every) in [("grow?mib=60", 500), ("hold_gil", 4000), ("flood", 3000)] {
            tasks.spawn(provoke(Arc::clone(gate), Arc::clone(outcomes), path, every, end));
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    std::mem::take(&mut *killed.lock().unwrap())
}

fn is_answer_or_visible_abort(what: &str) -> bool {
    let (_, how) = what.split_once(": ").expect("who and how");
    ["200", "502", "503", "504", "cut"].contains(&how)
}

/// One exchange after the other over a connection of its own each.
async fn load(gate: Arc<Gate>, outcomes: Outcomes, number: usize, end: Instant) {
    let http = if number.is_multiple_of(2) { Http::One } else { Http::Two };
    let asks = ["/app/hello", "/app/stream", "/app/upload"];
    for path in asks.iter().cycle() {
        if Instant::now() >= end {
            return;
        }
        let upload = path.ends_with("upload");
        let ask = gate.ask(if upload { "POST" } else { "GET" }, path);
        let ask = if upload { ask.body(vec![b'u'; 200_000]) } else { ask };
        count(&outcomes, format!("load: {}", ended(ask.try_over(http).await)));
    }
}

fn ended(answer: Result<(u16, bool), hyper::Error>) -> String {
    match answer {
        // Over HTTP/1 a connection that ends without an answer is one that a client sees.
        Err(_) | Ok((_, true)) => "cut".to_owned(),
        Ok((code, false)) => code.to_string(),
    }
}

async fn provoke(gate: Arc<Gate>, outcomes: Outcomes, path: &'static str, every: u64, end: Instant) {
    let mut pace = interval(Duration::from_millis(every));
    while Instant::now() < end {
        pace.tick().await;
        let answer = gate.get(&format!("/app/{path}")).try_over(Http::One).await;
        count(&outcomes, format!("{path}: {}", ended(answer)));
    }
}

/// Kills and stops workers in turn.
async fn send_signals(gate: Arc<Gate>, killed: Arc<Mutex<HashSet<i32>>>, end: Instant) {
    let mut pace = interval(Duration::from_millis(1500));
    for which in [Signal::KILL, Signal::STOP, Signal::SEGV, Signal::KILL, Signal::TERM].iter().cycle() {
        pace.tick().await;
        if Instant::now() >= end {
            return;
        }
        let workers = gate.workers("/app");
        if let Some(worker) = workers.last() {
            killed.lock().unwrap().insert(*worker);
            signal(*worker, *which);
        }
    }
}

#[derive(Clone, Copy)]
enum Client {
    Vanishes,
    Trickles,
    NeverReads,
}

async fn misbehave(gate: Arc<Gate>, client: Client, end: Instant) {
    let mut pace = interval(Duration::from_millis(5));
    let mut open = Vec::new();
    while Instant::now() < end {
        pace.tick().await;
        let mut stream = gate.connect(&[b"http/1.1"]).await;
        match client {
            Client::Vanishes => {
                let _ = stream.write_all(b"GET /app/endless HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
                let mut some = [0; 4096];
                let _ = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut some)).await;
            }
            Client::Trickles => {
                let head = b"POST /app/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nxxxxxxxxxx";
                for byte in head {
                    if stream.write_all(&[*byte]).await.is_err() {
                        break;
                    }
                }
                pace.tick().await;
            }
            Client::NeverReads => {
                let _ = stream.write_all(b"GET /app/endless HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
                open.push(stream);
                if open.len() == 3 {
                    pace.tick().await;
                    open.clear();
                }
            }
        }
    }
}

fn settled_descriptors(gate: &Gate) -> usize {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status: serde_json::Value = serde_json::from_str(&gate.cli(&["status", "--json"])).unwrap();
        if status["connections"] == 0 {
            return gate.open_descriptors();
        }
        assert!(Instant::now() < deadline, "{} connections stay open", status["connections"]);
    }
}

/// Every iterable that was returned was closed once, but for those of workers that were killed over it.
fn check_book(gate: &Gate, killed: &HashSet<i32>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let book = std::fs::read_to_string(gate.path("data/namespaces/app/book")).unwrap();
        let (mut returned, mut closed) = (BTreeSet::new(), BTreeMap::<_, usize>::new());
        for line in book.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let key = (words[1].parse::<i32>().unwrap(), words[2].parse::<u64>().unwrap());
            match words[0] {
                "returned" => assert!(returned.insert(key)),
                _ => *closed.entry(key).or_default() += 1,
            }
        }
        assert!(closed.values().all(|times| *times == 1), "closed twice: {closed:?}");
        let dead = ended_badly(gate, killed);
        let open: Vec<_> = returned.iter().filter(|key| !closed.contains_key(key) && !dead.contains(&key.0)).collect();
        if open.is_empty() {
            println!("{} iterables returned, {} closed", returned.len(), closed.len());
            return;
        }
        assert!(Instant::now() < deadline, "never closed: {open:?}");
    }
}

/// Workers that were sent a signal by us, or killed by the gate.
fn ended_badly(gate: &Gate, killed: &HashSet<i32>) -> HashSet<i32> {
    let log = gate.log("messages.log");
    let bad = ["worker was killed", "a worker that was to go"];
    let told = log.iter().filter(|line| bad.iter().any(|bad| line["message"].to_string().contains(bad)));
    told.filter_map(|line| i32::try_from(line["pid"].as_i64()?).ok()).chain(killed.iter().copied()).collect()
}
