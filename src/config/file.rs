//! `portcullis.toml` as written: every key, its limits, its default.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    Account, CertificateFiles, Config, DEFAULT_CERTIFICATE, DEFAULT_KEY, ForwardAuth, Gateway, Limits, Logs, Namespace,
    Passwords, Security, Timeouts, Tls, TlsVersion, Tokens, WorkerLimits, account::Directory,
};
use crate::{
    model::{Method, MethodSet, SecurityLevel},
    target::{Host, Pattern},
    written::{Table, Value, absolute, environment, is_namespace, parse_network, shown},
};

/// Data threads; a worker has room for a lane to each of so many.
const THREADS: RangeInclusive<u64> = 1..=64;
/// Below this not even a browser's own header fields fit; above it one request pins memory for nothing.
const HEADER_BYTES: RangeInclusive<u64> = 8 << 10..=128 << 10;
/// hyper indexes header fields with 15 bits.
const HEADERS: RangeInclusive<u64> = 16..=10_000;
/// A terabyte is as good as no limit.
const BODY_BYTES: RangeInclusive<u64> = 0..=1 << 40;
/// Each connection is a file descriptor and some tens of kilobytes.
const CONNECTIONS: RangeInclusive<u64> = 1..=1_000_000;
/// Requests or sign-ins that wait; a longer queue only makes answers late.
const QUEUE: RangeInclusive<u64> = 1..=1_000_000;
/// A time-out below this refuses honest clients, above it protects nobody.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(24 * 3600);
/// The least that OWASP accepts for Argon2id is 7 MiB with five passes; 4 GiB for each sign-in is a denial of service.
const MEMORY_KIB: RangeInclusive<u64> = 7 << 10..=4 << 20;
const ITERATIONS: RangeInclusive<u64> = 1..=100;
const PARALLELISM: RangeInclusive<u64> = 1..=16;
const HASHING_THREADS: RangeInclusive<u64> = 1..=256;
/// A log file is worth opening from a megabyte to what a disk can spare.
const LOG_BYTES: RangeInclusive<u64> = 64 << 10..=64 << 30;
const LOG_KEEP: RangeInclusive<u64> = 0..=10_000;
/// Below this no interpreter starts with its threads; a terabyte is as good as no limit.
const WORKER_MEMORY: RangeInclusive<u64> = 64 << 20..=1 << 40;
/// One worker is a process and at least three threads, and the kernel counts both.
const WORKER_PROCESSES: RangeInclusive<u64> = 8..=1_000_000;
/// A worker needs its lanes (at most 64, two sockets each), a few of its own, and the modules that it is importing.
const WORKER_FILES: RangeInclusive<u64> = 192..=1_000_000;

/// Reads the root of `portcullis.toml`. `cores` is what the defaults for threads follow.
pub(super) fn read(root: &Table<'_>, file: &Path, directory: &Path, cores: usize) -> Config {
    let at = |value: Option<Value<'_>>| value.and_then(|value| path(&value, directory));
    let or = |value, default| at(value).unwrap_or_else(|| directory.join(default));
    let security = security(&root.table("security"));
    let data = or(root.table("data").value("directory"), "data");
    let namespaces = root.table("namespace");
    let namespaces = namespaces
        .entries()
        .into_iter()
        .filter_map(|value| namespace(&value, directory, &data))
        .map(|n| (n.name.clone(), n));
    Config {
        file: file.to_path_buf(),
        root: directory.to_path_buf(),
        gateway: gateway(&root.table("gateway"), cores),
        forward_auth: forward_auth(&root.table("forward_auth")),
        tls: tls(&root.table("tls"), security.level, directory),
        security,
        tokens: tokens(&root.table("tokens")),
        limits: limits(&root.table("limits")),
        timeouts: timeouts(&root.table("timeouts")),
        passwords: passwords(&root.table("passwords"), cores),
        store: or(root.table("store").value("path"), "data/portcullis.sqlite3"),
        policies: or(root.table("policies").value("directory"), "policies"),
        logs: logs(&root.table("logs"), directory),
        environments: environments(&root.table("workers"), directory),
        namespaces: namespaces.collect(),
        networks: groups(&root.table("networks"), |value| {
            value.parse(parse_network, "such as 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32")
        }),
        paths: groups(&root.table("paths"), |value| value.parse(pattern, "such as /admin, /orders/* or /admin/**")),
        data,
    }
}

