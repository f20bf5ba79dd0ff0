//! HTTP/1.1 and HTTP/2 by hyper, with the bounds that hyper leaves to us.
//!
//! Underneath HTTP/1 the bytes are watched: how long a request's head takes to arrive (hyper's own timer also runs
//! while a kept-alive connection is idle), and whether it has a single reading (`strict`). Over HTTP/2 a raw `#` in the
//! path is cut off inside the library, out of our sight; that is harmless, because the path that is judged is the path
//! that runs.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use http::Request;
use hyper::{body::Incoming, rt::Executor, server::conn, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use crate::{
    config::{Limits, Timeouts},
    gateway::{
        Thread,
        strict::{Scanner, Verdict},
        tls::Speaks,
    },
    shutdown::Shutdown,
};

/// Streams that one HTTP/2 connection may have open. Browsers use fewer than a hundred.
const H2_STREAMS: u32 = 128;

/// Bytes that a client may send ahead on one HTTP/2 stream, and on all of a connection's: the bound on what an
/// unread upload holds in memory, and large enough to fill a fast link.
const H2_STREAM_WINDOW: u32 = 256 * 1024;
const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Bytes buffered for a slow HTTP/2 reader per stream.
const H2_SEND_BUFFER: usize = 128 * 1024;

/// Streams reset before we have looked at them; more is the rapid-reset attack (CVE-2023-44487).
const H2_PENDING_RESETS: usize = 20;

/// How long a client that has been told to go may take to do so.
const H2_GOODBYE: Duration = Duration::from_secs(1);

/// Header fields that hyper has room for on its stack.
const H1_HEADERS: usize = 100;

/// The smallest buffer hyper accepts for a head.
const H1_LEAST_BUFFER: usize = 8192;

/// The connection as its requests see it.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// The other end of the socket, or whom the PROXY header named.
    pub address: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
}

/// Runs futures that stay on this thread.
#[derive(Debug, Clone, Copy)]
struct Here;

impl<F> Executor<F> for Here
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// Serves one connection until it ends or the gateway stops.
pub async fn serve<S>(thread: Rc<Thread>, peer: Peer, stream: S, speaks: Speaks, shutdown: Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let world = thread.current.get();
    let (limits, timeouts) = (world.config.limits, world.config.timeouts);
    drop(world);
    match speaks {
        Speaks::Http1 => serve_http1(thread, peer, stream, &limits, &timeouts, shutdown).await,
        Speaks::Http2 => serve_http2(thread, peer, stream, &limits, &timeouts, shutdown).await,
    }
}

async fn serve_http1<S>(
    thread: Rc<Thread>,
    peer: Peer,
    stream: S,
    limits: &Limits,
    timeouts: &Timeouts,
    mut shutdown: Shutdown,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    // hyper's limit comes first, and with it the answer 431.
    let buffer = limits.header_bytes.max(H1_LEAST_BUFFER);
    let head = Rc::new(HeadWatch::new(timeouts.head, 2 * buffer));
    let stream = Watched { stream, head: Rc::clone(&head), timer: None, stall: timeouts.body, stalled: None };
    let service = service_fn(move |request: Request<Incoming>| {
        let (thread, head) = (Rc::clone(&thread), Rc::clone(&head));
        async move {
            let complaint = head.complaint();
            Ok::<_, Infallible>(thread.answer(peer, request, complaint, ()).await)
        }
    });
    let mut builder = conn::http1::Builder::new();
    // Not `pipeline_flush`: while unread bytes follow a request it keeps the answer back, and loses it when the
    // connection is closed because of just those bytes.
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(timeouts.idle.max(timeouts.head))
        .max_header_size(limits.header_bytes)
        .max_buf_size(buffer)
        .half_close(false)
        // Copied together they leave in one TLS record. Never `pipeline_flush`: while any byte of a next request is
        // there, it holds back every answer, also the 400 to that byte, and gathers them in memory without a bound.
        .writev(false);
    if limits.headers != H1_HEADERS {
        // Even the same number would cost an array on the heap for every request.
        builder.max_headers(limits.headers);
    }
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let flag = shutdown.clone();
    let mut word = Some(Box::pin(async move { shutdown.begun().await }));
    let mut listening = false;
    let ended = poll_fn(|cx| {
        // Polled once, which has this task woken when the word comes; until then a look at the flag is enough.
        if (!listening || flag.has_begun())
            && let Some(begun) = &mut word
        {
            listening = true;
            if begun.as_mut().poll(cx).is_ready() {
                word = None;
                connection.as_mut().graceful_shutdown();
            }
        }
        connection.as_mut().poll(cx)
    })
    .await;
    note_end(peer, ended);
}

