//! `environ`: a copy of a prepared dict, filled in.
//!
//! Everything that repeats is kept: keys are interned once, and a value that equals the one of the request before is
//! the same object. Each Python thread has a builder of its own, so nothing here is shared or locked.

use std::collections::HashMap;

use bytes::Bytes;
use portcullis_wire::{Boot, Identity, Malformed, Protocol, RequestHead};
use pyo3::{
    exceptions::PyRuntimeError,
    intern,
    prelude::*,
    types::{PyDict, PyString, PyTuple},
};

use crate::{input::Input, python::latin1, wrapper::FileWrapper};

/// Header names remembered per thread; more than that are made up by somebody.
const MOST_HEADERS: usize = 512;

/// The longest header value that is kept for comparison with the next one.
const LONGEST_KEPT: usize = 256;

/// Callers remembered per thread.
const MOST_CALLERS: usize = 256;

/// Headers an application could take for the gate's own word, whatever the client wrote.
const IDENTITY_KEYS: [&str; 5] =
    ["HTTP_REMOTE_USER", "HTTP_REMOTE_EMAIL", "HTTP_REMOTE_ROLES", "HTTP_REMOTE_NAME", "HTTP_PROXY"];

/// Builds the `environ` of one request after the other.
pub(crate) struct Environ {
    template: Py<PyDict>,
    identity_headers: bool,
    method: Kept,
    script_name: Kept,
    query: Kept,
    server_name: Kept,
    server_port: Number,
    remote_addr: Kept,
    headers: Vec<Header>,
    by_name: HashMap<Box<[u8]>, usize>,
    /// Which header stood at which place in the request before: clients repeat themselves.
    order: Vec<usize>,
    callers: HashMap<Bytes, usize>,
    known: Vec<Caller>,
    /// The caller of the request before: often the same.
    last: usize,
}

/// A string and what it became.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    text: Option<Py<PyString>>,
}

#[derive(Default)]
struct Number {
    value: u16,
    text: Option<Py<PyString>>,
}

struct Header {
    name: Box<[u8]>,
    /// `None` when applications must not see it.
    key: Option<Py<PyString>>,
    value: Kept,
}

struct Caller {
    identity: Bytes,
    user: Py<PyDict>,
    /// `REMOTE_USER`, `AUTH_TYPE` and the opted-in headers.
    keys: Vec<(Py<PyString>, Py<PyString>)>,
}

impl Environ {
    /// What is the same for every request of this worker.
    pub(crate) fn new(py: Python<'_>, boot: &Boot) -> PyResult<Self> {
        let template = PyDict::new(py);
        let fixed = |key: &str, value: &Bound<'_, PyAny>| template.set_item(PyString::intern(py, key), value);
        let text = |key: &str, value: &str| fixed(key, PyString::intern(py, value).as_any());
        let flag = |key: &str, value: bool| fixed(key, value.into_pyobject(py)?.as_any());
        // Filled in for each request; here they fix the order and the size of the copy.
        for key in ["REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "REQUEST_URI", "SERVER_NAME"] {
            text(key, "")?;
        }
        for key in ["SERVER_PORT", "REMOTE_ADDR", "REMOTE_PORT", "portcullis.request_id", "wsgi.errors"] {
            text(key, "")?;
        }
        text("SERVER_PROTOCOL", "HTTP/1.1")?;
        text("SERVER_SOFTWARE", &boot.software)?;
        text("wsgi.url_scheme", "https")?;
        fixed("wsgi.version", (1, 0).into_pyobject(py)?.as_any())?;
        fixed("wsgi.input", Py::new(py, Input::complete(Bytes::new()))?.bind(py).as_any())?;
        flag("wsgi.input_terminated", true)?;
        flag("wsgi.multithread", boot.threads > 1)?;
        flag("wsgi.multiprocess", boot.multiprocess)?;
        flag("wsgi.run_once", false)?;
        fixed("wsgi.file_wrapper", py.get_type::<FileWrapper>().as_any())?;
        text("portcullis.application", &boot.application)?;
        text("portcullis.namespace", &boot.namespace)?;
        Ok(Self {
            template: template.unbind(),
            identity_headers: boot.identity_headers,
            method: Kept::default(),
            script_name: Kept::default(),
            query: Kept::default(),
            server_name: Kept::default(),
            server_port: Number::default(),
            remote_addr: Kept::default(),
            headers: Vec::new(),
            by_name: HashMap::new(),
            order: Vec::new(),
            callers: HashMap::new(),
            known: Vec::new(),
            last: 0,
        })
    }

