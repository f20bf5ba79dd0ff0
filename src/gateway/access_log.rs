//! One line of JSON per request in `logs/access.log`, written in batches.

use std::{
    cell::{Cell, RefCell},
    fmt::Write as _,
    io::Write as _,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    app::body::Sent,
    clock::{Clock, Timestamp},
    model::{Method, Name, Reason, RuleId},
    telemetry::LogFile,
};

/// Lines leave for the writer when there are this many bytes of them ..
const BATCH: usize = 32 * 1024;

/// .. or this long after the first of them.
const DELAY: Duration = Duration::from_millis(100);

/// One thread's access log.
pub struct AccessLog {
    file: LogFile,
    clock: Clock,
    lines: RefCell<Vec<u8>>,
    flushing: Cell<bool>,
    second: RefCell<(i64, String)>,
}

/// What is known of one request, filled in on its way.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its id.
    pub request: String,
    /// When its head had been read.
    pub started: Instant,
    /// The client, after trusted proxies.
    pub client: IpAddr,
    /// The proxy that asked, where the request itself did not come here.
    pub asked_by: Option<IpAddr>,
    /// As received.
    pub method: http::Method,
    /// The judged path, decoded; without its query, which may hold secrets. Empty when it could not be read.
    pub path: String,
    /// `HTTP/2`.
    pub protocol: &'static str,
    /// The application that owns the path.
    pub application: Option<Arc<str>>,
    /// The name that was claimed with a password, verified or not; never written to the access log.
    pub claimed: Option<Name>,
    /// The verified name.
    pub principal: Option<Arc<str>>,
    /// Public id of the token that was used.
    pub credential: Option<Arc<str>>,
    /// The method that was presented.
    pub authenticated: Option<Method>,
    /// The rule that decided.
    pub rule: Option<RuleId>,
    /// Whether the rules let it through.
    pub allowed: bool,
    /// Why it was refused; `None` when it was not.
    pub reason: Option<Reason>,
    /// Why it would have been refused, had the rules that only report been enforced, and which would have decided.
    pub would_refuse: Option<(Reason, Option<RuleId>)>,
    /// What the client got.
    pub status: u16,
    /// Wait in the worker, microseconds.
    pub queued_us: u32,
}

impl AccessLog {
    /// Writes to an open file.
    #[must_use]
    pub fn new(file: LogFile, clock: Clock) -> Self {
        Self {
            file,
            clock,
            lines: RefCell::new(Vec::with_capacity(BATCH)),
            flushing: Cell::new(false),
            second: RefCell::default(),
        }
    }

    /// Writes the line of a request that has come to its end.
    pub fn write(self: &Rc<Self>, record: &Record, sent: Sent) {
        let mut lines = self.lines.borrow_mut();
        self.put(&mut lines, record, sent);
        if lines.len() >= BATCH {
            let full = std::mem::replace(&mut *lines, Vec::with_capacity(BATCH));
            self.file.write_lines(full);
        } else if !self.flushing.replace(true) {
            let log = Rc::clone(self);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(DELAY).await;
                log.flush();
            });
        }
    }

    /// Hands over what has gathered.
    pub fn flush(&self) {
        self.flushing.set(false);
        let lines = std::mem::take(&mut *self.lines.borrow_mut());
        if !lines.is_empty() {
            self.file.write_lines(lines);
        }
    }

    fn put(&self, out: &mut Vec<u8>, record: &Record, sent: Sent) {
        out.extend_from_slice(b"{\"time\":\"");
        self.put_time(out, self.clock.now());
        out.extend_from_slice(b"\",\"request\":\"");
        out.extend_from_slice(record.request.as_bytes());
        let _ = write!(out, "\",\"client\":\"{}\"", record.client);
        if let Some(proxy) = record.asked_by {
            let _ = write!(out, ",\"asked_by\":\"{proxy}\"");
        }
        put_name(out, "method");
        put_text(out, record.method.as_str());
        out.extend_from_slice(b",\"path\":");
        put_text(out, &record.path);
        out.extend_from_slice(b",\"protocol\":\"");
        out.extend_from_slice(record.protocol.as_bytes());
        out.push(b'"');
        put_number(out, "status", record.status.into());
        put_optional(out, "application", record.application.as_deref());
        put_optional(out, "principal", record.principal.as_deref());
        put_optional(out, "authenticated", record.authenticated.map(Method::word));
        put_optional(out, "credential", record.credential.as_deref());
        let decision = match (record.reason, record.allowed) {
            (Some(_), _) => "refused",
            (None, true) => "allowed",
            // The client left before there was one, or it asked about the server itself.
            (None, false) => "none",
        };
        put_optional(out, "decision", Some(decision));
        put_optional(out, "reason", record.reason.map(Reason::id));
        put_rule(out, "rule", record.rule.as_ref());
        if let Some((reason, rule)) = &record.would_refuse {
            put_optional(out, "would_refuse", Some(reason.id()));
            put_rule(out, "would_refuse_rule", rule.as_ref());
        }
        put_number(out, "duration_us", u64::try_from(record.started.elapsed().as_micros()).unwrap_or(u64::MAX));
        put_number(out, "queue_us", record.queued_us.into());
        put_number(out, "bytes", sent.bytes);
        if sent.cut {
            out.extend_from_slice(b",\"cut\":true");
        }
        put_optional(out, "withdrawn", sent.withdrawn.map(Reason::id));
        out.extend_from_slice(b"}\n");
    }

    /// RFC 3339; the part down to the second is made once per second.
    fn put_time(&self, out: &mut Vec<u8>, now: Timestamp) {
        let mut second = self.second.borrow_mut();
        if second.0 != now.seconds() || second.1.is_empty() {
            second.0 = now.seconds();
            second.1 = Timestamp(now.seconds() * 1000).rfc3339();
            second.1.truncate("2026-11-22T17:42:00".len());
        }
        out.extend_from_slice(second.1.as_bytes());
        // Four digits, of which the first only keeps the zeros of the others.
        let mut digits = itoa::Buffer::new();
        out.push(b'.');
        out.extend_from_slice(&digits.format(1000 + now.0.rem_euclid(1000)).as_bytes()[1..]);
        out.push(b'Z');
    }
}

fn put_optional(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        put_name(out, name);
        put_text(out, value);
    }
}

/// `policies/notes.toml:12`
fn put_rule(out: &mut Vec<u8>, name: &str, rule: Option<&RuleId>) {
    let Some(rule) = rule else { return };
    put_optional(out, name, Some(&rule.file));
    // Inside the string.
    out.pop();
    out.push(b':');
    out.extend_from_slice(itoa::Buffer::new().format(rule.line).as_bytes());
    out.push(b'"');
}

fn put_number(out: &mut Vec<u8>, name: &str, value: u64) {
    put_name(out, name);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// A JSON string; names, paths and methods come from clients.
fn put_text(out: &mut Vec<u8>, text: &str) {
    if serde_json::to_writer(&mut *out, text).is_err() {
        out.extend_from_slice(b"\"\"");
    }
}

/// Numbers for requests: unique in this installation, without meaning.
pub struct RequestIds(Cell<u64>);

impl RequestIds {
    /// A sequence of its own for each thread, beginning anywhere.
    #[must_use]
    pub fn new(seed: [u8; 8]) -> Self {
        Self(Cell::new(u64::from_le_bytes(seed)))
    }

    /// The next one.
    pub fn next(&self) -> String {
        let number = self.0.get().wrapping_add(1);
        self.0.set(number);
        let mut id = String::with_capacity(16);
        let _ = write!(id, "{number:016x}");
        id
    }
}
