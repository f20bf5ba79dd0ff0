//! The command line as written: what can be said, and how it is explained. No decisions here.

mod identity;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

pub use self::identity::{
    Grant, RoleAdd, RoleCommand, ServiceCommand, SetPassword, TokenCommand, TokenCreate, TokenOwner, UserAdd,
    UserCommand,
};
use super::parse::{self, Since};
use crate::model::{Method, Name, SecurityLevel};

/// Replaces clap's alphabetical heap of commands; `every_command_is_in_the_overview` keeps it complete.
const OVERVIEW: &str = "\
{about}

{usage-heading} portcullis [OPTIONS] <COMMAND>

Get going:
  init         Make an installation: configuration, certificates, store, first administrator
  serve        Run the gateway
  check        Say what is wrong with configuration, policies, certificates and applications

While it runs:
  status       Show how the running gateway is
  reload       Bring changed configuration and policies into force
  app          Applications: list, show, logs, test, reload

Who may:
  user         People who sign in
  role         Names for what people and programs may do
  service      Programs that own tokens
  token        What programs show instead of a password
  explain      Say who gets what at a path, and why; or what happened to a request
  who-can      List everybody who could do something, and by which rule
  policy       What a change of policies does, and whether they do what they say
  advise       Say what could be safer: rules, accounts, tokens, certificates
  audit        What happened: list, export

For the shell:
  completions  Print completions for a shell
  man          Print or write manual pages
  help         Print this, or the help of a command

Options:
{options}{after-help}
";

const AFTER: &str = "\
Exit codes:
  0  done
  1  refused or failed: the message says what and why
  2  the command line was not understood
  3  the configuration or a policy has mistakes
  4  no gateway is running
  5  the store cannot be used

Examples:
  portcullis init
  portcullis serve
  portcullis user add ann --role sales
  portcullis explain GET /notes/admin --as ann

`portcullis COMMAND --help` has more, with examples.";

