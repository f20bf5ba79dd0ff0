//! `reload`: all of a good change with the next request, nothing of a bad one.

use std::process::Output;

use crate::harness::{BOTH, Gate, Http, Setup, await_gone, repository, text};

const OPEN: &str = "methods = [\"unauthenticated\", \"password\"]\ndefault = \"anyone\"\nworkers = 1\n";

fn gate() -> Gate {
    Setup::level("minimal").app("/app", "environ_app", OPEN).app("/other", "environ_app", OPEN).start()
}

fn policy(mount: &str, more: &str) -> String {
    let directory = repository().join("tests/apps");
    format!("[app]\nname = \"{mount}\"\ndirectory = \"{}\"\nmodule = \"environ_app\"\n{more}", directory.display())
}

fn said(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

/// What `reload` says when it refuses.
fn refused(gate: &Gate) -> String {
    let output = gate.command(&["reload"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("nothing was changed"), "{}", said(&output));
    said(&output)
}

async fn code(gate: &Gate, path: &str) -> u16 {
    gate.get(path).over(Http::One).await.code()
}

#[tokio::test]
async fn a_good_change_is_in_force_with_the_next_request() {
    let gate = gate();
    // Connections that were open before see it too.
    let (mut one, mut two) = (gate.http1().await, gate.http2().await);
    for (default, expected) in [("signed-in", 401), ("anyone", 200), ("deny", 403), ("anyone", 200)] {
        gate.write_policy("app", &policy("/app", &OPEN.replace("\"anyone\"", &format!("\"{default}\""))));
        gate.cli(&["reload"]);
        for http in BOTH {
            assert_eq!(gate.get("/app/x").over(http).await.code(), expected, "{default}");
        }
        let request = |uri: &str| {
            use http_body_util::BodyExt;
            let body = http_body_util::Empty::new().map_err(|never| match never {});
            let body = http_body_util::combinators::BoxBody::new(body);
            http::Request::get(uri).header("host", "localhost").body(body).unwrap()
        };
        let old = one.send_request(request("/app/x")).await.unwrap();
        assert_eq!(old.status().as_u16(), expected, "{default}, kept alive");
        http_body_util::BodyExt::collect(old.into_body()).await.unwrap();
        assert_eq!(two.send_request(request("https://localhost/app/x")).await.unwrap().status().as_u16(), expected);
    }
}

#[tokio::test]
async fn a_mistake_changes_nothing_and_says_where_it_is() {
    let gate = gate();
    let workers = gate.await_workers("/app", 1);
    gate.write_policy("app", &policy("/app", &OPEN.replace("default =", "defualt =")));
    gate.write_policy("other", &policy("/other", &OPEN.replace("\"anyone\"", "\"deny\"")));
    let report = refused(&gate);
    assert!(report.contains("policies/app.toml:6:1") && report.contains("did you mean `default`?"), "{report}");
    assert!(report.contains("6 | defualt = \"anyone\""), "the line itself: {report}");
    assert_eq!((code(&gate, "/app/x").await, code(&gate, "/other/x").await), (200, 200), "the good half neither");
    assert_eq!(gate.await_workers("/app", 1), workers, "nobody was restarted");
    let status: serde_json::Value = serde_json::from_str(&gate.cli(&["status", "--json"])).unwrap();
    assert!(status["reload_problem"].as_str().unwrap().contains("policies/app.toml:6:1"), "{status}");
    assert!(gate.cli(&["audit", "list", "--json"]).contains("reload"), "a refused reload is a fact");
    // Mended, it is in force, and the complaint is gone.
    gate.write_policy("app", &policy("/app", OPEN));
    gate.cli(&["reload"]);
    assert_eq!((code(&gate, "/app/x").await, code(&gate, "/other/x").await), (200, 403));
    let status: serde_json::Value = serde_json::from_str(&gate.cli(&["status", "--json"])).unwrap();
    assert!(status["reload_problem"].is_null(), "{status}");
}

#[tokio::test]
async fn all_mistakes_of_all_policies_are_in_one_report() {
    let gate = gate();
    gate.write_policy("app", &policy("/app", "methods = [\"pasword\"]\ndefault = \"anyon\"\nworkers = 0\n"));
    gate.write_policy(
        "other",
        &policy("other", "methods = [\"token\"]\n[[alow]]\npath = \"/x\"\n[[deny]]\npath = \"x\"\n"),
    );
    gate.write_policy("third", "[app\n");
    let report = refused(&gate);
    for part in [
        "policies/app.toml:5:12",
        "`password`",
        "policies/app.toml:6:11",
        "`anyone`",
        "policies/app.toml:7:11",
        "policies/other.toml:2:8",
        "policies/other.toml:6:3",
        "`allow`",
        "policies/other.toml:9:8",
        "policies/third.toml:1:",
        " errors",
    ] {
        assert!(report.contains(part), "{part}: {report}");
    }
    let json = gate.command(&["--json", "reload"]);
    let problems: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(problems["problems"].as_array().unwrap().len() >= 7, "{problems}");
    assert_eq!(code(&gate, "/app/x").await, 200);
}

#[tokio::test]
async fn a_mistake_in_the_system_changes_nothing_either() {
    let gate = gate();
    let file = gate.path("portcullis.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    for (from, to, part) in [
        ("[gateway]", "[gateway]\nthreds = 2", "did you mean `threads`?"),
        ("[gateway]", "[gatewy]", "did you mean `gateway`?"),
        ("level = \"minimal\"", "level = \"minimum\"", "`minimal`"),
        ("[limits]", "[limits]\nheader_bytes = \"1KiB\"", "header_bytes"),
        ("[gateway]", "[gateway]\ntrusted_proxies = [\"10.0.0.0/33\"]", "10.0.0.0/33"),
        ("certs/localhost.pem", "certs/nothing.pem", "certs/nothing.pem"),
    ] {
        std::fs::write(&file, good.replacen(from, to, 1)).unwrap();
        let output = gate.command(&["reload"]);
        assert_eq!(output.status.code(), Some(3), "{to}: {}", said(&output));
        assert!(said(&output).contains("portcullis.toml") || part.starts_with("certs"), "{to}: {}", said(&output));
        assert!(said(&output).contains(part), "{to}: {}", said(&output));
        assert_eq!(code(&gate, "/app/x").await, 200, "{to}");
    }
    std::fs::write(&file, good.replace("level = \"minimal\"", "level = \"normal\"")).unwrap();
    gate.cli(&["reload"]);
    for http in BOTH {
        assert_eq!(gate.get("/app/x").over(http).await.code(), 401, "a stricter level is in force at once");
    }
}

#[tokio::test]
async fn applications_come_and_go_with_their_workers() {
    let gate = gate();
    let old = gate.await_workers("/other", 1);
    assert_eq!(code(&gate, "/third/x").await, 404);
    gate.write_policy("third", &policy("/third", OPEN));
    std::fs::remove_file(gate.path("policies/other.toml")).unwrap();
    let report = gate.cli(&["reload"]);
    assert!(report.contains("/third") && report.contains("stopped /other"), "{report}");
    assert_eq!((code(&gate, "/third/x").await, code(&gate, "/other/x").await), (200, 404));
    assert_eq!(code(&gate, "/app/x").await, 200);
    await_gone(old[0]);
    // Disabled is gone as well.
    let third = gate.await_workers("/third", 1);
    gate.write_policy("third", &policy("/third", &format!("enabled = false\n{OPEN}")));
    gate.cli(&["reload"]);
    assert_eq!(code(&gate, "/third/x").await, 404);
    await_gone(third[0]);
    // And back.
    gate.write_policy("third", &policy("/third", OPEN));
    gate.cli(&["reload"]);
    assert_eq!(code(&gate, "/third/x").await, 200);
}

#[tokio::test]
async fn the_number_of_workers_follows_the_policy_and_others_are_left_alone() {
    let gate = gate();
    let other = gate.await_workers("/other", 1);
    for count in [3, 1, 2] {
        gate.write_policy("app", &policy("/app", &OPEN.replace("workers = 1", &format!("workers = {count}"))));
        let report = gate.cli(&["reload"]);
        assert!(report.contains("restarted /app") && !report.contains("/other"), "{report}");
        gate.await_workers("/app", count);
        assert_eq!(code(&gate, "/app/x").await, 200);
    }
    assert_eq!(gate.await_workers("/other", 1), other);
    // A rule is no reason to start anything again.
    let before = gate.await_workers("/app", 2);
    let stricter = OPEN.replace("workers = 1", "workers = 2").replace("\"anyone\"", "\"signed-in\"");
    gate.write_policy("app", &policy("/app", &stricter));
    let report = gate.cli(&["reload"]);
    assert!(!report.contains("restarted"), "{report}");
    assert_eq!(code(&gate, "/app/x").await, 401);
    assert_eq!(gate.await_workers("/app", 2), before);
}

#[tokio::test]
async fn a_new_version_that_cannot_start_leaves_the_old_one_running() {
    let gate = gate();
    let workers = gate.await_workers("/app", 1);
    gate.write_policy("app", &policy("/app", OPEN).replace("environ_app", "broken_import"));
    let output = gate.command(&["reload"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).contains("/app does not start as it is described now"), "{}", said(&output));
    assert_eq!(code(&gate, "/app/x").await, 200);
    assert_eq!(gate.await_workers("/app", 1), workers);
}

#[tokio::test]
async fn what_looks_protective_and_is_not_known_is_refused() {
    let gate = gate();
    for (more, key) in [
        ("[[deny]]\npath = \"/admin/**\"\nmfa = \"15m\"\n", "`mfa`"),
        ("[[allow]]\npath = \"/admin/**\"\nwho = \"signed-in\"\nlimit = \"5/s\"\n", "does not say per whom"),
        ("[[deny]]\npath = \"/admin/**\"\nmode = \"off\"\n", "`off` is not a mode"),
        (
            "[[expect]]\nrequest = \"GET /app/admin\"\nas = { anonymous = \"deny\" }\n",
            "anonymous is expected to get `deny`, and gets `allow`",
        ),
        ("[[deny]]\npath = \"/admin/**\"\nwho = []\n", "empty list"),
        ("[[allow]]\npath = \"/admin/**\"\n", "`who`"),
    ] {
        gate.write_policy("app", &policy("/app", &format!("{OPEN}{more}")));
        let report = refused(&gate);
        assert!(report.contains(key) && report.contains("policies/app.toml:"), "{key}: {report}");
        let check = gate.command(&["check"]);
        assert!(!check.status.success() && said(&check).contains(key), "{}", said(&check));
        assert_eq!(code(&gate, "/app/x").await, 200);
    }
}

#[tokio::test]
async fn what_needs_a_restart_is_said() {
    let gate = gate();
    let file = gate.path("portcullis.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, good.replacen("[gateway]", "[gateway]\nthreads = 7", 1)).unwrap();
    let output = gate.command(&["reload"]);
    assert!(output.status.success() && said(&output).contains("`threads` under [gateway]"), "{}", said(&output));
    assert_eq!(code(&gate, "/app/x").await, 200);
}
