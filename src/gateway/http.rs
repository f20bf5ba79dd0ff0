//! HTTP/1.1 and HTTP/2 by hyper, with the bounds that hyper leaves to us.
//!
//! Two things are watched underneath HTTP/1, where hyper cannot tell us: how long a request's head takes to arrive
//! (hyper's own timer also runs while a kept-alive connection is idle), and a raw `#` in the request-target, which the
//! URI type cuts off silently although it must be refused (RFC 9112 section 3.2). Over HTTP/2 the same cut happens
//! inside the library, out of our sight; it is harmless there and here, because the path that is judged is the path
//! that runs, but where we can see it we say no.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::Future,
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
    gateway::{Thread, tls::Speaks},
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

/// Request lines with a `#` that are remembered until their request is complete.
const SUSPECTS: usize = 16;

/// The smallest buffer hyper accepts for a head.
const H1_LEAST_BUFFER: usize = 8192;

/// The connection as its requests see it.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// The other end of the socket, or whom the PROXY header named.
    pub address: SocketAddr,
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
    let (limits, timeouts) = (world.config.limits.clone(), world.config.timeouts.clone());
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
    let head = Rc::new(HeadWatch::new(timeouts.head, limits.header_bytes));
    let stream = Watched { stream, head: Rc::clone(&head), timer: None };
    let service = service_fn(move |request: Request<Incoming>| {
        let (thread, head) = (Rc::clone(&thread), Rc::clone(&head));
        async move {
            let fragment = head.complete(&request);
            Ok::<_, Infallible>(thread.answer(peer, request, fragment, Busy(head)).await)
        }
    });
    let mut builder = conn::http1::Builder::new();
    // Not `pipeline_flush`: while unread bytes follow a request it keeps the answer back, and loses it when the
    // connection is closed because of just those bytes.
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(timeouts.idle.max(timeouts.head))
        .max_headers(limits.headers)
        .max_buf_size(limits.header_bytes.max(H1_LEAST_BUFFER))
        .half_close(false);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.begun() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
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
        async move { Ok::<_, Infallible>(thread.answer(peer, request, false, open).await) }
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

/// What is known of the head that is arriving on an HTTP/1 connection.
struct HeadWatch {
    patience: Duration,
    longest_line: usize,
    /// Since when bytes have come that belong to no request yet.
    arriving: Cell<Option<Instant>>,
    /// Whether a request is being answered: what comes now is its body, or waits its turn.
    busy: Cell<bool>,
    lines: RefCell<Lines>,
}

/// A request that is being answered; held until its response has been passed on.
struct Busy(Rc<HeadWatch>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(false);
    }
}

/// Lines with a `#` that could be request lines, and the beginning of the line that has not ended yet.
#[derive(Default)]
struct Lines {
    suspects: Vec<Vec<u8>>,
    partial: Vec<u8>,
    too_long: bool,
}

impl HeadWatch {
    fn new(patience: Duration, longest_line: usize) -> Self {
        Self { patience, longest_line, arriving: Cell::new(None), busy: Cell::new(false), lines: RefCell::default() }
    }

    fn received(&self, bytes: &[u8]) {
        if !self.busy.get() && self.arriving.get().is_none() {
            self.arriving.set(Some(Instant::now()));
        }
        self.lines.borrow_mut().take(bytes, self.longest_line);
    }

    /// A head is complete; tells whether its request line held a raw `#`.
    fn complete(&self, request: &Request<Incoming>) -> bool {
        self.arriving.set(None);
        self.busy.set(true);
        let mut lines = self.lines.borrow_mut();
        if lines.suspects.is_empty() {
            return false;
        }
        let method = request.method().as_str().as_bytes();
        let target = request.uri().path_and_query().map_or("", |path| path.as_str()).as_bytes();
        let found = lines.suspects.iter().position(|line| {
            line.strip_prefix(method)
                .and_then(|rest| rest.strip_prefix(b" "))
                .and_then(|rest| rest.split(|byte| *byte == b'#').next())
                .is_some_and(|before| before.is_empty() || before.ends_with(target))
        });
        found.map(|index| lines.suspects.drain(..=index)).is_some()
    }
}

impl Lines {
    fn take(&mut self, bytes: &[u8], longest: usize) {
        let mut rest = bytes;
        // Most connections never send a `#`: they pay for one scan and for remembering the last line.
        if memchr::memchr(b'#', bytes).is_none() && !self.partial.contains(&b'#') {
            if let Some(end) = memchr::memrchr(b'\n', rest) {
                self.begin_line();
                rest = &rest[end + 1..];
            }
        } else {
            while let Some(end) = memchr::memchr(b'\n', rest) {
                self.append(&rest[..end], longest);
                self.suspect();
                self.begin_line();
                rest = &rest[end + 1..];
            }
        }
        self.append(rest, longest);
    }

    fn begin_line(&mut self) {
        self.partial.clear();
        self.too_long = false;
    }

    fn append(&mut self, bytes: &[u8], longest: usize) {
        self.too_long |= self.partial.len() + bytes.len() > longest;
        if self.too_long {
            self.partial.clear();
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }

    /// Keeps the line that has just ended if it could be a request line with a `#` in it.
    fn suspect(&mut self) {
        let line = self.partial.trim_ascii_end();
        if line.contains(&b'#') && (line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0")) {
            // More suspects than requests that fit into one read are lines of a body.
            if self.suspects.len() == SUSPECTS {
                self.suspects.remove(0);
            }
            self.suspects.push(line.to_vec());
        }
    }
}

/// An HTTP/1 connection's stream, watched.
struct Watched<S> {
    stream: S,
    head: Rc<HeadWatch>,
    timer: Option<Pin<Box<Sleep>>>,
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
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                let received = &buffer.filled()[before..];
                if !received.is_empty() {
                    self.head.received(received);
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
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