/// A gate in front of Python web applications that also runs them.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, about, help_template = OVERVIEW, after_help = AFTER)]
#[command(subcommand_required = true, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    /// The configuration, or the directory it is in
    #[arg(long, global = true, display_order = 800, value_name = "FILE", default_value = "portcullis.toml", value_hint = ValueHint::FilePath)]
    pub config: PathBuf,
    /// Answer in JSON, for programs
    #[arg(long, global = true, display_order = 801)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an installation: configuration, certificates, store, first administrator
    ///
    /// Writes portcullis.toml, policies/, certs/, data/ and logs/ into a directory and overwrites nothing. The
    /// certificates are for development: an authority of your own that vouches for localhost alone.
    #[command(after_help = "Examples:\n  portcullis init\n  portcullis init --dir /srv/gate --level locked-down\n  \
                            portcullis init --admin ann --admin-password-file -  < password.txt")]
    Init(InitArgs),
    /// Run the gateway
    ///
    /// Stays in the foreground. SIGTERM and SIGINT end it in an orderly way, SIGHUP reloads.
    #[command(after_help = "Examples:\n  portcullis serve\n  portcullis serve --listen 0.0.0.0:443\n  \
                            portcullis --config /srv/gate/portcullis.toml serve")]
    Serve(ServeArgs),
    /// Say what is wrong with configuration, policies, certificates and applications
    ///
    /// Reads everything that `serve` would read and imports every application in a worker of its own, so that a
    /// traceback shows here and not in production. Warnings do not fail it.
    #[command(after_help = "Examples:\n  portcullis check\n  portcullis check --no-import\n  \
                            portcullis --json check | jq '.problems[]'")]
    Check(CheckArgs),
    /// Show how the running gateway is
    #[command(after_help = "Examples:\n  portcullis status\n  portcullis --json status | jq .connections")]
    Status,
    /// Bring changed configuration and policies into force
    ///
    /// All or nothing: if there is a mistake anywhere, what was in force stays in force, and the mistakes are shown.
    #[command(after_help = "Examples:\n  portcullis reload\n  portcullis check && portcullis reload")]
    Reload,
    /// Applications: list, show, logs, test, reload
    #[command(
        subcommand,
        after_help = "Examples:\n  portcullis app list\n  portcullis app show /notes\n  \
                                        portcullis app logs /notes --follow\n  portcullis app test /notes"
    )]
    App(AppCommand),
    /// People who sign in
    #[command(
        subcommand,
        after_help = "Examples:\n  portcullis user add ann --role sales\n  \
                                        portcullis user set-password ann\n  portcullis user disable bob"
    )]
    User(UserCommand),
    /// Names for what people and programs may do
    #[command(
        subcommand,
        after_help = "Examples:\n  portcullis role add sales --description \"Sells things\"\n  \
                                        portcullis role add manager --includes sales"
    )]
    Role(RoleCommand),
    /// Programs that own tokens
    #[command(
        subcommand,
        after_help = "Examples:\n  portcullis service add backup\n  \
                                        portcullis service grant backup reader"
    )]
    Service(ServiceCommand),
    /// What programs show instead of a password
    #[command(
        subcommand,
        after_help = "Examples:\n  portcullis token create --service backup --app /notes\n  \
                                        portcullis token list --user ann\n  portcullis token revoke tok_4f…"
    )]
    Token(TokenCommand),
    /// Say who gets what at a path, and why; or what happened to a request
    ///
    /// Offline: reads the files and the store and judges with the same code as the gateway. Without --as and --roles,
    /// for somebody who has not signed in. With --request, tells what the access log has of a request, and whether its
    /// answer would be another now.
    #[command(
        after_help = "Examples:\n  portcullis explain GET /notes/admin\n  portcullis explain --request 41d3e92bf5447911\n  \
                            portcullis explain GET /notes/admin --as ann --from 10.1.2.3\n  \
                            portcullis explain POST https://example.org/notes/ --roles sales,staff --method token"
    )]
    Explain(ExplainArgs),
    /// List everybody who could do something, and by which rule
    ///
    /// Offline, over every user, service and token of the store that could come now, and whoever has not signed in.
    /// Users by password, and every token by itself, because what it may can be less than what its owner may.
    #[command(after_help = "Examples:\n  portcullis who-can GET /notes/admin\n  \
                            portcullis who-can DELETE /notes/orders/7 --from 10.1.2.3\n  \
                            portcullis --json who-can GET /notes/admin | jq -r '.groups[].users[]'")]
    WhoCan(WhoCanArgs),
    /// What a change of policies does, and whether they do what they say
    #[command(subcommand, after_help = "Examples:\n  portcullis policy diff old-policies/\n  portcullis policy test")]
    Policy(PolicyCommand),
    /// Say what could be safer: rules, accounts, tokens, certificates
    ///
    /// Offline, from the files and the store. Everything is advice: what is wrong is said by `check`.
    #[command(after_help = "Examples:\n  portcullis advise\n  portcullis advise --strict && echo nothing to do\n  \
                            portcullis --json advise | jq -r '.advice[].what'")]
    Advise(AdviseArgs),
    /// What happened: list, export
    #[command(
        subcommand,
        after_help = "Examples:\n  portcullis audit list --since 2h\n  \
                                        portcullis audit list --event sign-in --limit 20\n  \
                                        portcullis audit export > audit.jsonl"
    )]
    Audit(AuditCommand),
    /// Print completions for a shell
    #[command(after_help = "Examples:\n  portcullis completions bash > /etc/bash_completion.d/portcullis\n  \
                            portcullis completions fish > ~/.config/fish/completions/portcullis.fish")]
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print or write manual pages
    #[command(after_help = "Examples:\n  portcullis man | man -l -\n  portcullis man --dir /usr/local/share/man/man1")]
    Man {
        /// Write a page for every command into this directory
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
}

