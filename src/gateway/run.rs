//! Starting and draining: data threads that each accept, serve and finish on their own.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    rc::Rc,
    sync::{Arc, atomic::AtomicU64},
    thread::JoinHandle,
};

use ::http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::LocalSet,
    time::Duration,
};

use crate::{
    app::{
        body::Body,
        launch::MAX_LANES,
        pool::{PoolMessage, Pools},
    },
    audit::Audit,
    authn::Authn,
    clock::{Clock, random},
    gateway::{
        Thread,
        access_log::{AccessLog, RequestIds},
        http::{self, Peer},
        limits::Limits,
        listener::{Connections, Open, Prefixed, is_in, proxied},
        tls,
    },
    shutdown::Shutdown,
    snapshot::Current,
    target::Host,
    telemetry::LogFile,
};

/// After the kernel says that there are too many open files, accepting pauses so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What all data threads share.
#[derive(Clone)]
pub struct Shared {
    /// The view requests take.
    pub current: Current,
    /// Who is it.
    pub authn: Arc<Authn>,
    /// Where refusals are recorded.
    pub audit: Audit,
    /// How often who has asked, the same for all threads.
    pub limits: Arc<Limits>,
    /// Where requests are logged.
    pub access: LogFile,
    /// The time.
    pub clock: Clock,
    /// Open connections.
    pub connections: Connections,
    /// Requests since the start.
    pub requests: Arc<AtomicU64>,
    /// The end.
    pub shutdown: Shutdown,
}

/// Running data threads.
pub struct Gateway {
    threads: Vec<JoinHandle<()>>,
    /// How each learns of its lanes.
    pub pools: Vec<mpsc::UnboundedSender<PoolMessage>>,
}

/// A port and the HTTPS port that plain requests to it are sent to.
pub struct Redirect {
    /// Bound.
    pub listener: StdListener,
    /// Where HTTPS is.
    pub https_port: u16,
}

impl Gateway {
    /// Starts `count` data threads, each accepting from all listeners.
    ///
    /// # Errors
    /// The operating system gives no thread, or no second handle to a socket.
    pub fn start(count: usize, shared: &Shared, listeners: &[StdListener], redirects: &[Redirect]) -> io::Result<Self> {
        let mut gateway = Self { threads: Vec::new(), pools: Vec::new() };
        // A worker has room for so many lanes, and a thread without one could serve nothing.
        for index in 0..count.min(MAX_LANES) {
            let listeners = listeners.iter().map(nonblocking).collect::<io::Result<Vec<_>>>()?;
            // Redirects are rare: one thread is enough for them.
            let redirects = if index == 0 {
                redirects
                    .iter()
                    .map(|redirect| Ok((nonblocking(&redirect.listener)?, redirect.https_port)))
                    .collect::<io::Result<Vec<_>>>()?
            } else {
                Vec::new()
            };
            let (sender, messages) = mpsc::unbounded_channel();
            let shared = shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("data-{index}"))
                .spawn(move || run_thread(shared, listeners, redirects, messages))?;
            gateway.threads.push(thread);
            gateway.pools.push(sender);
        }
        Ok(gateway)
    }

    /// Waits until every thread has finished its connections.
    pub fn join(self) {
        drop(self.pools);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a data thread ended in a panic");
            }
        }
    }
}

fn nonblocking(listener: &StdListener) -> io::Result<StdListener> {
    let listener = listener.try_clone()?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn run_thread(
    shared: Shared,
    listeners: Vec<StdListener>,
    redirects: Vec<(StdListener, u16)>,
    messages: mpsc::UnboundedReceiver<PoolMessage>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "a data thread has no runtime"),
    };
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let pools = Rc::new(Pools::default());
        tokio::task::spawn_local(Rc::clone(&pools).follow(messages));
        let access = Rc::new(AccessLog::new(shared.access.clone(), shared.clock.clone()));
        let thread = Rc::new(Thread {
            current: shared.current.clone(),
            authn: shared.authn.clone(),
            audit: shared.audit.clone(),
            limits: Arc::clone(&shared.limits),
            pools,
            running: Rc::default(),
            access: Rc::clone(&access),
            clock: shared.clock.clone(),
            ids: RequestIds::new(random()),
            requests: Arc::clone(&shared.requests),
        });
        let open = Rc::new(Gate::default());
        for (listener, port) in redirects {
            tokio::task::spawn_local(redirect(listener, port, shared.clone()));
        }
        let accepting: Vec<_> = listeners
            .into_iter()
            .map(|listener| {
                tokio::task::spawn_local(accept(listener, Rc::clone(&thread), shared.clone(), Rc::clone(&open)))
            })
            .collect();
        for task in accepting {
            let _ = task.await;
        }
        open.empty().await;
        access.flush();
    });
}

