//! `app logs`: what an application said, from its log files. No gateway is asked, so it works without one.

use std::{borrow::Cow, collections::VecDeque, io, time::Duration};

use portcullis_wire::Level;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    Failure, Result, apps,
    args::AppLogs,
    context::Context,
    log_files::{LogFiles, Part},
    out::{Out, Style, is_hostile, printable},
};
use crate::{clock::Timestamp, telemetry};

/// How many lines are shown to who says nothing else.
const USUAL: usize = 100;

/// How often files are looked at while they are followed.
const POLL: Duration = Duration::from_millis(200);

/// `portcullis app logs`
pub(super) async fn logs(context: &Context, args: AppLogs, out: &mut Out) -> Result {
    let files = files(context, &args.name)?;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Pipe,
        _ => Failure::Failed(format!("{} cannot be read: {error}", files.path().display())),
    };
    let mut parts = files.open().map_err(failed)?;
    let filter = Filter::new(&args, context.clock.now());
    let most = args.lines.or((args.since.is_none() && args.request.is_none()).then_some(USUAL));
    let shown = match most {
        Some(most) => newest(&mut parts, most, &filter, out),
        None => everything(&mut parts, &filter, out),
    };
    let shown = shown.map_err(failed)?;
    if args.follow {
        // The newest has been read to its end: what comes now is new.
        return follow(&files, parts.into_iter().next(), &filter, out).await.map_err(failed);
    }
    if parts.is_empty() {
        out.remark(format_args!("nothing was logged yet: there is no {}", files.path().display()));
    } else if shown == 0 {
        out.remark(format_args!("nothing of that kind is in {}", files.path().display()));
    }
    Ok(())
}

/// Where the log of an application is. Its policy is only asked if there is none, to tell a name that is mistyped: a log
/// is most wanted when something is wrong, perhaps with the policies.
fn files(context: &Context, name: &str) -> Result<LogFiles> {
    let rooted = if name.starts_with('/') { name.to_owned() } else { format!("/{name}") };
    let of = |mount: &str| LogFiles::new(context.config.logs.directory.join(telemetry::application_file(mount)));
    let files = of(&rooted);
    if files.path().exists() {
        return Ok(files);
    }
    Ok(of(&apps::find(context, name)?.name))
}

/// The newest lines, at most so many, from as few files as hold them. Says how many.
fn newest(parts: &mut [Part], most: usize, filter: &Filter, out: &mut Out) -> io::Result<usize> {
    let mut newest = VecDeque::new();
    // The first is always read, because following goes on behind it.
    for (index, part) in parts.iter_mut().enumerate() {
        if index > 0 && (newest.len() == most || filter.is_over_before(part)) {
            break;
        }
        let mut older = part.last(most - newest.len(), |line| filter.wants(line))?;
        older.append(&mut newest);
        newest = older;
    }
    newest.iter().try_for_each(|line| show(line, out))?;
    Ok(newest.len())
}

/// Every line that is wanted. Says how many.
fn everything(parts: &mut [Part], filter: &Filter, out: &mut Out) -> io::Result<usize> {
    let mut shown = 0;
    for (index, part) in parts.iter_mut().enumerate().rev() {
        if index > 0 && filter.is_over_before(part) {
            continue;
        }
        shown += show_rest(part, filter, out)?;
    }
    Ok(shown)
}

fn show_rest(part: &mut Part, filter: &Filter, out: &mut Out) -> io::Result<usize> {
    let mut shown = 0;
    while let Some(line) = part.line()? {
        if filter.wants(&line) {
            show(&line, out)?;
            shown += 1;
        }
    }
    Ok(shown)
}

