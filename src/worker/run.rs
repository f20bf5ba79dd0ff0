//! One request, from the frame to the end of the answer.
//!
//! ```text
//! environ -> application(environ, start_response) -> list: one frame; anything else: piece by piece -> close() -> end
//! ```
//!
//! Whatever happens on the way, `close()` is called once and the gateway is told once how it ended.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use portcullis_wire::{BodyKind, Boot, FailKind, Level, RequestHead, Source};
use pyo3::{
    exceptions::PyConnectionAbortedError,
    intern,
    prelude::*,
    types::{PyBytes, PyDict, PyList, PyTuple},
};

use crate::{
    crew::{Crew, HOLD, Job, Turn, micros},
    environ::Environ,
    exchange::Ticket,
    input::Input,
    logs::{self, Stream, report},
    python,
    respond::{Ended, StartResponse, fail},
    wrapper::FileWrapper,
};

/// One Python thread's way of running requests.
pub(crate) struct Runner<'a> {
    crew: &'static Crew,
    application: &'a Py<PyAny>,
    environ: Environ,
    /// Used again unless the application kept it.
    start_response: Option<Py<StartResponse>>,
}

/// Why there is no whole answer.
enum Failure {
    /// The application raised.
    Raised(PyErr),
    /// It broke the contract in a way that no exception of its own tells.
    Broke(String),
    /// The body ended before its Content-Length.
    TooShort,
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Self::Raised(error)
    }
}

/// Runs requests in the calling Python thread until the worker stops.
pub(crate) fn serve(
    py: Python<'_>,
    crew: &'static Crew,
    seat: usize,
    application: &Py<PyAny>,
    boot: &Boot,
) -> PyResult<()> {
    crew.sit_down(seat, python::thread_ident(py)?);
    let mut runner = Runner { crew, application, environ: Environ::new(py, boot)?, start_response: None };
    let mut turn = Turn::new(seat);
    while let Some(job) = crew.next(py, &mut turn) {
        runner.run(py, &turn, job);
    }
    Ok(())
}

