//! `wsgi.input`: the request's body as a file.
//!
//! A small body has come with the request and is read from memory; a large one is fetched piece by piece, and the
//! gateway may send more as the application reads. A short result always means the end of the body: a client that goes
//! away raises `OSError` instead.

use bytes::Bytes;
use pyo3::{
    intern,
    prelude::*,
    types::{PyBytes, PyList, PyMemoryView, PySlice},
};

use crate::{crew::crew, exchange::Ticket};

/// The object in `environ`.
#[pyclass(module = "portcullis_worker", name = "Input")]
pub(crate) struct Input {
    /// Received and not read.
    here: Bytes,
    /// Where more comes from.
    more: Option<Ticket>,
}

impl Input {
    pub(crate) fn complete(body: Bytes) -> Self {
        Self { here: body, more: None }
    }

    pub(crate) fn following(ticket: Ticket) -> Self {
        Self { here: Bytes::new(), more: Some(ticket) }
    }

    /// Sees to it that something is here, unless the body is at its end.
    fn fill(&mut self, py: Python<'_>) -> PyResult<bool> {
        if !self.here.is_empty() {
            return Ok(true);
        }
        let (Some(ticket), Some(crew)) = (self.more, crew()) else { return Ok(false) };
        match ticket.receive(py, crew)? {
            Some(chunk) => {
                self.here = chunk;
                Ok(true)
            }
            None => {
                self.more = None;
                Ok(false)
            }
        }
    }

    /// Reads until `limit` bytes, the end of a line if `line`, or the end of the body.
    fn take<'py>(&mut self, py: Python<'py>, limit: usize, line: bool) -> PyResult<Bound<'py, PyBytes>> {
        if limit == 0 || !self.fill(py)? {
            return Ok(PyBytes::new(py, b""));
        }
        let (length, ends) = self.portion(limit, line);
        if ends || length == limit || self.more.is_none() {
            return Ok(PyBytes::new(py, &self.here.split_to(length)));
        }
        let mut taken = Vec::with_capacity(length * 2);
        let mut portion = (length, ends);
        loop {
            taken.extend_from_slice(&self.here.split_to(portion.0));
            if portion.1 || taken.len() == limit || !self.fill(py)? {
                return Ok(PyBytes::new(py, &taken));
            }
            portion = self.portion(limit - taken.len(), line);
        }
    }

    /// How much of what is here belongs to the result, and whether a line ends there.
    fn portion(&self, limit: usize, line: bool) -> (usize, bool) {
        let within = &self.here[..self.here.len().min(limit)];
        let newline = if line { within.iter().position(|byte| *byte == b'\n') } else { None };
        newline.map_or((within.len(), false), |at| (at + 1, true))
    }
}

#[pymethods]
impl Input {
    #[pyo3(signature = (size = None, /))]
    fn read<'py>(&mut self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        self.take(py, limit(size), false)
    }

    /// At most one wait for the gateway, as `io.BufferedIOBase` wants it.
    #[pyo3(signature = (size = None, /))]
    fn read1<'py>(&mut self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        self.fill(py)?;
        let length = self.portion(limit(size), false).0;
        Ok(PyBytes::new(py, &self.here.split_to(length)))
    }

    #[pyo3(signature = (size = None, /))]
    fn readline<'py>(&mut self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        self.take(py, limit(size), true)
    }

    #[pyo3(signature = (hint = None, /))]
    fn readlines<'py>(&mut self, py: Python<'py>, hint: Option<isize>) -> PyResult<Bound<'py, PyList>> {
        let lines = PyList::empty(py);
        let enough = hint.filter(|hint| *hint > 0).map_or(usize::MAX, isize::unsigned_abs);
        let mut length = 0;
        while length < enough {
            let line = self.take(py, usize::MAX, true)?;
            if line.as_bytes().is_empty() {
                break;
            }
            length += line.as_bytes().len();
            lines.append(line)?;
        }
        Ok(lines)
    }

    /// Through a `memoryview`: the buffer protocol is not in Python 3.10's stable interface.
    fn readinto(&mut self, py: Python<'_>, target: &Bound<'_, PyAny>) -> PyResult<usize> {
        let target = PyMemoryView::from(target)?.call_method1(intern!(py, "cast"), ("B",))?;
        let data = self.take(py, target.len()?, false)?;
        let length = data.as_bytes().len();
        target.set_item(PySlice::new(py, 0, length.cast_signed(), 1), data)?;
        Ok(length)
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        self.take(py, usize::MAX, true).map(|line| Some(line).filter(|line| !line.as_bytes().is_empty()))
    }

    fn readable(&self) -> bool {
        true
    }

    fn writable(&self) -> bool {
        false
    }

    fn seekable(&self) -> bool {
        false
    }

    /// A wrapper of module `io` flushes and closes what it wraps; the body stays readable for the application.
    fn flush(&self) {}

    fn close(&self) {}

    #[getter]
    fn closed(&self) -> bool {
        false
    }
}

/// Negative or absent means everything.
fn limit(size: Option<isize>) -> usize {
    size.and_then(|size| usize::try_from(size).ok()).unwrap_or(usize::MAX)
}
