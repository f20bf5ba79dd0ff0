//! `portcullis.toml` as meant.
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;

use crate::{
    model::{MethodSet, SecurityLevel},
    policy,
    written::Problem,
};

/// The whole of `portcullis.toml`, every path absolute, every default filled in.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// The directory of that file: what relative paths in it are relative to.
    pub root: PathBuf,
    /// `[gateway]`
    pub gateway: Gateway,
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
    /// `[store] path`
    pub store: PathBuf,
    /// `[policies] directory`
    pub policies: PathBuf,
    /// `[data] directory`
    pub data: PathBuf,
    /// `[logs]`
    pub logs: Logs,
    /// `[namespace.NAME]`
    pub namespaces: BTreeMap<String, Namespace>,
}

/// `[gateway]`: where the gate listens and whom it believes.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// Addresses for HTTPS.
    pub listen: Vec<SocketAddr>,
    /// Addresses for plain HTTP, answered with a redirect to HTTPS and nothing else.
    pub redirect_listen: Vec<SocketAddr>,
    /// Data threads.
    pub threads: usize,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Peers that must begin with a PROXY protocol header.
    pub proxy_protocol: Vec<IpNet>,
    /// Accepted host names; empty is any.
    pub hosts: Vec<Box<str>>,
}

/// `[tls]`
#[derive(Debug, Clone)]
pub struct Tls {
    /// Certificates and their keys; the client's SNI chooses, the first is the fallback.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest protocol version accepted.
    pub minimum: TlsVersion,
}

/// One `[[tls.certificate]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM, the leaf first.
    pub certificate: PathBuf,
    /// PEM.
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
    /// The preset.
    pub level: SecurityLevel,
    /// The methods permitted at all.
    pub methods: MethodSet,
}

/// `[tokens]`
#[derive(Debug, Clone)]
pub struct Tokens {
    /// `iss` of the JWTs issued here.
    pub issuer: String,
}

/// `[limits]`
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest request head, bytes.
    pub header_bytes: usize,
    /// Most header fields.
    pub headers: usize,
    /// Largest request body, bytes, where an application does not say.
    pub body_bytes: u64,
    /// Most connections at once.
    pub connections: usize,
    /// Most requests that wait for one application.
    pub queue: usize,
}

/// `[timeouts]`
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// TLS handshake.
    pub handshake: Duration,
    /// The head of a request.
    pub head: Duration,
    /// A kept-alive connection without a request.
    pub idle: Duration,
    /// Between two pieces of a request's body.
    pub body: Duration,
    /// An application's answer.
    pub request: Duration,
    /// A worker's start.
    pub start: Duration,
    /// A worker's, or the gate's, orderly end.
    pub stop: Duration,
}

/// `[passwords]`: what a verification costs.
#[derive(Debug, Clone, Copy)]
pub struct Passwords {
    /// Argon2id memory, KiB.
    pub memory_kib: u32,
    /// Argon2id passes.
    pub iterations: u32,
    /// Argon2id lanes.
    pub parallelism: u32,
    /// Threads that hash.
    pub hashing_threads: usize,
    /// Sign-ins that may wait for one of them.
    pub queue: usize,
}

/// `[logs]`
#[derive(Debug, Clone)]
pub struct Logs {
    /// Where log files go.
    pub directory: PathBuf,
    /// Size at which a file is rotated, bytes.
    pub max_bytes: u64,
    /// Rotated files kept.
    pub keep: usize,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a list such as `info,portcullis::app=debug`.
    pub level: String,
}

/// `[namespace.NAME]`: where applications run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Working directory; `None` is the application's own.
    pub directory: Option<PathBuf>,
    /// A private writable directory.
    pub data: PathBuf,
    /// `DATABASE_URL`.
    pub database_url: String,
    /// Extra environment.
    pub environment: BTreeMap<String, String>,
}

/// Reads `portcullis.toml`: the configuration and its warnings.
///
/// # Errors
/// Every mistake in it.
pub fn load(path: &Path) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
    let _ = path;
    Err(Vec::new())
}

impl Config {
    /// Reads every application in the policies directory.
    ///
    /// # Errors
    /// Every mistake in every file.
    pub fn load_applications(&self) -> policy::Loaded {
        Ok((Vec::new(), Vec::new()))
    }

    /// A namespace by name: as declared, or the defaults for an application that names none.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Namespace {
        self.namespaces.get(name).cloned().unwrap_or_else(|| Namespace {
            name: name.to_owned(),
            directory: None,
            data: self.data.join("namespaces").join(name),
            database_url: String::new(),
            environment: BTreeMap::new(),
        })
    }
}

/// The text of a commented default `portcullis.toml`.
#[must_use]
pub fn template(listen: SocketAddr, level: SecurityLevel, certificate: &str, key: &str) -> String {
    format!("# {listen} {level} {certificate} {key}")
}