    /// The `environ` of that request, without `wsgi.input` and `wsgi.errors`.
    pub(crate) fn fill<'py>(&mut self, py: Python<'py>, head: &RequestHead<'_>) -> PyResult<Bound<'py, PyDict>> {
        let environ = self.template.bind(py).copy()?;
        environ.set_item(intern!(py, "REQUEST_METHOD"), self.method.text(py, head.method.as_bytes()))?;
        environ.set_item(intern!(py, "SCRIPT_NAME"), self.script_name.text(py, head.script_name))?;
        environ.set_item(intern!(py, "PATH_INFO"), latin1(py, head.path_info))?;
        environ.set_item(intern!(py, "QUERY_STRING"), self.query.text(py, head.query))?;
        environ.set_item(intern!(py, "REQUEST_URI"), latin1(py, head.request_uri))?;
        environ.set_item(intern!(py, "SERVER_NAME"), self.server_name.text(py, head.server_name.as_bytes()))?;
        environ.set_item(intern!(py, "SERVER_PORT"), self.server_port.text(py, head.server_port))?;
        environ.set_item(intern!(py, "REMOTE_ADDR"), self.remote_addr.text(py, head.remote_addr.as_bytes()))?;
        environ.set_item(intern!(py, "REMOTE_PORT"), decimal(py, head.remote_port))?;
        environ.set_item(intern!(py, "portcullis.request_id"), latin1(py, head.request_id.as_bytes()))?;
        match head.protocol {
            Protocol::Http11 => {}
            Protocol::Http10 => environ.set_item(intern!(py, "SERVER_PROTOCOL"), intern!(py, "HTTP/1.0"))?,
            Protocol::Http2 => environ.set_item(intern!(py, "SERVER_PROTOCOL"), intern!(py, "HTTP/2"))?,
        }
        if !head.secure {
            environ.set_item(intern!(py, "wsgi.url_scheme"), intern!(py, "http"))?;
        }
        for (place, (name, value)) in head.headers.iter().enumerate() {
            self.header(py, &environ, place, name, value)?;
        }
        if let Some(identity) = head.identity {
            self.caller(py, &environ, identity)?;
        }
        Ok(environ)
    }

    fn header(
        &mut self,
        py: Python<'_>,
        environ: &Bound<'_, PyDict>,
        place: usize,
        name: &[u8],
        value: &[u8],
    ) -> PyResult<()> {
        let index = match self.order.get(place) {
            Some(index) if *self.headers[*index].name == *name => *index,
            _ => match self.find(py, place, name) {
                Some(index) => index,
                // One name too many to remember.
                None => match key_of(name) {
                    Some(key) => return environ.set_item(key, latin1(py, value)),
                    None => return Ok(()),
                },
            },
        };
        let header = &mut self.headers[index];
        match &header.key {
            Some(key) => environ.set_item(key, header.value.text(py, value)),
            None => Ok(()),
        }
    }

    fn find(&mut self, py: Python<'_>, place: usize, name: &[u8]) -> Option<usize> {
        let index = match self.by_name.get(name) {
            Some(index) => *index,
            None if self.headers.len() == MOST_HEADERS => return None,
            None => {
                let key = key_of(name).map(|key| PyString::intern(py, &key).unbind());
                self.headers.push(Header { name: name.into(), key, value: Kept::default() });
                self.by_name.insert(name.into(), self.headers.len() - 1);
                self.headers.len() - 1
            }
        };
        if place < self.order.len() {
            self.order[place] = index;
        } else if place == self.order.len() {
            self.order.push(index);
        }
        Some(index)
    }