/// Shows what is written from now on, until somebody has enough.
async fn follow(files: &LogFiles, part: Option<Part>, filter: &Filter, out: &mut Out) -> io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut current = part;
    loop {
        let moved = current.as_ref().is_none_or(|part| files.has_moved_on_from(part));
        if let Some(part) = &mut current {
            // After the question: a file that has been moved gets no more lines.
            part.notice_truncation()?;
            show_rest(part, filter, out)?;
        }
        if moved {
            let newer = match &current {
                Some(part) => files.newer_than(part)?,
                None => files.open()?.into_iter().rev().collect(),
            };
            for mut part in newer {
                show_rest(&mut part, filter, out)?;
                current = Some(part);
            }
        }
        out.flush()?;
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        }
        // A quiet log would never find out by writing.
        if nobody_reads() {
            return Ok(());
        }
    }
}

/// Whether whoever read standard output has gone.
fn nobody_reads() -> bool {
    let stdout = io::stdout();
    let mut asked = [PollFd::new(&stdout, PollFlags::empty())];
    let answered = poll(&mut asked, Some(&Timespec::default()));
    answered.is_ok() && asked[0].revents().intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL)
}

/// Which lines are wanted.
struct Filter {
    /// As lines have it; times of one form are in the order of their letters.
    since: Option<(Timestamp, String)>,
    request: Option<String>,
    level: Option<Level>,
}

impl Filter {
    fn new(args: &AppLogs, now: Timestamp) -> Self {
        let since = args.since.map(|since| since.at(now));
        Self { since: since.map(|at| (at, at.rfc3339())), request: args.request.clone(), level: args.level }
    }

    fn wants(&self, line: &[u8]) -> bool {
        if self.since.is_none() && self.request.is_none() && self.level.is_none() {
            return true;
        }
        let Ok(record) = serde_json::from_slice::<Record<'_>>(line) else { return false };
        self.since.as_ref().is_none_or(|(_, since)| *record.time >= **since)
            && self.request.as_ref().is_none_or(|request| record.request == *request)
            && self.level.is_none_or(|least| record.level().is_some_and(|level| level >= least))
    }

    /// Whether all lines of a file are older than what is wanted.
    fn is_over_before(&self, part: &Part) -> bool {
        self.since.as_ref().is_some_and(|(since, _)| part.written < *since)
    }
}

/// A line as it is written (`app/log.rs`), and the line that admits to lost ones (`telemetry/log_file.rs`).
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Record<'a> {
    #[serde(borrow, alias = "timestamp")]
    time: Cow<'a, str>,
    #[serde(borrow)]
    level: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    worker: u32,
    #[serde(borrow)]
    thread: Cow<'a, str>,
    #[serde(borrow)]
    request: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    lost: Option<u64>,
}

impl Record<'_> {
    fn level(&self) -> Option<Level> {
        let word = if self.level == "WARN" { "warning" } else { &self.level };
        Level::ALL.into_iter().find(|level| level.word() == word)
    }

    /// The worker and its thread, or the gate.
    fn who(&self) -> String {
        match (self.worker, &*self.source, &*self.thread) {
            (0, "" | "gate", _) => "gate".to_owned(),
            (worker, _, "") => worker.to_string(),
            (worker, _, thread) => format!("{worker} {thread}"),
        }
    }
}

/// Prints one line of the log.
fn show(line: &[u8], out: &mut Out) -> io::Result<()> {
    if out.json {
        return show_raw(line, out);
    }
    let Ok(record) = serde_json::from_slice::<Record<'_>>(line) else {
        return out.line(printable(&String::from_utf8_lossy(line)));
    };
    let (level, style) = match record.level() {
        None => ("-", Style::Dim),
        Some(level) => (
            level.word(),
            match level {
                Level::Debug => Style::Dim,
                Level::Info => Style::Good,
                Level::Warning => Style::Warn,
                Level::Error | Level::Critical => Style::Bad,
            },
        ),
    };
    let time = out.paint(Style::Dim, &record.time);
    let level = out.paint(style, format_args!("{level:<8}"));
    let who = printable(&record.who());
    let request = if record.request.is_empty() { "-" } else { &record.request };
    let request = out.paint(Style::Dim, format_args!("{request:<16}"));
    let lost = record.lost.map(|lost| format!(" ({lost})")).unwrap_or_default();
    let mut lines = record.message.lines().map(|line| printable(&line.replace('\t', "    ")));
    let first = lines.next().unwrap_or_default();
    out.line(format!("{time} {level} {who:<18} {request} {first}{lost}").trim_end())?;
    lines.try_for_each(|line| out.line(format_args!("    {line}").to_string().trim_end()))
}

