//! One worker library for every Python from 3.10 on, and none in the gateway itself.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, process::Command};

use crate::harness::{Http, Setup, program, text};

const POLICY: &str = "methods = [\"unauthenticated\"]\ndefault = \"anyone\"\n";

/// Says version, implementation and place; any Python can read it.
const WHO: &str = "import sys; sys.stdout.write('%d %d %s %s' % (sys.version_info[0], sys.version_info[1], \
                   getattr(getattr(sys, 'implementation', None), 'name', 'cpython'), sys.executable))";

/// The interpreters of this machine that run, by their version: `(3, 11)`.
pub fn pythons() -> BTreeMap<(u32, u32), PathBuf> {
    let mut candidates: Vec<PathBuf> = Vec::new();
    let path = std::env::var_os("PATH").unwrap_or_default();
    for directory in std::env::split_paths(&path) {
        candidates.extend((6..=14).map(|minor| directory.join(format!("python3.{minor}"))));
        candidates.push(directory.join("python3"));
    }
    if let Some(home) = std::env::var_os("HOME").map(PathBuf::from) {
        let versions = std::fs::read_dir(home.join(".pyenv/versions")).into_iter().flatten().flatten();
        candidates.extend(versions.map(|version| version.path().join("bin/python")));
    }
    let mut found = BTreeMap::new();
    for candidate in candidates.into_iter().filter(|candidate| candidate.is_file()) {
        let asked = Command::new(&candidate).args(["-c", WHO]).output();
        // A shim of pyenv is a file that runs no Python unless its version is selected.
        let Ok(output) = asked else { continue };
        let said = text(&output.stdout);
        let [major, minor, "cpython", executable] = said.split_whitespace().collect::<Vec<_>>()[..] else { continue };
        if let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) {
            found.entry((major, minor)).or_insert_with(|| PathBuf::from(executable));
        }
    }
    found
}

fn python(path: &std::path::Path) -> String {
    format!("{POLICY}python = \"{}\"", path.display())
}

#[tokio::test]
async fn one_worker_library_serves_every_python_from_3_10_on() {
    let supported: Vec<_> = pythons().into_iter().filter(|(version, _)| *version >= (3, 10)).collect();
    println!("found {supported:?}");
    assert!(!supported.is_empty(), "there is no Python 3.10 or newer on this machine");
    let mut setup = Setup::level("minimal");
    for ((major, minor), path) in &supported {
        setup = setup.app(&format!("/p{major}{minor}"), "contract", &python(path)).app(
            &format!("/v{major}{minor}"),
            "validated",
            &python(path),
        );
    }
    let gate = setup.start();
    for ((major, minor), _) in &supported {
        let app = format!("/p{major}{minor}");
        for http in [Http::One, Http::Two] {
            let ask = |method: &str, path: &str| gate.ask(method, &format!("{app}{path}"));
            assert_eq!(ask("GET", "/hello").over(http).await.text(), "Hello, world!\n", "{app}");
            let body = "line\n".repeat(30_000);
            assert_eq!(ask("POST", "/echo").body(body.clone()).over(http).await.text(), body, "{app}");
            assert_eq!(ask("POST", "/text_wrapper").body(body).over(http).await.text(), "30000", "{app}");
            assert_eq!(ask("GET", "/generator").over(http).await.text(), "one two", "{app}");
            assert_eq!(ask("GET", "/file_wrapper").over(http).await.body.len(), 200_000, "{app}");
            assert_eq!(ask("GET", "/raise_before").over(http).await.code(), 500, "{app}");
            assert_eq!(ask("GET", "/crlf_header").over(http).await.code(), 500, "{app}");
            let lines = gate.ask("POST", &format!("/v{major}{minor}/stream")).body("a\nb").over(http).await;
            assert_eq!((lines.code(), lines.text().as_str()), (200, "a\nb"), "{app}");
        }
        assert!(gate.get(&format!("{app}/thread_local")).over(Http::One).await.text().ends_with(" False"));
    }
    let status: serde_json::Value = serde_json::from_str(&gate.cli(&["status", "--json"])).unwrap();
    for ((major, minor), path) in &supported {
        let name = format!("/p{major}{minor}");
        let app = status["applications"].as_array().unwrap().iter().find(|app| app["name"] == name.as_str()).unwrap();
        let version = app["workers"][0]["python"].as_str().unwrap();
        assert!(version.starts_with(&format!("{major}.{minor}.")), "{} says {version}", path.display());
    }
}

#[test]
fn there_is_no_python_in_the_gateway() {
    let listed = ["readelf", "ldd"].into_iter().find_map(|tool| {
        let mut command = Command::new(tool);
        if tool == "readelf" {
            command.arg("-d");
        }
        command.arg(program()).output().ok().filter(|output| output.status.success())
    });
    let listed = text(&listed.expect("readelf or ldd").stdout);
    assert!(listed.contains("libc.so"), "a list of libraries: {listed}");
    assert!(!listed.to_ascii_lowercase().contains("python"), "{listed}");
}

#[test]
fn a_python_that_cannot_serve_is_named_with_what_to_do() {
    let empty = tempfile::tempdir().unwrap();
    let too_old = pythons().into_iter().rev().find(|(version, _)| *version < (3, 10));
    println!("too old: {too_old:?}");
    let mut setup = Setup::level("minimal").app("/missing", "environ_app", &python(&empty.path().join("python3"))).app(
        "/directory",
        "environ_app",
        &python(empty.path()),
    );
    if let Some((_, path)) = &too_old {
        setup = setup.app("/old", "environ_app", &python(path));
    }
    let installation = setup.install();
    let says = |app: &str| {
        let output = installation.command(&["app", "test", app]);
        assert!(!output.status.success(), "{app}");
        text(&output.stdout) + &text(&output.stderr)
    };
    let missing = says("/missing");
    let place = empty.path().display();
    assert!(missing.contains(&format!("there is no Python at {place}/python3")), "{missing}");
    assert!(missing.contains("`python` in the policy"), "{missing}");
    let directory = says("/directory");
    assert!(directory.contains(&format!("there is no Python at {place}/bin/python")), "{directory}");
    if let Some(((major, minor), _)) = too_old {
        let old = says("/old");
        assert!(old.contains("3.10") && old.contains(&format!("{major}.{minor}")), "{old}");
    }
}

#[tokio::test]
async fn the_gateway_serves_the_others_when_one_python_is_missing() {
    let gate = Setup::level("minimal")
        .app("/good", "contract", POLICY)
        .app("/missing", "contract", &python(&PathBuf::from(OsString::from("/nonexistent/python"))))
        .start();
    assert_eq!(gate.get("/good/hello").over(Http::One).await.code(), 200);
    let answer = gate.get("/missing/hello").over(Http::One).await;
    assert_eq!((answer.code(), answer.reason()), (503, "application-unavailable"));
}