async fn serve_http2<S>(
    thread: Rc<Thread>,
    peer: Peer,
    stream: S,
    limits: &Limits,
    timeouts: &Timeouts,
    mut shutdown: Shutdown,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let activity = Rc::new(Activity { open: Cell::new(0), last: Cell::new(Instant::now()) });
    let counted = Rc::clone(&activity);
    let service = service_fn(move |request: Request<Incoming>| {
        let (thread, open) = (Rc::clone(&thread), OpenStream::new(&counted));
        async move { Ok::<_, Infallible>(thread.answer(peer, request, None, open).await) }
    });
    let mut builder = conn::http2::Builder::new(Here);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_send_buf_size(H2_SEND_BUFFER)
        .max_pending_accept_reset_streams(H2_PENDING_RESETS)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(timeouts.idle)
        .keep_alive_timeout(timeouts.head);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = async { tokio::select! { () = shutdown.begun() => {}, () = activity.idle_for(timeouts.idle) => {} } } => {
            connection.as_mut().graceful_shutdown();
            // A client that does not answer GOAWAY is not waited for once its requests are answered.
            tokio::select! {
                ended = connection => ended,
                () = activity.idle_for(H2_GOODBYE) => Ok(()),
            }
        }
    };
    note_end(peer, ended);
}

fn note_end(peer: Peer, ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(client = %peer.address, %error, "connection ended");
    }
}

/// Requests of one HTTP/2 connection.
struct Activity {
    open: Cell<u32>,
    last: Cell<Instant>,
}

impl Activity {
    /// Returns when no request has been open for that long.
    async fn idle_for(&self, patience: Duration) {
        loop {
            let until = self.last.get() + patience;
            tokio::time::sleep_until(until.max(Instant::now() + Duration::from_millis(100))).await;
            if self.open.get() == 0 && self.last.get() + patience <= Instant::now() {
                return;
            }
        }
    }
}

/// One open stream; held until its response has been passed on.
struct OpenStream(Rc<Activity>);

impl OpenStream {
    fn new(activity: &Rc<Activity>) -> Self {
        activity.open.set(activity.open.get() + 1);
        Self(Rc::clone(activity))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
        self.0.last.set(Instant::now());
    }
}

/// What is known of the bytes that arrive on an HTTP/1 connection.
struct HeadWatch {
    patience: Duration,
    scanner: RefCell<Scanner>,
    /// Since when a head has been arriving.
    arriving: Cell<Option<Instant>>,
    /// Nothing more is to be read.
    stopped: Cell<bool>,
}

impl HeadWatch {
    fn new(patience: Duration, head_most: usize) -> Self {
        Self {
            patience,
            scanner: RefCell::new(Scanner::new(head_most)),
            arriving: Cell::new(None),
            stopped: Cell::new(false),
        }
    }

    /// Takes in what has been received and tells how much of it may be passed on.
    fn received(&self, bytes: &[u8]) -> usize {
        let mut scanner = self.scanner.borrow_mut();
        let passed = scanner.take(bytes);
        self.stopped.set(passed < bytes.len());
        let waiting = scanner.in_head() || self.stopped.get();
        self.arriving.set(waiting.then(|| self.arriving.get().unwrap_or_else(Instant::now)));
        passed
    }

    /// Whether a body was passed on that has no single end.
    fn is_body_bad(&self) -> bool {
        self.scanner.borrow().bad_body().is_some()
    }

    /// hyper has found a head; tells what is wrong with it.
    fn complaint(&self) -> Option<&'static str> {
        match self.scanner.borrow_mut().verdict() {
            Some(Verdict::Fine) => None,
            Some(Verdict::Bad(why)) => Some(why),
            None => Some("The end of the request's head can be read in two ways."),
        }
    }
}

/// An HTTP/1 connection's stream, watched.
struct Watched<S> {
    stream: S,
    head: Rc<HeadWatch>,
    timer: Option<Pin<Box<Sleep>>>,
    /// How long a client may take nothing of what is written, and the time-out while it does.
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Watched<S> {
    /// Ends a connection whose client has stopped reading: it holds buffers here, and a thread of the application.
    fn check_stall<T>(&mut self, cx: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.stalled = None;
            return progress;
        }
        let timer = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.stall)));
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read the answer")));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> Watched<S> {
    /// Whether the head has been arriving for too long.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(since) = self.head.arriving.get() else {
            self.timer = None;
            return false;
        };
        let deadline = since + self.head.patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).is_ready()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.head.stopped.get() {
            // The answer to the bad head is on its way out; the connection closes behind it.
            return if self.poll_overdue(cx) {
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            } else {
                Poll::Pending
            };
        }
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                let received = buffer.filled().len() - before;
                let passed = self.head.received(&buffer.filled()[before..]);
                buffer.set_filled(before + passed);
                if passed < received && self.head.is_body_bad() {
                    // No framing of any body goes on with this byte: hyper says so too, and the request is answered 400.
                    buffer.put_slice(b"\0");
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending if self.poll_overdue(cx) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the request's head took too long to arrive")))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, data);
        self.check_stall(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.check_stall(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.check_stall(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
