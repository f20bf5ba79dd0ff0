//! The command line without a gateway: what it answers, what it refuses, and with which exit code.

use std::{
    io::Read as _,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::harness::{Installation, Setup};

const PASSWORD: &str = "a good long password";

fn installation() -> Installation {
    Setup::level("normal")
        .app("/hello", "contract", "methods = [\"password\", \"token\"]\ndefault = \"signed-in\"")
        .install()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("an exit code")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(installation: &Installation, args: &[&str]) -> Value {
    let args: Vec<_> = ["--json"].iter().chain(args).copied().collect();
    serde_json::from_str(&installation.cli(&args)).expect("JSON")
}

#[test]
fn exit_codes_say_what_kind_of_failure_it_was() {
    let gate = installation();
    let expect = |expected: i32, args: &[&str], words: &str| {
        let output = gate.command(args);
        assert!(code(&output) == expected && said(&output).contains(words), "{args:?}: {output:?}");
    };
    expect(0, &["user", "list"], "");
    expect(1, &["user", "show", "rot"], "did you mean `root`?");
    expect(1, &["user", "grant", "root", "administrater"], "did you mean `administrator`?");
    expect(1, &["token", "create", "--user", "root", "--app", "/helo"], "did you mean `/hello`?");
    expect(1, &["user", "remove", "root"], "nobody who can administer");
    expect(2, &["user", "add", "a b"], "is not a name");
    expect(2, &["usr"], "user");
    expect(2, &["token", "create"], "--service NAME");
    expect(4, &["status"], "portcullis serve");
    expect(4, &["reload"], "portcullis serve");
    std::fs::remove_file(gate.path("data/portcullis.sqlite3")).unwrap();
    expect(5, &["user", "list"], "there is no store");
    std::fs::write(gate.path("portcullis.toml"), "[gatewy]\n").unwrap();
    expect(3, &["user", "list"], "gateway");
    std::fs::remove_file(gate.path("portcullis.toml")).unwrap();
    expect(3, &["user", "list"], "portcullis init");
}

#[test]
fn an_installation_is_never_made_twice() {
    let gate = installation();
    let before = std::fs::read(gate.path("portcullis.toml")).unwrap();
    let directory = gate.path("");
    let again = gate.command(&["init", "--dir", directory.to_str().unwrap()]);
    assert!(code(&again) == 1 && said(&again).contains("not overwritten"), "{again:?}");
    assert_eq!(std::fs::read(gate.path("portcullis.toml")).unwrap(), before);
}

#[test]
fn a_token_is_all_of_standard_output() {
    let gate = installation();
    let output = gate.command(&["token", "create", "--service", "backup", "--app", "/hello", "--name", "nightly"]);
    let token = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(token.starts_with("ptc_") && token.lines().count() == 1 && !said(&output).contains("ptc_"), "{output:?}");
    let tokens = json(&gate, &["token", "list", "--service", "backup"]);
    assert_eq!((&tokens[0]["name"], &tokens[0]["state"]), (&Value::from("nightly"), &Value::from("good")));
    let jwt = gate.token(&["--user", "root", "--app", "/hello", "--jwt"]);
    assert_eq!(jwt.split('.').count(), 3);
}

#[test]
fn what_was_done_is_audited_and_no_secret_with_it() {
    let gate = installation();
    gate.user("ann", PASSWORD, &["sales"]);
    let token = gate.token(&["--user", "ann"]);
    gate.cli(&["user", "disable", "ann"]);
    let export = gate.cli(&["audit", "export"]);
    let records: Vec<Value> = export.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<_> = records.iter().map(|record| record["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["install.init", "role.add", "user.add", "token.create", "user.disable"]);
    assert!(records.iter().all(|record| record["actor"].as_str().unwrap().starts_with("console:")));
    for secret in [PASSWORD, &token, "$argon2", "PRIVATE KEY"] {
        assert!(!export.contains(secret), "{secret}");
    }
}

#[test]
fn a_made_up_password_is_shown_once_and_to_programs_too() {
    let gate = installation();
    let added = json(&gate, &["user", "add", "ann"]);
    let password = added["password"].as_str().unwrap();
    assert_eq!(password.split('-').map(str::len).collect::<Vec<_>>(), [5; 5]);
    let shown = format!("{}{}", gate.cli(&["user", "show", "ann"]), json(&gate, &["user", "show", "ann"]));
    assert!(!shown.contains(password) && !shown.contains("argon2"), "{shown}");
}

#[test]
fn explain_judges_without_a_gateway() {
    let gate = installation();
    gate.user("ann", PASSWORD, &[]);
    let verdict = |args: &[&str]| {
        let answer = json(&gate, &[&["explain", "GET"], args].concat());
        (answer["status"].as_u64().unwrap(), answer["reason"].as_str().unwrap_or("-").to_owned())
    };
    assert_eq!(verdict(&["/hello/"]), (401, "credentials-required".to_owned()));
    assert_eq!(verdict(&["/hello/", "--as", "ann"]), (200, "-".to_owned()));
    assert_eq!(verdict(&["https://example.org/hello/", "--as", "ann"]), (200, "-".to_owned()));
    assert_eq!(verdict(&["/hello/%2e%2e/", "--as", "ann"]), (400, "bad-path".to_owned()));
    assert_eq!(verdict(&["/elsewhere"]), (404, "no-application".to_owned()));
    gate.cli(&["user", "disable", "ann"]);
    let disabled = gate.cli(&["explain", "GET", "/hello/", "--as", "ann"]);
    assert!(disabled.starts_with("401 credentials-rejected: the user is disabled"), "{disabled}");
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut complaint = String::new();
    child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
    assert_eq!((child.wait().unwrap().code(), complaint.as_str()), (Some(0), ""));
}

#[test]
fn manual_pages_and_completions_name_every_command() {
    let gate = installation();
    let pages = gate.path("man");
    gate.cli(&["man", "--dir", pages.to_str().unwrap()]);
    assert!(pages.join("portcullis-token-create.1").exists());
    for shell in ["bash", "fish", "zsh"] {
        assert!(gate.cli(&["completions", shell]).contains("set-password"), "{shell}");
    }
}
