//! One spelling for every path, or 400.
//!
//! Gates are bypassed when two parsers read one path differently: the rule saw `/public/..;/admin`, the application ran
//! `/admin`. Here there is one parser. [`Target::parse`] consumes the URI, decodes its path once and refuses whatever
//! could be read a second way further on; rules, static files and the worker see only the result. So for every accepted
//! request `SCRIPT_NAME + PATH_INFO` is the decoded path, and it is the path that was judged.
//!
//! ```text
//! /notes/caf%C3%A9?q=1   ->  path /notes/café   query q=1
//! /notes/100%25          ->  path /notes/100%
//! /notes/admin;x=1       ->  path /notes/admin;x=1     `;` is a byte like any other
//! /notes/%2561dmin       ->  400: somebody behind us might decode once more
//! /notes/..%2fadmin      ->  400: so might a file system
//! ```
//!
//! A trailing slash is kept: `/admin/` and `/admin` are two paths to an application. The policy judges them alike.
//!
//! `http::Uri` drops a raw `#` and what follows without a word, so the gateway looks for it before this is called.

mod pattern;

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    ops::Deref,
};

use http::{Uri, Version, uri::PathAndQuery};

pub use self::pattern::{Pattern, Segment};
use crate::model::Reason;

/// What a request is for: host, path and query. Only [`Target::parse`] makes one, and it cannot be copied.
#[derive(Debug)]
pub struct Target {
    host: Host,
    path: NormalPath,
    received: PathAndQuery,
}

/// Why a request-target is refused, in words that may be shown to whoever sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// The path has more than one reading.
    #[error("the path is refused: {0}")]
    Path(&'static str),
    /// The host is missing, malformed or said in two ways.
    #[error("the host is refused: {0}")]
    Host(&'static str),
    /// Not a form of request-target that names something behind the gate.
    #[error("the request-target is refused: {0}")]
    Form(&'static str),
}

impl BadTarget {
    /// The reason that log, audit and page show.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Path(_) => Reason::BadPath,
            Self::Host(_) => Reason::BadHost,
            Self::Form(_) => Reason::BadRequest,
        }
    }
}

impl Target {
    /// Reads the target of a request; the URI is gone afterwards.
    ///
    /// `host_header` is the value of the only `Host` field; that there is at most one is the caller's to check.
    ///
    /// # Errors
    /// The path has a second reading, the host is missing, malformed or contradicts the URI, or the target is not a path.
    pub fn parse(uri: Uri, version: Version, host_header: Option<&[u8]>) -> Result<Self, BadTarget> {
        let parts = uri.into_parts();
        let received = path_of(parts.path_and_query)?;
        if parts.scheme.is_some_and(|scheme| !matches!(scheme.as_str(), "https" | "http")) {
            return Err(BadTarget::Form("its scheme is neither http nor https"));
        }
        let host =
            host_of(parts.authority.as_ref().map(|authority| authority.as_str().as_bytes()), host_header, version)?;
        let path = NormalPath::decode(received.path()).map_err(BadTarget::Path)?;
        if received.query().is_some_and(|query| query.bytes().any(|byte| byte.is_ascii_control())) {
            return Err(BadTarget::Form("its query has a control byte"));
        }
        Ok(Self { host, path, received })
    }

    /// The target of a request that nobody sends: a path as a client would send it, on any host, or a whole URL.
    ///
    /// # Errors
    /// As for [`Target::parse`], and what could not be sent.
    pub fn on_paper(text: &str) -> Result<Self, BadTarget> {
        if !text.starts_with('/') && !text.contains("://") {
            return Err(BadTarget::Path("it does not begin with `/`"));
        }
        let uri: Uri = text.parse().map_err(|_| BadTarget::Path("it cannot be sent in a request"))?;
        let host = uri.authority().is_none().then_some(&b"localhost"[..]);
        Self::parse(uri, Version::HTTP_11, host)
    }

    /// The host the request is for; its name is empty if an HTTP/1.0 request named none.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The path that is judged and run.
    #[must_use]
    pub const fn path(&self) -> &NormalPath {
        &self.path
    }

    /// The query as received, without `?`; empty if there is none.
    #[must_use]
    pub fn query(&self) -> &str {
        self.received.query().unwrap_or_default()
    }

