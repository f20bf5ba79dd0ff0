//! What a running gateway says about itself, as it travels over the control socket and as `--json` prints it.

use serde::{Deserialize, Serialize};

/// A running gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// When it started, RFC 3339.
    pub started: String,
    /// Seconds since then.
    pub uptime_seconds: u64,
    /// The configuration it was started with.
    pub config: String,
    /// HTTPS addresses, as bound.
    pub listen: Vec<String>,
    /// Plain HTTP addresses that redirect to HTTPS, as bound.
    pub redirect: Vec<String>,
    /// The security level.
    pub level: String,
    /// The methods that the system policy permits.
    pub methods: Vec<String>,
    /// Every application.
    pub applications: Vec<AppStatus>,
    /// When the configuration and policies in force were read, RFC 3339.
    pub loaded: String,
    /// Why the last reload was refused, as `reload` says it; the earlier configuration is still in force then.
    pub reload_problem: Option<String>,
    /// Since when reloads have been refused, RFC 3339.
    pub reload_refused_since: Option<String>,
    /// Whether edits come into force by themselves.
    pub watching: bool,
    /// What it shows to browsers.
    pub certificates: Vec<CertificateStatus>,
    /// Open connections.
    pub connections: u64,
    /// Requests since the start.
    pub requests: u64,
    /// The audit.
    pub audit: AuditStatus,
    /// Where it logs.
    pub logs: Vec<String>,
}

/// An application of a running gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AppStatus {
    /// `/notes`
    pub name: String,
    /// For people; may be empty.
    pub title: String,
    /// Whether its policy has it on.
    pub enabled: bool,
    /// Whether requests reach it.
    pub state: AppState,
    /// Its processes.
    pub workers: Vec<WorkerStatus>,
    /// Workers that were replaced because they died.
    pub restarts: u64,
    /// Workers that were replaced because they had served or grown enough.
    pub recycled: u64,
    /// The last thing that went wrong: a traceback, an exit status.
    pub last_error: Option<String>,
    /// Where it logs.
    pub log: String,
    /// What its workers are kept from.
    pub isolation: IsolationStatus,
}

/// What the workers of an application are kept from.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct IsolationStatus {
    /// In words.
    pub summary: String,
    /// Their own OS user.
    pub user: Option<String>,
    /// The version of the kernel's Landlock; `None` if there is none, or the namespace does without.
    pub landlock: Option<u32>,
    /// What Landlock keeps from them.
    pub covered: Vec<String>,
    /// What it would with a newer kernel.
    pub missing: Vec<String>,
}

/// Whether requests reach an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AppState {
    /// Yes.
    Running,
    /// Not yet.
    Starting,
    /// No: see the last error.
    Failed,
    /// No: it is switched off.
    Disabled,
    /// Not here: a proxy asks about those to it.
    Elsewhere,
}

impl AppState {
    /// The word for people.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Starting => "starting",
            Self::Failed => "failed",
            Self::Disabled => "disabled",
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// One process of an application.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// The process; `None` while there is none.
    pub pid: Option<u32>,
    /// `starting`, `ready`, `draining`, `waiting to restart`.
    pub state: String,
    /// Which Python, `3.11.2`.
    pub python: Option<String>,
    /// Requests since it started.
    pub requests: u64,
}

/// A certificate that is being shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// The file.
    pub file: String,
    /// The names it is good for.
    pub names: Vec<String>,
    /// Until when, RFC 3339.
    pub not_after: String,
    /// Whole days until then; negative when it is over.
    pub days_left: i64,
}

/// How the audit is doing.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct AuditStatus {
    /// Whether the last attempt to write worked.
    pub healthy: bool,
    /// Records lost since the start.
    pub lost: u64,
}

/// What a reload did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ReloadReport {
    /// How many applications are in force.
    pub applications: usize,
    /// Applications whose workers were started or replaced.
    pub restarted: Vec<String>,
    /// Applications that are gone.
    pub stopped: Vec<String>,
    /// Worth reading, one line each.
    pub warnings: Vec<String>,
    /// Changes that only a restart brings into force, one line each.
    pub needs_restart: Vec<String>,
}
