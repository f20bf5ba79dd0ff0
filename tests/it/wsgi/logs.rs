//! Where an application's words go, and which threads run it. Behaviours 28 and 29.

use super::contract;
use crate::harness::{Gate, Http};

fn await_line(gate: &Gate, message: &str) -> serde_json::Value {
    gate.await_log("app/wsgi.log", |line| line["message"] == message)
}

#[tokio::test]
async fn wsgi_errors_is_the_applications_log_with_the_id_of_the_request() {
    let gate = contract("");
    assert_eq!(gate.get("/app/errors").over(Http::One).await.text(), "logged");
    let request = gate.await_log("access.log", |line| line["path"] == "/app/errors")["request"].clone();
    for message in ["whole line", "in pieces", "and a rest", "from a thread", "without newline", "after the request"] {
        let line = await_line(&gate, message);
        assert_eq!((&line["request"], &line["source"]), (&request, &"wsgi.errors".into()), "{line}");
    }
    assert_eq!(await_line(&gate, "from a thread")["thread"], "helper");
}

#[tokio::test]
async fn what_is_printed_is_logged_line_by_line() {
    let gate = contract("");
    assert_eq!(gate.get("/app/print").over(Http::Two).await.text(), "printed");
    for (message, source) in [
        ("printed to stdout", "stdout"),
        ("printed to stderr", "stderr"),
        ("bytes to stdout", "stdout"),
        ("raw to stderr", "stderr"),
    ] {
        assert_eq!(await_line(&gate, message)["source"], source);
    }
    assert_eq!(gate.get("/app/fork").over(Http::One).await.text(), "7");
    await_line(&gate, "from the child");
}

#[tokio::test]
async fn a_lane_is_a_python_thread_for_life() {
    let gate = contract("threads = 3");
    let mut seen = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..30 {
        let text = gate.get("/app/thread_local").over(Http::One).await.text();
        let [count, thread, dummy] = text.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let before = seen.entry(thread.to_owned()).or_default();
        *before += 1;
        assert_eq!((count.parse(), dummy), (Ok(*before), "False"), "{text}: what the thread kept is still there");
    }
    assert!(
        seen.len() <= 3 && seen.keys().all(|name| name == "MainThread" || name.starts_with("portcullis-")),
        "{seen:?}"
    );
}

#[tokio::test]
async fn a_single_lane_is_the_main_thread() {
    let gate = contract("threads = 1");
    for count in 1..=3 {
        let text = gate.get("/app/thread_local").over(Http::One).await.text();
        assert_eq!(text, format!("{count} MainThread False"));
    }
}
