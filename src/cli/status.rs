//! `status` and `reload`.

use std::{path::Path, time::Duration};

use super::{
    Failure, Result,
    context::{self, Context},
    out::{Cell, Out, Style},
    users::or_dash,
};
use crate::control::{
    socket::{Command, Reply},
    status::{AppState, AppStatus, CertificateStatus, ReloadReport, Status, WorkerStatus},
};

/// How long a status may take.
const STATUS: Duration = Duration::from_secs(5);
/// Certificates that end sooner stand out.
const SOON_DAYS: i64 = 30;

/// `portcullis status`
pub(super) async fn status(config: &Path, out: &mut Out) -> Result {
    let data = context::data_directory(config, out)?;
    match context::ask_running(&data, &Command::Status, STATUS).await? {
        Reply::Status(status) if out.json => Ok(out.value(&status)?),
        Reply::Status(status) => Ok(show(&status, out)?),
        other => Err(unexpected(&other)),
    }
}

/// `portcullis reload`
pub(super) async fn reload(context: &Context, out: &mut Out) -> Result {
    // New workers have to start before the old ones go.
    let patience = patience(context, context.config.timeouts.start);
    match context.ask_running(&Command::Reload, patience).await? {
        Reply::Reloaded(report) if out.json => Ok(out.value(&report)?),
        Reply::Reloaded(report) => Ok(reloaded(&report, out)?),
        Reply::Refused { problems, rendered } => {
            if out.json {
                out.value(&serde_json::json!({ "problems": problems }))?;
            } else {
                out.error(&format!("nothing was changed, because there are mistakes\n{}", rendered.trim_end()));
            }
            Err(Failure::Told(3))
        }
        other => Err(unexpected(&other)),
    }
}

/// How long to wait when workers are replaced: as long as they may take to start and to stop, and a little.
pub(super) fn patience(context: &Context, start: Duration) -> Duration {
    start + context.config.timeouts.stop + Duration::from_secs(10)
}

/// What to say about an answer to another question.
pub(super) fn unexpected(reply: &Reply) -> Failure {
    match reply {
        Reply::Failed { why } => Failure::Failed(why.clone()),
        _ => Failure::Failed("the running gateway gave an answer that makes no sense".to_owned()),
    }
}

fn reloaded(report: &ReloadReport, out: &mut Out) -> std::io::Result<()> {
    for warning in &report.warnings {
        out.warn(warning);
    }
    for change in &report.needs_restart {
        out.warn(format_args!("{change}: in force after a restart only"));
    }
    let list = |what: &str, names: &[String]| match names {
        [] => String::new(),
        names => format!(", {what} {}", names.join(", ")),
    };
    let (restarted, stopped) = (list("restarted", &report.restarted), list("stopped", &report.stopped));
    out.line(format_args!("reloaded: {}{restarted}{stopped}", count(report.applications, "application")))
}

fn show(status: &Status, out: &mut Out) -> std::io::Result<()> {
    let running = out.paint(Style::Good, "running");
    out.line(format_args!(
        "Portcullis {} is {running}, process {}, since {} ({})",
        status.version,
        status.pid,
        status.started,
        span(status.uptime_seconds)
    ))?;
    out.line("")?;
    out.facts(&[
        ("listening", status.listen.iter().map(|address| format!("https://{address}")).collect::<Vec<_>>().join(", ")),
        (
            "redirecting",
            status.redirect.iter().map(|address| format!("http://{address}")).collect::<Vec<_>>().join(", "),
        ),
        ("security level", status.level.clone()),
        ("methods", status.methods.join(", ")),
        ("configuration", configuration(status)),
        ("connections", status.connections.to_string()),
        ("requests", status.requests.to_string()),
        ("audit", audit(status)),
        ("logs", status.logs.join(", ")),
    ])?;
    if let Some(problem) = &status.reload_problem {
        out.line("")?;
        let since = status.reload_refused_since.as_deref().unwrap_or("an unknown time");
        let refused = format!("Refused since {since}; what was read {} is in force:", status.loaded);
        out.line(out.paint(Style::Bad, &refused))?;
        out.block("  ", problem.trim_end())?;
    }
    out.line("")?;
    certificates(&status.certificates, out)?;
    out.line("")?;
    applications(&status.applications, out)
}

fn configuration(status: &Status) -> String {
    let watching = if status.watching { "edits come into force by themselves" } else { "edits wait for `reload`" };
    format!("{}, read {}; {watching}", status.config, status.loaded)
}

fn audit(status: &Status) -> String {
    let health = if status.audit.healthy { "healthy" } else { "CANNOT BE WRITTEN" };
    match status.audit.lost {
        0 => health.to_owned(),
        lost => format!("{health}, {lost} records lost"),
    }
}

fn certificates(certificates: &[CertificateStatus], out: &mut Out) -> std::io::Result<()> {
    let rows: Vec<_> = certificates
        .iter()
        .map(|certificate| {
            let style = match certificate.days_left {
                ..0 => Style::Bad,
                0..SOON_DAYS => Style::Warn,
                _ => Style::Good,
            };
            let left = match certificate.days_left {
                ..0 => "expired".to_owned(),
                days => format!("{days} days left"),
            };
            [
                Cell::new(certificate.names.join(", "), Style::Bold),
                Cell::new(left, style),
                Cell::from(&certificate.not_after),
                Cell::from(&certificate.file),
            ]
        })
        .collect();
    out.table(["CERTIFICATE", "VALID", "UNTIL", "FILE"], &rows)
}

