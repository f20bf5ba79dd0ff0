//! The data plane: what happens to one request, top to bottom. Read `Thread::admit` first.
//!
//! `listener` accepts, `tls` shakes hands, `http` parses; then a request is admitted or refused here, and `app` serves
//! it. Every refusal leaves through `refusal`, every request leaves one line in `access_log`. Nothing here touches the
//! store or administration: the gateway goes on answering when those are slow or broken.

pub mod access_log;
mod forward_auth;
pub mod headers;
pub mod http;
pub mod limits;
pub mod listener;
pub mod outgoing;
pub mod refusal;
pub mod run;
pub mod running;
pub mod strict;
pub mod tls;

use std::{
    mem,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use ::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::body::Incoming;

use crate::{
    app::{
        self, Applications, Inbound, Served,
        body::{Body, Sent},
        pool::Pools,
    },
    audit::{Audit, AuditRecord, event},
    authn::{Authn, Outcome, Presented},
    clock::Clock,
    gateway::{
        access_log::{AccessLog, Record, RequestIds},
        http::Peer,
        limits::Limits,
        outgoing::Outgoing,
        refusal::{Refusal, Taste},
        running::{Judged, Running},
    },
    model::{MethodSet, Name, Principal, Reason, SecurityLevel},
    policy::{self, Application, Denial, Permit, Question, ServeFiles},
    snapshot::{Current, Snapshot},
    target::Target,
};

/// What a data thread has for all its requests.
pub struct Thread {
    /// The view that a request takes when it begins.
    pub current: Current,
    /// Who is it.
    pub authn: Arc<Authn>,
    /// Where refusals are recorded.
    pub audit: Audit,
    /// How often who has asked.
    pub limits: Arc<Limits>,
    /// Its lanes.
    pub pools: Rc<Pools>,
    /// Its requests under way.
    pub running: Rc<Running>,
    /// Its access log.
    pub access: Rc<AccessLog>,
    /// The time.
    pub clock: Clock,
    /// Numbers for its requests.
    pub ids: RequestIds,
    /// Requests since the start, over all threads.
    pub requests: Arc<AtomicU64>,
}

impl Thread {
    /// From a parsed HTTP request to a permit or a refusal, then to the application. Each step hands the next one a
    /// value that only it can make.
    async fn admit(
        self: &Rc<Self>,
        peer: Peer,
        request: Request<Incoming>,
        record: &mut Record,
        outgoing: &mut Outgoing,
    ) -> Result<Response<Body>, Refusal> {
        let (world, epoch) = (self.current.get(), self.authn.epoch());
        self.check_audit(&world)?;
        let (mut parts, body) = request.into_parts();
        check_head(&parts)?;
        // Until it has been read, the log shows what was sent.
        record.path = parts.uri.path().to_owned();
        let host = parts.headers.get(header::HOST).map(HeaderValue::as_bytes);
        let target = Target::parse(mem::take(&mut parts.uri), parts.version, host)?;
        record.path = target.path().as_str().to_owned();
        if forward_auth::is_asked(&world, peer, &target) {
            return self.check(&world, peer, &parts, &body, record).await;
        }
        let client = headers::client(peer.address, &parts.headers, &world.config.gateway.trusted_proxies)
            .map_err(Refusal::bad_request)?;
        record.client = client.ip().to_canonical();
        let app = route(&world, &target, Place::Here)?;
        record.application = Some(Arc::clone(&app.name));
        outgoing.begin(app, &target, &parts);
        let preflight = outgoing.preflight();
        if !matches!(preflight, Some(Ok(_))) {
            self.limits.count_before(app, record.client)?;
        }
        if let Some(preflight) = preflight {
            return preflight;
        }
        let permit = self.judge(&world, app, target, &parts.method, &parts.headers, record).await?;
        outgoing.personal = permit.is_personal();

        let request_id = record.request.clone();
        let inbound = Inbound { parts, client, local: peer.local, secure: true, request_id };
        let launch = world.launch(&permit.app().name);
        let applications = Applications { pools: &self.pools, config: &world.config, launch };
        let mut served = Served::default();
        let judged = Judged { world: Arc::clone(&world), epoch, principal: permit.principal().clone() };
        let running = self.enter(permit, judged, &inbound);
        let serving = app::serve(applications, running.permit(), (*running).as_ref(), inbound, body, &mut served);
        let response = running.while_allowed(serving).await;
        record.queued_us = served.queued_us;
        Ok(response??.map(|body| body.while_granted(running)))
    }

    /// Who asks, and whether they may: one way for a request that is served here and for one that a proxy asks about.
    async fn judge(
        &self,
        world: &Snapshot,
        app: &Arc<Application>,
        target: Target,
        method: &Method,
        headers: &HeaderMap,
        record: &mut Record,
    ) -> Result<Permit, Refusal> {
        let principal = self.identify(world, app, headers, record).await?;
        let question =
            Question { system: world.config.security.methods, principal: &principal, method, from: record.client };
        let hidden = is_secured_file(app, &target);
        let permit = policy::decide(app, target, &question).map_err(|denial| denied(denial, hidden))?;
        record.rule = permit.rule().cloned();
        record.allowed = true;
        self.limits.count(&permit, record.client)?;
        if let Some(denial) = permit.would_refuse() {
            self.audit_report(denial, app, record);
        }
        Ok(permit)
    }

    /// Answers one request, whatever happens to it. `complaint` says what is wrong with its head as bytes; `hold` is let
    /// go when the response has been passed on.
    pub async fn answer(
        self: Rc<Self>,
        peer: Peer,
        request: Request<Incoming>,
        complaint: Option<&'static str>,
        hold: impl Sized + 'static,
    ) -> Response<Body> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut begun =
            Begun { record: self.begin_record(peer, &request), access: Rc::clone(&self.access), over: false };
        let record = &mut begun.record;
        let taste = Taste::of(request.headers());
        let bodiless = request.method() == Method::HEAD;
        let is_http1 = request.version() < Version::HTTP_2;
        let mut outgoing = Outgoing::default();
        let outcome = if let Some(complaint) = complaint {
            Err(Refusal::bad_request(complaint))
        } else if request.uri() == "*" && request.method() == Method::OPTIONS {
            Ok(about_the_server())
        } else {
            self.admit(peer, request, record, &mut outgoing).await
        };
        let outcome = outcome.map(|response| outgoing.dress(response));
        let response = outcome.unwrap_or_else(|refusal| {
            record.reason = Some(refusal.reason);
            record.rule = refusal.rule.clone().or(record.rule.take());
            self.audit_refusal(&refusal, record);
            let mut response = refusal.respond(taste, &record.request, self.realm(record).as_str());
            outgoing.dress_refusal(response.headers_mut());
            if is_http1 && refusal.ends_connection() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            if bodiless { response.map(Body::without_content) } else { response }
        });
        record.status = response.status().as_u16();
        response.map(|body| {
            body.when_done(move |sent| {
                begun.end(sent);
                drop(hold);
            })
        })
    }

    /// Who asks. A method that is not allowed here is refused before anything is verified; wrong credentials never
    /// fall back to anonymous.
    async fn identify(
        &self,
        world: &Snapshot,
        app: &Arc<Application>,
        headers: &HeaderMap,
        record: &mut Record,
    ) -> Result<Principal, Refusal> {
        let allowed = allowed_methods(world, app)?;
        let presented = Presented::from_headers(headers);
        if presented.method().is_some_and(|method| !allowed.contains(method)) {
            return Err(Reason::MethodNotAllowed.into());
        }
        record.claimed = presented.claimed_name();
        record.authenticated = presented.method();
        let outcome = match self.authn.recall(&presented, &app.name) {
            Some(outcome) => outcome,
            None => self.authn.identify(presented, &app.name).await,
        };
        if let Outcome::SignedIn(principal) = &outcome {
            self.audit_sign_in(principal, record);
        }
        match outcome {
            Outcome::NotPresented => Ok(Principal::Anonymous),
            Outcome::Verified(principal) | Outcome::SignedIn(principal) => {
                let verified = principal.verified();
                record.principal = verified.map(|verified| verified.name.shared());
                record.credential = verified.and_then(|verified| verified.credential.clone());
                Ok(principal)
            }
            Outcome::Rejected(why) => {
                tracing::debug!(request = record.request, why, "credentials rejected");
                Err(credentials_rejected(allowed))
            }
            Outcome::Ambiguous => Err(Reason::AmbiguousCredentials.into()),
            Outcome::Busy => Err(Reason::SignInBusy.into()),
            Outcome::Unavailable => Err(Reason::StoreUnavailable.into()),
        }
    }

    /// The strictest level serves nothing that cannot be accounted for.
    fn check_audit(&self, world: &Snapshot) -> Result<(), Refusal> {
        if world.config.security.level == SecurityLevel::LockedDown && !self.audit.healthy() {
            return Err(Reason::AuditUnavailable.into());
        }
        Ok(())
    }

    fn begin_record(&self, peer: Peer, request: &Request<Incoming>) -> Record {
        Record {
            request: self.ids.next(),
            started: Instant::now(),
            client: peer.address.ip().to_canonical(),
            asked_by: None,
            method: request.method().clone(),
            path: String::new(),
            protocol: match request.version() {
                Version::HTTP_10 | Version::HTTP_09 => "HTTP/1.0",
                Version::HTTP_2 => "HTTP/2",
                _ => "HTTP/1.1",
            },
            application: None,
            claimed: None,
            principal: None,
            credential: None,
            authenticated: None,
            rule: None,
            allowed: false,
            reason: None,
            would_refuse: None,
            status: 0,
            queued_us: 0,
        }
    }

    fn audit_refusal(&self, refusal: &Refusal, record: &Record) {
        let Some(unrecorded) = refusal.audited() else { return };
        // Wrong credentials for a name are a failed sign-in of that name; everything else is a refusal.
        let failed_sign_in = refusal.reason == Reason::CredentialsRejected;
        let event = if failed_sign_in { event::SIGN_IN } else { event::REFUSAL };
        let claimed = record.claimed.as_ref().filter(|_| failed_sign_in).map(Name::as_str);
        let actor = record.principal.as_deref().or(claimed).unwrap_or("anonymous");
        let mut refused = AuditRecord::new(self.clock.now(), event, actor)
            .target(audited_target(&record.method, &record.path))
            .refused(refusal.reason)
            .details(details(record, "status", refusal.status().as_u16(), unrecorded));
        refused.rule = record.rule.as_ref().map(ToString::to_string);
        self.audit(refused, record);
    }

    /// A rule with `mode = "report"` would have refused what is let through.
    fn audit_report(&self, denial: &Denial, app: &Application, record: &mut Record) {
        record.would_refuse = Some((denial.reason, denial.rule.clone()));
        // The log has each of them; the audit keeps what it is told for ever, and anybody may be told of here.
        let Some(unrecorded) = self.limits.may_report(&app.name) else { return };
        let actor = record.principal.as_deref().unwrap_or("anonymous");
        let mut reported = AuditRecord::new(self.clock.now(), event::WOULD_REFUSE, actor)
            .target(audited_target(&record.method, &record.path))
            .details(details(record, "reason", denial.reason.id(), unrecorded));
        reported.rule = denial.rule.as_ref().map(ToString::to_string);
        self.audit(reported, record);
    }

    fn audit_sign_in(&self, principal: &Principal, record: &Record) {
        let actor = principal.name().unwrap_or("anonymous");
        let mut signed_in = AuditRecord::new(self.clock.now(), event::SIGN_IN, actor).details(details(
            record,
            "method",
            principal.method().word(),
            0,
        ));
        signed_in.credential = principal.verified().and_then(|v| v.credential.as_deref()).map(Into::into);
        self.audit(signed_in, record);
    }

    fn audit(&self, mut entry: AuditRecord, record: &Record) {
        entry.application = record.application.as_deref().map(Into::into);
        entry.address = Some(record.client.to_string());
        entry.credential = entry.credential.or_else(|| record.credential.as_deref().map(Into::into));
        self.hand_to_audit(entry, &record.request);
    }

    fn hand_to_audit(&self, entry: AuditRecord, request: &str) {
        if self.audit.record(entry).is_err() {
            tracing::warn!(request, "the audit is full, a record was lost");
        }
    }

    fn realm(&self, record: &Record) -> String {
        let world = self.current.get();
        let title = record
            .application
            .as_ref()
            .and_then(|name| world.routes.all().iter().find(|app| app.name == *name).map(|app| app.title.clone()));
        title.filter(|title| !title.is_empty()).unwrap_or_else(|| "Portcullis".to_owned())
    }
}

