//! What an application says: with its level and its request in `wsgi.log`, and read by `app logs`.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Gate, Http, Installation, PATIENCE, Setup, program, signal, text};

const OPEN: &str = "methods = [\"unauthenticated\", \"password\"]\ndefault = \"anyone\"\n";

fn talkative() -> Gate {
    Setup::level("minimal").app("/app", "talkative", OPEN).start()
}

/// Asks for a path and gives the id of that request.
async fn asked(gate: &Gate, path: &str) -> Value {
    assert_eq!(gate.get(path).over(Http::One).await.code(), 200, "{path}");
    gate.await_log("access.log", |line| line["path"] == path)["request"].clone()
}

fn await_line(gate: &Gate, begins: &str) -> Value {
    gate.await_log("app/wsgi.log", |line| line["message"].as_str().is_some_and(|text| text.starts_with(begins)))
}

#[tokio::test]
async fn what_a_request_prints_carries_its_id() {
    let gate = talkative();
    let first = asked(&gate, "/app/said").await;
    for begins in ["a printed line", "to stderr", "environ's own", "never ended"] {
        let line = await_line(&gate, begins);
        assert_eq!((&line["request"], &line["level"]), (&first, &Value::Null), "{line}");
    }
    let warning = await_line(&gate, "/");
    assert_eq!(
        (&warning["request"], &warning["level"], &warning["source"]),
        (&first, &"warning".into(), &"stderr".into())
    );
    let message = warning["message"].as_str().unwrap();
    assert!(
        message.contains("UserWarning: this is old\n") && message.contains("warnings.warn("),
        "one record: {message}"
    );
    // What a request has begun to print is its own line, also when the next one runs in the same thread.
    assert_eq!(gate.get("/app/said").over(Http::One).await.code(), 200);
    assert_eq!(await_line(&gate, "never ended")["message"], "never ended");
}

#[tokio::test]
async fn a_record_of_logging_is_one_line_with_its_level_however_late_it_was_imported() {
    let gate = talkative();
    assert_eq!(gate.get("/app/bare").over(Http::One).await.text(), "False", "a bare worker has no logging");
    let request = asked(&gate, "/app/logged").await;
    let level = |begins: &str, level: &str| {
        let line = await_line(&gate, begins);
        assert_eq!(
            (&line["level"], &line["source"], &line["request"]),
            (&level.into(), &"stderr".into(), &request),
            "{line}"
        );
    };
    level("by the last resort", "warning");
    for (number, word) in
        [(5, "debug"), (10, "debug"), (20, "info"), (25, "info"), (30, "warning"), (40, "error"), (50, "critical")]
    {
        level(&format!("talkative level {number}"), word);
    }
    level("talkative two\nlines\nTraceback (most recent call last):\n", "error");
    let own = await_line(&gate, "two\nlines\nTraceback");
    assert_eq!((&own["source"], &own["level"], &own["request"]), (&"wsgi.errors".into(), &"error".into(), &request));
    assert!(own["message"].as_str().unwrap().ends_with("KeyError: 'missing'"), "{own}");
    let helper = await_line(&gate, "talkative from a thread of its own");
    assert_eq!(
        (&helper["level"], &helper["thread"], &helper["request"]),
        (&"error".into(), &"helper".into(), &Value::Null)
    );
    asked(&gate, "/app/long").await;
    let long = await_line(&gate, "talkative xxx");
    assert_eq!(long["message"].as_str().unwrap().len(), 256 * 1024, "cut, not lost");
}