/// `init`
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Where
    #[arg(long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// The security level: which methods are permitted, how long passwords are, which TLS
    #[arg(long, value_enum, default_value_t = Level::Normal)]
    pub level: Level,
    /// Where to listen for HTTPS
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8443")]
    pub listen: SocketAddr,
    /// Name of the first administrator
    #[arg(long, value_name = "NAME", default_value = "admin", value_parser = parse::name)]
    pub admin: Name,
    /// Read their password from the first line of a file, `-` is standard input; otherwise one is made up and shown once
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub admin_password_file: Option<PathBuf>,
}

/// `serve`
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Listen here instead of where the configuration says
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
}

/// `check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Read the files only, do not start Python
    #[arg(long)]
    pub no_import: bool,
}

/// `app …`
#[derive(Debug, Subcommand)]
pub enum AppCommand {
    /// Every application: what the files say, and how it runs
    #[command(after_help = "Examples:\n  portcullis app list\n  portcullis --json app list")]
    List,
    /// One application
    #[command(after_help = "Examples:\n  portcullis app show /notes")]
    Show(AppName),
    /// What an application printed and logged, the newest last
    ///
    /// Reads its log (wsgi.log) and the rotated ones before it; no gateway has to be running. Each line has the time in UTC,
    /// the level where it is known (records of `logging`, warnings, tracebacks), the worker's process and thread, and the
    /// id of the request that it belongs to.
    #[command(after_help = "Examples:\n  portcullis app logs /notes\n  \
                            portcullis app logs /notes --follow --level warning\n  \
                            portcullis app logs /notes --request 41d3e92bf5447911\n  \
                            portcullis --json app logs /notes --since 1h | jq -r .message")]
    Logs(AppLogs),
    /// Import one application in a worker of its own and show its traceback
    #[command(after_help = "Examples:\n  portcullis app test /notes")]
    Test(AppName),
    /// Replace the running workers of one application by new ones
    ///
    /// The new ones have to start first: if they do not, the old ones go on.
    #[command(after_help = "Examples:\n  portcullis app reload /notes")]
    Reload(AppName),
}

/// Which application.
#[derive(Debug, Args)]
pub struct AppName {
    /// Its name: `/notes`
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// `app logs`
#[derive(Debug, Args)]
pub struct AppLogs {
    /// Its name: `/notes`
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Go on with what is written from now on, until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,
    /// The newest N only; 100 if neither this nor --since nor --request is given
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<usize>,
    /// From then on: 10m, 2h, 7d (ago), 2026-11-01 or 2026-11-01T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse::since)]
    pub since: Option<Since>,
    /// Of this request only; its id is on refusal pages, in access.log and in environ (portcullis.request_id)
    #[arg(long, value_name = "ID")]
    pub request: Option<String>,
    /// This level or worse: debug, info, warning, error, critical; leaves out lines whose level is not known
    #[arg(long, value_name = "LEVEL", value_parser = parse::level)]
    pub level: Option<portcullis_wire::Level>,
}

/// `explain`
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The HTTP method: GET, POST…
    #[arg(value_name = "METHOD", required_unless_present = "request")]
    pub http_method: Option<String>,
    /// The path as a client sends it, or an https URL
    #[arg(value_name = "PATH", required_unless_present = "request")]
    pub path: Option<String>,
    /// What happened to this request; its id is on refusal pages and in access.log
    #[arg(long, value_name = "ID", conflicts_with_all = ["http_method", "path", "who", "roles", "method", "from"])]
    pub request: Option<String>,
    /// As this user, service or token (its public id); `anonymous` is the default
    #[arg(long = "as", value_name = "NAME")]
    pub who: Option<String>,
    /// As somebody with these roles, separated by commas; instead of the ones they have
    #[arg(long, value_name = "ROLE,…", value_delimiter = ',', value_parser = parse::name)]
    pub roles: Option<Vec<Name>>,
    /// Signed in by this method
    #[arg(long, value_name = "METHOD", value_parser = parse::method)]
    pub method: Option<Method>,
    /// From this address
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub from: IpAddr,
}

