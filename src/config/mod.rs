//! `portcullis.toml`: the system. The only reader of configuration files.
//!
//! `file` reads it as written, this module says what is meant: every path absolute, every default filled in, every
//! mistake in one report. Applications are described in `policies/*.toml`, which [`Config::policy_sources`] reads and
//! `policy` understands; `applications` brings the two together, because nothing here knows what a policy is.
//!
//! Relative paths are relative to the file they stand in. Nothing in this file is a secret except, possibly, the
//! password in a `database_url`, which no message repeats.

mod account;
mod file;
mod read;
mod template;

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

pub use account::Account;
pub use template::template;

use crate::{
    model::{MethodSet, SecurityLevel},
    target::Pattern,
    written::{self, Problem, Source},
};

/// The certificate that is used where none is configured, and that `init` writes.
pub const DEFAULT_CERTIFICATE: &str = "certs/localhost.pem";
/// Its key.
pub const DEFAULT_KEY: &str = "certs/localhost.key";

/// Policy files that are read; more are something else by mistake, and the time to read them is the time that a reload
/// keeps the next one waiting.
const POLICIES_MOST: usize = 1000;
/// The same for all of them together, bytes.
const POLICIES_MAX: usize = 16 << 20;

/// The whole of `portcullis.toml`, every path absolute, every default filled in.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// The directory of that file: what relative paths in it are relative to.
    pub root: PathBuf,
    /// `[gateway]`
    pub gateway: Gateway,
    /// `[forward_auth]`
    pub forward_auth: ForwardAuth,
    /// `[tls]`
    pub tls: Tls,
    /// `[security]`
    pub security: Security,
    /// `[tokens]`
    pub tokens: Tokens,
    /// `[limits]`
    pub limits: Limits,
    /// `[timeouts]`
    pub timeouts: Timeouts,
    /// `[passwords]`
    pub passwords: Passwords,
    /// `[store] path`: users, roles, tokens, keys, audit. Default `data/portcullis.sqlite3`.
    pub store: PathBuf,
    /// `[policies] directory`: one file for each application. Default `policies`.
    pub policies: PathBuf,
    /// `[data] directory`: what the gate and the applications write. Default `data`.
    pub data: PathBuf,
    /// `[logs]`
    pub logs: Logs,
    /// `[workers] environments`: directories in which a policy's `python = "NAME"` is looked for. Default `venvs`.
    pub environments: Vec<PathBuf>,
    /// `[namespace.NAME]`
    pub namespaces: BTreeMap<String, Namespace>,
    /// `[networks]`: names that rules use for them.
    pub networks: BTreeMap<String, Arc<[IpNet]>>,
    /// `[paths]`: names that rules use for them.
    pub paths: BTreeMap<String, Arc<[Pattern]>>,
}

/// `[gateway]`: where the gate listens and whom it believes.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// `listen`: addresses for HTTPS. Default `127.0.0.1:8443`.
    pub listen: Vec<SocketAddr>,
    /// `redirect_listen`: addresses for plain HTTP, answered with a redirect to HTTPS and nothing else. Default none.
    pub redirect_listen: Vec<SocketAddr>,
    /// `threads`: data threads. Default one for each core.
    pub threads: usize,
    /// `trusted_proxies`: networks of peers whose `X-Forwarded-For` is believed. Default none.
    pub trusted_proxies: Vec<IpNet>,
    /// `proxy_protocol`: networks of peers that must begin with a PROXY protocol header. Default none.
    pub proxy_protocol: Vec<IpNet>,
    /// `hosts`: accepted host names, lower case, without ports; empty, the default, is any.
    pub hosts: Vec<Box<str>>,
    /// `watch`: whether changes of this file and of the policies come into force by themselves. Default yes.
    pub watch: bool,
}

