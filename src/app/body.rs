//! Bodies in both directions, bounded in memory, disk and time.
//!
//! A request's body is complete before its application is called: a client that trickles holds neither a thread of the
//! application nor its lane, one that goes away is never seen by it, and CONTENT_LENGTH is always known (Django and
//! others read a missing one as an empty body). Small bodies travel with the head; larger ones wait in memory, then in
//! an unlinked file. An application that wants to see its bodies as they come says `stream_bodies = true`.

use std::{
    path::Path,
    pin::Pin,
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use crate::{
    app::{
        file::SentFile,
        grant::Grant,
        lane::{BodySender, Failure, Piece, Ticket},
        pool::Seat,
    },
    config::Config,
    model::Reason,
    policy::Application,
};

/// The largest body that travels with its head in one frame.
const INLINE_MOST: u64 = 64 * 1024;

/// Room that is made at once for a body that is announced; more grows as it comes, because announcing costs nothing.
const AT_ONCE: u64 = 128 * 1024;

/// One body is kept in memory up to here, then in a file.
const MEMORY_MOST: usize = 1024 * 1024;

/// One write or read of that file.
const FILE_CHUNK: usize = 256 * 1024;

/// The least average rate of a body, bytes per second, counted from `timeouts.body` after its beginning: a client that
/// sends a byte now and then must not hold a place in the queue of its application for ever.
const LEAST_RATE: u64 = 500;

/// What bodies hold in memory and in files, over all data threads, bytes.
static HELD: Held = Held { memory: AtomicU64::new(0), disk: AtomicU64::new(0) };

struct Held {
    memory: AtomicU64,
    disk: AtomicU64,
}

/// A part of [`HELD`], given back when dropped.
struct Share {
    of: &'static AtomicU64,
    bytes: u64,
}

impl Share {
    fn new(of: &'static AtomicU64) -> Self {
        Self { of, bytes: 0 }
    }

    /// Takes `more` bytes unless that makes more than `most` in all.
    fn grow(&mut self, more: u64, most: u64) -> bool {
        let fits = self.of.fetch_add(more, Ordering::Relaxed) + more <= most;
        if fits {
            self.bytes += more;
        } else {
            self.of.fetch_sub(more, Ordering::Relaxed);
        }
        fits
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A request's body on its way to the worker.
pub enum RequestBody {
    /// Complete, possibly empty.
    Inline(Bytes),
    /// Still coming, at most that many bytes, to an application that takes it as it comes.
    Follows(Incoming, u64),
    /// Complete, in memory or in a file.
    Kept(Kept),
}

/// A complete body that does not fit beside its head.
pub struct Kept {
    /// What is not in the file; all of it when there is none.
    memory: Bytes,
    file: Option<tokio::fs::File>,
    length: u64,
    _shares: [Share; 2],
}

/// What is accepted of a request's body, and where it waits.
pub struct Terms<'a> {
    /// The most bytes that the application accepts.
    limit: u64,
    /// Whether the application takes it as it comes.
    stream: bool,
    /// The longest silence of the client.
    pub pause: Duration,
    /// The most that all bodies may hold in memory, bytes.
    memory: u64,
    /// The same in files.
    disk: u64,
    /// Where the files are.
    directory: &'a Path,
}

impl<'a> Terms<'a> {
    /// Those of one application.
    #[must_use]
    pub fn of(config: &'a Config, app: &Application) -> Self {
        Self {
            limit: app.body_bytes.unwrap_or(config.limits.body_bytes),
            stream: app.stream_bodies,
            pause: config.timeouts.body,
            memory: config.limits.body_memory,
            disk: config.limits.body_disk,
            directory: &config.data,
        }
    }
}

impl RequestBody {
    /// Brings a body into a form that can be sent.
    ///
    /// # Errors
    /// [`Reason::BodyTooLarge`] before anything is read when the length says so; [`Reason::RequestTimeout`] and
    /// [`Reason::BadRequest`] when the client stops, trickles or breaks it; [`Reason::QueueFull`] when all bodies
    /// together hold as much as they may.
    pub async fn prepare(body: Incoming, terms: &Terms<'_>) -> Result<Self, Reason> {
        if body.is_end_stream() {
            return Ok(Self::Inline(Bytes::new()));
        }
        match body.size_hint().exact() {
            Some(length) if length > terms.limit => Err(Reason::BodyTooLarge),
            Some(length) if terms.stream && length > INLINE_MOST => Ok(Self::Follows(body, length)),
            None if terms.stream => Ok(Self::Follows(body, terms.limit)),
            length => collect(body, length, terms).await,
        }
    }

    /// The length, when the gate has all of it.
    pub fn measured(&self) -> Option<u64> {
        match self {
            Self::Inline(bytes) if bytes.is_empty() => None,
            Self::Inline(bytes) => Some(bytes.len() as u64),
            Self::Kept(kept) => Some(kept.length),
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
            Self::Kept(kept) => {
                tokio::task::spawn_local(kept.send(sender));
            }
        }
    }
}

/// Reads a whole body: into memory, and on into a file when it grows or when all bodies together are many.
async fn collect(mut body: Incoming, length: Option<u64>, terms: &Terms<'_>) -> Result<RequestBody, Reason> {
    let (mut in_memory, mut on_disk) = (Share::new(&HELD.memory), Share::new(&HELD.disk));
    let mut memory = BytesMut::with_capacity(length.map_or(0, |length| length.min(AT_ONCE) as usize));
    let mut file: Option<tokio::fs::File> = None;
    let mut total = 0u64;
    let pace = Pace { began: Instant::now(), pause: terms.pause };
    while let Some(data) = next_data(&mut body, pace.patience(total)?).await? {
        total += data.len() as u64;
        if total > terms.limit {
            return Err(Reason::BodyTooLarge);
        }
        if file.is_none() && total > INLINE_MOST {
            // Announced lengths are believed here alone: a body that will not fit goes to its file at once.
            let expected = length.unwrap_or(total).max(total);
            let fits = expected <= MEMORY_MOST as u64 && in_memory.grow(total - in_memory.bytes, terms.memory);
            if fits {
                memory.reserve(usize::try_from(expected).unwrap_or(0).saturating_sub(memory.len()));
            } else {
                let created = tempfile::tempfile_in(terms.directory).map_err(no_room)?;
                file = Some(tokio::fs::File::from_std(created));
            }
        }
        memory.extend_from_slice(&data);
        if let Some(file) = &mut file
            && memory.len() >= FILE_CHUNK
        {
            spill(&mut memory, file, &mut on_disk, terms).await?;
        }
    }
    if total <= INLINE_MOST {
        return Ok(RequestBody::Inline(memory.freeze()));
    }
    if let Some(file) = &mut file {
        spill(&mut memory, file, &mut on_disk, terms).await?;
        // Its writes are done on another thread; the last one's error is told here.
        file.flush().await.map_err(no_room)?;
        file.rewind().await.map_err(no_room)?;
    }
    let kept = Kept { memory: memory.freeze(), file, length: total, _shares: [in_memory, on_disk] };
    Ok(RequestBody::Kept(kept))
}

async fn spill(
    memory: &mut BytesMut,
    file: &mut tokio::fs::File,
    on_disk: &mut Share,
    terms: &Terms<'_>,
) -> Result<(), Reason> {
    if !on_disk.grow(memory.len() as u64, terms.disk) {
        tracing::warn!(
            most = terms.disk,
            "request bodies that wait fill what they may (`body_disk` under [limits]): one more was refused"
        );
        return Err(Reason::QueueFull);
    }
    file.write_all(memory).await.map_err(no_room)?;
    memory.clear();
    Ok(())
}

/// How long a body may take.
struct Pace {
    began: Instant,
    pause: Duration,
}

impl Pace {
    /// How long the next piece may take after `total` bytes.
    fn patience(&self, total: u64) -> Result<Duration, Reason> {
        let allowed = self.pause + Duration::from_millis(total.saturating_mul(1000) / LEAST_RATE);
        let left = allowed.saturating_sub(self.began.elapsed());
        if left.is_zero() { Err(Reason::RequestTimeout) } else { Ok(self.pause.min(left)) }
    }
}

impl Kept {
    async fn send(mut self, sender: BodySender) {
        if let Some(file) = &mut self.file {
            loop {
                let mut chunk = BytesMut::with_capacity(FILE_CHUNK);
                match file.read_buf(&mut chunk).await {
                    Ok(0) => break,
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
        if sender.send(std::mem::take(&mut self.memory)).await.is_ok() {
            sender.finish();
        }
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

/// A response's body.
pub struct Body {
    kind: Kind,
    /// Told how many bytes were passed on, once, when the body is dropped.
    done: Option<Box<dyn FnOnce(Sent)>>,
    /// The word that it may go on; only for those that take their time.
    granted: Option<Rc<dyn AsRef<Grant>>>,
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
    /// Why the gate itself has cut it.
    pub withdrawn: Option<Reason>,
}

enum Kind {
    Empty,
    /// An answer to HEAD.
    Hidden,
    Full(Bytes),
    Streaming(Ticket, Seat),
    /// A file out of such an answer, and what comes after it. The seat bounds how many descriptors are held.
    Handed(SentFile, Option<Ticket>, Seat),
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
    /// It would not be allowed any more.
    #[error("it was cut: {0}")]
    Withdrawn(Reason),
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
        Self::of(Kind::Streaming(ticket, seat))
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

    /// Has the body end as soon as that word is taken back, if it is one that takes its time.
    #[must_use]
    pub fn while_granted(mut self, granted: Rc<dyn AsRef<Grant>>) -> Self {
        if self.takes_time() {
            (*granted).as_ref().begin_streaming();
            self.granted = Some(granted);
        }
        self
    }

    fn takes_time(&self) -> bool {
        matches!(self.kind, Kind::Streaming(..) | Kind::Handed(..) | Kind::File(_))
    }

    fn of(kind: Kind) -> Self {
        Self { kind, done: None, granted: None, sent: 0, cut: false }
    }

    fn poll_kind(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        match &mut self.kind {
            Kind::Empty | Kind::Hidden | Kind::Over => Poll::Ready(None),
            Kind::Full(bytes) => Poll::Ready(Some(Ok(std::mem::take(bytes)))),
            Kind::Streaming(ticket, _) => match std::task::ready!(ticket.poll_piece(cx)) {
                None => Poll::Ready(None),
                Some(Err(failure)) => Poll::Ready(Some(Err(failure.into()))),
                Some(Ok(Piece::Bytes(bytes))) => Poll::Ready(Some(Ok(bytes))),
                Some(Ok(Piece::File(file))) => {
                    if let Kind::Streaming(ticket, seat) = std::mem::replace(&mut self.kind, Kind::Over) {
                        // An application that has given away all it had is not held by whoever downloads it.
                        let rest = (!ticket.is_drained()).then_some(ticket);
                        self.kind = Kind::Handed(file, rest, seat);
                    }
                    self.poll_kind(cx)
                }
            },
            Kind::Handed(file, ..) => match std::task::ready!(file.poll_chunk(cx)) {
                Some(chunk) => Poll::Ready(Some(chunk.map_err(BodyError::from))),
                None => match std::mem::replace(&mut self.kind, Kind::Over) {
                    Kind::Handed(_, Some(ticket), seat) => {
                        self.kind = Kind::Streaming(ticket, seat);
                        self.poll_kind(cx)
                    }
                    _ => Poll::Ready(None),
                },
            },
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
        let withdrawn = self.granted.as_ref().map(|granted| (**granted).as_ref().poll_withdrawn(cx));
        if let Some(Poll::Ready(reason)) = withdrawn.filter(|_| self.takes_time()) {
            self.cut = true;
            self.kind = Kind::Over;
            return Poll::Ready(Some(Err(BodyError::Withdrawn(reason))));
        }
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
                self.granted = None;
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
            Kind::Streaming(..) | Kind::Handed(..) => SizeHint::default(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let cut = self.cut || self.takes_time() || matches!(self.kind, Kind::Full(_));
        if let Some(done) = self.done.take() {
            let withdrawn = self.granted.as_ref().and_then(|granted| (**granted).as_ref().withdrawn());
            done(Sent { bytes: self.sent, cut, withdrawn });
        }
    }
}
