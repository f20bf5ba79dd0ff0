//! Every change takes effect on the next request: while a client polls, the first request that starts after the command
//! has returned is refused.

use crate::harness::{Ask, Gate, Http, Setup};

fn gate() -> Gate {
    let gate = Setup::level("normal")
        .app(
            "/app",
            "environ_app",
            "methods = [\"password\", \"token\"]\ndefault = \"signed-in\"\n\
             [[allow]]\npath = \"/editors/**\"\nwho = \"role:editor\"",
        )
        .start();
    gate.user("ann", "a perfectly fine one", &["editor"]);
    gate
}

/// Polls until the credentials are remembered by every thread, makes the change, and asks once more.
async fn refused_after(gate: &Gate, ask: Ask<'_>, change: &[&str], input: &[u8], expected: u16) {
    for http in [Http::One, Http::Two] {
        for _ in 0..20 {
            let answer = ask.over(http).await;
            assert_eq!(answer.code(), 200, "before: {}", answer.text());
        }
    }
    gate.cli_with(change, input);
    for http in [Http::One, Http::Two] {
        assert_eq!(ask.over(http).await.code(), expected, "after {change:?} over {http:?}");
    }
}

#[tokio::test]
async fn a_disabled_user_is_out_at_once_and_back_when_enabled() {
    let gate = gate();
    let ask = gate.get("/app/").basic("ann", "a perfectly fine one");
    refused_after(&gate, ask.clone(), &["user", "disable", "ann"], b"", 401).await;
    gate.cli(&["user", "enable", "ann"]);
    assert_eq!(ask.over(Http::One).await.code(), 200);
}

#[tokio::test]
async fn a_revoked_role_is_gone_at_once() {
    let gate = gate();
    let ask = gate.get("/app/editors/1").basic("ann", "a perfectly fine one");
    refused_after(&gate, ask, &["user", "revoke", "ann", "editor"], b"", 403).await;
}

#[tokio::test]
async fn a_changed_password_ends_the_old_one_at_once() {
    let gate = gate();
    let ask = gate.get("/app/").basic("ann", "a perfectly fine one");
    refused_after(&gate, ask, &["user", "set-password", "ann", "--password-file", "-"], b"another fine one", 401).await;
    assert_eq!(gate.get("/app/").basic("ann", "another fine one").over(Http::One).await.code(), 200);
}

#[tokio::test]
async fn a_revoked_token_is_dead_at_once_opaque_or_signed() {
    let gate = gate();
    for extra in [&[][..], &["--app", "/app", "--jwt"][..]] {
        let args: Vec<_> = ["--user", "ann"].iter().chain(extra).copied().collect();
        let token = gate.token(&args);
        let listed: serde_json::Value = serde_json::from_str(&gate.cli(&["token", "list", "--json"])).unwrap();
        let list = listed.as_array().or_else(|| listed["tokens"].as_array()).expect("a list of tokens");
        let id = list.iter().find(|token| token["revoked"].is_null()).expect("a live token")["id"]
            .as_str()
            .unwrap()
            .to_owned();
        refused_after(&gate, gate.get("/app/").bearer(&token), &["token", "revoke", &id], b"", 401).await;
    }
}

#[tokio::test]
async fn a_removed_user_takes_their_tokens_along() {
    let gate = gate();
    let token = gate.token(&["--user", "ann"]);
    refused_after(&gate, gate.get("/app/").bearer(&token), &["user", "remove", "ann"], b"", 401).await;
}

#[tokio::test]
async fn while_a_client_polls_no_request_that_starts_after_the_command_gets_through() {
    let gate = gate();
    let token = gate.token(&["--user", "ann"]);
    let ask = gate.get("/app/").bearer(&token);
    let (done, commanded) = std::sync::mpsc::channel();
    let polling = async {
        let mut answers = Vec::new();
        loop {
            // Looked at before the request starts: what starts after the command has returned must be refused.
            let after = commanded.try_recv().is_ok();
            let code = ask.over(Http::One).await.code();
            answers.push(code);
            if after {
                return answers;
            }
        }
    };
    let command = async {
        tokio::task::yield_now().await;
        tokio::task::spawn_blocking({
            let config = gate.path("portcullis.toml");
            move || {
                let status = std::process::Command::new(crate::harness::program())
                    .arg("--config")
                    .arg(config)
                    .args(["user", "disable", "ann"])
                    .stdout(std::process::Stdio::null())
                    .status();
                assert!(status.unwrap().success());
                done.send(()).unwrap();
            }
        })
        .await
        .unwrap();
    };
    let (answers, ()) = tokio::join!(polling, command);
    assert_eq!(answers.last(), Some(&401), "{answers:?}");
}
