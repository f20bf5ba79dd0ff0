//! "Methods and the system policy", row by row, over HTTP/1.1 and HTTP/2.

use crate::harness::{ADMIN, Answer, Ask, BOTH, Gate, Setup};

/// Applications of every kind of method set, all showing their environ.
fn gate(level: &'static str) -> Gate {
    Setup::level(level)
        .app("/both", "environ_app", "methods = [\"password\", \"token\"]\ndefault = \"signed-in\"")
        .app("/password", "environ_app", "methods = [\"password\"]\ndefault = \"signed-in\"")
        .app("/token", "environ_app", "methods = [\"token\"]\ndefault = \"signed-in\"")
        .app("/open", "environ_app", "methods = [\"unauthenticated\"]\ndefault = \"anyone\"")
        .app(
            "/mixed",
            "environ_app",
            "methods = [\"unauthenticated\", \"password\"]\ndefault = \"anyone\"\n\
             [[allow]]\npath = \"/editors/**\"\nwho = \"role:editor\"\n\
             [[allow]]\npath = \"/strict/**\"\nwho = \"anyone\"\nauth = [\"password\"]\n\
             [[deny]]\npath = \"/closed/**\"\n",
        )
        .app("/off", "environ_app", "methods = [\"password\"]\nenabled = false")
        .start()
}

async fn both(ask: Ask<'_>) -> [Answer; 2] {
    [ask.over(BOTH[0]).await, ask.over(BOTH[1]).await]
}

#[tokio::test]
async fn without_credentials_the_challenge_names_just_the_allowed_methods() {
    let gate = gate("normal");
    for (path, challenges) in
        [("/both/", vec!["Basic", "Bearer"]), ("/password/", vec!["Basic"]), ("/token/", vec!["Bearer"])]
    {
        for answer in both(gate.get(path)).await {
            assert_eq!((answer.code(), answer.reason()), (401, "credentials-required"), "{path}");
            assert_eq!(answer.challenges(), challenges, "{path}");
        }
    }
}

#[tokio::test]
async fn good_credentials_reach_the_application_with_their_name() {
    let gate = gate("normal");
    let token = gate.token(&["--user", ADMIN.0]);
    for (path, ask) in [("/both/", gate.get("/both/").admin()), ("/token/", gate.get("/token/").bearer(&token))] {
        for answer in both(ask).await {
            assert_eq!(answer.code(), 200, "{path}: {}", answer.text());
            assert_eq!(answer.environ()["REMOTE_USER"], ADMIN.0);
        }
    }
    assert_eq!(gate.get("/both/").admin().over(BOTH[0]).await.environ()["AUTH_TYPE"], "Basic");
    assert_eq!(gate.get("/both/").bearer(&token).over(BOTH[0]).await.environ()["AUTH_TYPE"], "Bearer");
}

#[tokio::test]
async fn an_application_of_a_forbidden_method_is_403_and_check_warns() {
    let gate = gate("normal");
    for answer in both(gate.get("/open/")).await {
        assert_eq!((answer.code(), answer.reason()), (403, "method-not-permitted"));
    }
    for answer in both(gate.get("/open/").admin()).await {
        assert_eq!((answer.code(), answer.reason()), (403, "method-not-permitted"), "credentials do not help");
    }
    let check = gate.command(&["check"]);
    let said = String::from_utf8_lossy(&check.stdout).into_owned() + &String::from_utf8_lossy(&check.stderr);
    assert!(said.contains("method-not-permitted") && said.contains("/open"), "{said}");
}

#[tokio::test]
async fn under_minimal_the_same_application_answers_without_a_user() {
    let gate = gate("minimal");
    for answer in both(gate.get("/open/")).await {
        assert_eq!(answer.code(), 200, "{}", answer.text());
        let environ = answer.environ();
        assert!(environ.get("REMOTE_USER").is_none() && environ.get("AUTH_TYPE").is_none(), "{environ}");
    }
}

#[tokio::test]
async fn credentials_of_a_method_that_is_not_allowed_here_are_403() {
    let gate = gate("normal");
    let token = gate.token(&["--user", ADMIN.0]);
    for answer in both(gate.get("/token/").admin()).await {
        assert_eq!((answer.code(), answer.reason()), (403, "method-not-allowed"));
    }
    for answer in both(gate.get("/password/").bearer(&token)).await {
        assert_eq!((answer.code(), answer.reason()), (403, "method-not-allowed"));
    }
}

