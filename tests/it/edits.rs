//! Edits of `portcullis.toml` and the policies come into force by themselves, whole or not at all.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use crate::harness::{Gate, Http, PATIENCE, Setup, repository, text};

const OPEN: &str = "methods = [\"unauthenticated\", \"password\"]\ndefault = \"anyone\"\nworkers = 1\n";

fn setup() -> Setup {
    Setup::level("minimal").watching().app("/app", "environ_app", OPEN).app("/other", "environ_app", OPEN)
}

fn policy(mount: &str, default: &str) -> String {
    let directory = repository().join("tests/apps");
    let lines = OPEN.replace("anyone", default);
    format!("[app]\nname = \"{mount}\"\ndirectory = \"{}\"\nmodule = \"environ_app\"\n{lines}", directory.display())
}

/// Writes a file beside it and renames it, as most editors do.
fn replace(path: &Path, content: &str) {
    let beside = path.with_extension("toml.swp");
    fs::write(&beside, content).unwrap();
    fs::rename(beside, path).unwrap();
}

async fn code(gate: &Gate, path: &str) -> u16 {
    gate.get(path).over(Http::One).await.code()
}

/// Asks until the answer is that.
async fn becomes(gate: &Gate, path: &str, expected: u16) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = code(gate, path).await;
        if found == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{path} is {found} and never {expected}");
    }
}

fn status(gate: &Gate) -> serde_json::Value {
    serde_json::from_str(&gate.cli(&["status", "--json"])).expect("JSON")
}

/// Waits until `status` says that a reload was refused, or that none is any more.
fn refused(gate: &Gate, wanted: bool) -> serde_json::Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = status(gate);
        if status["reload_problem"].is_string() == wanted {
            return status;
        }
        assert!(Instant::now() < deadline, "{}", status["reload_problem"]);
    }
}

/// Holds for that long: nothing was refused and the answer is still that.
async fn stays(gate: &Gate, path: &str, expected: u16, long: Duration) {
    let until = Instant::now() + long;
    while Instant::now() < until {
        assert_eq!(code(gate, path).await, expected);
        assert!(status(gate)["reload_problem"].is_null(), "{}", status(gate)["reload_problem"]);
    }
}

#[tokio::test]
async fn an_edit_is_in_force_by_itself_however_it_was_written() {
    let gate = setup().start();
    let file = gate.path("policies/app.toml");
    fs::write(&file, policy("/app", "deny")).unwrap();
    becomes(&gate, "/app/x", 403).await;
    replace(&file, &policy("/app", "signed-in"));
    becomes(&gate, "/app/x", 401).await;
    fs::rename(&file, gate.path("policies/app.toml~")).unwrap();
    fs::write(&file, policy("/app", "anyone")).unwrap();
    becomes(&gate, "/app/x", 200).await;
    gate.write_policy("third", &policy("/third", "anyone"));
    becomes(&gate, "/third/x", 200).await;
    fs::remove_file(gate.path("policies/third.toml")).unwrap();
    becomes(&gate, "/third/x", 404).await;
    let system = gate.path("portcullis.toml");
    let minimal = fs::read_to_string(&system).unwrap();
    replace(&system, &minimal.replace("level = \"minimal\"", "level = \"normal\""));
    becomes(&gate, "/app/x", 401).await;
    fs::write(&system, minimal).unwrap();
    becomes(&gate, "/app/x", 200).await;
    assert!(status(&gate)["reload_problem"].is_null() && status(&gate)["watching"] == true);
}

