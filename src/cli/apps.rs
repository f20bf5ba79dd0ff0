//! `app`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    Failure, Result,
    args::AppCommand,
    check::{self, Probe},
    context::Context,
    logs,
    out::{Cell, Out, Style},
    status,
    users::or_dash,
};
use crate::{
    control::{
        socket::{Command, Reply},
        status::AppStatus,
        unknown,
    },
    policy::{Application, ServeFiles},
};

/// `portcullis app …`
pub(super) async fn app(context: &Context, command: AppCommand, out: &mut Out) -> Result {
    match command {
        AppCommand::List => list(context, out).await,
        AppCommand::Show(args) => show(context, &*find(context, &args.name)?, out).await,
        AppCommand::Test(args) => test(context, &*find_here(context, &args.name)?, out).await,
        AppCommand::Logs(args) => logs::logs(context, args, out).await,
        AppCommand::Reload(args) => reload(context, &*find_here(context, &args.name)?, out).await,
    }
}

async fn list(context: &Context, out: &mut Out) -> Result {
    let (applications, _warnings) = context.config.load_applications()?;
    let running = running(context).await?;
    if out.json {
        let value = |app: &Arc<Application>| app_json(context, app, state(running.as_deref(), app));
        return Ok(out.value(&applications.iter().map(value).collect::<Vec<_>>())?);
    }
    let rows: Vec<_> = applications
        .iter()
        .map(|app| {
            [
                Cell::new(&app.name, Style::Bold),
                state_cell(running.as_deref(), app),
                Cell::from(app.methods.and(context.config.security.methods)),
                Cell::from(&app.default),
                Cell::from(&app.file),
                Cell::from(or_dash(&app.title)),
            ]
        })
        .collect();
    Ok(out.table(["NAME", "STATE", "METHODS", "DEFAULT", "FILE", "TITLE"], &rows)?)
}