/// Names for what rules would otherwise repeat.
fn groups<T>(table: &Table<'_>, read: impl Fn(&Value<'_>) -> Option<T>) -> BTreeMap<String, Arc<[T]>> {
    let group = |value: Value<'_>| {
        let name = value.key().to_owned();
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(plain) {
            let help =
                "lower-case letters, digits, - and _, beginning with a letter: nothing else it could be taken for";
            value.key_error(format!("`{}` is not the name of a group", shown(&name)), help);
        }
        if value.items().is_empty() {
            value.error(format!("the group `{}` is empty", shown(&name)), "a rule about nothing is none: leave it out");
        }
        (name, value.items().iter().filter_map(&read).collect())
    };
    table.entries().into_iter().map(group).collect()
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::parse(text).map_err(|why| format!("is not a path: {why}"))
}

fn gateway(table: &Table<'_>, cores: usize) -> Gateway {
    let listen = table.value("listen");
    if let Some(value) = listen.as_ref().filter(|value| value.items().is_empty()) {
        value.error("`listen` is an empty list", "such as listen = [\"127.0.0.1:8443\"]");
    }
    let networks = |key| each(table.value(key), |value| value.parse(parse_network, "such as 10.0.0.0/8 or 192.0.2.7"));
    let written = listen.is_some();
    let listen = each(listen, address);
    let redirect = table.value("redirect_listen");
    let redirect_listen = each(redirect, |value| address(value).filter(|address| free(*address, &listen, value)));
    Gateway {
        listen: if written { listen } else { vec![SocketAddr::from(([127, 0, 0, 1], 8443))] },
        redirect_listen,
        threads: whole(table, "threads", THREADS).unwrap_or(cores),
        trusted_proxies: networks("trusted_proxies"),
        proxy_protocol: networks("proxy_protocol"),
        hosts: each(table.value("hosts"), |value| value.parse(host, "such as \"apps.example.org\"")),
        watch: table.value("watch").and_then(|value| value.boolean()).unwrap_or(true),
    }
}

fn forward_auth(table: &Table<'_>) -> ForwardAuth {
    // Who asks also says for which client it asks: that is for proxies, never for everybody.
    let proxies = |text: &str| match parse_network(text) {
        Ok(network) if network.prefix_len() == 0 => Err("is everybody".to_owned()),
        read => read,
    };
    ForwardAuth { trusted: each(table.value("trusted"), |value| value.parse(proxies, "such as 127.0.0.1 or 10.0.0.7")) }
}

fn address(value: &Value<'_>) -> Option<SocketAddr> {
    let parse = |text: &str| text.parse().map_err(|_| "is not an address and a port");
    value.parse(parse, "such as 127.0.0.1:8443, 0.0.0.0:443 or [::]:443")
}

/// Port 0 is any free port, so it never collides.
fn free(address: SocketAddr, taken: &[SocketAddr], value: &Value<'_>) -> bool {
    let free = address.port() == 0 || !taken.contains(&address);
    if !free {
        value.error(format!("`{address}` is in `listen` too"), "HTTPS and the redirect to it need ports of their own");
    }
    free
}

fn host(text: &str) -> Result<Box<str>, &'static str> {
    match Host::parse(text.as_bytes()) {
        Ok(Host { name, port: None }) => Ok(name),
        Ok(_) => Err("has a port; write the name alone"),
        Err(_) => Err("is not a host name"),
    }
}

fn tls(table: &Table<'_>, level: SecurityLevel, directory: &Path) -> Tls {
    let written = table.tables("certificate");
    let file = |table: &Table<'_>, key, help| table.required(key, help).and_then(|value| path(&value, directory));
    let files = |table: &Table<'_>| {
        let certificate = file(table, "certificate", "a PEM file, the leaf first: certificate = \"certs/server.pem\"");
        let key = file(table, "key", "a PEM file: key = \"certs/server-key.pem\"");
        Some(CertificateFiles { certificate: certificate?, key: key? })
    };
    let certificates = match written.is_empty() {
        true => vec![CertificateFiles {
            certificate: directory.join(DEFAULT_CERTIFICATE),
            key: directory.join(DEFAULT_KEY),
        }],
        false => written.iter().filter_map(files).collect(),
    };
    let versions = [("1.2", TlsVersion::V12), ("1.3", TlsVersion::V13)];
    let minimum =
        table.value("minimum").and_then(|value| value.word("a version of TLS that is spoken here", &versions));
    Tls { certificates, minimum: minimum.unwrap_or_else(|| TlsVersion::of(level)) }
}

