//! `check`: everything that `serve` would read, judged without serving anything.

use std::path::Path;

use serde_json::{Value, json};

use super::{
    Failure, Result,
    args::CheckArgs,
    context::{Context, config_file},
    out::{Out, Style},
    policy_test,
    status::count,
};
use crate::{
    clock::Clock,
    control::people,
    policy::Application,
    snapshot::Snapshot,
    store::Store,
    written::{self, Problem, Severity},
};

/// How the import of an application went.
pub(super) enum Probe {
    /// It can be served.
    Ready { name: String, python: String },
    /// It cannot, and why.
    Failed { name: String, why: String },
}

/// `portcullis check`
pub(super) async fn check(config: &Path, args: &CheckArgs, out: &mut Out) -> Result {
    let file = config_file(config)?;
    let (snapshot, mut warnings) = match Snapshot::load(&file, &Clock::System) {
        Ok(loaded) => loaded,
        Err(problems) => return mistakes(&problems, out),
    };
    let context = Context::load(config)?;
    let (cases, unkept) = policy_test::cases(&context.config, &snapshot.routes);
    if unkept.iter().any(Problem::is_error) {
        return mistakes(&[warnings, unkept].concat(), out);
    }
    let store = Store::open(&context.config.store, context.clock.clone()).await;
    if let Ok(store) = &store {
        warnings.extend(names_of_nobody(&context, store, &warnings).await?);
    }
    show(&warnings, out);
    let mut probes = Vec::new();
    let applications = snapshot.routes.all();
    for app in applications.iter().filter(|app| app.enabled && !app.elsewhere && !args.no_import) {
        let probe = probe(&context, app).await;
        if !out.json {
            probe.show(out)?;
        }
        probes.push(probe);
    }
    let failed = probes.iter().filter(|probe| matches!(probe, Probe::Failed { .. })).count();
    if out.json {
        let probes: Vec<_> = probes.iter().map(Probe::json).collect();
        let store_error = store.as_ref().err().map(ToString::to_string);
        let ok = failed == 0 && store_error.is_none();
        let problems: Vec<_> = warnings.iter().map(problem_json).collect();
        out.value(&json!({ "ok": ok, "problems": problems, "store": store_error, "applications": probes }))?;
    }
    store?.close().await;
    if failed > 0 {
        out.error(&format!("{} of {} cannot be served", failed, count(probes.len(), "application")));
        return Err(Failure::Told(1));
    }
    if !out.json {
        let warned = match warnings.len() {
            0 => String::new(),
            number => format!(", {}", count(number, "warning")),
        };
        let cases = match cases {
            0 => String::new(),
            number => format!(", {} kept", count(number, "case")),
        };
        let applications = count(applications.len(), "application");
        out.line(format_args!(
            "{}: {}, {applications}{cases}{warned}",
            out.paint(Style::Good, "good"),
            file.display()
        ))?;
    }
    Ok(())
}

/// Warnings of rules that name nobody the store has; the others are known already.
async fn names_of_nobody(context: &Context, store: &Store, known: &[Problem]) -> Result<Vec<Problem>> {
    let everybody = people::known(store, context.clock.now()).await?;
    let (_, warnings) = context.config.load_applications_knowing(&everybody)?;
    Ok(warnings.into_iter().filter(|warning| !known.contains(warning)).collect())
}

/// Imports an application in a worker of its own.
pub(super) async fn probe(context: &Context, app: &Application) -> Probe {
    let name = app.name.to_string();
    match crate::app::probe(&context.config, app).await {
        Ok(ready) => Probe::Ready { name, python: ready.python },
        Err(why) => Probe::Failed { name, why },
    }
}

impl Probe {
    pub fn show(&self, out: &mut Out) -> Result {
        match self {
            Self::Ready { name, python } => {
                let good = out.paint(Style::Good, "good");
                out.line(format_args!("{good}: {name} imports (Python {python})"))?;
            }
            Self::Failed { name, why } => {
                let bad = out.paint(Style::Bad, "failed");
                out.line(format_args!("{bad}: {name} cannot be served"))?;
                out.block("  ", why)?;
            }
        }
        Ok(())
    }

    pub fn json(&self) -> Value {
        match self {
            Self::Ready { name, python } => json!({ "application": name, "ok": true, "python": python }),
            Self::Failed { name, why } => json!({ "application": name, "ok": false, "why": why }),
        }
    }
}

fn mistakes(problems: &[Problem], out: &mut Out) -> Result {
    if out.json {
        let problems: Vec<_> = problems.iter().map(problem_json).collect();
        out.value(&json!({ "ok": false, "problems": problems }))?;
        return Err(Failure::Told(3));
    }
    out.remark(written::render(problems, out.color_remarks()).trim_end());
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    out.error(&count(errors, "mistake"));
    Err(Failure::Told(3))
}

fn show(warnings: &[Problem], out: &mut Out) {
    if !warnings.is_empty() {
        out.remark(written::render(warnings, out.color_remarks()).trim_end());
    }
}

pub(super) fn problem_json(problem: &Problem) -> Value {
    json!({
        "severity": match problem.severity { Severity::Error => "error", Severity::Warning => "warning" },
        "file": &*problem.file,
        "line": problem.line,
        "column": problem.column,
        "message": problem.message,
        "help": problem.help,
    })
}
