//! What travels on a worker's control socket.

use bytes::{BufMut, BytesMut};

use crate::{
    Malformed,
    frame::{Reader, put_string},
};

/// What a worker is told before it imports anything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Boot {
    /// `portcullis.application`: the mount, `/notes`.
    pub application: String,
    /// `portcullis.namespace`.
    pub namespace: String,
    /// Directory that becomes `sys.path[0]`.
    pub directory: String,
    /// Dotted module name.
    pub module: String,
    /// Name of the callable inside it, or a factory call, `create_app()`.
    pub callable: String,
    /// Python threads that run requests, at least one.
    pub threads: u16,
    /// `wsgi.multiprocess`: the application has more than one worker.
    pub multiprocess: bool,
    /// The process imports the application, and workers are forked from it: see [`crate::Kind::Fork`].
    pub preload: bool,
    /// Also give the identity as `HTTP_REMOTE_USER` and its kin.
    pub identity_headers: bool,
    /// The callable speaks ASGI; it is wrapped.
    pub asgi: bool,
    /// `SERVER_SOFTWARE`.
    pub software: String,
}

impl Boot {
    /// Writes the payload of a [`crate::Kind::Boot`] frame.
    pub fn put(&self, out: &mut BytesMut) {
        out.put_u16_le(self.threads);
        out.put_u8(u8::from(self.multiprocess));
        out.put_u8(u8::from(self.preload));
        out.put_u8(u8::from(self.identity_headers));
        out.put_u8(u8::from(self.asgi));
        for field in [&self.application, &self.namespace, &self.directory, &self.module, &self.callable, &self.software]
        {
            put_string(out, field.as_bytes());
        }
    }

    /// Reads that payload.
    ///
    /// # Errors
    /// Any payload that [`Boot::put`] could not have written.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader(payload);
        let boot = Self {
            threads: r.u16("threads")?,
            multiprocess: r.u8("multiprocess")? == 1,
            preload: r.u8("preload")? == 1,
            identity_headers: r.u8("identity headers")? == 1,
            asgi: r.u8("interface")? == 1,
            application: r.text("application")?.to_owned(),
            namespace: r.text("namespace")?.to_owned(),
            directory: r.text("directory")?.to_owned(),
            module: r.text("module")?.to_owned(),
            callable: r.text("callable")?.to_owned(),
            software: r.text("software")?.to_owned(),
        };
        r.finish("bytes after the boot message").map(|()| boot)
    }
}

/// The callable was imported and looks callable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// `3.11.7`.
    pub python: String,
    /// Time the import took, milliseconds.
    pub import_ms: u32,
}

impl Ready {
    /// Writes the payload of a [`crate::Kind::Ready`] frame.
    pub fn put(&self, out: &mut BytesMut) {
        out.put_u32_le(self.import_ms);
        put_string(out, self.python.as_bytes());
    }

    /// Reads that payload.
    ///
    /// # Errors
    /// Any payload that [`Ready::put`] could not have written.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader(payload);
        let ready = Self { import_ms: r.u32("import time")?, python: r.text("python version")?.to_owned() };
        r.finish("bytes after the ready message").map(|()| ready)
    }
}

/// Where a line came from and how bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Level {
    /// `sys.stdout`.
    Out = 0,
    /// `sys.stderr`.
    Err = 1,
    /// `wsgi.errors`.
    Errors = 2,
    /// The worker's own warning about the application.
    Warning = 3,
    /// The worker's own report of an application error, with its traceback.
    Error = 4,
}

/// One line, or one traceback, for the application's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log<'a> {
    /// Where it came from.
    pub level: Level,
    /// Request id, empty outside a request.
    pub request_id: &'a str,
    /// Name of the Python thread.
    pub thread: &'a str,
    /// The text, without its final newline.
    pub text: &'a str,
}

impl<'a> Log<'a> {
    /// Writes the payload of a [`crate::Kind::Log`] frame.
    pub fn put(&self, out: &mut BytesMut) {
        out.put_u8(self.level as u8);
        for field in [self.request_id, self.thread, self.text] {
            put_string(out, field.as_bytes());
        }
    }

    /// Reads that payload.
    ///
    /// # Errors
    /// Any payload that [`Log::put`] could not have written.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader(payload);
        let level = match r.u8("log level")? {
            0 => Level::Out,
            1 => Level::Err,
            2 => Level::Errors,
            3 => Level::Warning,
            4 => Level::Error,
            _ => return Err(Malformed("log level")),
        };
        let log = Self { level, request_id: r.text("request id")?, thread: r.text("thread")?, text: r.text("text")? };
        r.finish("bytes after a log line").map(|()| log)
    }
}

/// The request has used up its time: raise in its thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupt {
    /// Index of the lane, in the order the descriptors were sent.
    pub lane: u32,
    /// Request on that lane.
    pub request: u32,
}

impl Interrupt {
    /// Writes the payload of a [`crate::Kind::Interrupt`] frame.
    pub fn put(&self, out: &mut BytesMut) {
        out.put_u32_le(self.lane);
        out.put_u32_le(self.request);
    }

    /// Reads that payload.
    ///
    /// # Errors
    /// Another size than two numbers.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader(payload);
        let interrupt = Self { lane: r.u32("lane")?, request: r.u32("request")? };
        r.finish("bytes after an interrupt").map(|()| interrupt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_round_trip_and_refuse_truncation() {
        let boot = Boot {
            application: "/notes".into(),
            namespace: "notes".into(),
            directory: "/srv/notes".into(),
            module: "app".into(),
            callable: "application".into(),
            threads: 4,
            multiprocess: true,
            preload: true,
            identity_headers: false,
            asgi: true,
            software: "Portcullis/0.1".into(),
        };
        let ready = Ready { python: "3.11.7".into(), import_ms: 12 };
        let log = Log { level: Level::Errors, request_id: "r", thread: "MainThread", text: "hé" };
        let interrupt = Interrupt { lane: 1, request: 9 };
        let mut out = BytesMut::new();
        boot.put(&mut out);
        assert_eq!(Boot::parse(&out), Ok(boot));
        assert!((0..out.len()).all(|cut| Boot::parse(&out[..cut]).is_err()));
        out.clear();
        ready.put(&mut out);
        assert_eq!(Ready::parse(&out), Ok(ready));
        assert!((0..out.len()).all(|cut| Ready::parse(&out[..cut]).is_err()));
        out.clear();
        log.put(&mut out);
        assert_eq!(Log::parse(&out), Ok(log));
        out.clear();
        interrupt.put(&mut out);
        assert_eq!(Interrupt::parse(&out), Ok(interrupt));
    }
}
