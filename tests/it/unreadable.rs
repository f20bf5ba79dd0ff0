//! Files that are none, or far too much: named at once, by `check`, by `reload` and by the watching gateway, and nothing
//! changes in what is in force.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Output,
    time::{Duration, Instant},
};

use crate::harness::{Gate, Http, PATIENCE, Setup, repository, text};

const OPEN: &str = "methods = [\"unauthenticated\"]\ndefault = \"anyone\"\n";

/// What a report may take; the start of the program and the rest of the tests on the same cores are in it.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A bad file, and a word of what is said about it.
struct Bad {
    what: &'static str,
    make: Box<dyn Fn(&Path)>,
    says: &'static str,
}

fn bad(what: &'static str, says: &'static str, make: impl Fn(&Path) + 'static) -> Bad {
    Bad { what, make: Box::new(make), says }
}

fn content(what: &'static str, says: &'static str, content: impl Into<Vec<u8>>) -> Bad {
    let content = content.into();
    bad(what, says, move |path| fs::write(path, &content).unwrap())
}

fn pipe(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

fn link(to: &'static str) -> impl Fn(&Path) {
    move |path| symlink(to, path).unwrap()
}

/// What is bad for `portcullis.toml` and for a policy.
fn for_both() -> Vec<Bad> {
    vec![
        content("not UTF-8", "is not UTF-8: byte 0xff here", b"[app]\ntitle = \"\xff\"\n".as_slice()),
        content("ten megabytes", "is larger than 4 MiB", "# comment\n".repeat(1 << 20)),
        content("ten megabytes in a line", "is larger than 4 MiB", "x".repeat(10 << 20)),
        content("a megabyte in a line", "unknown key", format!("titel = \"{}\"", "x".repeat(1_000_000))),
        content("a key of a megabyte", "unknown key", format!("{} = 1", "x".repeat(1_000_000))),
        content("nothing but mistakes", "more like these", "= x ] [ \"\n".repeat(90_000)),
        content(
            "unknown keys alone",
            "more like these",
            (0..80_000).map(|n| format!("k{n} = 1\n")).collect::<String>(),
        ),
        content("brackets in brackets", "recurs", format!("x = {}", "[".repeat(500_000))),
        content("tables in tables", "recurs", format!("x = {}1{}", "{x = ".repeat(100_000), "}".repeat(100_000))),
        content("keys in keys", "recurs", format!("[{}x]", "x.".repeat(400_000))),
        bad("a loop of links", "cannot be read", |path| {
            symlink(path.file_name().unwrap(), path).unwrap();
        }),
        bad("a link to nothing", "cannot be read", link("nowhere")),
        bad("a directory", "is a directory", |path| fs::create_dir(path).unwrap()),
        bad("a pipe", "is not a regular file", pipe),
        bad("a device without an end", "is not a regular file", link("/dev/zero")),
        bad("a terminal", "is not a regular file", link("/dev/ptmx")),
    ]
}

fn rules(count: usize) -> String {
    let rules = (0..count).map(|n| format!("[[deny]]\npath = \"/{n}\"\n")).collect::<String>();
    format!("[app]\nname = \"/bad\"\ndirectory = \".\"\nmodule = \"x\"\nmethods = \"password\"\n{rules}")
}

/// What is bad for a policy alone.
fn for_policies() -> Vec<Bad> {
    vec![
        content("a hundred thousand rules", "100000 rules and expectations", rules(100_000)),
        content("too many rules", "20001 rules", rules(20_001)),
        content("an empty policy", "[app]", ""),
    ]
}

fn gate(watching: bool) -> Gate {
    let setup = Setup::level("minimal").app("/app", "environ_app", OPEN);
    if watching { setup.watching().start() } else { setup.start() }
}

async fn code(gate: &Gate) -> u16 {
    gate.get("/app/x").over(Http::One).await.code()
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path).unwrap().is_dir() {
        true => fs::remove_dir(path).unwrap(),
        false => fs::remove_file(path).unwrap(),
    }
}