    /// Path and query as received, for logs and for `REQUEST_URI`; nothing is ever decided from it.
    #[must_use]
    pub fn uri(&self) -> &str {
        self.received.as_str()
    }
}

/// The path and query of a URI, if it has the origin or the absolute form.
fn path_of(received: Option<PathAndQuery>) -> Result<PathAndQuery, BadTarget> {
    let received = received.ok_or(BadTarget::Form("it names an authority and no path"))?;
    match received.as_str().as_bytes().first() {
        Some(b'/') => Ok(received),
        Some(b'*') => Err(BadTarget::Form("`*` asks about a server, and this is the gate of applications")),
        // `http://host?x=1`: the http crate says the path is `/` although none was sent.
        _ => Err(BadTarget::Form("its path does not begin with `/`")),
    }
}

/// The one host of a request: the URI's authority wins, and a `Host` field may only agree with it.
fn host_of(authority: Option<&[u8]>, field: Option<&[u8]>, version: Version) -> Result<Host, BadTarget> {
    let parse = |text| Host::parse(text).map_err(BadTarget::Host);
    match (authority.map(parse).transpose()?, field.map(parse).transpose()?) {
        (Some(authority), Some(field)) if !authority.agrees(&field) => {
            Err(BadTarget::Host("the request-target and the Host field name different hosts"))
        }
        (Some(host), _) | (None, Some(host)) => Ok(host),
        (None, None) if version == Version::HTTP_10 => Ok(Host { name: "".into(), port: None }),
        (None, None) => Err(BadTarget::Host("there is none")),
    }
}

/// A decoded path with one spelling: begins with `/`, no empty, `.` or `..` segment, no control character, no `\`,
/// nothing that could be decoded once more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NormalPath(Box<str>);

impl NormalPath {
    /// Decodes a path as it stands in a request-target.
    fn decode(raw: &str) -> Result<Self, &'static str> {
        let mut decoded = Vec::with_capacity(raw.len());
        let mut rest = raw.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            if byte != b'%' {
                decoded.push(byte);
                continue;
            }
            let [high, low, after @ ..] = after else { return Err(MALFORMED_ESCAPE) };
            let byte = hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low).ok_or(MALFORMED_ESCAPE)?;
            if byte == b'/' {
                return Err("it has an encoded slash");
            }
            decoded.push(byte);
            rest = after;
        }
        let decoded = String::from_utf8(decoded).map_err(|_| "it is not UTF-8")?;
        check(&decoded)?;
        Ok(Self(decoded.into()))
    }

    /// A path written by a person, already decoded: a mount, or a rule's path.
    ///
    /// # Errors
    /// What a request could never be for, in words that follow "is not a path: ".
    pub fn written(text: &str) -> Result<Self, &'static str> {
        check(text)?;
        if text.contains(['?', '#']) {
            return Err("it has a query or a fragment, and no rule sees those");
        }
        Ok(Self(text.into()))
    }

    /// The decoded path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is below `/.portcullis`, where the gate itself answers or nobody.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.below(RESERVED).is_some()
    }

    /// What follows `prefix`, if the path is that or lies below it; always whole segments.
    #[must_use]
    pub fn below(&self, prefix: &str) -> Option<&str> {
        self.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The parts between the slashes; the last is empty if the path ends with a slash.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').skip(1)
    }
}

impl Deref for NormalPath {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NormalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const MALFORMED_ESCAPE: &str = "it has a `%` that is not followed by two hexadecimal digits";

/// What holds for every decoded path.
fn check(path: &str) -> Result<(), &'static str> {
    let Some(inner) = path.strip_prefix('/') else { return Err("it does not begin with `/`") };
    let mut after_percent = u8::MAX;
    for &byte in inner.as_bytes() {
        match byte {
            b'\\' => return Err("it has a backslash"),
            0..=0x1f | 0x7f => return Err("it has a control character"),
            _ => {}
        }
        after_percent = match byte {
            b'%' => 0,
            byte if byte.is_ascii_hexdigit() => after_percent.saturating_add(1),
            _ => u8::MAX,
        };
        if after_percent == 2 {
            return Err("it is encoded twice");
        }
    }
    // U+0080 to U+009F: what a terminal or a log reader takes for a command.
    if !inner.is_ascii() && inner.chars().any(char::is_control) {
        return Err("it has a control character");
    }
    // One slash at the end is a spelling of its own; anywhere else an empty segment is one too many.
    let mut segments = inner.strip_suffix('/').unwrap_or(inner).split('/');
    if inner == "/" || (!inner.is_empty() && segments.clone().any(str::is_empty)) {
        return Err("it has an empty segment");
    }
    if segments.any(|segment| matches!(segment, "." | "..")) {
        return Err("it has a `.` or `..` segment");
    }
    Ok(())
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// A host and its port, in the one spelling they are compared in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    /// Lower case, without the dot that may end a DNS name; an IPv6 address in its brackets.
    pub name: Box<str>,
    /// The port, if one was given.
    pub port: Option<u16>,
}

