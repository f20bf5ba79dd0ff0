//! One request while it is under way: what the gateway has told about it, and waiting for more of that.

use std::{collections::VecDeque, time::Instant};

use bytes::Bytes;
use portcullis_wire::{Kind, MAX_CHUNK, Malformed, put_u32};
use pyo3::{
    exceptions::{PyConnectionAbortedError, PyOSError, PyValueError},
    prelude::*,
};

use crate::{
    crew::{Crew, Job, State, WINDOW},
    python::{self, RequestTimeout},
};

/// Consumed bytes of a body are granted again in portions of this size; smaller ones only before waiting.
const GRANT: u32 = 64 * 1024;

/// A request that has been begun.
pub(crate) struct Running {
    pub(crate) lane: usize,
    pub(crate) request: u32,
    /// Its body comes, or came, in frames of its own.
    pub(crate) follows: bool,
    /// Nobody wants the answer any more.
    pub(crate) cancelled: bool,
    /// It has used up its time; the exception is raised or pending.
    pub(crate) interrupted: bool,
    /// Bytes of the response that may be sent now.
    pub(crate) window: u32,
    pub(crate) began: Instant,
    serial: u64,
}

/// The part of a request's body that has come and has not been read.
pub(crate) struct Body {
    pub(crate) serial: u64,
    pub(crate) aborted: bool,
    chunks: VecDeque<Bytes>,
    ended: bool,
    /// Consumed, but not granted again yet.
    owed: u32,
}

/// Which request a wait is about.
#[derive(Clone, Copy)]
pub(crate) struct Ticket {
    pub(crate) lane: usize,
    pub(crate) request: u32,
    pub(crate) serial: u64,
    /// Where it runs.
    pub(crate) seat: usize,
}

enum Wait {
    Cancelled,
    Interrupted,
    Aborted,
    Over,
}

impl Running {
    pub(crate) fn new(job: &Job, follows: bool, began: Instant) -> Self {
        Self {
            lane: job.lane,
            request: job.request,
            follows,
            cancelled: false,
            interrupted: false,
            window: WINDOW,
            began,
            serial: job.serial,
        }
    }

    fn end(&self) -> Option<Wait> {
        match self {
            Self { interrupted: true, .. } => Some(Wait::Interrupted),
            Self { cancelled: true, .. } => Some(Wait::Cancelled),
            _ => None,
        }
    }
}

impl Body {
    pub(crate) fn new(serial: u64) -> Self {
        Self { serial, aborted: false, chunks: VecDeque::new(), ended: false, owed: 0 }
    }

    /// Takes a frame about this body.
    pub(crate) fn take(&mut self, kind: Kind, payload: Bytes) -> Result<(), Malformed> {
        match kind {
            Kind::Body if self.ended || payload.len() > MAX_CHUNK => return Err(Malformed("piece of a body")),
            Kind::Body if payload.is_empty() => {}
            Kind::Body => self.chunks.push_back(payload),
            Kind::BodyEnd => self.ended = true,
            _ => self.aborted = true,
        }
        Ok(())
    }
}

impl Ticket {
    /// Whether the gateway has lost interest; what the application does then is only cleaning up.
    pub(crate) fn is_over(self, crew: &Crew) -> bool {
        let mut state = crew.lock();
        self.running(&mut state).is_none_or(|running| running.cancelled || running.interrupted)
    }

    /// Up to `wanted` bytes of the response that may be sent now, at least one; waits for the gateway to allow some.
    ///
    /// # Errors
    /// The request was cancelled or interrupted.
    pub(crate) fn spend(self, py: Python<'_>, crew: &Crew, wanted: u32) -> PyResult<u32> {
        let check = move |state: &mut State| {
            let Some(running) = self.running(state) else { return Some(Err(Wait::Over)) };
            if let Some(end) = running.end() {
                return Some(Err(end));
            }
            let spent = running.window.min(wanted);
            running.window -= spent;
            (spent > 0).then_some(Ok(spent))
        };
        self.wait(py, crew, check)
    }

    /// The next piece of the request's body; `None` at its end.
    ///
    /// # Errors
    /// The client has gone away, the request was cancelled, interrupted or is over.
    pub(crate) fn receive(self, py: Python<'_>, crew: &Crew) -> PyResult<Option<Bytes>> {
        let Self { lane, request, serial, .. } = self;
        let check = move |state: &mut State| {
            if let Some(end) = self.running(state).and_then(|running| running.end()) {
                return Some(Err(end));
            }
            let Some(body) = state.body(lane, request, serial) else { return Some(Err(Wait::Over)) };
            let waits = body.chunks.is_empty();
            let grant = if waits || body.owed >= GRANT { std::mem::take(&mut body.owed) } else { 0 };
            if grant > 0 && !body.ended {
                crew.lane(lane).put(|out| put_u32(out, request, Kind::BodyCredit, grant));
            }
            match body.chunks.pop_front() {
                Some(chunk) => {
                    body.owed += u32::try_from(chunk.len()).unwrap_or(0);
                    Some(Ok(Some(chunk)))
                }
                None if body.aborted => Some(Err(Wait::Aborted)),
                None if body.ended => Some(Ok(None)),
                None => None,
            }
        };
        self.wait(py, crew, check)
    }

    fn running(self, state: &mut State) -> Option<&mut Running> {
        state.running_in(self.seat).filter(|running| running.serial == self.serial)
    }

    fn wait<T: Send>(
        self,
        py: Python<'_>,
        crew: &Crew,
        mut check: impl FnMut(&mut State) -> Option<Result<T, Wait>> + Send,
    ) -> PyResult<T> {
        let at_once = check(&mut crew.lock());
        let answer = match at_once {
            Some(answer) => answer,
            None => {
                let me = python::thread_ident(py)?;
                let seat = Some(self.seat).filter(|seat| crew.lock().thread(*seat) == me);
                crew.watch(py, seat, check)
            }
        };
        answer.map_err(|wait| self.error(py, crew, &wait))
    }

    fn error(self, py: Python<'_>, crew: &Crew, wait: &Wait) -> PyErr {
        match wait {
            Wait::Interrupted => {
                let thread = crew.lock().thread(self.seat);
                python::unraise_in(py, thread);
                RequestTimeout::new_err("the request has used up its time")
            }
            Wait::Cancelled => PyConnectionAbortedError::new_err("the client does not wait for the answer any more"),
            Wait::Aborted => PyOSError::new_err("the client went away before the request's body was complete"),
            Wait::Over => PyValueError::new_err("the request is over"),
        }
    }
}
