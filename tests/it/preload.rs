//! `preload = true`: one import, and workers that are forked from it.

use rustix::process::Signal;

use crate::{
    harness::{Gate, Http, Setup, await_gone, is_alive, signal},
    load::Load,
    wsgi::OPEN,
};

fn preloaded(more: &str) -> Gate {
    Setup::level("minimal").app("/app", "preloaded", &format!("{OPEN}preload = true\n{more}")).start()
}

async fn about(gate: &Gate) -> serde_json::Value {
    gate.get("/app/").over(Http::One).await.json()
}

/// The process that imported the application.
async fn parent(gate: &Gate) -> i32 {
    i32::try_from(about(gate).await["imported_by"].as_i64().unwrap()).unwrap()
}

fn says(line: &serde_json::Value, text: &str) -> bool {
    line["message"].as_str().is_some_and(|message| message.contains(text))
}

#[tokio::test]
async fn workers_are_forked_from_one_import() {
    let gate = preloaded("workers = 3\nthreads = 2");
    let workers = gate.await_workers("/app", 3);
    let parent = parent(&gate).await;
    assert!(!workers.contains(&parent));
    for _ in 0..20 {
        let about = about(&gate).await;
        assert_eq!(about["imported_by"], parent, "imported once");
        assert_eq!(about["parent"], parent);
        assert!(about["frozen"].as_u64() > Some(1000), "{about}");
        assert_eq!(about["main_thread_lives"], true);
        assert!(workers.contains(&i32::try_from(about["pid"].as_i64().unwrap()).unwrap()));
    }
    let imports = |line: &serde_json::Value| says(line, "imported by");
    assert_eq!(gate.log("app/wsgi.log").into_iter().filter(imports).count(), 1);
    let said = gate.await_log("app/wsgi.log", |line| says(line, "printed by"));
    assert!(workers.contains(&i32::try_from(said["worker"].as_i64().unwrap()).unwrap()), "{said}");
    let raw = gate.await_log("app/wsgi.log", |line| says(line, "written by"));
    assert!(workers.contains(&i32::try_from(raw["worker"].as_i64().unwrap()).unwrap()), "its own pipe: {raw}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forked_worker_that_dies_is_forked_again_and_its_end_is_told() {
    let gate = preloaded("workers = 2");
    let before = gate.await_workers("/app", 2);
    let first = parent(&gate).await;
    signal(before[0], Signal::SEGV);
    await_gone(before[0]);
    gate.await_log("messages.log", |line| says(line, "was killed by SIGSEGV"));
    let after = gate.await_workers("/app", 2);
    assert!(after.contains(&before[1]) && is_alive(first));
    assert_eq!(parent(&gate).await, first, "no second import");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_importing_process_dies_everything_is_made_anew() {
    let gate = preloaded("workers = 2");
    let (before, first) = (gate.await_workers("/app", 2), parent(&gate).await);
    signal(first, Signal::KILL);
    for worker in before {
        await_gone(worker);
    }
    gate.await_workers("/app", 2);
    assert_ne!(parent(&gate).await, first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_imports_anew_and_recycling_does_not() {
    let gate = preloaded("workers = 2\nmax_requests = 100");
    let first = parent(&gate).await;
    let load = Load::start(&gate, "/app/", 4).await;
    gate.await_status("/app", |app| app["recycled"].as_u64() >= Some(4));
    assert_eq!(parent(&gate).await, first);
    gate.cli(&["app", "reload", "/app"]);
    assert_ne!(parent(&gate).await, first);
    let codes = load.finish().await;
    assert!(codes.len() > 200 && codes.iter().all(|code| *code == 200), "{:?}", Load::failures(&codes));
    await_gone(first);
}

#[tokio::test]
async fn an_interrupted_and_a_hanging_request_end_as_they_do_elsewhere() {
    let gate = preloaded("threads = 2\nrequest_timeout = \"300ms\"\ndeadlock_timeout = \"1s\"");
    let before = gate.await_workers("/app", 1);
    let slow = gate.get("/app/sleep").over(Http::One).await;
    assert_eq!((slow.code(), slow.reason()), (504, "application-timeout"));
    let stuck = gate.get("/app/hold_gil").over(Http::One).await;
    assert!([502, 504].contains(&stuck.code()), "{stuck:?}");
    await_gone(before[0]);
    gate.await_log("app/wsgi.log", |line| says(line, "in hold_gil"));
    assert_eq!(gate.get("/app/").over(Http::One).await.code(), 200);
}

#[tokio::test]
async fn an_application_that_does_not_import_says_so() {
    let gate = Setup::level("minimal").app("/broken", "broken_import", &format!("{OPEN}preload = true")).start();
    let answer = gate.get("/broken/").over(Http::One).await;
    assert_eq!((answer.code(), answer.reason()), (503, "application-unavailable"));
    gate.await_log("broken/wsgi.log", |line| says(line, "Traceback"));
    let check = gate.command(&["app", "test", "/broken"]);
    assert!(!check.status.success());
}

#[tokio::test]
async fn exit_handlers_run_in_workers_and_not_where_nothing_was_served() {
    let mut gate = preloaded("workers = 2");
    let workers = gate.await_workers("/app", 2);
    about(&gate).await;
    assert!(gate.stop().success());
    let said: Vec<_> = gate.log("app/wsgi.log").into_iter().filter(|line| says(line, "atexit in")).collect();
    let mut pids: Vec<_> = said.iter().filter_map(|line| line["worker"].as_i64()).collect();
    pids.sort_unstable();
    let mut expected: Vec<_> = workers.into_iter().map(i64::from).collect();
    expected.sort_unstable();
    assert_eq!(pids, expected);
}