fn said(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

/// Asks `check` and `reload` about a bad file.
async fn refuses(gate: &Gate, bad: &Bad, file: &str) {
    for command in ["check", "reload"] {
        let began = Instant::now();
        let output = gate.command(&[command]);
        let (took, report) = (began.elapsed(), said(&output));
        assert_eq!(output.status.code(), Some(3), "{command}, {}: {report}", bad.what);
        assert!(report.contains(file) && report.contains(bad.says), "{command}, {}: {report}", bad.what);
        assert!(took < AT_ONCE, "{command}, {}: {took:?}", bad.what);
        assert!(report.len() < 200_000, "{command}, {}: {} bytes", bad.what, report.len());
    }
    assert_eq!(code(gate).await, 200, "{}", bad.what);
}

#[tokio::test]
async fn a_policy_that_is_no_policy_is_named_at_once_and_changes_nothing() {
    let gate = gate(false);
    let before = gate.resident_kib();
    let path = gate.path("policies/bad.toml");
    for bad in for_both().iter().chain(&for_policies()) {
        (bad.make)(&path);
        refuses(&gate, bad, "policies/bad.toml").await;
        remove(&path);
    }
    gate.cli(&["reload"]);
    let after = gate.resident_kib();
    assert!(after < before + (100 << 10), "{before} KiB have become {after}");
}

#[tokio::test]
async fn a_configuration_that_is_none_is_named_at_once_and_changes_nothing() {
    let gate = gate(false);
    let path = gate.path("portcullis.toml");
    let good = fs::read(&path).unwrap();
    for bad in for_both() {
        remove(&path);
        (bad.make)(&path);
        // A command has to know where the gateway is, so it reads this file too, and says what is wrong with it.
        let began = Instant::now();
        let output = gate.command(&["check"]);
        assert_eq!(output.status.code(), Some(3), "{}: {}", bad.what, said(&output));
        let report = said(&output);
        // A command takes a directory for the one that the file is in.
        let says = if path.is_dir() { "there is no" } else { bad.says };
        assert!(report.contains("portcullis.toml") && report.contains(says), "{}: {report}", bad.what);
        assert!(began.elapsed() < AT_ONCE, "{}: {:?}", bad.what, began.elapsed());
        crate::harness::signal(gate.pid(), rustix::process::Signal::HUP);
        let is_it = |line: &serde_json::Value| line["message"].as_str().is_some_and(|text| text.contains(bad.says));
        gate.await_log("messages.log", is_it);
        assert_eq!(code(&gate).await, 200, "{}", bad.what);
        remove(&path);
        fs::write(&path, &good).unwrap();
    }
    gate.cli(&["reload"]);
}

#[tokio::test]
async fn the_watching_gateway_names_them_too_and_goes_on() {
    let gate = gate(true);
    let status = || -> serde_json::Value { serde_json::from_str(&gate.cli(&["status", "--json"])).expect("JSON") };
    let path = gate.path("policies/bad.toml");
    for bad in for_both().iter().chain(&for_policies()) {
        let wait = |what: &str, until: &dyn Fn(&serde_json::Value) -> bool| {
            let deadline = Instant::now() + PATIENCE;
            while !until(&status()["reload_problem"]) {
                assert!(Instant::now() < deadline, "{}, {what}: {}", bad.what, status());
            }
        };
        (bad.make)(&path);
        wait("made", &|problem| problem.as_str().is_some_and(|text| text.contains(bad.says)));
        assert_eq!(code(&gate).await, 200, "{}", bad.what);
        remove(&path);
        wait("mended", &serde_json::Value::is_null);
    }
    // Nobody listens at the other end, and nobody waits for it.
    gate.write_policy("second", &policy("/second"));
    gate.cli(&["reload"]);
    assert_eq!(gate.get("/second/x").over(Http::One).await.code(), 200);
}

fn policy(mount: &str) -> String {
    let directory = repository().join("tests/apps");
    format!("[app]\nname = \"{mount}\"\ndirectory = \"{}\"\nmodule = \"environ_app\"\n{OPEN}", directory.display())
}

#[tokio::test]
async fn a_policy_that_the_gateway_may_not_read_is_named() {
    // Root may read everything, so an ordinary user asks.
    let ordinary = rustix::process::geteuid().is_root().then_some(54_997);
    let installation = Setup::level("minimal").app("/app", "environ_app", OPEN).run_as(ordinary).install();
    let path = installation.path("policies/secret.toml");
    fs::write(&path, policy("/secret")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let output = installation.command(&["check"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let report = said(&output);
    assert!(report.contains("policies/secret.toml") && report.contains("readable by the user"), "{report}");
    assert!(!report.contains("policies/app.toml"), "the rest is fine: {report}");
}

#[tokio::test]
async fn many_policies_are_too_many() {
    let gate = gate(false);
    for number in 0..1001 {
        fs::write(gate.path(&format!("policies/n{number}.toml")), "x").unwrap();
    }
    let many = content("a thousand policies", "1002 policies are more than the 1000", "");
    refuses(&gate, &many, "policies").await;
    for number in 0..1001 {
        remove(&gate.path(&format!("policies/n{number}.toml")));
    }
    for number in 0..17 {
        fs::write(gate.path(&format!("policies/n{number}.toml")), "#".repeat(1 << 20)).unwrap();
    }
    refuses(&gate, &content("much together", "larger than 16 MiB", ""), "policies").await;
}