async fn show(context: &Context, app: &Application, out: &mut Out) -> Result {
    let running = running(context).await?;
    let status = state(running.as_deref(), app);
    if out.json {
        return Ok(out.value(&app_json(context, app, status))?);
    }
    let permitted = app.methods.and(context.config.security.methods);
    let methods = if permitted == app.methods {
        permitted.to_string()
    } else {
        format!("{permitted} (allows {}, the system permits {})", app.methods, context.config.security.methods)
    };
    // A fact that is empty is not shown.
    let here = |fact: String| if app.elsewhere { String::new() } else { fact };
    out.facts(&[
        ("name", app.name.to_string()),
        ("title", app.title.clone()),
        ("enabled", yes(app.enabled).to_owned()),
        ("policy", app.file.to_string()),
        ("runs", if app.elsewhere { "elsewhere; proxies ask the gate".to_owned() } else { String::new() }),
        ("directory", app.directory.display().to_string()),
        ("callable", here(format!("{}:{} ({})", app.module, app.callable, app.interface.word()))),
        ("python", here(app.python.as_ref().map_or_else(|| "python3 on the path".to_owned(), ToString::to_string))),
        ("namespace", app.namespace.clone()),
        ("methods", methods),
        ("static files", here(serve_word(app.serve_files).to_owned())),
        ("default", app.default.to_string()),
        ("roles inside", app.app_roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        ("workers", here(format!("{} with {} threads each", app.workers, app.threads))),
        ("development", if app.reload { "changed files reload it".to_owned() } else { String::new() }),
        ("log", status.map(|status| status.log.clone()).unwrap_or_default()),
    ])?;
    out.line("")?;
    match status {
        Some(status) => status::applications(std::slice::from_ref(status), out)?,
        None if running.is_some() => out.remark("the running gateway does not know it yet: `portcullis reload`"),
        None => out.remark("no gateway is running"),
    }
    Ok(())
}

async fn test(context: &Context, app: &Application, out: &mut Out) -> Result {
    let probe = check::probe(context, app).await;
    if out.json {
        out.value(&probe.json())?;
    } else {
        probe.show(out)?;
    }
    match probe {
        Probe::Ready { .. } => Ok(()),
        Probe::Failed { .. } => Err(Failure::Told(1)),
    }
}

async fn reload(context: &Context, app: &Application, out: &mut Out) -> Result {
    let command = Command::ReloadApp { name: app.name.to_string() };
    let start = app.start_timeout.unwrap_or(context.config.timeouts.start);
    match context.ask_running(&command, status::patience(context, start)).await? {
        Reply::Done if out.json => Ok(out.value(&json!({ "application": &*app.name, "reloaded": true }))?),
        Reply::Done => Ok(out.line(format_args!("`{}` runs with new workers", app.name))?),
        Reply::Failed { why } => {
            let instead = if app.reload {
                "answers with this until a change mends it, because its new workers did not start:"
            } else {
                "goes on with its old workers, because the new ones did not start:"
            };
            out.error(&format!("`{}` {instead}", app.name));
            if out.json {
                out.value(&json!({ "application": &*app.name, "reloaded": false, "why": why }))?;
            } else {
                out.block("  ", &why)?;
            }
            Err(Failure::Told(1))
        }
        other => Err(status::unexpected(&other)),
    }
}

/// The application of that name.
pub(super) fn find(context: &Context, name: &str) -> Result<Arc<Application>> {
    let (applications, _warnings) = context.config.load_applications()?;
    // `notes` means `/notes`: nothing else can.
    let rooted = format!("/{name}");
    match applications.iter().find(|app| *app.name == *name || *app.name == *rooted) {
        Some(app) => Ok(Arc::clone(app)),
        None => Err(unknown("application", name, applications.iter().map(|app| &*app.name)).into()),
    }
}

/// The same, for what is done to its workers.
fn find_here(context: &Context, name: &str) -> Result<Arc<Application>> {
    let app = find(context, name)?;
    match app.elsewhere {
        true => Err(Failure::Failed(format!("`{}` runs elsewhere: there are no workers of it here", app.name))),
        false => Ok(app),
    }
}

/// What the running gateway says of its applications; `None` if none runs.
async fn running(context: &Context) -> Result<Option<Vec<AppStatus>>> {
    match context.ask(&Command::Apps).await? {
        Some(Reply::Apps { applications }) => Ok(Some(applications)),
        Some(other) => Err(status::unexpected(&other)),
        None => Ok(None),
    }
}

fn state<'a>(running: Option<&'a [AppStatus]>, app: &Application) -> Option<&'a AppStatus> {
    running?.iter().find(|status| *status.name == *app.name)
}

fn state_cell(running: Option<&[AppStatus]>, app: &Application) -> Cell {
    match (running, state(running, app)) {
        (_, Some(status)) => status::state_cell(status.state),
        (Some(_), None) => Cell::new("not loaded", Style::Warn),
        (None, _) if !app.enabled => Cell::new("disabled", Style::Dim),
        (None, _) if app.elsewhere => Cell::new("elsewhere", Style::Dim),
        (None, _) => Cell::new("not running", Style::Dim),
    }
}

fn app_json(context: &Context, app: &Application, status: Option<&AppStatus>) -> Value {
    let words = |methods: crate::model::MethodSet| methods.iter().map(|method| method.word()).collect::<Vec<_>>();
    json!({
        "name": &*app.name,
        "title": app.title,
        "enabled": app.enabled,
        "elsewhere": app.elsewhere,
        "file": &*app.file,
        "directory": app.directory,
        "module": app.module,
        "callable": app.callable,
        "interface": app.interface.word(),
        "python": app.python.as_ref().map(ToString::to_string),
        "namespace": app.namespace,
        "methods": words(app.methods),
        "permitted_methods": words(app.methods.and(context.config.security.methods)),
        "serve_files": serve_word(app.serve_files),
        "default": app.default.to_string(),
        "app_roles": app.app_roles.iter().map(|role| role.as_str()).collect::<Vec<_>>(),
        "reload": app.reload,
        "workers": app.workers,
        "threads": app.threads,
        "running": status,
    })
}

const fn serve_word(serve: ServeFiles) -> &'static str {
    match serve {
        ServeFiles::No => "no",
        ServeFiles::Always => "always",
        ServeFiles::Secured => "secured",
    }
}

const fn yes(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}
