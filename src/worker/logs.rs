//! `sys.stdout`, `sys.stderr` and `wsgi.errors`: text that becomes lines of the application's log.
//!
//! A line is kept until its newline comes, separately for each thread, so that two threads never share one. `wsgi.errors`
//! belongs to a request and stamps its lines with the request's id, also after the request and from other threads.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    thread::ThreadId,
};

use bytes::{Bytes, BytesMut};
use portcullis_wire::{Kind, Level, Log};
use pyo3::{
    prelude::*,
    types::{PyBytes, PyDict, PyMemoryView, PyString, PyTuple},
};

use crate::control::control;

/// A line longer than this is cut into several: a binary dump must not become one giant record.
const LONGEST_LINE: usize = 32 * 1024;

/// The longest report (a traceback); what a frame can carry, with room to spare.
const LONGEST_REPORT: usize = 256 * 1024;

/// A text stream into the log.
#[pyclass(module = "portcullis_worker", name = "LogStream", frozen)]
pub(crate) struct Stream {
    level: Level,
    request_id: Bytes,
    /// Lines begun and not ended.
    begun: Mutex<Vec<(ThreadId, String)>>,
}

/// What `sys.stdout.buffer` is.
#[pyclass(module = "portcullis_worker", name = "LogBuffer", frozen)]
pub(crate) struct Binary {
    stream: Py<Stream>,
}

/// Writes a report of the worker itself into the application's log.
pub(crate) fn report(py: Python<'_>, level: Level, request_id: &[u8], text: &str) {
    let cut = text.floor_char_boundary(LONGEST_REPORT);
    send(py, level, request_id, &[text[..cut].to_owned()]);
}

impl Stream {
    pub(crate) fn new(level: Level, request_id: Bytes) -> Self {
        Self { level, request_id, begun: Mutex::default() }
    }

    /// Sends the line that this thread has begun, if any.
    pub(crate) fn finish(&self, py: Python<'_>) {
        let me = std::thread::current().id();
        let mut begun = self.begun();
        let Some(at) = begun.iter().position(|(thread, _)| *thread == me) else { return };
        let (_, line) = begun.swap_remove(at);
        drop(begun);
        send(py, self.level, &self.request_id, &[line]);
    }

    fn put(&self, py: Python<'_>, text: &str) {
        if text.is_empty() {
            return;
        }
        let lines = self.whole_lines(text);
        if !lines.is_empty() {
            send(py, self.level, &self.request_id, &lines);
        }
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
            Python::attach(|py| send(py, self.level, &self.request_id, &lines));
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

    fn flush(&self, py: Python<'_>) {
        self.finish(py);
    }

    /// The pipe that the gateway reads too, for whoever writes past us: a child process, a C library.
    fn fileno(&self) -> i32 {
        if self.level == Level::Out { 1 } else { 2 }
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
        match self.level {
            Level::Out => "<stdout>",
            Level::Err => "<stderr>",
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

fn send(py: Python<'_>, level: Level, request_id: &[u8], lines: &[String]) {
    let request_id = std::str::from_utf8(request_id).unwrap_or("");
    let Some(control) = control() else {
        py.detach(|| write_to_pipe(level, lines));
        return;
    };
    let thread = thread_name(py);
    py.detach(|| {
        for text in lines {
            let mut payload = BytesMut::with_capacity(text.len() + 64);
            Log { level, request_id, thread: &thread, text }.put(&mut payload);
            control.send(Kind::Log, &payload);
        }
    });
}

/// A forked child has no control socket; its lines go where those of any child process go.
fn write_to_pipe(level: Level, lines: &[String]) {
    let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
    let written = if level == Level::Out {
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