/// A request that has begun and whose answer has not been handed over. If the client leaves before that, its line in
/// the access log says so.
struct Begun {
    record: Record,
    access: Rc<AccessLog>,
    over: bool,
}

/// Bytes of a refused target that the audit keeps.
const AUDITED_MOST: usize = 512;

/// The status that the access log shows for a client that left before it was answered; nothing is sent with it.
const CLIENT_LEFT: u16 = 499;

impl Begun {
    /// The answer has been passed on, as far as it went.
    fn end(mut self, sent: Sent) {
        self.over = true;
        self.access.write(&self.record, sent);
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.over {
            self.record.status = CLIENT_LEFT;
            self.access.write(&self.record, Sent { bytes: 0, cut: true, withdrawn: None });
        }
    }
}

/// What was asked for, as far as it is worth keeping for ever: whoever is refused must not fill the disk with it.
fn audited_target(method: &Method, path: &str) -> String {
    let mut target = format!("{:.32} {path}", method.as_str());
    if target.len() > AUDITED_MOST {
        let mut end = AUDITED_MOST;
        while !target.is_char_boundary(end) {
            end -= 1;
        }
        let whole = target.len();
        target.truncate(end);
        target.push_str(&format!("… ({whole} bytes)"));
    }
    target
}

/// The request, the proxy that asked, if one did, what belongs to the event, and how many like it were left out before.
fn details(record: &Record, name: &str, value: impl Into<serde_json::Value>, unrecorded: u64) -> serde_json::Value {
    let mut details = serde_json::json!({ "request": record.request, name: value.into() });
    if unrecorded > 0 {
        details["unrecorded"] = unrecorded.into();
    }
    if let Some(proxy) = record.asked_by {
        details["asked_by"] = proxy.to_string().into();
    }
    details
}