    fn caller(&mut self, py: Python<'_>, environ: &Bound<'_, PyDict>, identity: &[u8]) -> PyResult<()> {
        if self.known.get(self.last).is_none_or(|caller| caller.identity != identity) {
            self.last = self.find_caller(py, identity)?;
        }
        let caller = &self.known[self.last];
        environ.set_item(intern!(py, "portcullis.user"), caller.user.bind(py).copy()?)?;
        caller.keys.iter().try_for_each(|(key, value)| environ.set_item(key, value))
    }

    fn find_caller(&mut self, py: Python<'_>, identity: &[u8]) -> PyResult<usize> {
        if let Some(index) = self.callers.get(identity) {
            return Ok(*index);
        }
        let caller = Caller::read(py, identity, self.identity_headers)?;
        if self.known.len() == MOST_CALLERS {
            self.known.clear();
            self.callers.clear();
        }
        self.callers.insert(caller.identity.clone(), self.known.len());
        self.known.push(caller);
        Ok(self.known.len() - 1)
    }
}

impl Caller {
    fn read(py: Python<'_>, encoded: &[u8], headers: bool) -> PyResult<Self> {
        let identity = Identity::parse(encoded).map_err(|Malformed(what)| PyRuntimeError::new_err(what))?;
        let user = PyDict::new(py);
        for (key, value) in [
            ("name", identity.name),
            ("display", identity.display),
            ("email", identity.email),
            ("method", identity.method),
            ("kind", identity.kind),
            ("credential", identity.credential),
        ] {
            user.set_item(PyString::intern(py, key), value)?;
        }
        let roles: Vec<&str> = identity.roles.iter().collect();
        user.set_item("roles", PyTuple::new(py, &roles)?)?;
        let mut keys = vec![("REMOTE_USER", identity.name.to_owned()), ("AUTH_TYPE", identity.auth_type.to_owned())];
        if headers {
            keys.push(("HTTP_REMOTE_USER", identity.name.to_owned()));
            keys.push(("HTTP_REMOTE_EMAIL", identity.email.to_owned()));
            keys.push(("HTTP_REMOTE_ROLES", roles.join(",")));
        }
        let native = |(key, value): (&str, String)| (PyString::intern(py, key), latin1(py, value.as_bytes()));
        let keys = keys.into_iter().map(native).map(|(key, value)| (key.unbind(), value.unbind())).collect();
        Ok(Self { identity: Bytes::copy_from_slice(encoded), user: user.unbind(), keys })
    }
}

impl Kept {
    fn text<'py>(&mut self, py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
        if let Some(text) = &self.text
            && self.bytes == bytes
        {
            return text.bind(py).clone();
        }
        let text = latin1(py, bytes);
        if bytes.len() <= LONGEST_KEPT {
            self.bytes.clear();
            self.bytes.extend_from_slice(bytes);
            self.text = Some(text.clone().unbind());
        }
        text
    }
}

impl Number {
    fn text<'py>(&mut self, py: Python<'py>, value: u16) -> Bound<'py, PyString> {
        if self.value != value || self.text.is_none() {
            self.value = value;
            self.text = Some(decimal(py, value).unbind());
        }
        self.text.as_ref().map_or_else(|| decimal(py, value), |text| text.bind(py).clone())
    }
}

/// The key of a header; `None` for one that must not reach an application. The gateway has sorted them out already:
/// this is the second look, because `x_user` and `x-user` are the same key.
fn key_of(name: &[u8]) -> Option<String> {
    match name {
        b"content-type" => return Some("CONTENT_TYPE".into()),
        b"content-length" => return Some("CONTENT_LENGTH".into()),
        _ => {}
    }
    let mut key = String::with_capacity(name.len() + 5);
    key.push_str("HTTP_");
    for byte in name {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' => key.push(byte.to_ascii_uppercase() as char),
            b'-' => key.push('_'),
            _ => return None,
        }
    }
    Some(key).filter(|key| !name.is_empty() && !IDENTITY_KEYS.contains(&key.as_str()))
}

fn decimal(py: Python<'_>, number: u16) -> Bound<'_, PyString> {
    let mut digits = [0; 5];
    let (mut rest, mut at) = (number, digits.len());
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            return latin1(py, &digits[at..]);
        }
    }
}
