//! What an application says, as lines of `logs/<application>/wsgi.log`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use portcullis_wire::Level;

use crate::{clock::Clock, telemetry::LogFile};

/// So many bytes are taken of what one process says before it has to wait for [`REST`]: one that floods its log slows down
/// itself, at 12 MiB a second, and neither the control thread, which reads for all, nor the disk.
const TURN: usize = 64 * 1024;

/// See [`TURN`].
const REST: Duration = Duration::from_millis(5);

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
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<&'a str>,
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
    pub fn write(&self, source: &str, level: Option<Level>, thread: &str, request: &str, message: &str) {
        let Some(file) = &self.file else { return };
        let time = self.clock.now().rfc3339();
        let line = Line { time, level: level.map(Level::word), source, worker: self.pid, thread, request, message };
        if let Ok(mut bytes) = serde_json::to_vec(&line) {
            bytes.push(b'\n');
            file.write_lines(bytes);
        }
    }
}

/// Keeps whoever reads what a process says from reading nothing else.
#[derive(Default)]
pub struct Pace {
    taken: usize,
}

impl Pace {
    /// Counts bytes that were read.
    pub fn took(&mut self, bytes: usize) {
        self.taken += bytes;
    }

    /// Waits, after a whole turn; before the next read. Dropped in the middle, it waits again.
    pub async fn rest(&mut self) {
        if self.taken >= TURN {
            tokio::time::sleep(REST).await;
            self.taken = 0;
        }
    }
}
