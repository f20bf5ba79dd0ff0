//! `start_response` and `write`: what the application says about its answer, checked, and turned into frames.
//!
//! Nothing leaves before the first byte of the body does, so the application can change its mind (`exc_info`) until
//! then, and an answer that is known as a whole is one frame.

use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{BufMut, Bytes};
use portcullis_wire::{
    FailKind, FileRange, Kind, Level, MAX_CHUNK, ResponseHead, begin, end, put_empty, put_fail, put_frame,
};
use pyo3::{
    exceptions::{PyAssertionError, PyTypeError, PyValueError},
    intern,
    prelude::*,
    types::{PyBytes, PyList, PyString, PyTuple},
};

use crate::{
    crew::{Crew, HOLD_BYTES, WINDOW, crew},
    exchange::Ticket,
    logs::report,
    python::push_latin1,
    wrapper::PlainFile,
};

/// Names and values of all headers together; a [`Kind::Response`] frame holds this and a window of body.
const MOST_HEADER_BYTES: usize = 128 * 1024;

/// No client accepts as many.
const MOST_HEADERS: usize = 1000;

/// A smaller file is read and sent with the head: cheaper than a descriptor.
const LEAST_FILE: u64 = 64 * 1024;

/// They speak about one connection, and the connections are the gateway's.
const HOP_BY_HOP: [&[u8]; 10] = [
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"trailers",
    b"transfer-encoding",
    b"upgrade",
];

/// Which of [`HOP_BY_HOP`] have been warned about.
static WARNED: AtomicU32 = AtomicU32::new(0);

/// The second argument of the application.
#[pyclass(module = "portcullis_worker", name = "start_response")]
#[derive(Default)]
pub(crate) struct StartResponse {
    /// `None` when the request is over: an application that kept us cannot disturb another request.
    ticket: Option<Ticket>,
    request_id: Bytes,
    queued_us: u32,
    /// The answer to HEAD has no body, whatever the application sends.
    head_only: bool,
    /// 0 until it is called.
    status: u16,
    reason: Vec<u8>,
    /// Names and values one after the other; `lengths` tells them apart.
    text: Vec<u8>,
    lengths: Vec<(usize, usize)>,
    /// The application's Content-Length.
    declared: Option<u64>,
    head_sent: bool,
    sent: u64,
}

/// How an answer ended that the application gave without raising.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Well,
    NotStarted,
    TooShort,
}

impl StartResponse {
    /// Makes it the one of another request.
    pub(crate) fn reset(&mut self, ticket: Ticket, request_id: Bytes, queued_us: u32, head_only: bool) {
        (self.ticket, self.request_id) = (Some(ticket), request_id);
        (self.queued_us, self.head_only) = (queued_us, head_only);
        (self.status, self.declared, self.head_sent, self.sent) = (0, None, false, 0);
        self.text.clear();
        self.lengths.clear();
    }

    /// The request is over.
    pub(crate) fn retire(&mut self) {
        self.ticket = None;
        self.request_id = Bytes::new();
    }

    /// Whether everything that the client waits for has been handed over.
    pub(crate) fn is_complete(&self) -> bool {
        self.head_sent && (self.bodyless() || self.declared == Some(self.sent))
    }

    /// Sends a piece of the body, and the head before it. False when no more is wanted.
    pub(crate) fn push(&mut self, py: Python<'_>, data: &[u8]) -> PyResult<bool> {
        let (ticket, crew) = self.door()?;
        if self.status == 0 {
            return Err(PyAssertionError::new_err("the body began before start_response() was called"));
        }
        if data.is_empty() {
            return Ok(true);
        }
        self.send_head(crew, ticket);
        if self.bodyless() {
            return Ok(false);
        }
        let wanted = self.within_declared(py, data);
        let mut rest = wanted;
        while !rest.is_empty() {
            let most = u32::try_from(rest.len().min(MAX_CHUNK)).unwrap_or(0);
            let portion = ticket.spend(py, crew, most)? as usize;
            let held = crew.lane(ticket.lane).put(|out| put_frame(out, ticket.request, Kind::Data, &rest[..portion]));
            rest = &rest[portion..];
            self.sent += portion as u64;
            if held >= HOLD_BYTES {
                crew.flush(py);
            }
        }
        Ok(wanted.len() == data.len())
    }

