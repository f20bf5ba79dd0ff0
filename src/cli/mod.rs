//! The command line: a door to [`control`](crate::control) and to the files, with no rules of its own.
//!
//! A command that changes something goes the same way everywhere: the act in `control` (checks, store, audit), then
//! the running gateway is told and waited for, then one line says what was done. So when a command returns, the next
//! request sees it.
//!
//! Reading order: `args` (what can be said) · this file (which function answers) · `context` (configuration, store,
//! the running gateway) · one file per group of commands · `out` (how answers look).

mod advise;
mod apps;
mod args;
mod audit;
mod check;
mod context;
mod explain;
mod explanation;
mod init;
mod log_files;
mod logs;
mod out;
mod parse;
mod policy_diff;
mod policy_test;
mod quote;
mod replay;
mod secrets;
mod status;
mod tokens;
mod users;
mod who_can;

use std::{io, process::ExitCode};

use clap::{CommandFactory as _, Parser as _};

use self::{
    args::{Cli, Command, PolicyCommand},
    context::Context,
    out::Out,
};
use crate::{
    control::{ActError, install::InitError, socket::AskError},
    store::StoreError,
    written::{self, Problem},
};

/// Why a command did not do what it was asked; the exit codes of `--help`.
enum Failure {
    /// Refused or failed: 1.
    Failed(String),
    /// Understood by clap and still no sense: 2.
    Usage(String),
    /// Mistakes in files: 3.
    Files(Vec<Problem>),
    /// 3 as well, where there is no file to point into.
    Configuration(String),
    /// 4.
    NoGateway,
    /// 5.
    Store(StoreError),
    /// Whoever read standard output has enough: no failure at all.
    Pipe,
    /// What is wrong has been printed already.
    Told(u8),
}

type Result<T = (), E = Failure> = std::result::Result<T, E>;

/// Reads the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = Out::new(cli.json);
    let answered = run(cli, &mut out).and_then(|code| Ok(out.flush().map(|()| code)?));
    match answered {
        Ok(code) => code,
        Err(failure) => ExitCode::from(tell(failure, &mut out)),
    }
}

fn run(cli: Cli, out: &mut Out) -> Result<ExitCode> {
    if let Command::Serve(args) = &cli.command {
        let file = context::config_file(&cli.config)?;
        return crate::serve::run(&file, args.listen).map_err(Failure::from);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // A task set, because importing an application runs the same code as a data thread.
    tokio::task::LocalSet::new().block_on(&runtime, answer(cli, out)).map(|()| ExitCode::SUCCESS)
}

async fn answer(cli: Cli, out: &mut Out) -> Result {
    let context = || Context::load(&cli.config);
    match cli.command {
        Command::Init(args) => init::init(args, out).await,
        // Answered before there is a runtime: the gateway makes its own.
        Command::Serve(_) => Ok(()),
        Command::Check(args) => check::check(&cli.config, &args, out).await,
        Command::Status => status::status(&cli.config, out).await,
        Command::Reload => status::reload(&context()?, out).await,
        Command::App(command) => apps::app(&context()?, command, out).await,
        Command::User(command) => users::user(&mut context()?, command, out).await,
        Command::Role(command) => users::role(&mut context()?, command, out).await,
        Command::Service(command) => users::service(&mut context()?, command, out).await,
        Command::Token(command) => tokens::token(&mut context()?, command, out).await,
        Command::Explain(args) => explain::explain(&mut context()?, args, out).await,
        Command::WhoCan(args) => who_can::who_can(&mut context()?, &args, out).await,
        Command::Policy(PolicyCommand::Diff(args)) => policy_diff::diff(&mut context()?, &args, out).await,
        Command::Policy(PolicyCommand::Test(args)) => policy_test::test(&context()?, &args, out),
        Command::Advise(args) => advise::advise(&mut context()?, &args, out).await,
        Command::Audit(command) => audit::audit(&mut context()?, command, out).await,
        Command::Completions { shell } => completions(shell, out),
        Command::Man { dir } => man(dir.as_deref(), out),
    }
}

fn completions(shell: clap_complete::Shell, out: &mut Out) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "portcullis", &mut script);
    Ok(out.bytes(&script)?)
}

fn man(dir: Option<&std::path::Path>, out: &mut Out) -> Result {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page)?;
        return Ok(out.bytes(&page)?);
    };
    let failed = |error: io::Error| Failure::Failed(format!("cannot write manual pages to {}: {error}", dir.display()));
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(failed)?;
    out.remark(format_args!("manual pages are in {}", dir.display()));
    Ok(())
}

/// Says what went wrong; answers the exit code.
fn tell(failure: Failure, out: &mut Out) -> u8 {
    // What was printed before it went wrong belongs before it. If nobody reads it, there is nothing to add.
    let _closed = out.flush();
    let (code, text) = match failure {
        Failure::Failed(text) => (1, text),
        Failure::Usage(text) => (2, text),
        Failure::Files(problems) => (3, files(&problems, out)),
        Failure::Configuration(text) => (3, text),
        Failure::NoGateway => {
            (4, "no gateway is running with this configuration: `portcullis serve` starts one".to_owned())
        }
        Failure::Store(error) => (5, error.to_string()),
        Failure::Pipe => return 0,
        Failure::Told(code) => return code,
    };
    out.error(&text);
    code
}

fn files(problems: &[Problem], out: &Out) -> String {
    if out.json {
        return problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    }
    format!("the configuration has mistakes\n{}", written::render(problems, out.color_remarks()).trim_end())
}

impl From<ActError> for Failure {
    fn from(error: ActError) -> Self {
        match error {
            ActError::Store(error) => Self::Store(error),
            error => Self::Failed(error.to_string()),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<InitError> for Failure {
    fn from(error: InitError) -> Self {
        match error {
            InitError::Store(error) => Self::Store(error),
            error => Self::Failed(error.to_string()),
        }
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<Vec<Problem>> for Failure {
    fn from(problems: Vec<Problem>) -> Self {
        Self::Files(problems)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast() {
            Ok(error) => Self::Store(error),
            Err(error) => Self::Failed(format!("{error:#}")),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Pipe,
            _ => Self::Failed(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_is_in_the_overview_and_shows_examples() {
        fn visit(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
                let path = format!("{path} {}", sub.get_name());
                let after = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(after.contains("Examples:") || path == " status", "{path}");
                visit(sub, &path);
            }
        }
        let help = Cli::command().render_help().to_string();
        for command in Cli::command().get_subcommands() {
            assert!(help.contains(&format!("\n  {} ", command.get_name())), "{}", command.get_name());
        }
        visit(&Cli::command(), "");
    }
}
