//! What an event looks like in the end.

use std::sync::{Arc, atomic::AtomicI64};

use super::*;

fn said(colour: bool, level: &str, event: impl FnOnce()) -> (String, String) {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::Manual(Arc::new(AtomicI64::new(1_795_369_320_123)));
    let writer = LogWriter::start(clock.clone());
    let file = |name: &str| writer.open(&directory.path().join(name), 1 << 20, 1);
    let subscriber = subscriber(file("machines"), file("people"), level, clock, colour);
    tracing::subscriber::with_default(subscriber, event);
    writer.finish();
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap_or_default();
    (read("machines"), read("people"))
}

#[test]
fn an_event_is_one_json_line_and_one_line_for_people() {
    let (machines, people) = said(false, "info", || tracing::warn!(file = "certs/a.crt", days = 3, "expires soon"));
    let json: serde_json::Value = serde_json::from_str(machines.trim_end()).unwrap();
    assert_eq!(json["timestamp"], "2026-11-22T17:42:00.123Z");
    assert_eq!((&json["level"], &json["message"]), (&"WARN".into(), &"expires soon".into()));
    assert_eq!((&json["file"], json["days"].as_i64()), (&"certs/a.crt".into(), Some(3)));
    assert_eq!(people, "2026-11-22T17:42:00.123Z WARN  expires soon file=certs/a.crt days=3\n");
}

#[test]
fn nothing_in_an_event_ends_its_line_or_steers_the_terminal() {
    let name = "ann\"}\n{\"level\":\"INFO\"}\r\u{1b}[2J\u{9b}31m";
    let (machines, people) = said(true, "info", || tracing::info!(user = name, other = %name, third = ?name, "{name}"));
    assert_eq!((machines.lines().count(), people.lines().count()), (1, 1), "{machines}{people}");
    let json: serde_json::Value = serde_json::from_str(machines.trim_end()).unwrap();
    assert_eq!(json["user"], name);
    let controls = people.trim_end_matches('\n').chars().filter(|c| c.is_control()).count();
    assert_eq!(controls, 2, "only our own colour, on and off: {people:?}");
}

#[test]
fn the_level_filters_and_one_that_cannot_be_read_is_info() {
    let event = || {
        tracing::debug!("small");
        tracing::info!("large");
    };
    assert_eq!(said(false, "debug", event).1.lines().count(), 2);
    assert_eq!(said(false, "info", event).1.lines().count(), 1);
    assert_eq!(said(false, "error", event).1, "");
    assert_eq!(said(false, "info,portcullis=debug", event).1.lines().count(), 2);
    assert_eq!(said(false, "]not a level[", event).1.lines().count(), 1);
}

#[test]
fn every_application_has_a_file_of_its_own() {
    assert_eq!(application_file("/notes"), "notes/wsgi.log");
    assert_eq!(application_file("/"), "=root/wsgi.log");
    assert_eq!(application_file("/api/v2"), "api.v2/wsgi.log");
    let mounts = ["/", "/root", "/root.", "/a/b", "/a.b", "/a_b", "/a%2Eb", "/A/b", "/é", "/..", "/a/..", "/a b"];
    let files: std::collections::HashSet<String> = mounts.into_iter().map(application_file).collect();
    assert_eq!(files.len(), mounts.len());
    for file in files {
        let directory = file.strip_suffix("/wsgi.log").unwrap();
        assert!(!directory.is_empty() && !directory.contains('/') && !directory.starts_with('.'), "{file}");
    }
}