/// `[forward_auth]`: proxies in front of applications that run elsewhere.
#[derive(Debug, Clone)]
pub struct ForwardAuth {
    /// `trusted`: networks of the proxies that may ask. Default none, and then nobody is answered.
    pub trusted: Vec<IpNet>,
}

/// `[tls]`
#[derive(Debug, Clone)]
pub struct Tls {
    /// `[[tls.certificate]]`: the client's SNI chooses, the first is the fallback. Default [`DEFAULT_CERTIFICATE`].
    pub certificates: Vec<CertificateFiles>,
    /// `minimum`: the oldest protocol version accepted, `1.2` or `1.3`. Default [`TlsVersion::of`] the level.
    pub minimum: TlsVersion,
}

/// One `[[tls.certificate]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// `certificate`: PEM, the leaf first.
    pub certificate: PathBuf,
    /// `key`: PEM.
    pub key: PathBuf,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2
    V12,
    /// TLS 1.3
    V13,
}

/// `[security]`: the system policy.
#[derive(Debug, Clone, Copy)]
pub struct Security {
    /// `level`: the preset. Default `normal`.
    pub level: SecurityLevel,
    /// `methods`: the methods permitted at all. Default those of the level; more than those is a warning.
    pub methods: MethodSet,
}

/// `[tokens]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// `issuer`: `iss` of the JWTs issued here. Default `portcullis`.
    pub issuer: String,
}

/// `[limits]`
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// `header_bytes`: largest request head, bytes. Default 64 KiB.
    pub header_bytes: usize,
    /// `headers`: most header fields. Default 100.
    pub headers: usize,
    /// `body_bytes`: largest request body, bytes, where an application does not say. Default 100 MiB.
    pub body_bytes: u64,
    /// `body_memory`: most that all request bodies hold in memory while they are collected, bytes. Default 64 MiB.
    pub body_memory: u64,
    /// `body_disk`: the same in temporary files in the data directory. Default 16 GiB.
    pub body_disk: u64,
    /// `connections`: most connections at once. Default 10000.
    pub connections: usize,
    /// `queue`: most requests that wait for one application. Default 1024.
    pub queue: usize,
}

/// `[timeouts]`
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// `handshake`: the TLS handshake. Default 10 s.
    pub handshake: Duration,
    /// `head`: the head of a request. Default 10 s.
    pub head: Duration,
    /// `idle`: a kept-alive connection without a request. Default 60 s.
    pub idle: Duration,
    /// `body`: between two pieces of a request's body. Default 30 s.
    pub body: Duration,
    /// `queue`: until a thread of the application takes a request. Default 30 s.
    pub queue: Duration,
    /// `request`: from then until the head of the answer. Default 60 s.
    pub request: Duration,
    /// `start`: a worker's start. Default 60 s.
    pub start: Duration,
    /// `deadlock`: without a sign of life from a worker's interpreter. Default 60 s.
    pub deadlock: Duration,
    /// `stop`: a worker's, or the gate's, orderly end. Default 30 s.
    pub stop: Duration,
}

/// `[passwords]`: what a verification costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passwords {
    /// `memory_kib`: Argon2id memory, KiB. Default 19456.
    pub memory_kib: u32,
    /// `iterations`: Argon2id passes. Default 2.
    pub iterations: u32,
    /// `parallelism`: Argon2id lanes. Default 1.
    pub parallelism: u32,
    /// `hashing_threads`: threads that hash. Default half the cores, at least one.
    pub hashing_threads: usize,
    /// `queue`: sign-ins that may wait for one of them. Default 64.
    pub queue: usize,
}

/// `[logs]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logs {
    /// `directory`: where log files go. Default `logs`.
    pub directory: PathBuf,
    /// `max_bytes`: size at which a file is rotated, bytes. Default 50 MiB.
    pub max_bytes: u64,
    /// `keep`: rotated files kept. Default 5.
    pub keep: usize,
    /// `level`: `error`, `warn`, `info`, `debug`, `trace`, or a list such as `info,portcullis::app=debug`. Default `info`.
    pub level: String,
}

