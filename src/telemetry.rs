//! What the gate says about itself: messages for people and for machines, and the log files that others write through.
//!
//! | file | what | written by |
//! |---|---|---|
//! | `messages.log` | what happened to the gate, JSON lines | `tracing` events |
//! | `access.log` | one JSON line per request | the gateway, in batches |
//! | `NAME/wsgi.log` | what an application printed or logged | its supervisor |
//! | standard error | the messages again, a line each, for a person or the journal | `tracing` events |
//!
//! All of it goes through one thread, see [`log_file`]: a full disk or a stuck terminal costs lines, which are counted,
//! and never a request.

pub mod log_file;

use std::{
    fmt::{self, Write as _},
    io::{self, IsTerminal as _},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, format::Writer, time::FormatTime},
    layer::SubscriberExt as _,
    registry::LookupSpan,
};

pub use self::log_file::{LogFile, LogWriter};
use crate::{clock::Clock, config::Logs};

/// What is logged when the configuration asks for something that cannot be read.
const DEFAULT_LEVEL: &str = "info";

/// Bytes of one application's log that may wait to be written, of the eight MiB for all files.
const MOST_OF_AN_APPLICATION: usize = 2 * 1024 * 1024;

/// Logging, set up. Hold it until the end: what is still queued is written by [`Telemetry::flush`], or when it drops.
pub struct Telemetry {
    writer: LogWriter,
    logs: Logs,
}

/// Starts the log writer and sends every `tracing` event of this process to `messages.log` and standard error.
#[must_use]
pub fn init(logs: &Logs) -> Telemetry {
    let clock = Clock::System;
    let telemetry = Telemetry { writer: LogWriter::start(clock.clone()), logs: logs.clone() };
    let colour = io::stderr().is_terminal();
    let (messages, people) = (telemetry.open("messages.log"), telemetry.writer.standard_error());
    // Fails when there is one already, which then is the one that counts.
    let _ = tracing::subscriber::set_global_default(subscriber(messages, people, &logs.level, clock, colour));
    telemetry
}

impl Telemetry {
    /// A log file in the configured directory, with the configured size and number. The same name is the same file.
    #[must_use]
    pub fn open(&self, name: &str) -> LogFile {
        self.writer.open(&self.logs.directory.join(name), self.logs.max_bytes, self.logs.keep)
    }

    /// The log of the application mounted at `mount`.
    #[must_use]
    pub fn open_application(&self, mount: &str) -> LogFile {
        self.open(&application_file(mount)).at_most(MOST_OF_AN_APPLICATION)
    }

    /// Opens every file anew, after something else has moved them away.
    pub fn reopen(&self) {
        self.writer.reopen();
    }

    /// Waits until everything that was logged before is written.
    pub fn flush(&self) {
        self.writer.flush();
    }
}

/// The log file of the application mounted at `mount`, below the directory of logs: `/notes/v2` is `notes.v2/wsgi.log`,
/// `/` is `=root/wsgi.log`. Different mounts never share a name.
#[must_use]
pub fn application_file(mount: &str) -> String {
    if mount == "/" {
        return "=root/wsgi.log".to_owned();
    }
    let mut name = String::new();
    for byte in mount.trim_matches('/').bytes() {
        match byte {
            b'/' => name.push('.'),
            b'-' | b'_' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => name.push(char::from(byte)),
            other => {
                let _ = write!(name, "%{other:02X}");
            }
        }
    }
    name + "/wsgi.log"
}

fn subscriber(
    messages: LogFile,
    people: LogFile,
    level: &str,
    clock: Clock,
    colour: bool,
) -> impl Subscriber + Send + Sync {
    let filter = || EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new(DEFAULT_LEVEL));
    let machines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_timer(Time(clock.clone()))
        .with_writer(messages)
        .with_filter(filter());
    let people = tracing_subscriber::fmt::layer()
        .event_format(Human { clock, colour })
        .with_writer(people)
        .with_filter(filter());
    tracing_subscriber::registry().with(machines).with(people)
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = Lines<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Lines(self)
    }
}

/// An event on its way to a file: `tracing_subscriber` writes each with a single call.
pub struct Lines<'a>(&'a LogFile);

impl io::Write for Lines<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_lines(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// RFC 3339 in UTC.
struct Time(Clock);

impl FormatTime for Time {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.write_str(&self.0.now().rfc3339())
    }
}

/// `2026-11-22T17:42:00.123Z WARN  the certificate expires soon file=certs/a.crt`. One line whatever is in it: a name
/// with a line feed in it must not look like a second event, nor steer the terminal.
struct Human {
    clock: Clock,
    colour: bool,
}

impl<S, N> FormatEvent<S, N> for Human
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut said = Said::default();
        event.record(&mut said);
        let level = *event.metadata().level();
        let (begin, end) = if self.colour { (colour_of(level), "\x1b[0m") } else { ("", "") };
        let time = self.clock.now().rfc3339();
        writeln!(writer, "{time} {begin}{level:<5}{end} {}{}", said.message, said.fields)
    }
}

const fn colour_of(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        _ => "\x1b[2m",
    }
}

/// What an event says, with everything escaped that could end a line.
#[derive(Default)]
struct Said {
    message: String,
    fields: String,
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        let out = if field.name() == "message" {
            &mut self.message
        } else {
            let _ = write!(self.fields, " {}=", field.name());
            &mut self.fields
        };
        for character in text.chars() {
            if character.is_control() {
                out.extend(character.escape_default());
            } else {
                out.push(character);
            }
        }
    }
}

#[cfg(test)]
mod tests;
