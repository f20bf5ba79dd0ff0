//! `sys.stdout`, `sys.stderr` and `wsgi.errors`: text that becomes lines of the application's log.
//!
//! A line is kept until its newline comes, separately for each thread, so that two threads never share one. `wsgi.errors`
//! belongs to a request and stamps its lines with the request's id, also after the request and from other threads. Other
//! lines carry the id of the request that their thread runs, if it runs one.
//!
//! A record of `logging` or `warnings` (`levels.py`) arrives whole, with its newlines and its level.

use std::{
    cell::{Cell, RefCell},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread::ThreadId,
};

use bytes::{Bytes, BytesMut};
use portcullis_wire::{Kind, Level, Log, Source};
use pyo3::{
    ffi::c_str,
    prelude::*,
    types::{PyBytes, PyDict, PyMemoryView, PyString, PyTuple},
};

use crate::control::control;

/// A line longer than this is cut into several: a binary dump must not become one giant record.
const LONGEST_LINE: usize = 32 * 1024;

/// The longest report (a traceback); what a frame can carry, with room to spare.
const LONGEST_REPORT: usize = 256 * 1024;

thread_local! {
    /// The request that the thread runs; empty when it runs none.
    static REQUEST: RefCell<Bytes> = const { RefCell::new(Bytes::new()) };
    /// Whether the thread has printed something that does not end with a newline.
    static UNFINISHED: Cell<bool> = const { Cell::new(false) };
}

/// `sys.stdout` and `sys.stderr` as the application finds them.
static PRINTED: OnceLock<[Py<Stream>; 2]> = OnceLock::new();

/// A text stream into the log.
#[pyclass(module = "portcullis_worker", name = "LogStream", frozen)]
pub(crate) struct Stream {
    source: Source,
    request_id: Bytes,
    /// Lines begun and not ended.
    begun: Mutex<Vec<(ThreadId, String)>>,
}

/// What `sys.stdout.buffer` is.
#[pyclass(module = "portcullis_worker", name = "LogBuffer", frozen)]
pub(crate) struct Binary {
    stream: Py<Stream>,
}

/// Puts our streams in the place of Python's, and sees to it that records come with their level.
pub(crate) fn install(py: Python<'_>) -> PyResult<()> {
    let sys = py.import("sys")?;
    let stream = |source| Py::new(py, Stream::new(source, Bytes::new()));
    let [out, err] = [stream(Source::Out)?, stream(Source::Err)?];
    sys.setattr("stdout", &out)?;
    sys.setattr("stderr", &err)?;
    let _ = PRINTED.set([out, err]);
    let code = c_str!(include_str!("levels.py"));
    let levels = PyModule::from_code(py, code, c"<portcullis>", c"portcullis_levels")?;
    levels.call_method1("install", (py.get_type::<Stream>(),)).map(|_| ())
}

/// From here on what the calling thread prints belongs to that request.
pub(crate) fn begin_request(id: Bytes) {
    REQUEST.set(id);
}

/// The request of the calling thread is over: what it has begun to print is a line of this request, not of the next one.
pub(crate) fn end_request(py: Python<'_>) {
    if UNFINISHED.take() {
        finish_printed(py);
    }
    REQUEST.set(Bytes::new());
}

/// Sends the lines that the calling thread has begun to print.
pub(crate) fn finish_printed(py: Python<'_>) {
    PRINTED.get().into_iter().flatten().for_each(|stream| stream.get().finish(py));
}

/// Writes a report of the worker itself into the application's log.
pub(crate) fn report(py: Python<'_>, level: Level, request_id: &[u8], text: &str) {
    let source = if level >= Level::Error { Source::Error } else { Source::Warning };
    send(py, source, Some(level), request_id, &[cut(text)]);
}

/// No longer than a frame can carry.
pub(crate) fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(LONGEST_REPORT)].to_owned()
}

impl Stream {
    pub(crate) fn new(source: Source, request_id: Bytes) -> Self {
        Self { source, request_id, begun: Mutex::default() }
    }

    /// Sends the line that this thread has begun, if any.
    pub(crate) fn finish(&self, py: Python<'_>) {
        let me = std::thread::current().id();
        let mut begun = self.begun();
        let Some(at) = begun.iter().position(|(thread, _)| *thread == me) else { return };
        let (_, line) = begun.swap_remove(at);
        drop(begun);
        send(py, self.source, None, &self.request_id, &[line]);
    }

    fn put(&self, py: Python<'_>, text: &str) {
        if text.is_empty() {
            return;
        }
        let lines = self.whole_lines(text);
        if !lines.is_empty() {
            send(py, self.source, None, &self.request_id, &lines);
        }
        UNFINISHED.set(UNFINISHED.get() || !text.ends_with('\n'));
    }

    /// Adds to this thread's line; gives back what is complete now.
    fn whole_lines(&self, text: &str) -> Vec<String> {
        let me = std::thread::current().id();
        let mut begun = self.begun();
        let at = begun.iter().position(|(thread, _)| *thread == me);
        let mut line = at.map(|at| begun.swap_remove(at).1).unwrap_or_default();
        let mut lines = Vec::new();
        for piece in text.split_inclusive('\n') {
            line.push_str(piece);
            while line.len() > LONGEST_LINE {
                let rest = line.split_off(line.floor_char_boundary(LONGEST_LINE));
                lines.push(std::mem::replace(&mut line, rest));
            }
            if line.ends_with('\n') {
                line.pop();
                lines.push(std::mem::take(&mut line));
            }
        }
        if !line.is_empty() {
            begun.push((me, line));
        }
        lines
    }

