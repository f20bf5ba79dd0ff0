//! Rules that only report, rules that want a second factor, and groups: what a client gets, and what is told of it.

use crate::harness::{BOTH, Gate, Setup};

const POLICY: &str = r#"methods = ["unauthenticated", "password"]
default = "signed-in"

[[allow]]
path = ["public", "/open"]
who  = "anyone"

[[deny]]
path       = "/open"
unless_who = "role:auditor"
mode       = "report"

[[allow]]
path = "/vault/**"
who  = "role:administrator"
mfa  = "15m"

[[allow]]
path = "/nowhere/**"
who  = "anyone"
from = "elsewhere"
"#;

const GROUPS: &str =
    "\n[paths]\npublic = [\"/a/*\", \"/b/**\"]\n\n[networks]\nelsewhere = [\"192.0.2.0/24\", \"2001:db8::/32\"]\n";

fn gate() -> Gate {
    Setup::level("minimal").more(GROUPS).app("/app", "environ_app", POLICY).start()
}

#[tokio::test]
async fn a_rule_that_reports_refuses_nobody_and_tells_whom_it_would() {
    let gate = gate();
    for http in BOTH {
        assert_eq!(gate.get("/app/open").over(http).await.code(), 200);
        assert_eq!(gate.get("/app/open").admin().over(http).await.code(), 200);
    }
    let would = gate.await_lines("access.log", 4, |line| line["path"] == "/app/open");
    for line in &would {
        assert_eq!((&line["decision"], &line["would_refuse"]), (&"allowed".into(), &"denied-by-rule".into()), "{line}");
        assert!(line["would_refuse_rule"].as_str().unwrap().starts_with("policies/app.toml:"), "{line}");
        assert_ne!(line["rule"], line["would_refuse_rule"]);
    }
    // One audit record for each, and none says that somebody was refused.
    let records = |event: &str| gate.cli(&["--json", "audit", "list", "--event", event]);
    let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
    while records("refusal.reported").matches("denied-by-rule").count() < 4 {
        assert!(std::time::Instant::now() < deadline, "{}", records("refusal.reported"));
    }
    assert_eq!(records("refusal.reported").matches("denied-by-rule").count(), 4);
    assert_eq!(records("refusal").trim(), "[]");
    let explained = gate.cli(&["explain", "GET", "/app/open"]);
    assert!(explained.contains("would deny") && explained.contains("would be 40"), "{explained}");
}

#[tokio::test]
async fn a_second_factor_that_nobody_has_keeps_everybody_out() {
    let gate = gate();
    for http in BOTH {
        let stranger = gate.get("/app/vault/x").over(http).await;
        assert_eq!((stranger.code(), stranger.reason()), (401, "credentials-required"));
        let admin = gate.get("/app/vault/x").admin().over(http).await;
        assert_eq!((admin.code(), admin.reason()), (403, "second-factor-required"));
        assert!(admin.text().contains("second factor"), "{}", admin.text());
    }
    let check = gate.command(&["check", "--no-import"]);
    assert!(String::from_utf8_lossy(&check.stderr).contains("nobody can meet `mfa`"), "{check:?}");
}

#[tokio::test]
async fn a_group_is_what_portcullis_toml_says_it_is() {
    let gate = gate();
    for http in BOTH {
        for (path, code) in [("/app/a/1", 200), ("/app/b/1/2", 200), ("/app/a/1/2", 401), ("/app/c", 401)] {
            assert_eq!(gate.get(path).over(http).await.code(), code, "{path}");
        }
        assert_eq!(gate.get("/app/nowhere/x").over(http).await.reason(), "network-not-allowed");
    }
    let file = gate.path("portcullis.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("192.0.2.0/24", "127.0.0.0/8")).unwrap();
    gate.cli(&["reload"]);
    for http in BOTH {
        assert_eq!(gate.get("/app/nowhere/x").over(http).await.code(), 200, "{http:?}");
    }
}
