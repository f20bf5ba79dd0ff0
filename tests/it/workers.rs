//! Workers die, are replaced and reloaded; clients notice as little as can be.

use std::{path::Path, time::Duration};

use crate::{
    harness::{ADMIN, Answer, Gate, Http, Setup, await_gone, children, is_alive, signal},
    load::Load,
};
use rustix::process::Signal;

const POLICY: &str = "methods = [\"password\"]\ndefault = \"signed-in\"\nworkers = 2\nthreads = 2";

async fn hello(gate: &Gate) -> Answer {
    gate.get("/app/").admin().over(Http::One).await
}

fn versioned(directory: &Path, version: &str) {
    let text = format!(
        "def application(environ, start_response):\n    start_response('200 OK', [('Content-Type', 'text/plain')])\n    return [b'{version}']\n"
    );
    std::fs::write(directory.join("versioned.py"), text).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_costs_only_what_it_held_and_is_back_within_a_second() {
    let gate = Setup::level("normal").app("/app", "environ_app", POLICY).start();
    assert_eq!(hello(&gate).await.code(), 200);
    let before = gate.await_workers("/app", 2);
    let load = Load::start(&gate, "/app/", 8).await;
    let killed = std::time::Instant::now();
    signal(before[0], Signal::KILL);
    await_gone(before[0]);
    let after = loop {
        let now = gate.workers("/app");
        if now.len() == 2 && !now.contains(&before[0]) {
            break now;
        }
        assert!(killed.elapsed() < Duration::from_secs(20), "{now:?}");
    };
    let back = killed.elapsed();
    let codes = load.finish().await;
    assert!(after.contains(&before[1]), "the other one was untouched");
    let failed: Vec<_> = codes.iter().filter(|code| **code != 200).collect();
    assert!(
        failed.len() <= 8 && failed.iter().all(|code| **code == 502),
        "{} of {}: {failed:?}",
        failed.len(),
        codes.len()
    );
    assert!(back < Duration::from_secs(1) || cfg!(debug_assertions), "back after {back:?}");
    let line = gate.await_log("messages.log", |line| line.to_string().contains("SIGKILL"));
    assert!(line.to_string().contains("/app"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_takes_its_workers_along_and_leaves_the_store_whole() {
    let mut gate = Setup::level("normal").app("/app", "environ_app", POLICY).start();
    assert_eq!(hello(&gate).await.code(), 200);
    let workers = gate.await_workers("/app", 2);
    assert!(children(gate.pid()).len() >= 2);
    signal(gate.pid(), Signal::KILL);
    gate.wait();
    for worker in workers {
        await_gone(worker);
    }
    assert!(gate.cli(&["user", "list"]).contains(ADMIN.0), "the store can be read");
    gate.user("later", "a perfectly fine one", &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_under_load_loses_nothing_and_brings_the_new_version() {
    let code = tempfile::tempdir().unwrap();
    versioned(code.path(), "one");
    let gate = Setup::level("normal").app_in("/app", code.path(), "versioned", POLICY).start();
    assert_eq!(hello(&gate).await.text(), "one");
    let old = gate.await_workers("/app", 2);
    let load = Load::start(&gate, "/app/", 8).await;
    for round in 0..5 {
        versioned(code.path(), &format!("round {round}"));
        // Python's bytecode cache goes by seconds and size.
        let _ = std::fs::remove_dir_all(code.path().join("__pycache__"));
        gate.cli(&["app", "reload", "/app"]);
        assert_eq!(hello(&gate).await.text(), format!("round {round}"));
    }
    let codes = load.finish().await;
    assert!(codes.len() > 50 && codes.iter().all(|code| *code == 200), "{:?}", Load::failures(&codes));
    for worker in old {
        await_gone(worker);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_to_a_broken_version_keeps_the_old_one_and_shows_the_traceback() {
    let code = tempfile::tempdir().unwrap();
    versioned(code.path(), "fine");
    let gate = Setup::level("normal").app_in("/app", code.path(), "versioned", POLICY).start();
    assert_eq!(hello(&gate).await.text(), "fine");
    let workers = gate.await_workers("/app", 2);
    std::fs::write(code.path().join("versioned.py"), "import does_not_exist\n").unwrap();
    let load = Load::start(&gate, "/app/", 4).await;
    let reload = gate.command(&["app", "reload", "/app"]);
    let codes = load.finish().await;
    assert!(!reload.status.success());
    let said = String::from_utf8_lossy(&reload.stdout).into_owned() + &String::from_utf8_lossy(&reload.stderr);
    assert!(said.contains("Traceback") && said.contains("does_not_exist"), "{said}");
    assert!(codes.iter().all(|code| *code == 200), "{codes:?}");
    assert_eq!(hello(&gate).await.text(), "fine");
    assert_eq!(gate.await_workers("/app", 2), workers, "the same workers");
}

#[tokio::test]
async fn an_application_that_cannot_be_imported_says_why_and_answers_503() {
    let gate = Setup::level("normal")
        .app("/broken", "broken_import", "methods = [\"password\"]\ndefault = \"signed-in\"")
        .start();
    let answer = gate.get("/broken/").admin().over(Http::One).await;
    assert_eq!((answer.code(), answer.reason()), (503, "application-unavailable"));
    assert!(answer.header("retry-after").is_some());
    let test = gate.command(&["app", "test", "/broken"]);
    assert!(!test.status.success());
    let said = String::from_utf8_lossy(&test.stdout).into_owned() + &String::from_utf8_lossy(&test.stderr);
    assert!(said.contains("Traceback"), "{said}");
    gate.await_log("broken/wsgi.log", |line| line["message"].as_str().is_some_and(|text| text.contains("Traceback")));
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_504_and_a_stuck_worker_is_replaced() {
    let gate = Setup::level("normal")
        .app(
            "/app",
            "contract",
            "methods = [\"password\"]\ndefault = \"signed-in\"\nthreads = 1\nrequest_timeout = \"1s\"",
        )
        .start();
    let answer = gate.get("/app/sleep?ms=60000").admin().over(Http::One).await;
    assert_eq!((answer.code(), answer.reason()), (504, "application-timeout"));
    let answer = gate.get("/app/empty").admin().over(Http::One).await;
    assert_eq!(answer.code(), 200, "the worker is back: {}", answer.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_lets_a_running_request_finish() {
    let mut gate =
        Setup::level("normal").app("/app", "contract", "methods = [\"password\"]\ndefault = \"signed-in\"").start();
    assert_eq!(gate.get("/app/empty").admin().over(Http::One).await.code(), 200);
    let workers = gate.await_workers("/app", 1);
    let slow = gate.get("/app/sleep?ms=500").admin();
    let pid = gate.pid();
    let (answer, ()) = tokio::join!(slow.over(Http::One), async {
        // The second request of this gateway is under way once it has been counted.
        let mut seen = false;
        while !seen {
            let status: serde_json::Value = serde_json::from_str(&gate.cli(&["status", "--json"])).unwrap();
            seen = status["requests"].as_u64().unwrap_or(0) >= 2;
            tokio::task::yield_now().await;
        }
        signal(pid, Signal::TERM);
    });
    assert_eq!(answer.code(), 200);
    assert!(gate.wait().success());
    assert!(workers.into_iter().all(|worker| !is_alive(worker)));
}
