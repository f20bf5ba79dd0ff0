//! gunicorn's request corpus: how another server's authors think each of some hundred requests has to be read. Where
//! ours is read differently, `tests/corpus/gunicorn.txt` says why; a difference that is not listed fails, and so does a
//! listed one that is none.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use crate::harness::{Setup, repository, text, venv};

/// The release whose corpus this is. Another one has other files, and the table is about these.
const RELEASE: &str = "gunicorn-27.0.1";

fn run(command: &mut Command, what: &str) -> String {
    let output = command.output().expect("python runs");
    assert!(output.status.success(), "{what}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// The unpacked source distribution, fetched by pip once and kept beside what cargo builds.
fn corpus() -> PathBuf {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(RELEASE);
    if kept.is_dir() {
        return kept;
    }
    let fetched = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory beside the build");
    let python = venv().join("bin/python");
    run(
        Command::new(&python)
            .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"])
            .args(["--no-binary", ":all:", "--dest"])
            .arg(fetched.path())
            .arg(RELEASE.replacen('-', "==", 1)),
        "the corpus could not be fetched from the package index",
    );
    run(
        Command::new(&python)
            .args(["-m", "tarfile", "--extract"])
            .arg(fetched.path().join(format!("{RELEASE}.tar.gz")))
            .arg(fetched.path()),
        "the corpus could not be unpacked",
    );
    std::fs::rename(fetched.path().join(RELEASE), &kept).expect("the corpus finds its place");
    kept
}

/// `name  outcome` of every line; what stands behind `#` is for people.
fn table(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().map(|line| line.split("  #").next().unwrap_or("").trim());
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once("  ").unwrap_or_else(|| panic!("no outcome in {line:?}")))
        .map(|(name, outcome)| (name.to_owned(), outcome.trim().to_owned()))
        .collect()
}

#[test]
fn gunicorns_corpus_is_read_as_gunicorn_reads_it_but_for_what_is_listed() {
    let corpus = corpus();
    let gate = Setup::level("minimal")
        .config("timeouts", "head = \"1s\"\nbody = \"1s\"\nidle = \"1s\"")
        .app("/", "seen", "methods = [\"unauthenticated\"]\ndefault = \"anyone\"\nthreads = 16")
        .start();
    let outcome = run(
        Command::new(venv().join("bin/python"))
            .arg(repository().join("tests/corpus/gunicorn.py"))
            .arg(&corpus)
            .args([gate.address.ip().to_string(), gate.address.port().to_string()])
            .arg(gate.path("certs/ca.pem")),
        "the corpus could not be sent",
    );
    let all = table(&outcome);
    assert!(all.len() > 100, "the corpus has {} files only", all.len());
    let found: BTreeMap<_, _> = all.into_iter().filter(|(_, outcome)| outcome != "as expected").collect();
    let listed = table(&std::fs::read_to_string(repository().join("tests/corpus/gunicorn.txt")).expect("the table"));
    let unlisted: Vec<_> = found.iter().filter(|(name, outcome)| listed.get(*name) != Some(outcome)).collect();
    let gone: Vec<_> = listed.iter().filter(|(name, outcome)| found.get(*name) != Some(outcome)).collect();
    assert!(unlisted.is_empty() && gone.is_empty(), "not listed: {unlisted:#?}\nlisted and not so: {gone:#?}");
}