#[tokio::test]
async fn what_the_worker_reports_and_how_it_died_have_a_level() {
    let gate = Setup::level("minimal").app("/app", "contract", OPEN).start();
    assert_eq!(gate.get("/app/raise_before").over(Http::One).await.code(), 500);
    let report = gate.await_log("app/wsgi.log", |line| line["source"] == "error");
    assert_eq!(report["level"], "error");
    assert_eq!(gate.get("/app/segfault").over(Http::One).await.code(), 502);
    assert_eq!(await_line(&gate, "Fatal Python error")["level"], "critical");
    assert_eq!(gate.await_log("app/wsgi.log", |line| line["source"] == "gate")["level"], "error");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_floods_its_log_costs_others_nothing() {
    let quick = format!("{OPEN}request_timeout = \"1s\"");
    let gate = Setup::level("minimal").app("/app", "talkative", &quick).app("/other", "contract", OPEN).start();
    assert_eq!(gate.get("/other/print").over(Http::One).await.code(), 200);
    let before = gate.resident_kib();
    assert_eq!(gate.get("/app/flood_in_threads").over(Http::One).await.code(), 200);
    // The control thread gets through to the flooding worker too: a request there is interrupted in time.
    let answer = gate.get("/app/flood").over(Http::One).await;
    assert_eq!((answer.code(), answer.reason()), (504, "application-timeout"));
    assert_eq!(gate.get("/app/flood_by_child").over(Http::One).await.code(), 200);
    let (asked, read) = (Instant::now(), bytes_read(&gate));
    for _ in 0..20 {
        assert_eq!(gate.get("/other/print").over(Http::One).await.code(), 200);
        gate.cli(&["status"]);
    }
    let (took, read) = (asked.elapsed(), bytes_read(&gate) - read);
    assert!(took < Duration::from_secs(10), "{took:?}");
    // The pipe would give a multiple of what is taken from it.
    let most = Duration::from_millis(500).saturating_add(took).as_millis() * 16 * 1024;
    assert!(u128::from(read) < most, "{read} bytes in {took:?}");
    let others = || gate.log("other/wsgi.log").iter().filter(|line| line["message"] == "printed to stdout").count();
    let deadline = Instant::now() + PATIENCE;
    while others() < 21 {
        assert!(Instant::now() < deadline, "{} of 21 lines", others());
    }
    let grown = gate.resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more");
}

/// Bytes that the gateway has read from files and pipes.
fn bytes_read(gate: &Gate) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", gate.pid())).unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok()).unwrap()
}

/// An installation with a log that nobody but the test writes.
fn with_log() -> (Installation, PathBuf) {
    let gate = Setup::level("minimal").app("/app", "talkative", OPEN).install();
    let log = gate.path("logs/app/wsgi.log");
    fs::create_dir_all(log.parent().unwrap()).unwrap();
    (gate, log)
}

fn record(second: u32, more: &str, message: &str) -> String {
    let message = Value::from(message);
    format!(
        "{{\"time\":\"2026-11-24T08:00:{second:02}.000Z\",{more}\"source\":\"stderr\",\"worker\":7,\"message\":{message}}}\n"
    )
}

#[test]
fn app_logs_reads_rotated_files_in_order_without_a_gateway() {
    let (gate, log) = with_log();
    let logs = |args: &[&str]| gate.cli(&[&["app", "logs", "/app"], args].concat());
    let nothing = gate.command(&["app", "logs", "app"]);
    assert!(nothing.status.success() && text(&nothing.stderr).contains("nothing was logged yet"), "{nothing:?}");
    let unknown = gate.command(&["app", "logs", "/ap"]);
    assert!(text(&unknown.stderr).contains("did you mean `/app`?"), "{unknown:?}");
    let lines: Vec<_> =
        (0..30).map(|n| record(n, "\"level\":\"info\",\"request\":\"r1\",", &format!("line {n}"))).collect();
    fs::write(log.with_extension("log.2"), lines[..10].concat()).unwrap();
    fs::write(log.with_extension("log.1"), lines[10..20].concat()).unwrap();
    fs::write(&log, lines[20..].concat() + &record(31, "\"level\":\"error\",", "bad\n\x1b[2J\tworse")).unwrap();
    let all = logs(&[]);
    assert_eq!(all.lines().count(), 32);
    assert!(all.lines().take(30).enumerate().all(|(n, line)| line.ends_with(&format!(" line {n}"))), "{all}");
    assert!(
        all.ends_with(
            "2026-11-24T08:00:31.000Z error    7                  -                bad\n    \\u{1b}[2J    worse\n"
        ),
        "{all}"
    );
    assert_eq!(logs(&["-n", "13"]).lines().count(), 14);
    assert!(logs(&["-n", "13"]).contains(" line 18\n") && !logs(&["-n", "13"]).contains(" line 17\n"));
    assert_eq!(logs(&["--level", "warning"]).lines().count(), 2);
    assert_eq!(logs(&["--request", "r1"]).lines().count(), 30);
    assert_eq!(logs(&["--since", "2026-11-24T08:00:09Z"]).lines().count(), 23);
    let json = logs(&["--json", "-n", "1"]);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["message"], "bad\n\x1b[2J\tworse");
    let none = gate.command(&["app", "logs", "/app", "--request", "r2"]);
    assert!(none.status.success() && text(&none.stderr).contains("nothing of that kind"), "{none:?}");
    assert_eq!(gate.command(&["app", "logs", "/app", "--level", "bad"]).status.code(), Some(2));
    // It is most wanted when something is wrong.
    gate.write_policy("app", "[app");
    assert_eq!(logs(&["-n", "1"]).lines().count(), 2);
}

