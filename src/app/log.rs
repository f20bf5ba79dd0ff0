//! What an application says, as lines of `logs/<application>/wsgi.log`.

use std::path::{Path, PathBuf};

use crate::{clock::Clock, telemetry::LogFile};

/// One application's log.
#[derive(Clone)]
pub struct AppLog {
    file: Option<LogFile>,
    path: PathBuf,
}

impl AppLog {
    /// Writes to an open file.
    #[must_use]
    pub fn new(file: LogFile, path: PathBuf) -> Self {
        Self { file: Some(file), path }
    }

    /// Keeps nothing: for an application that is only imported to see whether it can be.
    #[must_use]
    pub fn none() -> Self {
        Self { file: None, path: PathBuf::new() }
    }

    /// Where it is.
    #[must_use]
    pub fn location(&self) -> &Path {
        &self.path
    }

    /// The same log for one worker.
    #[must_use]
    pub fn of_worker(&self, pid: u32, clock: Clock) -> WorkerLog {
        WorkerLog { file: self.file.clone(), pid, clock }
    }
}

/// The log of one worker of an application.
#[derive(Clone)]
pub struct WorkerLog {
    file: Option<LogFile>,
    pid: u32,
    clock: Clock,
}

#[derive(serde::Serialize)]
struct Line<'a> {
    time: String,
    source: &'a str,
    worker: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    thread: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    request: &'a str,
    message: &'a str,
}

impl WorkerLog {
    /// Writes one line. `source` is `stdout`, `stderr`, `wsgi.errors`, `warning`, `error` or `gate`.
    pub fn write(&self, source: &str, thread: &str, request: &str, message: &str) {
        let Some(file) = &self.file else { return };
        let time = self.clock.now().rfc3339();
        let line = Line { time, source, worker: self.pid, thread, request, message };
        if let Ok(mut bytes) = serde_json::to_vec(&line) {
            bytes.push(b'\n');
            file.write_lines(bytes);
        }
    }
}