    /// Sends an answer whose parts are all known; what remains is [`StartResponse::finish`].
    pub(crate) fn push_all<'a>(
        &mut self,
        py: Python<'_>,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> PyResult<Ended> {
        let total: u64 = parts.clone().map(|part| part.len() as u64).sum();
        if self.status == 0 {
            return Ok(Ended::NotStarted);
        }
        if !self.head_sent && !self.bodyless() && self.declared.is_some_and(|declared| total < declared) {
            return Ok(Ended::TooShort);
        }
        if !self.head_sent && self.declared.is_none() && self.status != 304 && !(self.head_only && total == 0) {
            self.declare(total);
        }
        let whole = !self.head_sent && (self.bodyless() || total <= u64::from(WINDOW) && self.declared == Some(total));
        if whole {
            let bodyless = self.bodyless();
            self.send_whole(py, parts.filter(|_| !bodyless))?;
            return Ok(Ended::Well);
        }
        for part in parts {
            if !self.push(py, part)? {
                break;
            }
        }
        self.finish(py)
    }

    /// Hands a file over as all that remains of the body. False when reading it is needed, or better, after all.
    pub(crate) fn push_file(&mut self, py: Python<'_>, file: &PlainFile<'_>) -> PyResult<bool> {
        let (ticket, crew) = self.door()?;
        let wanted = self.declared.map_or(file.rest.length, |declared| declared - self.sent);
        // A file that is too short is found out about by reading it.
        if self.status == 0 || self.bodyless() || wanted < LEAST_FILE || wanted > file.rest.length {
            return Ok(false);
        }
        if self.declared.is_none() && !self.head_sent {
            self.declare(wanted);
        }
        self.send_head(crew, ticket);
        let range = FileRange { length: wanted, ..file.rest };
        let lane = crew.lane(ticket.lane);
        let handed = file.with_descriptor(py, |descriptor| lane.put_file(ticket.request, descriptor, range))?;
        if handed {
            self.sent += wanted;
        }
        Ok(handed)
    }

    /// Ends an answer that came in pieces.
    pub(crate) fn finish(&mut self, py: Python<'_>) -> PyResult<Ended> {
        let (ticket, crew) = self.door()?;
        if self.status == 0 {
            return Ok(Ended::NotStarted);
        }
        if !self.bodyless() && self.declared.is_some_and(|declared| self.sent < declared) {
            return Ok(Ended::TooShort);
        }
        if self.head_sent {
            crew.lane(ticket.lane).put(|out| put_empty(out, ticket.request, Kind::End));
        } else {
            if self.declared.is_none() && self.status != 304 && !self.head_only {
                self.declare(0);
            }
            self.send_whole(py, std::iter::empty())?;
        }
        Ok(Ended::Well)
    }

    fn send_whole<'a>(&mut self, py: Python<'_>, parts: impl Iterator<Item = &'a [u8]>) -> PyResult<()> {
        let (ticket, crew) = self.door()?;
        let held = crew.lane(ticket.lane).put(|out| {
            let start = begin(out, ticket.request, Kind::Response);
            ResponseHead::put(out, self.status, &self.reason, self.queued_us, self.headers());
            parts.for_each(|part| out.put_slice(part));
            end(out, start);
        });
        if held >= HOLD_BYTES {
            crew.flush(py);
        }
        self.head_sent = true;
        Ok(())
    }

    fn send_head(&mut self, crew: &Crew, ticket: Ticket) {
        if self.head_sent {
            return;
        }
        crew.lane(ticket.lane).put(|out| {
            let start = begin(out, ticket.request, Kind::Head);
            ResponseHead::put(out, self.status, &self.reason, self.queued_us, self.headers());
            end(out, start);
        });
        self.head_sent = true;
    }

    fn headers(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.text[..];
        self.lengths.iter().map(move |(name, value)| {
            let (pair, after) = rest.split_at(name + value);
            rest = after;
            pair.split_at(*name)
        })
    }

    fn bodyless(&self) -> bool {
        self.head_only || matches!(self.status, 204 | 304)
    }

    fn door(&self) -> PyResult<(Ticket, &'static Crew)> {
        self.ticket.zip(crew()).ok_or_else(|| PyAssertionError::new_err("the request is over"))
    }

    /// What of `data` fits into the application's Content-Length; the client gets no byte beyond.
    fn within_declared<'a>(&self, py: Python<'_>, data: &'a [u8]) -> &'a [u8] {
        let Some(declared) = self.declared else { return data };
        let room = usize::try_from(declared - self.sent).unwrap_or(usize::MAX);
        if data.len() <= room {
            return data;
        }
        let text =
            format!("the application sent more than its Content-Length of {declared} bytes; the rest was cut off");
        report(py, Level::Warning, &self.request_id, &text);
        &data[..room]
    }

    fn declare(&mut self, length: u64) {
        if self.status != 204 {
            self.add(b"Content-Length", length.to_string().as_bytes());
        }
        self.declared = Some(length);
    }

    fn add(&mut self, name: &[u8], value: &[u8]) {
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(value);
        self.lengths.push((name.len(), value.len()));
    }

    fn read_status(&mut self, status: &Bound<'_, PyAny>) -> PyResult<u16> {
        let status = native(status, || "the status must be a str such as '200 OK'".into())?;
        let text = status.to_str()?;
        let bad = || PyValueError::new_err(format!("{text:?} is not a status such as '200 OK'"));
        let bytes = text.as_bytes();
        let &[hundreds @ b'2'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9', b' ', ..] = bytes else {
            if text.starts_with('1') && bytes.len() >= 4 {
                return Err(PyValueError::new_err(format!("{text:?}: an interim status is not an answer")));
            }
            return Err(bad());
        };
        self.reason.clear();
        if !push_latin1(&mut self.reason, &text[4..]) || self.reason.iter().any(|byte| is_control(*byte)) {
            return Err(bad());
        }
        Ok([hundreds, tens, ones].iter().fold(0, |code, digit| code * 10 + u16::from(*digit - b'0')))
    }

    fn read_headers(&mut self, py: Python<'_>, headers: &Bound<'_, PyAny>, status: u16) -> PyResult<()> {
        let list =
            headers.cast::<PyList>().map_err(|_| wrong("the headers must be a list of (name, value)", headers))?;
        if list.len() > MOST_HEADERS {
            return Err(PyValueError::new_err(format!("more than {MOST_HEADERS} headers")));
        }
        self.text.clear();
        self.lengths.clear();
        self.declared = None;
        for item in list.iter() {
            let pair = item.cast::<PyTuple>().ok().filter(|pair| pair.len() == 2);
            let pair = pair.ok_or_else(|| wrong("a header must be a tuple (name, value)", &item))?;
            let (name, value) = (pair.get_borrowed_item(0)?, pair.get_borrowed_item(1)?);
            let name = native(&name, || "the name of a header must be a str".into())?;
            let value = native(&value, || format!("the value of header {} must be a str", quoted(name)))?;
            self.read_header(py, name, value, status)?;
        }
        if self.text.len() > MOST_HEADER_BYTES {
            return Err(PyValueError::new_err("the headers take more than 128 KiB"));
        }
        Ok(())
    }

    fn read_header(
        &mut self,
        py: Python<'_>,
        name: &Bound<'_, PyString>,
        value: &Bound<'_, PyString>,
        status: u16,
    ) -> PyResult<()> {
        let start = self.text.len();
        let name_text = name.to_str().unwrap_or("");
        if name_text.is_empty() || !name_text.bytes().all(is_token) {
            return Err(PyValueError::new_err(format!("{} is not the name of a header", quoted(name))));
        }
        self.text.extend_from_slice(name_text.as_bytes());
        let middle = self.text.len();
        let fits = value.to_str().is_ok_and(|value| push_latin1(&mut self.text, value));
        if !fits || self.text[middle..].iter().any(|byte| is_control(*byte)) {
            let why = if fits { "holds a control character" } else { "is not latin-1" };
            return Err(PyValueError::new_err(format!(
                "the value of header {} {why}: {}",
                quoted(name),
                quoted(value)
            )));
        }
        if matches!(name_text.as_bytes()[0] | 0x20, b'c' | b'k' | b'p' | b't' | b'u') {
            let kept = self.read_special(py, name_text, middle, status)?;
            if !kept {
                self.text.truncate(start);
                return Ok(());
            }
        }
        self.lengths.push((middle - start, self.text.len() - middle));
        Ok(())
    }

    /// Looks at a header that means something to us; its value stands at the end of the text. False to leave it out.
    fn read_special(&mut self, py: Python<'_>, name: &str, value: usize, status: u16) -> PyResult<bool> {
        if name.eq_ignore_ascii_case("content-length") {
            let digits = &self.text[value..];
            let number = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let Some(length) = number.and_then(|text| text.parse().ok()) else {
                let shown = String::from_utf8_lossy(digits).into_owned();
                return Err(PyValueError::new_err(format!("{shown:?} is not a Content-Length")));
            };
            if self.declared.replace(length).is_some() {
                return Err(PyValueError::new_err("two Content-Length headers"));
            }
            return Ok(status != 204);
        }
        let Some(which) = HOP_BY_HOP.iter().position(|hop| name.as_bytes().eq_ignore_ascii_case(hop)) else {
            return Ok(true);
        };
        if WARNED.fetch_or(1 << which, Ordering::Relaxed) & (1 << which) == 0 {
            let text =
                format!("header {name:?} was left out: it is about the connection, which belongs to the gateway");
            report(py, Level::Warning, &self.request_id, &text);
        }
        Ok(false)
    }
}