impl Runner<'_> {
    fn run(&mut self, py: Python<'_>, turn: &Turn, job: Job) {
        let Ok(head) = RequestHead::parse(&job.payload) else {
            self.crew.lose(job.lane);
            return;
        };
        let ticket = Ticket { lane: job.lane, request: job.request, serial: job.serial, seat: turn.seat };
        let queued_us = turn.began.map_or(0, |began| micros(began.saturating_duration_since(job.arrived)));
        let request_id = job.payload.slice_ref(head.request_id.as_bytes());
        logs::begin_request(request_id.clone());
        let whole = catch_unwind(AssertUnwindSafe(|| {
            let answer = self.answer(py, &head, &job.payload, ticket, queued_us, &request_id);
            answer.map_err(|failure| self.explain(py, &head, ticket, &request_id, failure))
        }));
        logs::end_request(py);
        let kind = match whole {
            Ok(Ok(())) => return,
            Ok(Err(kind)) => kind,
            // The panic has been written to stderr; what it left behind in this thread is thrown away.
            Err(_) => {
                self.start_response = None;
                FailKind::Exception
            }
        };
        fail(self.crew, ticket, kind, queued_us);
    }

    fn answer(
        &mut self,
        py: Python<'_>,
        head: &RequestHead<'_>,
        payload: &Bytes,
        ticket: Ticket,
        queued_us: u32,
        request_id: &Bytes,
    ) -> Result<(), Failure> {
        let environ = self.environ.fill(py, head)?;
        let errors = Bound::new(py, Stream::new(Source::Errors, request_id.clone()))?;
        environ.set_item(intern!(py, "wsgi.errors"), &errors)?;
        if head.body_kind == BodyKind::Follows {
            environ.set_item(intern!(py, "wsgi.input"), Bound::new(py, Input::following(ticket))?)?;
        } else if !head.body.is_empty() {
            environ
                .set_item(intern!(py, "wsgi.input"), Bound::new(py, Input::complete(payload.slice_ref(head.body)))?)?;
        }
        let start_response = self.start_response(py)?;
        let head_only = head.method == "HEAD";
        let mut fresh = start_response.try_borrow_mut().map_err(PyErr::from)?;
        fresh.reset(ticket, request_id.clone(), queued_us, head_only);
        drop(fresh);
        let delivered = self.call(py, environ, &start_response, request_id);
        errors.get().finish(py);
        start_response.try_borrow_mut().map_err(PyErr::from)?.retire();
        self.start_response = Some(start_response.unbind());
        match delivered? {
            Ended::Well => Ok(()),
            Ended::NotStarted => Err(Failure::Broke("start_response() was never called".into())),
            Ended::TooShort => Err(Failure::TooShort),
        }
    }

    fn call(
        &self,
        py: Python<'_>,
        environ: Bound<'_, PyDict>,
        start_response: &Bound<'_, StartResponse>,
        request_id: &Bytes,
    ) -> Result<Ended, Failure> {
        let answer = self.application.bind(py).call1((environ, start_response))?;
        if let Ok(list) = answer.cast_exact::<PyList>() {
            return match list.len() {
                1 => one(py, &list.get_item(0)?, start_response),
                _ => many(py, &list.to_tuple(), start_response),
            };
        }
        if let Ok(tuple) = answer.cast_exact::<PyTuple>() {
            return many(py, tuple, start_response);
        }
        if let Ok(bytes) = answer.cast_exact::<PyBytes>() {
            warn_about_bytes(py, request_id);
            return one(py, bytes.as_any(), start_response);
        }
        let iterated = self.iterate(py, &answer, start_response);
        let closed = match answer.getattr_opt(intern!(py, "close")) {
            Ok(Some(close)) => close.call0().map(|_| ()),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = closed {
            let text = format!("close() of the answer failed\n{}", python::traceback(py, &error));
            report(py, Level::Error, request_id, &text);
        }
        iterated?;
        Ok(start_response.try_borrow_mut().map_err(PyErr::from)?.finish(py)?)
    }

    /// Hands every block over before it asks for the next one.
    fn iterate(
        &self,
        py: Python<'_>,
        answer: &Bound<'_, PyAny>,
        start_response: &Bound<'_, StartResponse>,
    ) -> Result<(), Failure> {
        if let Ok(file) = answer.cast_exact::<FileWrapper>() {
            // A file that cannot be asked is read, which says what is wrong with it.
            if let Some(plain) = file.get().plain_file(py).ok().flatten()
                && start_response.try_borrow_mut().map_err(PyErr::from)?.push_file(py, &plain)?
            {
                self.crew.flush(py);
                return Ok(());
            }
            while let Some(block) = file.get().next_large(py)? {
                if !self.hand_over(py, &block, start_response, false)? {
                    break;
                }
            }
            return Ok(());
        }
        // The first block leaves at once. What follows in no time may wait for company, as answers do: the next block is
        // about to be asked for, and somebody stands by who sends it off if that takes longer than it looks.
        let (mut asked, mut first) = (Instant::now(), true);
        for block in answer.try_iter()? {
            let quick = !first && asked.elapsed() < HOLD;
            first = false;
            if !self.hand_over(py, &block?, start_response, quick)? {
                break;
            }
            asked = Instant::now();
        }
        Ok(())
    }

    /// Sends one block, or with `quick` holds it back while somebody stands by; false when no more is wanted.
    fn hand_over(
        &self,
        py: Python<'_>,
        block: &Bound<'_, PyAny>,
        start_response: &Bound<'_, StartResponse>,
        quick: bool,
    ) -> Result<bool, Failure> {
        let bytes = expect_bytes(block)?.as_bytes();
        if bytes.is_empty() {
            return Ok(true);
        }
        let mut response = start_response.try_borrow_mut().map_err(PyErr::from)?;
        let more = response.push(py, bytes)?;
        let complete = response.is_complete();
        drop(response);
        // A complete body may wait for its End: they leave together, or after a millisecond.
        if !((complete || quick) && self.crew.may_hold()) {
            self.crew.flush(py);
        }
        Ok(more)
    }

    fn start_response<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, StartResponse>> {
        match self.start_response.take().filter(|kept| python::is_ours_alone(py, kept)) {
            Some(kept) => Ok(kept.into_bound(py)),
            None => Bound::new(py, StartResponse::default()),
        }
    }

    /// Logs what went wrong and says what the gateway is to be told.
    fn explain(
        &self,
        py: Python<'_>,
        head: &RequestHead<'_>,
        ticket: Ticket,
        request_id: &[u8],
        failure: Failure,
    ) -> FailKind {
        let over = ticket.is_over(self.crew);
        let (kind, text) = match failure {
            Failure::Raised(error) if over && error.is_instance_of::<PyConnectionAbortedError>(py) => {
                return FailKind::Cancelled;
            }
            Failure::Raised(error) => (FailKind::Exception, python::traceback(py, &error)),
            Failure::Broke(text) => (FailKind::Protocol, text),
            Failure::TooShort => (FailKind::Truncated, "the body is shorter than its Content-Length".to_owned()),
        };
        let path = String::from_utf8_lossy(head.path_info);
        report(py, Level::Error, request_id, &format!("{} {path} failed\n{text}", head.method));
        if over { FailKind::Cancelled } else { kind }
    }
}

/// The common case: `[b"..."]`.
fn one(py: Python<'_>, block: &Bound<'_, PyAny>, start_response: &Bound<'_, StartResponse>) -> Result<Ended, Failure> {
    let bytes = expect_bytes(block)?;
    let mut response = start_response.try_borrow_mut().map_err(PyErr::from)?;
    Ok(response.push_all(py, std::iter::once(bytes.as_bytes()))?)
}

fn many(
    py: Python<'_>,
    blocks: &Bound<'_, PyTuple>,
    start_response: &Bound<'_, StartResponse>,
) -> Result<Ended, Failure> {
    let blocks: Vec<_> = blocks.iter().collect();
    let parts = blocks.iter().map(expect_bytes).collect::<Result<Vec<_>, _>>()?;
    let mut response = start_response.try_borrow_mut().map_err(PyErr::from)?;
    Ok(response.push_all(py, parts.iter().map(|part| part.as_bytes()))?)
}

fn expect_bytes<'a, 'py>(block: &'a Bound<'py, PyAny>) -> Result<&'a Bound<'py, PyBytes>, Failure> {
    block.cast::<PyBytes>().map_err(|_| {
        let kind = block.get_type().name().map_or_else(|_| "something else".into(), |name| name.to_string());
        Failure::Broke(format!("TypeError: the body must consist of bytes, not {kind}"))
    })
}

fn warn_about_bytes(py: Python<'_>, request_id: &[u8]) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if !WARNED.swap(true, Ordering::Relaxed) {
        let text = "the application returned bytes instead of a list of bytes; it works, but elsewhere it is sent byte by byte";
        report(py, Level::Warning, request_id, text);
    }
}