/// Connections of one thread that are still open.
#[derive(Default)]
struct Gate {
    open: std::cell::Cell<usize>,
    changed: tokio::sync::Notify,
}

impl Gate {
    async fn empty(&self) {
        while self.open.get() > 0 {
            self.changed.notified().await;
        }
    }
}

struct Inside(Rc<Gate>);

impl Inside {
    fn enter(gate: &Rc<Gate>) -> Self {
        gate.open.set(gate.open.get() + 1);
        Self(Rc::clone(gate))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.changed.notify_one();
    }
}

async fn accept(listener: StdListener, thread: Rc<Thread>, shared: Shared, gate: Rc<Gate>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a listener cannot be used"),
    };
    let mut shutdown = shared.shutdown.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.begun() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                // Full: the connection is closed at once, which a client notices faster than a queue.
                let Some(open) = shared.connections.admit() else {
                    tracing::warn!(client = %address, "too many connections (`connections` under [limits])");
                    continue;
                };
                let inside = Inside::enter(&gate);
                tokio::task::spawn_local(converse(
                    stream,
                    address,
                    Rc::clone(&thread),
                    shared.shutdown.clone(),
                    (open, inside),
                ));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection from its first byte to its last.
async fn converse(
    stream: TcpStream,
    address: SocketAddr,
    thread: Rc<Thread>,
    shutdown: Shutdown,
    _held: (Open, Inside),
) {
    let _ = stream.set_nodelay(true);
    let Ok(local) = stream.local_addr() else { return };
    let world = thread.current.get();
    let patience = world.config.timeouts.handshake;
    let opened = async {
        let (stream, client) = if is_in(&world.config.gateway.proxy_protocol, address.ip()) {
            tokio::time::timeout(patience, proxied(stream, address)).await??
        } else {
            (Prefixed::from(stream), address)
        };
        let (stream, speaks) = tls::accept(&world, stream, patience).await?;
        io::Result::Ok((stream, speaks, client))
    };
    match opened.await {
        Ok((stream, speaks, client)) => {
            drop(world);
            http::serve(thread, Peer { address: client, local }, stream, speaks, shutdown).await;
        }
        Err(error) => tracing::debug!(client = %address, %error, "no TLS connection"),
    }
}

/// Plain HTTP: every request is told where HTTPS is, and nothing else is done with it.
async fn redirect(listener: StdListener, port: u16, shared: Shared) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a listener cannot be used"),
    };
    let mut shutdown = shared.shutdown.clone();
    loop {
        let accepted = tokio::select! {
            () = shutdown.begun() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Some(open) = shared.connections.admit() else { continue };
        let patience = shared.current.get().config.timeouts.head;
        tokio::task::spawn_local(async move {
            let _open = open;
            let service = service_fn(move |request: Request<Incoming>| async move {
                Ok::<_, std::convert::Infallible>(to_https(&request, port))
            });
            let mut builder = conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(patience).keep_alive(false);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(patience * 2, connection).await;
        });
    }
}

/// 308 keeps the method and body (RFC 9110 section 15.4.9). Only a well-formed host is repeated.
fn to_https(request: &Request<Incoming>, port: u16) -> Response<Body> {
    let host = request.headers().get(header::HOST).and_then(|host| Host::parse(host.as_bytes()).ok());
    let location = host.and_then(|host| {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let port = if port == 443 { String::new() } else { format!(":{port}") };
        HeaderValue::from_str(&format!("https://{}{port}{path}", host.name)).ok()
    });
    let mut response = Response::new(Body::empty());
    match location {
        Some(location) => {
            *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
            response.headers_mut().insert(header::LOCATION, location);
        }
        None => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    response
}
