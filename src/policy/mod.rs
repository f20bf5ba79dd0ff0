//! May they? One file per application says who may reach what in it; this room reads, compiles and evaluates it.
//!
//! Pure functions: no I/O, no clock, no async. A verdict depends on its arguments alone, so that `explain` can replay it.
//!
//! **A deny that matches wins; otherwise the most specific allow for this path and method decides, alone; no rule: the
//! application's default.** Specificity compares segment by segment: literal before `*` before `**`.
//!
//! ```text
//! [[allow]] path = "/orders/*"  methods = ["GET"]  who = "role:sales"
//! [[allow]] path = "/admin/**"                     who = "role:admin"  auth = "password"
//! [[deny]]  path = "/admin/export/**"              unless_who = "role:auditor"
//!
//! GET  /orders/7        the first allow decides: role:sales, or refused
//! POST /orders/7        no allow covers it: the default decides
//! GET  /admin/export/x  denied, unless a role:auditor asks; then the second allow decides
//! ```
//!
//! What the sentence leaves open, and how it is closed:
//!
//! * The methods of a request are system policy, application and rule together. Verified credentials of another method
//!   are refused, never ignored.
//! * An allow with GET covers HEAD and OPTIONS, unless an allow with the same path names them. A deny with GET covers
//!   them always: nothing else in the file makes a guardrail smaller.
//! * All that a deny says has to hold for it to match: path, methods, `who`, `auth`, `from`; and `unless_who` must not.
//!   One with `unless_methods` is about every other method; where that spares GET, it spares HEAD and OPTIONS.
//! * A trailing slash makes no difference, and cannot be written in a rule; see `trie`.
//! * Paths in rules are decoded and relative to the mount, compared byte by byte, case included.
//! * Signing in is offered (401) only if it could change the answer, from this address and by an allowed method.
//!   Otherwise the anonymous principal is refused (403) like anybody else: no password is asked for nothing.
//! * When several denies hold, the first in the file that signing in cannot lift is named, else the first.
//! * A rule with `mode = "report"` decides nothing: requests are judged as if it were not there. Where one that is
//!   allowed would be refused if all those rules were enforced, that is told. In that second judgement such an allow
//!   stands in for an enforced one with the same path.
//! * `mfa` refuses whoever is let in otherwise and has used no second factor; there are none yet, so it refuses all.
//!
//! `document` reads a file as written, `compile` makes of it what is meant, `lint` finds what was hardly meant, `expect`
//! holds a policy to what it says of itself; `trie` finds the rules of a path, `judge` the verdict, `explain` its words,
//! `diff` what a change does. `hygiene`, `cors` and `limit` are about what surrounds a verdict: answers, other origins,
//! how often.

mod compile;
pub mod cors;
pub mod diff;
mod document;
mod elsewhere;
mod expect;
mod explain;
mod hygiene;
mod judge;
mod limit;
mod lint;
mod permit;
mod routes;
pub mod rule;
mod suite;
mod trie;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use compile::{load, load_unproved};
pub use cors::Cors;
pub use expect::{Expectation, cases};
pub use explain::{Explanation, RuleStep};
pub use hygiene::Hygiene;
use ipnet::IpNet;
pub use judge::Rules;
pub use limit::{Limit, Per};
pub use permit::{Denial, Permit};
pub use routes::Routes;
pub use rule::{Effect, Named, Rule, Who};
pub use suite::{Proof, Suite};

use crate::{
    model::{MethodSet, Name, Principal, Reason, SecurityLevel},
    target::{Mount, Pattern, Target},
    written::Problem,
};

/// May this principal do this here? The target is consumed: what was judged is what runs.
///
/// Whether the application is enabled is the caller's to ask first; a disabled one does not exist.
///
/// # Errors
/// No, and why.
pub fn decide(app: &Arc<Application>, target: Target, q: &Question<'_>) -> Result<Permit, Denial> {
    let verdict = verdict(app, &target, q)?;
    Ok(Permit::new(Arc::clone(app), target, q.principal.clone(), verdict))
}

/// The verdict of [`decide`] without a permit, for tools that ask about many.
///
/// # Errors
/// No, and why.
pub fn verdict(app: &Application, target: &Target, q: &Question<'_>) -> Result<Verdict, Denial> {
    // Only a caller that routed wrongly comes here with a foreign path; it gets nothing.
    let Some((_, path_info)) = app.mount.split(target.path()) else {
        return Err(Denial { reason: Reason::NoApplication, rule: None, sign_in: None });
    };
    let judged = |tries| judge::judge(app, tries, path_info, q, &mut judge::Silent);
    let denial = |refusal| denial(app, refusal);
    let rule = judged(&app.rules.enforced).map_err(denial)?;
    let would_refuse = app.rules.trial.as_ref().and_then(|trial| judged(trial).err()).map(denial);
    Ok(Verdict { rule, would_refuse })
}

/// Yes, and why.
#[derive(Debug)]
pub struct Verdict {
    /// The number of the allow that decided, in the order of the file; `None` if it was the application's default.
    pub rule: Option<usize>,
    /// What would have come instead, had the rules that only report been enforced.
    pub would_refuse: Option<Denial>,
}

/// The same verdict with everything that led to it.
#[must_use]
pub fn explain(app: &Application, target: &Target, q: &Question<'_>) -> Explanation {
    Explanation::new(app, target, q)
}

