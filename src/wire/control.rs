//! What travels on a worker's control socket.

use bytes::{BufMut, BytesMut};

use crate::{
    Malformed,
    frame::{Reader, put_count, put_string},
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
    /// Say which directories its modules come from: see [`Modules`].
    pub development: bool,
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
        out.put_u8(u8::from(self.development));
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
            development: r.u8("development")? == 1,
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

/// The directories that an application's modules were imported from, as far as they lie outside its own and outside the
/// interpreter's: what development watches besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modules(
    /// Absolute paths.
    pub Vec<String>,
);

impl Modules {
    /// Writes the payload of a [`crate::Kind::Modules`] frame.
    pub fn put(&self, out: &mut BytesMut) {
        put_count(out, self.0.len());
        for directory in &self.0 {
            put_string(out, directory.as_bytes());
        }
    }

    /// Reads that payload.
    ///
    /// # Errors
    /// Any payload that [`Modules::put`] could not have written.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader(payload);
        let count = r.u16("number of directories")?;
        let directories = (0..count).map(|_| r.text("directory").map(str::to_owned)).collect::<Result<_, _>>()?;
        r.finish("bytes after the directories").map(|()| Self(directories))
    }
}

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Source {
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

/// How bad it is, in the words of Python's `logging`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// For who looks for a mistake.
    Debug = 1,
    /// Worth knowing.
    Info = 2,
    /// May become a problem.
    Warning = 3,
    /// Something failed.
    Error = 4,
    /// Everything failed.
    Critical = 5,
}

impl Level {
    /// Every level, the least first.
    pub const ALL: [Self; 5] = [Self::Debug, Self::Info, Self::Warning, Self::Error, Self::Critical];

    /// The word in logs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }
}

/// One line, one record or one traceback, for the application's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log<'a> {
    /// Where it came from.
    pub source: Source,
    /// How bad it is, where that is known.
    pub level: Option<Level>,
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
        out.put_u8(self.source as u8);
        out.put_u8(self.level.map_or(0, |level| level as u8));
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
        let source = match r.u8("log source")? {
            0 => Source::Out,
            1 => Source::Err,
            2 => Source::Errors,
            3 => Source::Warning,
            4 => Source::Error,
            _ => return Err(Malformed("log source")),
        };
        let level = match r.u8("log level")? {
            0 => None,
            byte => {
                let known = Level::ALL.into_iter().find(|level| *level as u8 == byte);
                Some(known.ok_or(Malformed("log level"))?)
            }
        };
        let (request_id, thread, text) = (r.text("request id")?, r.text("thread")?, r.text("text")?);
        r.finish("bytes after a log line").map(|()| Self { source, level, request_id, thread, text })
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
            development: true,
            asgi: true,
            software: "Portcullis/0.1".into(),
        };
        let ready = Ready { python: "3.11.7".into(), import_ms: 12 };
        let modules = Modules(vec!["/srv/shared".into(), "/srv/other".into()]);
        let line = Log { source: Source::Errors, level: None, request_id: "r", thread: "MainThread", text: "hé" };
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
        modules.put(&mut out);
        assert_eq!(Modules::parse(&out), Ok(modules));
        assert!((0..out.len()).all(|cut| Modules::parse(&out[..cut]).is_err()));
        for level in Level::ALL.map(Some).into_iter().chain([None]) {
            let log = Log { level, ..line.clone() };
            out.clear();
            log.put(&mut out);
            assert_eq!(Log::parse(&out), Ok(log));
            assert!((0..out.len()).all(|cut| Log::parse(&out[..cut]).is_err()));
        }
        out.clear();
        interrupt.put(&mut out);
        assert_eq!(Interrupt::parse(&out), Ok(interrupt));
    }
}