/// Where an application has to run to be had in a certain way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Behind this gate, for who comes here.
    Here,
    /// Behind a proxy that asks here.
    Elsewhere,
}

/// Which application owns the target. One that runs here is no proxy's to serve: whatever stands behind the proxy is
/// not what its policy is about. One that runs elsewhere is not to be had here.
fn route<'a>(world: &'a Snapshot, target: &Target, place: Place) -> Result<&'a Arc<Application>, Refusal> {
    let hosts = &world.config.gateway.hosts;
    if !hosts.is_empty() && !hosts.iter().any(|host| **host == *target.host().name) {
        return Err(Reason::HostNotServed.into());
    }
    let app = world.routes.find(target.path()).ok_or(Reason::NoApplication)?;
    match (place, app.elsewhere) {
        _ if !app.enabled => Err(Reason::ApplicationDisabled.into()),
        (Place::Here, true) => Err(Reason::ApplicationElsewhere.into()),
        (Place::Elsewhere, false) => Err(Reason::ApplicationHere.into()),
        (Place::Here, false) | (Place::Elsewhere, true) => Ok(app),
    }
}

/// The methods by which callers of an application may authenticate.
fn allowed_methods(world: &Snapshot, app: &Application) -> Result<MethodSet, Refusal> {
    let allowed = world.config.security.methods.and(app.methods);
    if allowed.is_empty() { Err(Reason::MethodNotPermitted.into()) } else { Ok(allowed) }
}