#[tokio::test]
async fn a_bad_edit_changes_nothing_and_is_shown_until_it_is_mended() {
    let gate = setup().start();
    let bad = policy("/app", "deny").replace("default =", "defualt =");
    fs::write(gate.path("policies/app.toml"), &bad).unwrap();
    let shown = refused(&gate, true);
    let report = shown["reload_problem"].as_str().unwrap();
    assert!(report.contains("policies/app.toml:6:1") && report.contains("did you mean `default`?"), "{report}");
    assert!(report.contains("6 | defualt = \"deny\""), "the line itself: {report}");
    let since = shown["reload_refused_since"].as_str().expect("a time").to_owned();
    let human = gate.cli(&["status"]);
    assert!(human.contains(&format!("Refused since {since}")) && human.contains("policies/app.toml:6:1"), "{human}");
    gate.await_log("messages.log", |line| line.to_string().contains("policies/app.toml:6:1"));
    assert_eq!(code(&gate, "/app/x").await, 200);
    let output = gate.command(&["reload"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains(report.lines().next().unwrap()), "the same report");
    // Worse, and since the first time.
    fs::write(gate.path("policies/other.toml"), "[app\n").unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !status(&gate)["reload_problem"].as_str().unwrap().contains("policies/other.toml:1") {
        assert!(Instant::now() < deadline, "{}", status(&gate));
    }
    assert_eq!(status(&gate)["reload_refused_since"], since.as_str());
    assert_eq!(code(&gate, "/other/x").await, 200);
    fs::write(gate.path("policies/other.toml"), policy("/other", "anyone")).unwrap();
    fs::write(gate.path("policies/app.toml"), policy("/app", "deny")).unwrap();
    assert!(refused(&gate, false)["reload_refused_since"].is_null());
    becomes(&gate, "/app/x", 403).await;
    assert!(!gate.cli(&["status"]).contains("Refused since"));
}

#[tokio::test]
async fn a_half_written_file_is_neither_in_force_nor_complained_of() {
    let gate = setup().start();
    let file = gate.path("policies/app.toml");
    let new = policy("/app", "deny");
    // Emptied, half of it there, which is a policy on its own, and still open.
    let rule = "[[allow]]\npath = \"/**\"\nwho = \"anyone\"\n";
    let mut open = fs::File::create(&file).unwrap();
    open.write_all(new.as_bytes()).unwrap();
    stays(&gate, "/app/x", 200, Duration::from_millis(1500)).await;
    open.write_all(rule.as_bytes()).unwrap();
    open.write_all(b"[[deny]]\npath = \"/x\"\n").unwrap();
    drop(open);
    becomes(&gate, "/app/x", 403).await;
    assert_eq!(code(&gate, "/app/y").await, 200);
    let is_reload = |line: &serde_json::Value| line.to_string().contains("edited: reloading");
    gate.await_log("messages.log", is_reload);
    assert_eq!(gate.log("messages.log").iter().filter(|line| is_reload(line)).count(), 1);
}

#[tokio::test]
async fn what_is_emptied_is_not_taken_for_a_wish() {
    let gate = setup().start();
    let system = gate.path("portcullis.toml");
    let good = fs::read_to_string(&system).unwrap();
    fs::write(&system, "").unwrap();
    let report = refused(&gate, true)["reload_problem"].as_str().unwrap().to_owned();
    assert!(report.contains("portcullis.toml") && report.contains("is empty"), "{report}");
    fs::write(&system, good).unwrap();
    refused(&gate, false);
    fs::create_dir(gate.path("away")).unwrap();
    for name in ["app", "other"] {
        let name = format!("{name}.toml");
        fs::rename(gate.path(&format!("policies/{name}")), gate.path(&format!("away/{name}"))).unwrap();
    }
    let report = refused(&gate, true)["reload_problem"].as_str().unwrap().to_owned();
    assert!(report.contains("there are no policies any more"), "{report}");
    assert_eq!((code(&gate, "/app/x").await, code(&gate, "/other/x").await), (200, 200));
    gate.cli(&["reload"]);
    assert_eq!(code(&gate, "/app/x").await, 404, "somebody has said that it is meant");
}

#[tokio::test]
async fn directories_and_links_are_exchanged_as_a_whole() {
    let gate = setup().start();
    let policies = gate.path("policies");
    let version = |directory: &Path, default: &str| {
        fs::create_dir(directory).unwrap();
        fs::write(directory.join("app.toml"), policy("/app", default)).unwrap();
        fs::write(directory.join("other.toml"), policy("/other", default)).unwrap();
    };
    version(&gate.path("new"), "deny");
    fs::rename(&policies, gate.path("old")).unwrap();
    fs::rename(gate.path("new"), &policies).unwrap();
    becomes(&gate, "/app/x", 403).await;
    assert_eq!(code(&gate, "/other/x").await, 403);
    // As a mounted ConfigMap does it: the files are links through a link that is exchanged.
    version(&policies.join("..1"), "signed-in");
    version(&policies.join("..2"), "anyone");
    symlink("..1", policies.join("..data")).unwrap();
    for name in ["app.toml", "other.toml"] {
        fs::remove_file(policies.join(name)).unwrap();
        symlink(format!("..data/{name}"), policies.join(name)).unwrap();
    }
    becomes(&gate, "/app/x", 401).await;
    symlink("..2", policies.join("..data_tmp")).unwrap();
    fs::rename(policies.join("..data_tmp"), policies.join("..data")).unwrap();
    becomes(&gate, "/app/x", 200).await;
    assert_eq!(code(&gate, "/other/x").await, 200);
    // The directory itself is a link, and what it leads to is edited in place.
    let real = gate.path("real");
    version(&real, "deny");
    fs::rename(&policies, gate.path("older")).unwrap();
    symlink("real", &policies).unwrap();
    becomes(&gate, "/app/x", 403).await;
    fs::write(real.join("app.toml"), policy("/app", "anyone")).unwrap();
    becomes(&gate, "/app/x", 200).await;
}

#[tokio::test]
async fn edits_wait_for_a_word_where_the_configuration_says_so() {
    let gate = setup().start();
    let system = gate.path("portcullis.toml");
    let watching = fs::read_to_string(&system).unwrap();
    fs::write(&system, watching.replacen("[gateway]", "[gateway]\nwatch = false", 1)).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while status(&gate)["watching"] == true {
        assert!(Instant::now() < deadline, "{}", status(&gate));
    }
    fs::write(gate.path("policies/app.toml"), policy("/app", "deny")).unwrap();
    stays(&gate, "/app/x", 200, Duration::from_secs(3)).await;
    gate.cli(&["reload"]);
    assert_eq!(code(&gate, "/app/x").await, 403);
    fs::write(&system, watching).unwrap();
    gate.cli(&["reload"]);
    fs::write(gate.path("policies/app.toml"), policy("/app", "anyone")).unwrap();
    becomes(&gate, "/app/x", 200).await;
}