#[tokio::test]
async fn wrong_credentials_are_401_and_never_fall_back_to_anonymous() {
    let gate = gate("minimal");
    for (path, ask) in [
        ("/both/", gate.get("/both/").basic(ADMIN.0, "wrong password")),
        ("/both/", gate.get("/both/").basic("nobody", "wrong password")),
        ("/both/", gate.get("/both/").bearer("ptc_nonsense")),
        ("/mixed/", gate.get("/mixed/").basic(ADMIN.0, "wrong password")),
    ] {
        for answer in both(ask).await {
            assert_eq!((answer.code(), answer.reason()), (401, "credentials-rejected"), "{path}");
            assert!(!answer.challenges().is_empty());
        }
    }
}

#[tokio::test]
async fn ambiguous_credentials_are_400() {
    let gate = gate("normal");
    for answer in both(gate.get("/both/").admin().admin()).await {
        assert_eq!((answer.code(), answer.reason()), (400, "ambiguous-credentials"));
    }
}

#[tokio::test]
async fn verified_but_not_allowed_is_403_with_the_rule_in_the_log() {
    let gate = gate("minimal");
    for answer in both(gate.get("/mixed/editors/1").admin()).await {
        assert_eq!((answer.code(), answer.reason()), (403, "not-allowed-by-rule"));
    }
    for answer in both(gate.get("/mixed/closed/1").admin()).await {
        assert_eq!((answer.code(), answer.reason()), (403, "denied-by-rule"));
    }
    let line = gate.await_log("access.log", |line| line["reason"] == "not-allowed-by-rule");
    assert_eq!(line["principal"], ADMIN.0);
    assert!(line["rule"].as_str().unwrap().contains("mixed.toml:"), "{line}");
    let audit = gate.cli(&["audit", "list", "--json"]);
    assert!(audit.contains("not-allowed-by-rule") && audit.contains("denied-by-rule"), "{audit}");
}

#[tokio::test]
async fn a_rule_that_wants_more_than_anonymous_asks_for_it() {
    let gate = gate("minimal");
    assert_eq!(gate.get("/mixed/").over(BOTH[0]).await.code(), 200);
    for path in ["/mixed/editors/1", "/mixed/strict/1"] {
        for answer in both(gate.get(path)).await {
            assert_eq!(answer.code(), 401, "{path}");
            assert_eq!(answer.challenges(), ["Basic"], "{path}");
        }
    }
    assert_eq!(gate.get("/mixed/strict/1").admin().over(BOTH[1]).await.code(), 200);
}

#[tokio::test]
async fn a_disabled_application_is_404_for_everybody_and_so_is_none() {
    let gate = gate("normal");
    for path in ["/off/", "/nowhere/", "/bothx/"] {
        for ask in [gate.get(path), gate.get(path).admin()] {
            for answer in both(ask).await {
                assert_eq!((answer.code(), answer.reason()), (404, "no-application"), "{path}");
            }
        }
    }
}

#[tokio::test]
async fn a_token_for_another_application_is_refused() {
    let gate = gate("normal");
    let token = gate.token(&["--service", "robot", "--app", "/token"]);
    assert_eq!(gate.get("/token/").bearer(&token).over(BOTH[0]).await.code(), 200);
    for answer in both(gate.get("/both/").bearer(&token)).await {
        assert_eq!((answer.code(), answer.reason()), (403, "token-not-for-application"));
    }
    let jwt = gate.token(&["--user", ADMIN.0, "--app", "/token", "--jwt"]);
    let answer = gate.get("/token/").bearer(&jwt).over(BOTH[1]).await;
    assert_eq!((answer.code(), answer.environ()["REMOTE_USER"].as_str()), (200, Some(ADMIN.0)));
    assert_eq!(gate.get("/both/").bearer(&jwt).over(BOTH[0]).await.code(), 401, "another audience");
}

#[tokio::test]
async fn every_refusal_is_one_log_line_and_one_audit_record_without_the_secret() {
    let gate = gate("normal");
    let secret = "hunter2-hunter2";
    let answer = gate.get(&format!("/both/?password={secret}")).basic("Mallory", secret).over(BOTH[0]).await;
    let request = answer.header("portcullis-request").unwrap().to_owned();
    gate.await_log("access.log", |line| line["request"] == request.as_str());
    let lines = gate.log("access.log").into_iter().filter(|line| line["request"] == request.as_str()).count();
    assert_eq!(lines, 1);
    // An export flushes what is on its way.
    let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
    let export = loop {
        let export = gate.cli(&["audit", "export"]);
        if export.contains(&request) {
            break export;
        }
        assert!(std::time::Instant::now() < deadline, "{export}");
    };
    assert_eq!(export.matches(&request).count(), 1, "{export}");
    assert!(export.contains("mallory"), "a failed sign-in names whom it was for: {export}");
    let logs =
        ["access.log", "messages.log"].map(|name| std::fs::read_to_string(gate.path(&format!("logs/{name}"))).unwrap());
    for text in logs.iter().chain([&export]) {
        assert!(!text.contains(secret), "{text}");
    }
}
