//! Behind the gate. Everything here takes a [`Permit`]: an application is served because somebody was allowed to be
//! served, never because a path happened to lead here.
//!
//! Reading order: [`serve`] (a file or the worker) · `request` (what the application sees) · `body` (both directions) ·
//! `file` (answers that are files) · `grant` (whether it may go on) · `deadlines` (how long it may take) ·
//! `lane`, `answer` and `pool` (one data thread's view of the workers) · `launch`, `process`,
//! `worker`, `nursery`, `supervise` (the control thread's view) ·
//! `isolation`, `python`, `confine` (what a launch is kept from, which interpreter it is, how the two come together) ·
//! `watch` (development) · `static_files` · `log`.

pub mod answer;
pub mod body;
pub mod confine;
pub mod deadlines;
pub mod file;
pub mod grant;
pub mod isolation;
pub mod lane;
pub mod launch;
pub mod log;
pub mod nursery;
pub mod pool;
pub mod process;
pub mod python;
pub mod request;
pub mod static_files;
pub mod supervise;
pub mod watch;
pub mod worker;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Response, header, request::Parts};
use hyper::{body::Incoming, ext::ReasonPhrase};

use crate::{
    app::{
        answer::{Answer, Head},
        body::{Body, RequestBody, Terms},
        deadlines::Deadlines,
        grant::Grant,
        launch::{Launch, LaunchKey},
        pool::Pools,
        worker::{Start, Worker},
    },
    clock::Clock,
    config::Config,
    model::Reason,
    policy::{Application, Permit, ServeFiles},
};

/// How long a request waits for a worker while its application starts or its only worker is being replaced.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came in, apart from the target, which is in the permit.
pub struct Inbound {
    /// Method, version and headers; the URI has been consumed.
    pub parts: Parts,
    /// Who sent it, after trusted proxies.
    pub client: SocketAddr,
    /// Our end of the connection.
    pub local: SocketAddr,
    /// Whether it came over TLS.
    pub secure: bool,
    /// Its id in logs and pages.
    pub request_id: String,
}

/// What the applications on one data thread need.
pub struct Applications<'a> {
    /// The thread's lanes.
    pub pools: &'a Pools,
    /// Limits and time-outs that applications do not set themselves.
    pub config: &'a Config,
    /// The launch that belongs to the rules which judged the request.
    pub launch: Option<LaunchKey>,
}

/// What a served request cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Served {
    /// How long it waited for a worker, and in it for a thread, microseconds.
    pub queued_us: u32,
}

/// Why a permitted request has no answer.
#[derive(Debug)]
pub struct Unserved {
    /// What the log, the audit and the client are told.
    pub reason: Reason,
    /// In development, and only there: why the application does not start, for who may use it.
    pub traceback: Option<Arc<str>>,
}

impl From<Reason> for Unserved {
    fn from(reason: Reason) -> Self {
        Self { reason, traceback: None }
    }
}

/// Serves a permitted request: a file, or the worker. An answer that takes its time tells `grant` where it comes from.
///
/// # Errors
/// Why there is no answer; nothing was sent.
pub async fn serve(
    applications: Applications<'_>,
    permit: &Permit,
    grant: &Grant,
    inbound: Inbound,
    body: Incoming,
    served: &mut Served,
) -> Result<Response<Body>, Unserved> {
    if permit.app().serve_files != ServeFiles::No
        && let Some(file) = static_files::asked_for(permit)
    {
        return Ok(static_files::serve(permit, &file, inbound).await?);
    }
    call(applications, permit, grant, inbound, body, served).await
}

/// Calls the application.
async fn call(
    applications: Applications<'_>,
    permit: &Permit,
    grant: &Grant,
    inbound: Inbound,
    body: Incoming,
    served: &mut Served,
) -> Result<Response<Body>, Unserved> {
    let (config, app) = (applications.config, permit.app());
    let broken = || broken(applications.pools, app);
    if let Some(broken) = broken() {
        return Err(broken);
    }
    let seat = applications.pools.seat(&app.name, config.limits.queue)?;
    let terms = Terms::of(config, app);
    let body = RequestBody::prepare(body, &terms).await?;
    let launch = applications.launch.ok_or(Reason::ApplicationUnavailable)?;
    let deadlines = Deadlines::of(config, app);
    let lane = applications.pools.lane(&app.name, launch, PATIENCE.min(deadlines.queue)).await;
    let (lane, waited) = lane.map_err(|reason| broken().unwrap_or_else(|| reason.into()))?;
    let ticket = lane.start(|out| request::put(out, permit, &inbound, &body));
    body.send(&ticket, terms.pause);

    let head_only = inbound.parts.method == http::Method::HEAD;
    let answer = deadlines.answer(&ticket, waited).await.inspect_err(|reason| {
        let queued = if *reason == Reason::QueueTimeout { deadlines.queue } else { waited };
        served.queued_us = micros(queued);
    })?;
    let (head, body) = match answer {
        Answer::Complete(head, bytes) => (head, Body::full(bytes)),
        Answer::Streaming(head) => {
            grant.comes_from(ticket.watch());
            (head, Body::streaming(ticket, seat))
        }
    };
    served.queued_us = head.queued_us.saturating_add(micros(waited));
    Ok(respond(head, if head_only { body.without_content() } else { body }))
}

/// In development a version that does not start takes the place of the one before: who has just saved a mistake wants to
/// see it, not what was there before.
fn broken(pools: &Pools, app: &Application) -> Option<Unserved> {
    let traceback = if app.reload { pools.broken(&app.name)? } else { return None };
    Some(Unserved { reason: Reason::ApplicationUnavailable, traceback: Some(traceback) })
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

fn respond(head: Head, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    if let Some(reason) = head.reason.and_then(|reason| ReasonPhrase::try_from(reason).ok()) {
        response.extensions_mut().insert(reason);
    }
    let headers: &mut HeaderMap = response.headers_mut();
    headers.entry(header::SERVER).or_insert(HeaderValue::from_static("Portcullis"));
    response
}

/// Imports an application in a worker of its own and ends that worker again: `check` and `app test`.
///
/// # Errors
/// What an operator needs to mend it: the traceback, or what is missing.
pub async fn probe(config: &Config, application: &Application) -> Result<portcullis_wire::Ready, String> {
    let (log, clock) = (log::AppLog::none(), Clock::System);
    let mut launch = Launch::of(config, application);
    launch.boot.preload = false;
    let patience = application.start_timeout.unwrap_or(config.timeouts.start);
    let worker = Worker::boot(Start {
        launch: &launch,
        lanes: 1,
        id: 0,
        patience,
        deadlock: config.timeouts.deadlock,
        max_requests: None,
        log,
        places: None,
        clock,
    })
    .await
    .map_err(|error| error.to_string())?;
    worker.stop(Duration::ZERO).await;
    Ok(worker.ready.clone())
}