/// Whether applications may see requests with this HTTP method at all, whatever their rules say.
///
/// Not those of tunnels and echoes, and none with a small letter: methods are case-sensitive (RFC 9110 section 9.1), rules
/// compare them so, and nearly every framework does not. A `delete` that was judged as something else than DELETE would
/// be run as DELETE.
#[must_use]
pub fn is_served(method: &http::Method) -> bool {
    let has_two_readings = method.as_str().bytes().any(|byte| byte.is_ascii_lowercase());
    !matches!(*method, http::Method::CONNECT | http::Method::TRACE) && !has_two_readings
}

fn denial(app: &Application, refusal: judge::Refusal) -> Denial {
    Denial {
        reason: refusal.reason,
        rule: refusal.rule.map(|number| app.rules.rules[number].id().clone()),
        sign_in: refusal.sign_in,
    }
}

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
    /// How it is called.
    pub interface: Interface,
    /// The interpreter; `None` is `python3` on the path.
    pub python: Option<Python>,
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
    /// Whether it runs elsewhere: a proxy asks who may; nothing is started here, and what is about running it is empty.
    pub elsewhere: bool,
    /// Roles that everybody has inside it.
    pub app_roles: Vec<Name>,
    /// Whether it sees `Authorization`.
    pub pass_authorization: bool,
    /// Whether it gets identity headers beside `REMOTE_USER`.
    pub identity_headers: bool,
    /// Whether request bodies are streamed to it.
    pub stream_bodies: bool,
    /// Development: whether changed files reload it.
    pub reload: bool,
    /// Largest request body, bytes; `None` is the system's limit.
    pub body_bytes: Option<u64>,
    /// Longest wait for a thread; `None` is the system's.
    pub queue_timeout: Option<Duration>,
    /// Longest request; `None` is the system's.
    pub request_timeout: Option<Duration>,
    /// Longest start; `None` is the system's.
    pub start_timeout: Option<Duration>,
    /// Longest stop; `None` is the system's.
    pub stop_timeout: Option<Duration>,
    /// Longest time without a sign of life from an interpreter; `None` is the system's.
    pub deadlock_timeout: Option<Duration>,
    /// Requests after which a worker is replaced.
    pub max_requests: Option<u64>,
    /// Whether it is imported once, and its workers forked from that process.
    pub preload: bool,
    /// Resident memory beyond which a worker is replaced, bytes.
    pub max_memory: Option<u64>,
    /// Environment beyond the namespace's.
    pub environment: BTreeMap<String, String>,
    /// How often it may be asked, whichever rule decides.
    pub limits: Vec<Limit>,
    /// What is added to its answers.
    pub hygiene: Hygiene,
    /// Which other origins may read them; `None` is left to the application.
    pub cors: Option<Cors>,
    /// The file it was read from.
    pub file: Arc<str>,
    /// Its rules.
    pub rules: Rules,
}

impl Application {
    /// The roles that a principal holds in here, sorted: its own, and those that everybody has.
    #[must_use]
    pub fn roles_of(&self, principal: &Principal) -> Vec<Name> {
        let own = principal.verified().map(|verified| verified.roles.as_slice()).unwrap_or_default();
        let mut roles: Vec<_> = own.iter().chain(&self.app_roles).cloned().collect();
        roles.sort();
        roles.dedup();
        roles
    }
}

/// Which Python runs an application, as its policy says it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Python {
    /// A virtualenv, a prefix or an interpreter, absolute.
    Path(PathBuf),
    /// A bare name, for whoever starts workers to look up.
    Named(String),
}

impl fmt::Display for Python {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// What the callable expects to be called with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// `(environ, start_response)`, PEP 3333.
    Wsgi,
    /// `(scope, receive, send)`, wrapped by a2wsgi in the application's own virtualenv.
    Asgi,
}

impl Interface {
    /// As policies have it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Wsgi => "wsgi",
            Self::Asgi => "asgi",
        }
    }
}

/// Who serves the files under `static/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServeFiles {
    /// The application.
    No,
    /// The gate, to whoever may reach the path.
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

/// What the rest of the system says about applications.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The methods that the system policy enables.
    pub system: MethodSet,
    /// The security level.
    pub level: SecurityLevel,
    /// The namespaces that `portcullis.toml` declares.
    pub namespaces: &'a BTreeSet<String>,
    /// Networks that `portcullis.toml` gives names to.
    pub networks: &'a BTreeMap<String, Arc<[IpNet]>>,
    /// Paths that `portcullis.toml` gives names to.
    pub paths: &'a BTreeMap<String, Arc<[Pattern]>>,
    /// Who there is, to find rules that name nobody; `None` where that was not looked up.
    pub known: Option<&'a Known>,
    /// Whether a directory exists: the file system is an argument, so that loading stays reproducible.
    pub is_directory: &'a dyn Fn(&Path) -> bool,
}

/// Everybody that the store has.
#[derive(Debug, Default)]
pub struct Known {
    /// Roles.
    pub roles: BTreeSet<Name>,
    /// Users.
    pub users: BTreeSet<Name>,
    /// Services.
    pub services: BTreeSet<Name>,
    /// Public ids of tokens that are neither revoked nor over.
    pub tokens: BTreeSet<String>,
}

/// Applications and warnings, or every mistake.
pub type Loaded = Result<(Vec<Arc<Application>>, Vec<Problem>), Vec<Problem>>;

#[cfg(test)]
mod tests;
