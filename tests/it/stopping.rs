//! What is left to do when the gateway, or an application, is told to stop.

use crate::harness::{BOTH, Setup, await_gone, children};

const POLICY: &str = "methods = [\"unauthenticated\"]\ndefault = \"anyone\"\n";

#[tokio::test]
async fn a_stop_does_not_wait_for_what_no_client_waits_for() {
    for http in BOTH {
        let mut gate = Setup::level("minimal").app("/app", "contract", POLICY).start();
        assert_eq!(gate.get("/app/slow_close").over(http).await.text(), "four");
        // The answer is complete, its close() is not. The harness looks for what the gateway has waited for in vain.
        let began = std::time::Instant::now();
        assert!(gate.stop().success());
        assert!(began.elapsed() < std::time::Duration::from_secs(10), "stopped after {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn an_application_that_is_stopped_while_it_starts_leaves_no_worker() {
    let code = tempfile::tempdir().unwrap();
    let go = code.path().join("go");
    let slow = format!(
        "import os, time\nwhile not os.path.exists({:?}):\n    time.sleep(0.01)\ndef application(environ, start_response):\n    return []\n",
        go.display().to_string()
    );
    std::fs::write(code.path().join("slow.py"), slow).unwrap();
    let gate =
        Setup::level("minimal").app("/good", "contract", POLICY).app_in("/slow", code.path(), "slow", POLICY).start();
    let good = gate.await_workers("/good", 1);
    let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
    let starting = loop {
        let others: Vec<_> = children(gate.pid()).into_iter().filter(|pid| !good.contains(pid)).collect();
        if let [starting] = others[..] {
            break starting;
        }
        assert!(std::time::Instant::now() < deadline, "{others:?}");
    };
    std::fs::remove_file(gate.path("policies/slow.toml")).unwrap();
    gate.cli(&["reload"]);
    std::fs::write(go, "").unwrap();
    await_gone(starting);
    assert_eq!(gate.await_workers("/good", 1), good);
}