fn security(table: &Table<'_>) -> Security {
    let levels = SecurityLevel::ALL.map(|level| (level.word(), level));
    let level =
        table.value("level").and_then(|value| value.word("a security level", &levels)).unwrap_or(SecurityLevel::Normal);
    let Some(value) = table.value("methods") else { return Security { level, methods: level.methods() } };
    let words = Method::ALL.map(|method| (method.word(), method));
    let methods: MethodSet =
        value.items().iter().filter_map(|item| item.word("an authentication method", &words)).collect();
    if value.items().is_empty() {
        value.error("`methods` is an empty list, so nobody could get in", "leave it out for the level's own");
    }
    let widened = methods.without(level.methods());
    if !widened.is_empty() {
        let help = format!("the level itself permits: {}", level.methods());
        value.warning(format!("level `{level}` is widened by: {widened}"), help);
    }
    Security { level, methods }
}

fn tokens(table: &Table<'_>) -> Tokens {
    let plain = |text: &str| match text.is_empty() || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        true => Err("is not an issuer"),
        false => Ok(text.to_owned()),
    };
    let issuer = table.value("issuer").and_then(|value| value.parse(plain, "a name or a URL without spaces"));
    Tokens { issuer: issuer.unwrap_or_else(|| "portcullis".to_owned()) }
}

fn limits(table: &Table<'_>) -> Limits {
    let size = |key, within| table.value(key).and_then(|value| value.size(within));
    let header_bytes = size("header_bytes", HEADER_BYTES).and_then(|bytes| bytes.try_into().ok());
    Limits {
        header_bytes: header_bytes.unwrap_or(64 << 10),
        headers: whole(table, "headers", HEADERS).unwrap_or(100),
        body_bytes: size("body_bytes", BODY_BYTES).unwrap_or(100 << 20),
        body_memory: size("body_memory", BODY_BYTES).unwrap_or(64 << 20),
        body_disk: size("body_disk", BODY_BYTES).unwrap_or(16 << 30),
        connections: whole(table, "connections", CONNECTIONS).unwrap_or(10_000),
        queue: whole(table, "queue", QUEUE).unwrap_or(1024),
    }
}

fn timeouts(table: &Table<'_>) -> Timeouts {
    let time = |key, default| {
        let time = table.value(key).and_then(|value| value.duration(TIMEOUT));
        time.unwrap_or(Duration::from_secs(default))
    };
    Timeouts {
        handshake: time("handshake", 10),
        head: time("head", 10),
        idle: time("idle", 60),
        body: time("body", 30),
        queue: time("queue", 30),
        request: time("request", 60),
        start: time("start", 60),
        deadlock: time("deadlock", 60),
        stop: time("stop", 30),
    }
}

fn passwords(table: &Table<'_>, cores: usize) -> Passwords {
    Passwords {
        memory_kib: whole(table, "memory_kib", MEMORY_KIB).unwrap_or(19_456),
        iterations: whole(table, "iterations", ITERATIONS).unwrap_or(2),
        parallelism: whole(table, "parallelism", PARALLELISM).unwrap_or(1),
        hashing_threads: whole(table, "hashing_threads", HASHING_THREADS).unwrap_or((cores / 2).max(1)),
        queue: whole(table, "queue", QUEUE).unwrap_or(64),
    }
}

fn logs(table: &Table<'_>, directory: &Path) -> Logs {
    let at = table.value("directory").and_then(|value| path(&value, directory));
    Logs {
        directory: at.unwrap_or_else(|| directory.join("logs")),
        max_bytes: table.value("max_bytes").and_then(|value| value.size(LOG_BYTES)).unwrap_or(50 << 20),
        keep: whole(table, "keep", LOG_KEEP).unwrap_or(5),
        level: table
            .value("level")
            .and_then(|value| {
                value
                    .parse(log_level, "error, warn, info, debug or trace; or a list such as info,portcullis::app=debug")
            })
            .unwrap_or_else(|| "info".to_owned()),
    }
}

