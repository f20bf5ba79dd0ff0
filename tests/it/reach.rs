//! Which Python an application gets, and what it can do there as in any Python program, confined as it is.

use std::{
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    harness::{Gate, Http, Installation, Setup, text},
    pythons::pythons,
};

const POLICY: &str = "methods = [\"unauthenticated\"]\ndefault = \"anyone\"\n";

/// An interpreter that serves: the newest of this machine.
fn newest() -> PathBuf {
    let (version, path) = pythons().into_iter().next_back().expect("a Python");
    assert!(version >= (3, 10), "there is no Python 3.10 or newer on this machine");
    path
}

fn python(written: &str) -> String {
    format!("{POLICY}python = \"{written}\"")
}

/// A virtualenv without packages.
fn make_venv(at: &Path) {
    let output = Command::new(newest()).args(["-m", "venv", "--without-pip"]).arg(at).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

fn make_program(at: &Path, content: &str) {
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::fs::write(at, content).unwrap();
    std::fs::set_permissions(at, std::fs::Permissions::from_mode(0o755)).unwrap();
}

async fn ask(gate: &Gate, path: &str) -> String {
    let answer = gate.get(path).over(Http::One).await;
    assert_eq!(answer.code(), 200, "{path}: {}", answer.text());
    answer.text()
}

/// What `app test` says about an application that has to be refused.
fn refused(installation: &Installation, app: &str) -> String {
    let output = installation.command(&["app", "test", app]);
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(!output.status.success(), "{app}: {said}");
    said
}

#[tokio::test]
async fn what_works_in_a_python_program_works_in_a_worker_of_every_version() {
    let supported: Vec<_> = pythons().into_iter().filter(|(version, _)| *version >= (3, 10)).collect();
    println!("found {supported:?}");
    assert!(!supported.is_empty(), "there is no Python 3.10 or newer on this machine");
    let mut setup = Setup::level("minimal");
    for ((major, minor), path) in &supported {
        setup = setup.app(&format!("/p{major}{minor}"), "reach", &python(&path.display().to_string()));
    }
    let gate = setup.start();
    for ((major, minor), _) in &supported {
        let app = format!("/p{major}{minor}");
        for (path, expected) in [
            ("/fork", "285"),
            ("/spawn", "285"),
            ("/manager", "6"),
            ("/subprocess", "42"),
            ("/shell", "42"),
            ("/event", "None"),
            ("/event", "None"),
        ] {
            assert_eq!(ask(&gate, &format!("{app}{path}")).await, expected, "{app}{path}");
        }
        assert!(ask(&gate, &format!("{app}/version")).await.starts_with(&format!("{major}.{minor}.")));
        // The old worker goes as any Python program goes.
        gate.cli(&["app", "reload", &app]);
        let log = format!("{}/wsgi.log", app.trim_start_matches('/'));
        gate.await_log(&log, |line| line["message"] == "flushed 2 events, alive: False");
    }
}

#[tokio::test]
async fn a_handler_that_was_set_at_import_is_called() {
    // Python calls handlers in its main thread, which is parked while others run the requests.
    let policy = python(&newest().display().to_string()) + "\nthreads = 4";
    let gate = Setup::level("minimal").app("/app", "reach", &policy).start();
    assert_eq!(ask(&gate, "/app/signal").await, "None");
    assert_eq!(ask(&gate, "/app/signalled").await, "True");
}

#[tokio::test]
async fn a_name_is_an_environment_and_otherwise_a_program_on_the_path() {
    let installation = Setup::level("minimal")
        .config("workers", "environments = [\"venvs\", \"more\"]")
        .app("/first", "reach", &python("first"))
        .app("/second", "reach", &python("second"))
        .app("/path", "reach", &python("python3"))
        .app("/relative", "reach", &python("./.venv"))
        .app("/dot", "reach", &python(".venv"))
        .install();
    let places = ["venvs/first", "more/second", "policies/.venv"].map(|place| installation.path(place));
    places.iter().for_each(|place| make_venv(place));
    let gate = installation.start();
    for (app, place) in [("/first", 0), ("/second", 1), ("/relative", 2), ("/dot", 2)] {
        let place = places[place].display();
        assert_eq!(ask(&gate, &format!("{app}/environment")).await, format!("{place} {place}/bin"), "{app}");
        assert_eq!(ask(&gate, &format!("{app}/executable")).await, format!("{place}/bin/python"), "{app}");
    }
    assert!(ask(&gate, "/path/environment").await.starts_with("None "));
}

#[tokio::test]
async fn a_prefix_of_condas_kind_is_an_environment_too() {
    let directory = tempfile::tempdir().unwrap();
    let prefix = directory.path().join("forge");
    std::fs::create_dir_all(prefix.join("bin")).unwrap();
    std::fs::create_dir(prefix.join("conda-meta")).unwrap();
    symlink(newest(), prefix.join("bin/python")).unwrap();
    let gate = Setup::level("minimal").app("/conda", "reach", &python(&prefix.display().to_string())).start();
    let prefix = prefix.display();
    assert_eq!(ask(&gate, "/conda/environment").await, format!("{prefix} {prefix}/bin"));
}

#[tokio::test]
async fn a_script_that_chooses_a_python_is_looked_behind() {
    let directory = tempfile::tempdir().unwrap();
    let shim = directory.path().join("shims/python3");
    let real = newest();
    make_program(&shim, &format!("#!/bin/sh\nexec '{}' \"$@\"\n", real.display()));
    let gate = Setup::level("minimal").app("/shim", "reach", &python(&shim.display().to_string())).start();
    assert_eq!(ask(&gate, "/shim/executable").await, real.display().to_string());
}

#[test]
fn a_python_that_is_none_is_named_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let shown = |name: &str| at(name).display().to_string();
    make_program(&at("rubbish"), "#!/bin/sh\necho 'no Python, sorry'\n");
    make_program(&at("silent"), "#!/bin/sh\nexit 0\n");
    make_program(&at("broken"), "\u{7f}ELF and no more");
    make_program(&at("flood"), "#!/bin/sh\nexec cat /dev/zero\n");
    std::fs::write(at("file"), "not even a program").unwrap();
    make_venv(&at("dangling"));
    let config = std::fs::read_to_string(at("dangling/pyvenv.cfg")).unwrap();
    let gone = config.lines().map(|line| if line.starts_with("home") { "home = /gone/bin" } else { line });
    std::fs::write(at("dangling/pyvenv.cfg"), gone.collect::<Vec<_>>().join("\n")).unwrap();
    let mut setup = Setup::level("minimal");
    for name in ["rubbish", "silent", "broken", "flood", "file", "dangling"] {
        setup = setup.app(&format!("/{name}"), "reach", &python(&shown(name)));
    }
    let installation = setup
        .app("/typo", "reach", &python("nottes"))
        .app("/path", "reach", &python("pythn3"))
        .app("/nowhere", "reach", &python("entirely-unheard-of"))
        .install();
    std::fs::create_dir_all(installation.path("venvs/notes")).unwrap();
    let correct = "correct `python` in the policy";
    for (app, words) in [
        ("rubbish", vec!["does not answer like a Python, it said: no Python, sorry", correct]),
        ("silent", vec!["does not answer like a Python", correct]),
        ("broken", vec!["does not answer like a Python, it said: ", correct]),
        ("flood", vec!["does not answer like a Python", correct]),
        ("file", vec!["does not answer like a Python", "Permission denied", correct]),
        ("dangling", vec!["was made from a Python that is no longer at /gone/bin", "python3 -m venv --clear"]),
        ("typo", vec!["there is no Python called `nottes`", "did you mean `notes`?", "venvs", "PATH"]),
        ("path", vec!["there is no Python called `pythn3`", "did you mean `python3`?"]),
        ("nowhere", vec!["there is no Python called `entirely-unheard-of`", "venvs", correct]),
    ] {
        let said = refused(&installation, &format!("/{app}"));
        assert!(words.iter().all(|word| said.contains(word)), "{app}: {said}");
        assert!(said.len() < 3000, "{app} says {} bytes", said.len());
    }
}

#[test]
fn a_python_that_is_too_old_is_called_so_whatever_its_age() {
    let old: Vec<_> = pythons().into_iter().filter(|(version, _)| *version < (3, 10)).collect();
    println!("too old: {old:?}");
    if old.is_empty() {
        println!("there is no old Python on this machine: NOT tested in this run");
    }
    for ((major, minor), path) in old {
        let installation = Setup::level("minimal").app("/old", "reach", &python(&path.display().to_string())).install();
        let said = refused(&installation, "/old");
        let version = format!("is Python {major}.{minor}.");
        assert!(said.contains(&version) && said.contains("Python 3.10 or newer is needed"), "{said}");
    }
}
