//! Who may reach what.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

mod permit;

pub use permit::{Denial, Permit};

use crate::{
    model::{MethodSet, Name, Principal, Reason, RuleId},
    target::{Mount, Target},
    written::Problem,
};

/// One WSGI callable under one mount, and who may reach what in it.
#[derive(Debug)]
pub struct Application {
    /// The mount as written: `/notes`.
    pub name: Arc<str>,
    /// Where it is mounted.
    pub mount: Mount,
    /// What to call it on a page.
    pub title: String,
    /// The namespace it runs in.
    pub namespace: String,
    /// Its directory, absolute.
    pub directory: PathBuf,
    /// The module with the callable.
    pub module: String,
    /// The callable, or a factory with `()`.
    pub callable: String,
    /// A virtualenv or an interpreter; `None` is `python3` on the path.
    pub python: Option<PathBuf>,
    /// The authentication methods it allows.
    pub methods: MethodSet,
    /// Who serves `static/`.
    pub serve_files: ServeFiles,
    /// Worker processes.
    pub workers: u16,
    /// Threads of each worker.
    pub threads: u16,
    /// What holds where no rule matches.
    pub default: Default_,
    /// Whether it is served at all.
    pub enabled: bool,
    /// Roles that everybody has inside it.
    pub app_roles: Vec<Name>,
    /// Whether it sees `Authorization`.
    pub pass_authorization: bool,
    /// Whether it gets identity headers beside `REMOTE_USER`.
    pub identity_headers: bool,
    /// Whether request bodies are streamed to it.
    pub stream_bodies: bool,
    /// Largest request body, bytes; `None` is the system's limit.
    pub body_bytes: Option<u64>,
    /// Longest request; `None` is the system's.
    pub request_timeout: Option<Duration>,
    /// Longest start; `None` is the system's.
    pub start_timeout: Option<Duration>,
    /// Longest stop; `None` is the system's.
    pub stop_timeout: Option<Duration>,
    /// Environment beyond the namespace's.
    pub environment: BTreeMap<String, String>,
    /// The file it was read from.
    pub file: Arc<str>,
    /// Its rules.
    pub rules: Rules,
}

/// Who serves the files under `static/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServeFiles {
    /// The application.
    No,
    /// The gate, to everybody.
    Always,
    /// The gate, to whom the rules allow.
    Secured,
}

/// What holds where no rule matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Default_ {
    /// Nobody.
    Deny,
    /// Everybody who signed in.
    SignedIn,
    /// Everybody.
    Anyone,
    /// Holders of a role.
    Role(Name),
}

/// The compiled rules of an application.
#[derive(Debug)]
pub struct Rules {}

impl Rules {
    pub(super) fn id(&self, _rule: usize) -> Option<&RuleId> {
        None
    }
}

/// Everything a verdict depends on besides the application and the target.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The methods that the system policy enables.
    pub system: MethodSet,
    /// Who asks.
    pub principal: &'a Principal,
    /// The HTTP method.
    pub method: &'a http::Method,
    /// The client's address.
    pub from: IpAddr,
}

/// May this principal do this here?
///
/// # Errors
/// No, and why.
pub fn decide(app: &Arc<Application>, target: Target, q: &Question<'_>) -> Result<Permit, Denial> {
    let _ = (app, target, q, Permit::new);
    Err(Denial { reason: Reason::DeniedByDefault, rule: None, sign_in: None })
}

/// A verdict with everything that led to it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Explanation {}

/// The same verdict as [`decide`], explained.
#[must_use]
pub fn explain(app: &Application, target: &Target, q: &Question<'_>) -> Explanation {
    let _ = (app, target, q);
    Explanation {}
}

/// A policy file to load.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file as the operator knows it.
    pub file: Arc<str>,
    /// Its text.
    pub text: String,
    /// The absolute directory that its paths are relative to.
    pub base: PathBuf,
}

/// What the rest of the system says about applications.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The methods that the system policy enables.
    pub system: MethodSet,
    /// The namespaces that `portcullis.toml` declares.
    pub namespaces: &'a BTreeSet<String>,
    /// Whether a directory exists: the file system is an argument, so that loading stays reproducible.
    pub is_directory: &'a dyn Fn(&Path) -> bool,
}

/// Applications and warnings, or every mistake.
pub type Loaded = Result<(Vec<Arc<Application>>, Vec<Problem>), Vec<Problem>>;

/// Reads all policy files.
///
/// # Errors
/// Every mistake in every file.
pub fn load(sources: &[Source], context: Context<'_>) -> Loaded {
    let _ = (sources, context.system);
    Ok((Vec::new(), Vec::new()))
}