/// A record as it is, for programs. JSON lets control characters beyond ASCII stand as they are; a terminal may obey them.
fn show_raw(line: &[u8], out: &mut Out) -> io::Result<()> {
    let Ok(text) = std::str::from_utf8(line) else { return Ok(()) };
    if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
        return Ok(());
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hostile(c) {
            shown.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            shown.push(c);
        }
    }
    out.line(shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::out::tests::printed;

    fn filter(since: Option<i64>, request: Option<&str>, level: Option<Level>) -> Filter {
        let since = since.map(|at| (Timestamp(at), Timestamp(at).rfc3339()));
        Filter { since, request: request.map(str::to_owned), level }
    }

    #[test]
    fn a_record_is_a_line_and_what_follows_is_indented() {
        let line = br#"{"time":"2026-11-24T08:00:00.123Z","level":"error","source":"stderr","worker":77,"thread":"MainThread","request":"41d3e92bf5447911","message":"it failed\nTraceback:\n\tline\u001b[2J"}"#;
        assert_eq!(
            printed(|out| show(line, out)),
            "2026-11-24T08:00:00.123Z error    77 MainThread      41d3e92bf5447911 it failed\n    Traceback:\n        line\\u{1b}[2J\n"
        );
        let line = br#"{"time":"2026-11-24T08:00:00.123Z","source":"stdout","worker":77,"message":"child"}"#;
        assert_eq!(
            printed(|out| show(line, out)),
            "2026-11-24T08:00:00.123Z -        77                 -                child\n"
        );
        let lost = br#"{"timestamp":"2026-11-24T08:00:00.123Z","level":"WARN","message":"lines were lost","lost":7}"#;
        assert_eq!(
            printed(|out| show(lost, out)),
            "2026-11-24T08:00:00.123Z warning  gate               -                lines were lost (7)\n"
        );
        assert_eq!(printed(|out| show(b"torn \x1b[2J", out)), "torn \\u{1b}[2J\n");
    }

    #[test]
    fn filters_are_exact_about_requests_and_inclusive_about_levels_and_times() {
        let line =
            |time: i64, rest: &str| format!("{{\"time\":\"{}\"{rest},\"message\":\"\"}}", Timestamp(time).rfc3339());
        let warning = line(1000, r#","level":"warning","request":"r1""#);
        assert!(filter(Some(1000), Some("r1"), Some(Level::Warning)).wants(warning.as_bytes()));
        assert!(filter(None, None, Some(Level::Info)).wants(warning.as_bytes()));
        for none in
            [filter(Some(1001), None, None), filter(None, Some("r"), None), filter(None, None, Some(Level::Error))]
        {
            assert!(!none.wants(warning.as_bytes()));
        }
        assert!(!filter(None, None, Some(Level::Debug)).wants(line(1000, "").as_bytes()), "no level is known");
        assert!(filter(None, None, None).wants(b"torn") && !filter(Some(0), None, None).wants(b"torn"));
    }

    #[test]
    fn raw_records_stay_json_and_steer_no_terminal() {
        let line = "{\"message\":\"a\u{9b}2J\u{202e}\u{7f}\"}";
        let shown = printed(|out| show_raw(line.as_bytes(), out));
        assert_eq!(shown, "{\"message\":\"a\\u009b2J\\u202e\\u007f\"}\n");
        let same: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(same, serde_json::from_str::<serde_json::Value>(line).unwrap());
        assert_eq!(printed(|out| show_raw(b"torn", out)), "");
    }
}