/// `app logs --follow`, and the lines it prints.
struct Following {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Following {
    fn start(gate: &Installation) -> Self {
        let mut command = Command::new(program());
        command.arg("--config").arg(gate.path("portcullis.toml")).args(["app", "logs", "/app", "--follow"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    fn expect(&self, end: &str) {
        let line = self.lines.recv_timeout(PATIENCE).unwrap();
        assert!(line.ends_with(end), "{line:?}, not {end:?}");
    }

    /// It ends by itself, and well.
    fn ends(&mut self) {
        let mut complaint = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
        assert_eq!((self.child.wait().unwrap().code(), complaint.as_str()), (Some(0), ""));
    }
}

#[test]
fn following_waits_for_the_file_and_survives_its_rotation() {
    let (gate, log) = with_log();
    let mut following = Following::start(&gate);
    fs::write(&log, record(1, "", "one")).unwrap();
    following.expect(" one");
    let append = |text: &str| {
        use std::io::Write as _;
        fs::OpenOptions::new().append(true).open(&log).unwrap().write_all(text.as_bytes()).unwrap();
    };
    append(&record(2, "", "two"));
    following.expect(" two");
    // Two rotations at once, and lines on every side of them.
    append(&record(3, "", "three"));
    fs::rename(&log, log.with_extension("log.2")).unwrap();
    fs::write(log.with_extension("log.1"), record(4, "", "four")).unwrap();
    fs::write(&log, record(5, "", "five")).unwrap();
    following.expect(" three");
    following.expect(" four");
    following.expect(" five");
    signal(i32::try_from(following.child.id()).unwrap(), Signal::INT);
    following.ends();
}

#[test]
fn following_ends_when_nobody_reads() {
    let (gate, log) = with_log();
    fs::write(&log, record(1, "", "one")).unwrap();
    let mut command = Command::new(program());
    command.arg("--config").arg(gate.path("portcullis.toml")).args(["app", "logs", "/app", "--follow"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut following = Following { child, lines: mpsc::channel().1 };
    let mut first = [0; 8];
    following.child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    // The log stays quiet from here on.
    drop(following.child.stdout.take());
    following.ends();
}

#[tokio::test]
async fn the_log_of_a_request_is_found_by_its_id() {
    let gate = talkative();
    asked(&gate, "/app/said").await;
    let request = asked(&gate, "/app/logged").await;
    await_line(&gate, "talkative from a thread");
    let shown = gate.cli(&["app", "logs", "/app", "--request", request.as_str().unwrap(), "--level", "error"]);
    assert!(shown.contains("talkative two\n    lines\n    Traceback (most recent call last):\n"), "{shown}");
    assert!(shown.contains("critical") && !shown.contains("a printed line") && !shown.contains(" level 30"), "{shown}");
}