/// The port of `https`, which a client may leave out or not.
const HTTPS: u16 = 443;

/// The first segment that is the gate's own: no application is mounted there, nor reached there from `/`.
const RESERVED: &str = "/.portcullis";

/// The longest DNS name, RFC 1035 section 2.3.4, bytes.
const NAME_MAX: usize = 253;

/// The longest label of a DNS name, bytes.
const LABEL_MAX: usize = 63;

impl Host {
    /// Reads `name`, `name:port`, `1.2.3.4:port`, `[::1]:port`.
    ///
    /// # Errors
    /// Anything else: a user name, other characters, an empty label or port, a port above 65535.
    pub fn parse(text: &[u8]) -> Result<Self, &'static str> {
        let text = str::from_utf8(text).map_err(|_| "it is not UTF-8")?;
        if text.is_empty() {
            return Err("it is empty");
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']').ok_or("its bracket is never closed")?;
            let address: Ipv6Addr = address.parse().map_err(|_| "what is in brackets is not an IPv6 address")?;
            return Ok(Self { name: format!("[{address}]").into(), port: port(rest)? });
        }
        let end = text.find(':').unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        Ok(Self { name: dns_name(name)?, port: port(rest)? })
    }

    /// Whether both name the same, the default port said or not.
    fn agrees(&self, other: &Self) -> bool {
        self.name == other.name && self.port.unwrap_or(HTTPS) == other.port.unwrap_or(HTTPS)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// A DNS name or an IPv4 address, in lower case, without the root's dot.
fn dns_name(text: &str) -> Result<Box<str>, &'static str> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.len() > NAME_MAX || name.split('.').any(|label| label.is_empty() || label.len() > LABEL_MAX) {
        return Err("its name has an empty or an overlong part");
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)) {
        return Err("its name has a character other than letters, digits, `.`, `-` and `_`");
    }
    // `1.2.3`, `0127.0.0.1`: some resolvers make an address of these, so they are one or nothing.
    let numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if numeric && (name != text || name.parse::<Ipv4Addr>().is_err()) {
        return Err("it is neither a name nor an IPv4 address");
    }
    Ok(name.to_ascii_lowercase().into())
}

/// Nothing, or `:` and digits.
fn port(text: &str) -> Result<Option<u16>, &'static str> {
    let Some(digits) = text.strip_prefix(':') else {
        return if text.is_empty() { Ok(None) } else { Err("something follows its bracket") };
    };
    let plain = (1..=5).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain).map(Some).ok_or("its port is not a number up to 65535")
}

/// The path an application is mounted at: `/notes`, or `/` for all that no other application owns.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mount(Box<str>);

impl Mount {
    /// Reads a mount from configuration.
    ///
    /// # Errors
    /// What a request's path could never begin with, in words that follow "is not a path: ".
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let path = NormalPath::written(text)?;
        if path.contains('*') {
            return Err("it has a `*`, and an application is mounted at one path");
        }
        if text != "/" && text.ends_with('/') {
            return Err("it ends with a slash; leave that out");
        }
        if path.is_reserved() {
            return Err("its first segment, `.portcullis`, is the gate's own");
        }
        Ok(Self(path.0))
    }

    /// The mount as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `SCRIPT_NAME` of everything below this mount: empty for `/`.
    #[must_use]
    pub fn script_name(&self) -> &str {
        if &*self.0 == "/" { "" } else { &self.0 }
    }

    /// `SCRIPT_NAME` and `PATH_INFO`, if the path is this mount or lies below it.
    #[must_use]
    pub fn split<'a>(&self, path: &'a NormalPath) -> Option<(&'a str, &'a str)> {
        let script_name = self.script_name();
        path.below(script_name).map(|_| path.split_at(script_name.len()))
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests;