fn log_level(text: &str) -> Result<String, &'static str> {
    let is_level = |word: &str| ["off", "error", "warn", "info", "debug", "trace"].contains(&word);
    let is_target =
        |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:".contains(&byte));
    let is_part = |part: &str| match part.split_once('=') {
        Some((target, level)) => is_target(target) && is_level(level),
        None => is_level(part),
    };
    if text.split(',').all(is_part) { Ok(text.to_owned()) } else { Err("is not a log level") }
}

fn namespace(value: &Value<'_>, directory: &Path, data: &Path) -> Option<Namespace> {
    let name = value.key().to_owned();
    let table = value.as_table(format!("namespace.{name}"))?;
    if !is_namespace(&name) {
        let help = "it becomes a directory: up to 64 letters, digits or any of ._-, beginning with a letter or a digit";
        value.key_error(format!("`{}` is not the name of a namespace", shown(&name)), help);
    }
    let at = |key| table.value(key).and_then(|value| path(&value, directory));
    let paths = |key| each(table.value(key), |value| path(value, directory));
    let data = at("data").unwrap_or_else(|| data.join("namespaces").join(&name));
    let plain = Namespace::plain(&name, data);
    Some(Namespace {
        directory: at("directory"),
        database_url: table.value("database_url").and_then(|value| url(&value)).unwrap_or(plain.database_url),
        environment: variables(&table),
        account: account(&table),
        limits: worker_limits(&table),
        readable: paths("readable"),
        writable: paths("writable"),
        confined: table.value("confined").and_then(|value| value.boolean()).unwrap_or(true),
        data: plain.data,
        name,
    })
}

/// `user` and `group`.
fn account(table: &Table<'_>) -> Option<Account> {
    let directory = Directory::read();
    let (group, processes) = (table.value("group"), table.value("processes"));
    let user = match group.is_some() || processes.is_some() {
        // The kernel counts all processes of a user together: without a user of its own, the gateway's among them.
        true => table.required("user", "`group` and `processes` are about a user that workers have for themselves"),
        false => table.value("user"),
    };
    let gid = group.and_then(|value| value.parse(|text| directory.group(text), "a name of /etc/group or a number"));
    let help = "a name of /etc/passwd or a number; such as user = \"notes\"";
    user.and_then(|value| value.parse(|text| directory.account(text, gid), help))
}

fn worker_limits(table: &Table<'_>) -> WorkerLimits {
    WorkerLimits {
        memory: table.value("memory").and_then(|value| value.size(WORKER_MEMORY)),
        processes: whole(table, "processes", WORKER_PROCESSES),
        files: whole(table, "files", WORKER_FILES),
    }
}

/// `[workers] environments`.
fn environments(table: &Table<'_>, directory: &Path) -> Vec<PathBuf> {
    let written = table.value("environments");
    let found = written.is_none().then(|| directory.join("venvs"));
    found.into_iter().chain(each(written, |value| path(value, directory))).collect()
}

fn variables(table: &Table<'_>) -> BTreeMap<String, String> {
    environment(&table.table("environment"))
}

fn url(value: &Value<'_>) -> Option<String> {
    let parse = |text: &str| match text.split_once("://") {
        Some((scheme, _)) if !scheme.is_empty() && !text.chars().any(char::is_control) => Ok(text.to_owned()),
        _ => Err("is not the URL of a database"),
    };
    // What is refused may hold a password, so it is not repeated.
    let text = value.string()?;
    parse(text).map_err(|why| value.error(format!("`database_url` {why}"), "such as postgresql://notes@db/notes")).ok()
}

fn path(value: &Value<'_>, directory: &Path) -> Option<PathBuf> {
    let check = |text: &str| match text.is_empty() || text.contains('\0') {
        true => Err("is not the path of a file"),
        false => Ok(absolute(directory, text)),
    };
    value.parse(check, "a path, relative to this file")
}

fn whole<T: TryFrom<u64>>(table: &Table<'_>, key: &'static str, within: RangeInclusive<u64>) -> Option<T> {
    table.value(key).and_then(|value| value.whole(within)).and_then(|number| number.try_into().ok())
}

/// The items of a list that no item may be in twice.
fn each<T: PartialEq>(value: Option<Value<'_>>, read: impl Fn(&Value<'_>) -> Option<T>) -> Vec<T> {
    let mut found = Vec::new();
    for item in value.iter().flat_map(Value::items) {
        let Some(one) = read(&item) else { continue };
        if found.contains(&one) {
            item.error(format!("`{}` names this twice", item.key()), "once is enough");
        }
        found.push(one);
    }
    found
}
