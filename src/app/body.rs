//! Bodies in both directions, bounded in memory and time.
//!
//! A request's body reaches the worker in one of three ways: *inline* with the head when it is small; *followed* in
//! chunks when its length is known, within the window that the worker grants; *measured* first when it has no length,
//! because Django and others read a missing CONTENT_LENGTH as an empty body: it is collected in memory up to a limit,
//! then in an unlinked temporary file.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use crate::{
    app::{
        lane::{BodySender, Failure, Ticket},
        pool::Seat,
    },
    model::Reason,
};

/// The largest body that travels with its head in one frame.
const INLINE_MOST: u64 = 64 * 1024;

/// A body without a length is kept in memory up to here, then in a file.
const MEMORY_MOST: usize = 1024 * 1024;

/// One read of the temporary file.
const FILE_CHUNK: usize = 64 * 1024;

/// A request's body on its way to the worker.
pub enum RequestBody {
    /// Complete, possibly empty.
    Inline(Bytes),
    /// Still coming, at most that many bytes: its length was announced, or the application takes it as it comes.
    Follows(Incoming, u64),
    /// Complete, in memory.
    Measured(Bytes),
    /// Complete, in an unlinked file of that many bytes.
    Filed(tokio::fs::File, u64),
}

impl RequestBody {
    /// Brings a body into a form that can be sent. `limit` is the most bytes the application accepts, `pause` the longest
    /// silence of the client; with `stream`, a body without a length is passed on as it comes.
    ///
    /// # Errors
    /// [`Reason::BodyTooLarge`] before anything is read when the length says so; [`Reason::RequestTimeout`] and
    /// [`Reason::BadRequest`] when the client stops or breaks it.
    pub async fn prepare(body: Incoming, limit: u64, stream: bool, pause: Duration) -> Result<Self, Reason> {
        if body.is_end_stream() {
            return Ok(Self::Inline(Bytes::new()));
        }
        match body.size_hint().exact() {
            Some(length) if length > limit => Err(Reason::BodyTooLarge),
            Some(length) if length > INLINE_MOST => Ok(Self::Follows(body, length)),
            None if stream => Ok(Self::Follows(body, limit)),
            _ => collect(body, limit, pause).await,
        }
    }

    /// The length, when the gate measured it.
    pub fn measured(&self) -> Option<u64> {
        match self {
            Self::Inline(bytes) if bytes.is_empty() => None,
            Self::Inline(bytes) | Self::Measured(bytes) => Some(bytes.len() as u64),
            Self::Filed(_, length) => Some(*length),
            Self::Follows(..) => None,
        }
    }

    /// Sends what did not travel with the head, beside the rest of the request's life.
    pub fn send(self, ticket: &Ticket, pause: Duration) {
        let sender = ticket.body_sender();
        match self {
            Self::Inline(_) => {}
            Self::Follows(body, most) => {
                tokio::task::spawn_local(follow(body, most, sender, pause));
            }
            Self::Measured(bytes) => {
                tokio::task::spawn_local(async move {
                    if sender.send(bytes).await.is_ok() {
                        sender.finish();
                    }
                });
            }
            Self::Filed(file, _) => {
                tokio::task::spawn_local(send_file(file, sender));
            }
        }
    }
}

/// Reads a whole body: into memory, and on into a file when it grows.
async fn collect(mut body: Incoming, limit: u64, pause: Duration) -> Result<RequestBody, Reason> {
    let mut memory = BytesMut::new();
    let mut file: Option<tokio::fs::File> = None;
    let mut total = 0u64;
    while let Some(data) = next_data(&mut body, pause).await? {
        total += data.len() as u64;
        if total > limit {
            return Err(Reason::BodyTooLarge);
        }
        match &mut file {
            Some(file) => file.write_all(&data).await.map_err(no_room)?,
            None if memory.len() + data.len() <= MEMORY_MOST => memory.extend_from_slice(&data),
            None => {
                let mut spilled = tokio::fs::File::from_std(tempfile::tempfile().map_err(no_room)?);
                spilled.write_all(&memory).await.map_err(no_room)?;
                spilled.write_all(&data).await.map_err(no_room)?;
                memory = BytesMut::new();
                file = Some(spilled);
            }
        }
    }
    match file {
        Some(mut file) => {
            file.rewind().await.map_err(no_room)?;
            Ok(RequestBody::Filed(file, total))
        }
        None if total <= INLINE_MOST => Ok(RequestBody::Inline(memory.freeze())),
        None => Ok(RequestBody::Measured(memory.freeze())),
    }
}