/// The applications with their workers, and below what is wrong with them.
pub(super) fn applications(applications: &[AppStatus], out: &mut Out) -> std::io::Result<()> {
    let rows: Vec<_> = applications
        .iter()
        .map(|app| {
            [
                Cell::new(&app.name, Style::Bold),
                state_cell(app.state),
                Cell::from(or_dash(&workers(&app.workers))),
                Cell::from(app.workers.iter().map(|worker| worker.requests).sum::<u64>()),
                Cell::from(app.restarts),
                Cell::from(&app.title),
            ]
        })
        .collect();
    out.table(["APPLICATION", "STATE", "WORKERS", "REQUESTS", "RESTARTS", "TITLE"], &rows)?;
    let walls: Vec<_> = applications
        .iter()
        .filter(|app| app.enabled && app.state != AppState::Elsewhere)
        .map(|app| [Cell::new(&app.name, Style::Bold), Cell::from(&app.isolation.summary)])
        .collect();
    if !walls.is_empty() {
        out.line("")?;
        out.table(["APPLICATION", "WORKERS ARE KEPT BY"], &walls)?;
    }
    for app in applications {
        let Some(error) = &app.last_error else { continue };
        out.line("")?;
        out.line(format_args!(
            "{}: the last error (log: {})",
            out.paint(Style::Bold, &app.name),
            out.paint(Style::Plain, &app.log)
        ))?;
        out.block("  ", error)?;
    }
    Ok(())
}

pub(super) fn state_cell(state: AppState) -> Cell {
    let style = match state {
        AppState::Running | AppState::Elsewhere => Style::Good,
        AppState::Starting => Style::Warn,
        AppState::Failed => Style::Bad,
        AppState::Disabled => Style::Dim,
    };
    Cell::new(state.word(), style)
}

/// `2 ready (3.11.2), 1 starting`
fn workers(workers: &[WorkerStatus]) -> String {
    let mut groups: Vec<(String, usize)> = Vec::new();
    for worker in workers {
        let group = match &worker.python {
            Some(python) => format!("{} (Python {python})", worker.state),
            None => worker.state.clone(),
        };
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, count)) => *count += 1,
            None => groups.push((group, 1)),
        }
    }
    groups.iter().map(|(group, count)| format!("{count} {group}")).collect::<Vec<_>>().join(", ")
}

/// `3 d 4 h`: the two largest units.
fn span(seconds: u64) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let mut rest = seconds;
    let mut words = Vec::new();
    for (size, unit) in units {
        if rest >= size {
            words.push(format!("{} {unit}", rest / size));
            rest %= size;
        }
    }
    words.truncate(2);
    if words.is_empty() { "0 s".to_owned() } else { words.join(" ") }
}

/// `1 application`, `2 applications`.
pub(super) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::{super::out::tests::printed, *};
    use crate::control::status::IsolationStatus;

    #[test]
    fn a_status_shows_what_is_wrong_with_which_application() {
        let worker = |state: &str, python: Option<&str>| WorkerStatus {
            pid: Some(7),
            state: state.to_owned(),
            python: python.map(str::to_owned),
            requests: 3,
        };
        let app = |name: &str, state, workers, last_error: Option<&str>| AppStatus {
            name: name.to_owned(),
            title: String::new(),
            enabled: true,
            state,
            workers,
            restarts: 3,
            recycled: 0,
            last_error: last_error.map(str::to_owned),
            log: format!("logs{name}.log"),
            isolation: IsolationStatus { summary: "Landlock ABI 7: files".to_owned(), ..IsolationStatus::default() },
        };
        let ready = || worker("ready", Some("3.11.2"));
        let apps = [
            app("/notes", AppState::Running, vec![ready(), ready(), worker("starting", None)], None),
            app("/broken", AppState::Failed, vec![], Some("Traceback:\n  File \"app.py\"")),
        ];
        assert_eq!(
            printed(|out| applications(&apps, out)),
            "APPLICATION  STATE    WORKERS                              REQUESTS  RESTARTS  TITLE\n\
             /notes       running  2 ready (Python 3.11.2), 1 starting  9         3\n\
             /broken      failed   -                                    0         3\n\
             \n\
             APPLICATION  WORKERS ARE KEPT BY\n\
             /notes       Landlock ABI 7: files\n\
             /broken      Landlock ABI 7: files\n\
             \n/broken: the last error (log: logs/broken.log)\n  Traceback:\n    File \"app.py\"\n"
        );
    }

    #[test]
    fn spans_and_counts_read_well() {
        assert_eq!(span(0), "0 s");
        assert_eq!(span(3 * 86_400 + 4 * 3600 + 59), "3 d 4 h");
        assert_eq!(count(1, "application"), "1 application");
        assert_eq!(count(0, "application"), "0 applications");
    }
}