    fn begun(&self) -> MutexGuard<'_, Vec<(ThreadId, String)>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was begun and never ended is a line all the same.
impl Drop for Stream {
    fn drop(&mut self) {
        let lines: Vec<_> = std::mem::take(&mut *self.begun()).into_iter().map(|(_, line)| line).collect();
        if !lines.is_empty() {
            Python::attach(|py| send(py, self.source, None, &self.request_id, &lines));
        }
    }
}

#[pymethods]
impl Stream {
    fn write(&self, py: Python<'_>, text: &Bound<'_, PyString>) -> PyResult<usize> {
        // Lone surrogates cannot be written in UTF-8; the log shows a replacement.
        self.put(py, &text.to_string_lossy());
        text.len()
    }

    fn writelines(&self, py: Python<'_>, lines: &Bound<'_, PyAny>) -> PyResult<()> {
        for line in lines.try_iter()? {
            self.write(py, line?.cast::<PyString>()?)?;
        }
        Ok(())
    }

    /// One record, however many lines it has. `level` is a number as `logging` uses them.
    fn write_record(&self, py: Python<'_>, level: i64, text: &Bound<'_, PyString>) {
        self.finish(py);
        let text = text.to_string_lossy();
        let text = text.strip_suffix('\n').unwrap_or(&text);
        send(py, self.source, Some(level_of(level)), &self.request_id, &[cut(text)]);
    }

    fn flush(&self, py: Python<'_>) {
        self.finish(py);
    }

    /// The pipe that the gateway reads too, for whoever writes past us: a child process, a C library.
    fn fileno(&self) -> i32 {
        if self.source == Source::Out { 1 } else { 2 }
    }

    fn isatty(&self) -> bool {
        false
    }

    fn readable(&self) -> bool {
        false
    }

    fn writable(&self) -> bool {
        true
    }

    fn seekable(&self) -> bool {
        false
    }

    /// Never closed: the log outlives whoever thinks to own it.
    fn close(&self, py: Python<'_>) {
        self.finish(py);
    }

    #[pyo3(signature = (**_settings))]
    fn reconfigure(&self, _settings: Option<&Bound<'_, PyDict>>) {}

    #[getter]
    fn closed(&self) -> bool {
        false
    }

    #[getter]
    fn encoding(&self) -> &'static str {
        "utf-8"
    }

    #[getter]
    fn errors(&self) -> &'static str {
        "replace"
    }

    #[getter]
    fn newlines(&self) -> Option<&'static str> {
        None
    }

    #[getter]
    fn line_buffering(&self) -> bool {
        true
    }

    #[getter]
    fn mode(&self) -> &'static str {
        "w"
    }

    #[getter]
    fn name(&self) -> &'static str {
        match self.source {
            Source::Out => "<stdout>",
            Source::Err => "<stderr>",
            _ => "<wsgi.errors>",
        }
    }

    #[getter]
    fn buffer(slf: Py<Self>) -> Binary {
        Binary { stream: slf }
    }
}

#[pymethods]
impl Binary {
    fn write(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        let bytes = PyMemoryView::from(data)?.call_method0("tobytes")?;
        let bytes = bytes.cast::<PyBytes>()?.as_bytes();
        self.stream.get().put(py, &String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&self, py: Python<'_>) {
        self.stream.get().finish(py);
    }

    fn fileno(&self) -> i32 {
        self.stream.get().fileno()
    }

    fn isatty(&self) -> bool {
        false
    }

    fn writable(&self) -> bool {
        true
    }

    #[pyo3(signature = (*_args))]
    fn close(&self, _args: &Bound<'_, PyTuple>) {}

    #[getter]
    fn closed(&self) -> bool {
        false
    }
}

/// The level of a record; applications may put their own between those that there are.
const fn level_of(number: i64) -> Level {
    match number {
        50.. => Level::Critical,
        40..=49 => Level::Error,
        30..=39 => Level::Warning,
        20..=29 => Level::Info,
        _ => Level::Debug,
    }
}

fn send(py: Python<'_>, source: Source, level: Option<Level>, request_id: &[u8], lines: &[String]) {
    let Some(control) = control() else {
        py.detach(|| write_to_pipe(source, lines));
        return;
    };
    let running = if request_id.is_empty() { REQUEST.with_borrow(Bytes::clone) } else { Bytes::new() };
    let request_id = if request_id.is_empty() { &running[..] } else { request_id };
    let request_id = std::str::from_utf8(request_id).unwrap_or("");
    let thread = thread_name(py);
    py.detach(|| {
        for text in lines {
            let mut payload = BytesMut::with_capacity(text.len() + 64);
            Log { source, level, request_id, thread: &thread, text }.put(&mut payload);
            control.send(Kind::Log, &payload);
        }
    });
}

/// A forked child has no control socket; its lines go where those of any child process go.
fn write_to_pipe(source: Source, lines: &[String]) {
    let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
    let written = if source == Source::Out {
        rustix::io::write(std::io::stdout(), text.as_bytes())
    } else {
        rustix::io::write(std::io::stderr(), text.as_bytes())
    };
    // Nobody is left to tell when that pipe is closed.
    let _ = written;
}

/// The name of the calling Python thread; empty late in the interpreter's shutdown.
fn thread_name(py: Python<'_>) -> String {
    let name = || py.import("threading")?.call_method0("current_thread")?.getattr("name")?.extract::<String>();
    name().unwrap_or_default()
}