/// `[namespace.NAME]`: where applications run.
#[derive(Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// `directory`: working directory; `None`, the default, is the application's own.
    pub directory: Option<PathBuf>,
    /// `data`: a private writable directory. Default `namespaces/NAME` in the data directory.
    pub data: PathBuf,
    /// `database_url`: the application's `DATABASE_URL`. Default an SQLite file in `data`.
    pub database_url: String,
    /// `environment`: extra variables. Default none.
    pub environment: BTreeMap<String, String>,
    /// `user` and `group`: whom the workers run as; `None`, the default, is whoever runs the gateway.
    pub account: Option<Account>,
    /// What one worker may use.
    pub limits: WorkerLimits,
    /// `readable`: files and directories beyond those that every worker may read. Default none.
    pub readable: Vec<PathBuf>,
    /// `writable`: the same for writing. Default none.
    pub writable: Vec<PathBuf>,
    /// `confined`: whether the kernel is asked to keep workers from everything else. Default yes.
    pub confined: bool,
}

/// What the kernel lets one worker use; `None` is what the gateway itself may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct WorkerLimits {
    /// `memory`: memory that is its own, bytes.
    pub memory: Option<u64>,
    /// `processes`: processes and threads of its user, all together.
    pub processes: Option<u64>,
    /// `files`: open files.
    pub files: Option<u64>,
}

impl Namespace {
    /// A namespace of which nothing is written down.
    fn plain(name: &str, data: PathBuf) -> Self {
        let database_url = database_url(&data);
        Self {
            name: name.to_owned(),
            directory: None,
            data,
            database_url,
            environment: BTreeMap::new(),
            account: None,
            limits: WorkerLimits::default(),
            readable: Vec::new(),
            writable: Vec::new(),
            confined: true,
        }
    }
}

impl TlsVersion {
    /// The oldest version that a level accepts.
    #[must_use]
    pub const fn of(level: SecurityLevel) -> Self {
        match level {
            SecurityLevel::Minimal | SecurityLevel::Normal => Self::V12,
            SecurityLevel::LockedDown => Self::V13,
        }
    }

    /// The word used in configuration.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::V12 => "1.2",
            Self::V13 => "1.3",
        }
    }
}

/// Without the database URL and the values of the environment, which may hold passwords.
impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespace")
            .field("name", &self.name)
            .field("directory", &self.directory)
            .field("data", &self.data)
            .field("environment", &self.environment.keys())
            .field("account", &self.account)
            .field("limits", &self.limits)
            .field("readable", &self.readable)
            .field("writable", &self.writable)
            .field("confined", &self.confined)
            .finish_non_exhaustive()
    }
}

/// Reads `portcullis.toml`: the configuration and its warnings.
///
/// # Errors
/// Every mistake in it.
pub fn load(path: &Path) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
    let shown = path.to_string_lossy();
    let text = read::text(path, &shown).map_err(|problem| vec![problem])?;
    let resolve = || -> std::io::Result<PathBuf> {
        // The directory is resolved and the file is not: a link to a file elsewhere keeps its neighbours here.
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        directory.canonicalize()
    };
    let root =
        resolve().map_err(|error| vec![Problem::file(&shown, format!("its directory cannot be resolved: {error}"))])?;
    let file = root.join(path.file_name().unwrap_or_default());
    understand(&shown, &text, &file, &root)
}

/// What a text means that stands in `file` under `root`.
fn understand(shown: &str, text: &str, file: &Path, root: &Path) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (config, problems) = written::File::new(shown, text).read(|table| Some(file::read(table, file, root, cores)));
    match config {
        Some(config) if !problems.iter().any(Problem::is_error) => Ok((config, problems)),
        _ => Err(problems),
    }
}