/// The next data of a body; trailers are read and dropped, they never become `environ`.
async fn next_data(body: &mut Incoming, pause: Duration) -> Result<Option<Bytes>, Reason> {
    loop {
        match tokio::time::timeout(pause, body.frame()).await {
            Err(_) => return Err(Reason::RequestTimeout),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => {
                tracing::debug!(%error, "the client broke its body");
                return Err(Reason::BadRequest);
            }
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

fn no_room(error: std::io::Error) -> Reason {
    tracing::error!(%error, "a request body could not be kept in a temporary file");
    Reason::Internal
}

/// Passes a body on as it comes, until it ends, the client stops, or nobody wants it any more.
async fn follow(mut body: Incoming, most: u64, sender: BodySender, pause: Duration) {
    let mut total = 0u64;
    loop {
        let next = tokio::select! {
            biased;
            () = sender.not_wanted() => return,
            next = next_data(&mut body, pause) => next,
        };
        match next {
            Ok(Some(data)) => {
                total += data.len() as u64;
                if total > most {
                    return sender.abort();
                }
                if sender.send(data).await.is_err() {
                    return;
                }
            }
            Ok(None) => return sender.finish(),
            Err(_) => return sender.abort(),
        }
    }
}

async fn send_file(mut file: tokio::fs::File, sender: BodySender) {
    loop {
        let mut chunk = BytesMut::with_capacity(FILE_CHUNK);
        match file.read_buf(&mut chunk).await {
            Ok(0) => return sender.finish(),
            Ok(_) => {
                if sender.send(chunk.freeze()).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "a request body could not be read back");
                return sender.abort();
            }
        }
    }
}

/// A response's body.
pub struct Body {
    kind: Kind,
    /// Told how many bytes were passed on, once, when the body is dropped.
    done: Option<Box<dyn FnOnce(Sent)>>,
    sent: u64,
    cut: bool,
}

/// What became of a response's body.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Bytes handed to the connection.
    pub bytes: u64,
    /// Whether it ended early, because the application, its worker or the client went away.
    pub cut: bool,
}

enum Kind {
    Empty,
    /// An answer to HEAD.
    Hidden,
    Full(Bytes),
    Streaming {
        ticket: Ticket,
        _seat: Seat,
    },
    File(Pin<Box<dyn hyper::body::Body<Data = Bytes, Error = std::io::Error>>>),
    Over,
}

/// The body ended early; the client must see that (RFC 9112 section 8).
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The application or its worker failed in mid-answer.
    #[error(transparent)]
    Application(#[from] Failure),
    /// A file could not be read to its end.
    #[error("the file could not be read: {0}")]
    File(#[from] std::io::Error),
}

impl Body {
    /// No content.
    #[must_use]
    pub fn empty() -> Self {
        Self::of(Kind::Empty)
    }

    /// All of it at once.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::of(if bytes.is_empty() { Kind::Empty } else { Kind::Full(bytes) })
    }

    /// What an application sends as it goes; its seat is held until the end.
    #[must_use]
    pub fn streaming(ticket: Ticket, seat: Seat) -> Self {
        Self::of(Kind::Streaming { ticket, _seat: seat })
    }

    /// A file, or a part of it.
    pub fn file(body: impl hyper::body::Body<Data = Bytes, Error = std::io::Error> + 'static) -> Self {
        Self::of(Kind::File(Box::pin(body)))
    }

    /// The answer to HEAD: the same, without its content.
    #[must_use]
    pub fn without_content(self) -> Self {
        Self::of(Kind::Hidden)
    }

    /// Has `done` called with the outcome when the connection lets go of the body.
    #[must_use]
    pub fn when_done(mut self, done: impl FnOnce(Sent) + 'static) -> Self {
        self.done = Some(Box::new(done));
        self
    }

    fn of(kind: Kind) -> Self {
        Self { kind, done: None, sent: 0, cut: false }
    }

    fn poll_kind(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        match &mut self.kind {
            Kind::Empty | Kind::Hidden | Kind::Over => Poll::Ready(None),
            Kind::Full(bytes) => Poll::Ready(Some(Ok(std::mem::take(bytes)))),
            Kind::Streaming { ticket, .. } => ticket.poll_chunk(cx).map_err(BodyError::from),
            Kind::File(body) => loop {
                match std::task::ready!(body.as_mut().poll_frame(cx)) {
                    None => return Poll::Ready(None),
                    Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            return Poll::Ready(Some(Ok(data)));
                        }
                    }
                }
            },
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match std::task::ready!(self.poll_kind(cx)) {
            Some(Ok(data)) => {
                self.sent += data.remaining() as u64;
                if matches!(self.kind, Kind::Full(_)) {
                    self.kind = Kind::Over;
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => {
                self.cut = true;
                self.kind = Kind::Over;
                Poll::Ready(Some(Err(error)))
            }
            None => {
                // Lets go of the ticket now: the worker's slot is free before the connection drops the body.
                self.kind = Kind::Over;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.kind, Kind::Empty | Kind::Hidden | Kind::Over)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Empty | Kind::Over | Kind::Hidden => SizeHint::with_exact(0),
            Kind::File(body) => body.size_hint(),
            Kind::Streaming { .. } => SizeHint::default(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let cut = self.cut || matches!(self.kind, Kind::Streaming { .. } | Kind::File(_) | Kind::Full(_));
        if let Some(done) = self.done.take() {
            done(Sent { bytes: self.sent, cut });
        }
    }
}