#[pymethods]
impl StartResponse {
    #[pyo3(signature = (status, response_headers, exc_info = None))]
    fn __call__<'py>(
        slf: &Bound<'py, Self>,
        status: &Bound<'py, PyAny>,
        response_headers: &Bound<'py, PyAny>,
        exc_info: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let exc_info = exc_info.filter(|exc_info| exc_info.is_truthy().unwrap_or(true));
        let mut this = slf.try_borrow_mut()?;
        this.door()?;
        match exc_info {
            Some(exc_info) if this.head_sent => return Err(reraise(exc_info)?),
            None if this.status != 0 => {
                return Err(PyAssertionError::new_err("start_response() was called a second time without exc_info"));
            }
            _ => this.status = 0,
        }
        let status = this.read_status(status)?;
        this.read_headers(py, response_headers, status)?;
        this.status = status;
        drop(this);
        slf.getattr(intern!(py, "write"))
    }

    /// Sends a piece of the body before the application returns.
    fn write(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let data = data.cast::<PyBytes>().map_err(|_| wrong("write() takes bytes", data))?;
        let mut this = slf.try_borrow_mut()?;
        this.push(py, data.as_bytes())?;
        drop(this);
        if let Some(crew) = crew() {
            crew.flush(py);
        }
        Ok(())
    }
}