impl Config {
    /// Reads the files of the policies directory: `*.toml` in the order of their names, but not `*.cases.toml`, which
    /// hold tests. Hidden files are left alone: editors keep half-written copies in them.
    ///
    /// Beside what could be read, why the rest could not: a policy that is missing is a mistake like any other.
    #[must_use]
    pub fn policy_sources(&self) -> (Vec<Source>, Vec<Problem>) {
        self.sources(is_policy)
    }

    /// Reads the files of tests in the policies directory: `*.cases.toml`.
    #[must_use]
    pub fn case_sources(&self) -> (Vec<Source>, Vec<Problem>) {
        self.sources(|name| name.ends_with(".cases.toml"))
    }

    /// Reads one policy, or one file of tests, wherever it lies.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn policy_source(&self, path: &Path) -> Result<Source, Problem> {
        let shown = path.to_string_lossy();
        let text = read::text(path, &shown)?;
        let base = path.canonicalize().ok().and_then(|path| path.parent().map(Path::to_path_buf));
        Ok(Source { file: (*shown).into(), text, base: base.unwrap_or_else(|| self.policies.clone()) })
    }

    fn sources(&self, wanted: impl Fn(&str) -> bool) -> (Vec<Source>, Vec<Problem>) {
        let listed = self.policies.canonicalize().and_then(|base| Ok((names(&base, wanted)?, base)));
        let (names, base) = match listed {
            Ok(listed) => listed,
            Err(error) => {
                let message = format!("the policies cannot be read: {}", read::plain(&error));
                let problem = Problem::file(&self.shown(&self.policies), message);
                return (Vec::new(), vec![problem.help("[policies] directory in portcullis.toml names it")]);
            }
        };
        let directory = self.shown(&self.policies);
        if names.len() > POLICIES_MOST {
            let message = format!("{} policies are more than the {POLICIES_MOST} that are read", names.len());
            return (Vec::new(), vec![Problem::file(&directory, message).help("is it the right directory?")]);
        }
        let (mut sources, mut problems) = (Vec::<Source>::new(), Vec::new());
        let mut room = POLICIES_MAX;
        for name in names {
            let file = self.shown(&self.policies.join(&name));
            match read::text(&base.join(&name), &file) {
                Ok(text) if text.len() > room => {
                    let message = format!("all policies together are larger than {} MiB", POLICIES_MAX >> 20);
                    problems.push(Problem::file(&directory, message).help("is it the right directory?"));
                    break;
                }
                Ok(text) => {
                    room -= text.len();
                    sources.push(Source { file: file.into(), text, base: base.clone() });
                }
                Err(problem) => problems.push(problem),
            }
        }
        (sources, problems)
    }

    /// A namespace by name: as declared, or the defaults for an application that names none.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Namespace {
        let default = || Namespace::plain(name, self.data.join("namespaces").join(name));
        self.namespaces.get(name).cloned().unwrap_or_else(default)
    }

    /// A path as the operator knows it: relative to the root if it lies below.
    fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy().into_owned()
    }
}

/// Names of the policy files, sorted.
///
/// # Errors
/// The directory cannot be read.
pub fn policy_names(directory: &Path) -> std::io::Result<Vec<std::ffi::OsString>> {
    names(directory, is_policy)
}

fn is_policy(name: &str) -> bool {
    name.ends_with(".toml") && !name.ends_with(".cases.toml")
}

/// Names of files, sorted, so that every start reports mistakes in the same order. Hidden ones are left alone: editors
/// keep half-written copies in them.
fn names(directory: &Path, wanted: impl Fn(&str) -> bool) -> std::io::Result<Vec<std::ffi::OsString>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        if wanted(&text) && !text.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// An SQLite file in a namespace's data directory. SQLAlchemy and dj-database-url both read three slashes and an
/// absolute path, hence four.
fn database_url(data: &Path) -> String {
    format!("sqlite:///{}", data.join("database.sqlite3").display())
}

#[cfg(test)]
mod tests;