/// `who-can`
#[derive(Debug, Args)]
pub struct WhoCanArgs {
    /// The HTTP method: GET, POST…
    #[arg(value_name = "METHOD")]
    pub http_method: String,
    /// The path as a client sends it, or an https URL
    #[arg(value_name = "PATH")]
    pub path: String,
    /// From this address
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub from: IpAddr,
}

/// `policy …`
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Who gains and who loses what by a change
    ///
    /// Computed from the rules for every path, HTTP method and address there could be, not sampled: for whoever has not
    /// signed in, for somebody without roles, for each role, user, service and token that the rules name, alone, and for
    /// everybody in the store. Rules with mode = "report" count for nothing. Networks and paths with names, namespaces
    /// and the permitted methods are those of portcullis.toml for both versions.
    ///
    /// OLD and NEW are directories of policies, or single files. A file against a directory takes the place of the file
    /// there that describes the same application.
    ///
    /// Exits with 0 if nobody gains or loses anything, and with 1 if somebody does, as diff does.
    #[command(after_help = "Examples:\n  portcullis policy diff /srv/backup/policies\n  \
                            git show HEAD:policies/notes.toml > /tmp/old.toml && portcullis policy diff /tmp/old.toml\n  \
                            portcullis policy diff policies proposed")]
    Diff(PolicyDiff),
    /// Run the [[expect]] of the policies and the [[case]] of policies/*.cases.toml
    ///
    /// A case is about whichever application owns its path. `check` runs them too.
    #[command(after_help = "Examples:\n  portcullis policy test\n  \
                            portcullis policy test policies/notes.cases.toml")]
    Test(PolicyTest),
}

/// `policy diff`
#[derive(Debug, Args)]
pub struct PolicyDiff {
    /// The policies before
    #[arg(value_hint = ValueHint::AnyPath)]
    pub old: PathBuf,
    /// The policies after; those in force with this configuration if it is not said
    #[arg(value_hint = ValueHint::AnyPath)]
    pub new: Option<PathBuf>,
}

/// `policy test`
#[derive(Debug, Args)]
pub struct PolicyTest {
    /// These only: policies, or files of cases, which may lie anywhere
    #[arg(value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
}

/// `advise`
#[derive(Debug, Args)]
pub struct AdviseArgs {
    /// Exit with 1 if there is any advice
    #[arg(long)]
    pub strict: bool,
}

/// `audit …`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// The newest records, the newest last
    #[command(after_help = "Examples:\n  portcullis audit list\n  portcullis audit list --event user. --since 7d\n  \
                            portcullis audit list --event refusal --limit 10")]
    List(AuditList),
    /// All records as JSON lines, the oldest first
    #[command(after_help = "Examples:\n  portcullis audit export > audit.jsonl\n  \
                            portcullis audit export --since 2026-11-01 | jq -r .actor | sort | uniq -c")]
    Export(AuditWhich),
}

/// `audit list`
#[derive(Debug, Args)]
pub struct AuditList {
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: u32,
    /// Which ones
    #[command(flatten)]
    pub which: AuditWhich,
}

/// Which audit records.
#[derive(Debug, Args)]
pub struct AuditWhich {
    /// This event only; `user.` is every event that begins so
    #[arg(long, value_name = "EVENT")]
    pub event: Option<String>,
    /// From then on: 2h, 7d (ago), 2026-11-01 or 2026-11-01T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse::since)]
    pub since: Option<Since>,
}

/// A security level on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Applications may allow unauthenticated access
    Minimal,
    /// Password and token
    Normal,
    /// Token only until second factors are set up, TLS 1.3, longer passwords
    LockedDown,
}

impl From<Level> for SecurityLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Minimal => Self::Minimal,
            Level::Normal => Self::Normal,
            Level::LockedDown => Self::LockedDown,
        }
    }
}
