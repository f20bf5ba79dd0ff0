//! One request under way on a lane: what has come of its answer, and which frames may still come.

use std::{collections::VecDeque, task::Waker, time::Instant};

use bytes::{Bytes, BytesMut};
use portcullis_wire::{FailKind, Frame, INITIAL_WINDOW, Kind, Malformed, fail_payload, u32_payload};

use crate::app::file::SentFile;

/// A piece of an answer below this size is put together with its neighbours while it waits for the client.
const SMALL: usize = 1024;

/// Why an exchange has no (whole) answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Its time in the queue was up before it had begun.
    #[error("the request was withdrawn from the queue")]
    NotBegun,
    /// The application failed; its log has the traceback.
    #[error("the application failed")]
    Application,
    /// The worker died or broke the protocol.
    #[error("the worker was lost")]
    WorkerLost,
    /// The client took nothing of the answer for too long.
    #[error("the client does not read the answer")]
    Stalled,
    /// The gate has taken back what it had allowed.
    #[error("it is not allowed any more")]
    Withdrawn,
}

/// What is known of one request under way.
pub(super) struct Exchange {
    pub(super) generation: u16,
    pub(super) phase: Phase,
    pub(super) chunks: VecDeque<Piece>,
    /// Small pieces that have come and stand behind `chunks`.
    pub(super) small: BytesMut,
    /// Bytes in both: never above the window.
    pub(super) buffered: u32,
    pub(super) consumed: u32,
    /// Bytes of the request's body that the worker still accepts.
    pub(super) body_window: u32,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// Since when a piece of the answer has been here and the client has taken nothing.
    pub(super) waiting_since: Option<Instant>,
    /// The gateway itself has ended it; pieces that still come are dropped.
    pub(super) given_up: Option<Failure>,
    /// The client is gone; the slot stays until the worker closes the exchange.
    pub(super) abandoned: bool,
    /// What the worker said when it was last asked, until somebody has heard it.
    pub(super) progress: Option<u32>,
    /// Its time is up; counted in [`WorkerShared::overdue`].
    pub(super) overdue: bool,
}

/// A piece of an answer's body.
#[derive(Debug)]
pub enum Piece {
    /// These bytes.
    Bytes(Bytes),
    /// What stands in a file.
    File(SentFile),
}

pub(super) enum Phase {
    Waiting,
    /// [`Kind::Response`] or [`Kind::Head`], not yet looked at.
    Answered(Kind, Bytes),
    Streaming,
    Ended,
    Failed(Failure),
}

impl Exchange {
    pub(super) fn new(generation: u16, phase: Phase) -> Self {
        Self {
            generation,
            phase,
            chunks: VecDeque::new(),
            small: BytesMut::new(),
            buffered: 0,
            consumed: 0,
            body_window: INITIAL_WINDOW,
            reader: None,
            writer: None,
            waiting_since: None,
            given_up: None,
            abandoned: false,
            progress: None,
            overdue: false,
        }
    }

    /// Nothing more of it is passed on; the slot stays until the worker closes it.
    pub(super) fn give_up(&mut self, failure: Failure) {
        self.given_up = Some(failure);
        self.waiting_since = None;
        self.chunks = VecDeque::new();
        self.small = BytesMut::new();
        self.buffered = 0;
        self.wake();
    }

    /// The head that has come and was not looked at yet, or why there is none; `None` while it is waited for.
    pub(super) fn take_head(&mut self) -> Option<Result<(Kind, Bytes), Failure>> {
        match &self.phase {
            Phase::Answered(Kind::End, _) => {
                self.phase = Phase::Ended;
                match self.chunks.pop_front() {
                    Some(Piece::Bytes(head)) => Some(Ok((Kind::Head, head))),
                    _ => Some(Err(Failure::WorkerLost)),
                }
            }
            Phase::Answered(kind, head) => {
                let answered = (*kind, head.clone());
                if *kind == Kind::Head {
                    self.phase = Phase::Streaming;
                }
                Some(Ok(answered))
            }
            Phase::Failed(failure) => Some(Err(*failure)),
            Phase::Waiting | Phase::Streaming | Phase::Ended => None,
        }
    }