/// Credentials that are wrong, where those methods are allowed.
fn credentials_rejected(allowed: MethodSet) -> Refusal {
    match allowed.credentials() {
        MethodSet::NONE => Reason::MethodNotAllowed.into(),
        methods => Refusal::credentials(Reason::CredentialsRejected, methods),
    }
}

/// Whether a target is a static file that exists only for whom the rules let at it.
fn is_secured_file(app: &Application, target: &Target) -> bool {
    app.serve_files == ServeFiles::Secured
        && app.mount.split(target.path()).is_some_and(|(_, rest)| rest.starts_with("/static/"))
}

fn denied(denial: Denial, hidden: bool) -> Refusal {
    let refusal = Refusal::from(denial);
    if hidden { refusal.hidden() } else { refusal }
}

fn check_method(method: &Method) -> Result<(), Refusal> {
    if policy::is_served(method) { Ok(()) } else { Err(Refusal::method()) }
}

/// What may not reach an application whatever its rules say.
fn check_head(parts: &Parts) -> Result<(), Refusal> {
    check_method(&parts.method)?;
    match headers::doubled(&parts.headers) {
        Some("two Host headers") => Err(Reason::BadHost.into()),
        Some(doubled) => Err(Refusal::bad_request(doubled)),
        None => Ok(()),
    }
}

/// `OPTIONS *` asks about the server, not about any application (RFC 9110 section 9.3.7).
fn about_the_server() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::SERVER, HeaderValue::from_static("Portcullis"));
    response
}