/// Tells the gateway that there is no whole answer.
pub(crate) fn fail(crew: &Crew, ticket: Ticket, kind: FailKind, queued_us: u32) {
    crew.lane(ticket.lane).put(|out| put_fail(out, ticket.request, kind, queued_us));
}

/// The exception of `exc_info`, with its traceback: it is too late for another answer.
fn reraise(exc_info: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let error = PyErr::from_value(exc_info.get_item(1)?);
    let traceback = exc_info.get_item(2)?;
    error.set_traceback(exc_info.py(), traceback.cast_into().ok());
    Ok(error)
}

fn native<'a, 'py>(value: &'a Bound<'py, PyAny>, what: impl FnOnce() -> String) -> PyResult<&'a Bound<'py, PyString>> {
    value.cast::<PyString>().map_err(|_| wrong(&what(), value))
}

fn wrong(what: &str, value: &Bound<'_, PyAny>) -> PyErr {
    let kind = value.get_type().name().map_or_else(|_| "something else".into(), |name| name.to_string());
    PyTypeError::new_err(format!("{what}, not {kind}"))
}

fn quoted(text: &Bound<'_, PyString>) -> String {
    text.repr().map_or_else(|_| "?".into(), |repr| repr.to_string_lossy().into_owned())
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_control(byte: u8) -> bool {
    byte < 0x20 || byte == 0x7f
}