    /// Whether the worker has said its last word about it.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Ended | Phase::Failed(_) | Phase::Answered(Kind::Response | Kind::End, _))
    }

    pub(super) fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    /// Small pieces are put together: each of its own costs more than itself, and a window full of single bytes would cost
    /// forty times the window.
    fn keep(&mut self, piece: Bytes) {
        if piece.len() < SMALL {
            self.small.extend_from_slice(&piece);
        } else {
            self.settle();
            self.chunks.push_back(Piece::Bytes(piece));
        }
    }

    /// Puts the small pieces in their place, before what comes after them.
    fn settle(&mut self) {
        if !self.small.is_empty() {
            self.chunks.push_back(Piece::Bytes(self.small.split().freeze()));
        }
    }

    /// The next piece of the body, if it is here.
    pub(super) fn take_piece(&mut self) -> Option<Piece> {
        if self.chunks.is_empty() {
            self.settle();
        }
        self.chunks.pop_front()
    }

    /// Whether a piece of the body is here.
    pub(super) fn has_piece(&self) -> bool {
        !self.chunks.is_empty() || !self.small.is_empty()
    }

    pub(super) fn receive(&mut self, frame: Frame, file: Option<SentFile>) -> Result<(), Malformed> {
        let waiting = matches!(self.phase, Phase::Waiting);
        let streaming = matches!(self.phase, Phase::Streaming | Phase::Answered(Kind::Head, _));
        match frame.kind {
            Kind::Response | Kind::Head if waiting => self.phase = Phase::Answered(frame.kind, frame.payload),
            Kind::Data if streaming => {
                if frame.payload.is_empty() {
                    // Empty pieces would be kept without counting against the window.
                    return Err(Malformed("an empty piece of a response"));
                }
                let length = u32::try_from(frame.payload.len()).unwrap_or(u32::MAX);
                self.buffered = self.buffered.saturating_add(length);
                if self.buffered > INITIAL_WINDOW {
                    return Err(Malformed("more response data than its window"));
                }
                if self.abandoned || self.given_up.is_some() {
                    self.buffered = 0;
                } else {
                    self.waiting_since.get_or_insert_with(Instant::now);
                    self.keep(frame.payload);
                }
            }
            Kind::File if streaming => match file {
                // One at a time: each is a descriptor of ours.
                Some(_) if self.chunks.iter().any(|piece| matches!(piece, Piece::File(_))) => {
                    return Err(Malformed("a second file in one answer"));
                }
                Some(file) if !self.abandoned && self.given_up.is_none() => {
                    self.settle();
                    self.chunks.push_back(Piece::File(file));
                }
                _ => {}
            },
            Kind::End if streaming => {
                // The head may not have been looked at yet; it is taken first, then the chunks, then this.
                if let Phase::Answered(_, head) = &self.phase {
                    self.chunks.push_front(Piece::Bytes(head.clone()));
                    self.phase = Phase::Answered(Kind::End, Bytes::new());
                } else {
                    self.phase = Phase::Ended;
                }
            }
            Kind::Fail if waiting || streaming => {
                let (kind, _) = fail_payload(&frame.payload)?;
                tracing::debug!(?kind, "no answer");
                // Otherwise the client is told that the application failed, and its log tells how.
                let withdrawn = kind == FailKind::NotBegun && waiting;
                self.phase = Phase::Failed(if withdrawn { Failure::NotBegun } else { Failure::Application });
            }
            Kind::Progress => self.progress = Some(u32_payload(&frame.payload)?),
            Kind::BodyCredit => {
                self.body_window = self.body_window.saturating_add(u32_payload(&frame.payload)?);
                if self.body_window > INITIAL_WINDOW {
                    return Err(Malformed("more room for a request's body than its window"));
                }
            }
            _ => return Err(Malformed("a frame that does not belong here")),
        }
        self.wake();
        Ok(())
    }

    pub(super) fn wants_body(&self) -> bool {
        !self.abandoned
            && self.given_up.is_none()
            && matches!(self.phase, Phase::Waiting | Phase::Answered(Kind::Head, _) | Phase::Streaming)
    }
}
