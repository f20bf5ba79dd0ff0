//! Requests that run on after something has changed: judged anew, and ended if they would not be allowed any more.
//!
//! A request holds the snapshot and the principal it began with, which is what makes a change atomic. But an event
//! stream, a long download or an upload would go on for hours after its user was disabled. So every request under way
//! stands in a list of its data thread: a few words in memory, no timer and no task. While there are any, the thread looks
//! twice a second whether the rules or the store are others than those a request was judged by, or whether whom it belongs
//! to has expired. If so, whatever still runs a second and a half later is asked the same question again: the same target, method
//! and address, by the rules in force, for the principal as the store knows it now.
//!
//! The grace keeps what has always held for ordinary requests: they end under the snapshot they began with.
//!
//! An answer that has begun is cut, visibly (RFC 9112 section 8; RST_STREAM over HTTP/2). A request without an answer is
//! refused like any other. The application sees a client that has left.
//!
//! If the store does not answer for as long after a change, nobody knows who may go on, and nobody does.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::{Future, poll_fn},
    net::IpAddr,
    pin::pin,
    rc::{Rc, Weak},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use ::http::Method;
use slab::Slab;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    app::{Inbound, grant::Grant},
    audit::{AuditRecord, event},
    authn::Outcome,
    clock::Timestamp,
    gateway::{
        Place, Thread, allowed_methods, audited_target, credentials_rejected, denied, is_secured_file,
        refusal::Refusal, route,
    },
    model::{Principal, Reason, Verified},
    policy::{self, Permit, Question},
    snapshot::Snapshot,
};

/// How often a thread looks whether something has changed.
const LOOK: Duration = Duration::from_millis(500);

/// How long a request may run on after a change before it is judged anew. With the time until a change is noticed and
/// that for the store it makes less than the five seconds that the documentation promises.
const GRACE: Duration = Duration::from_millis(1500);

/// How long a store that does not answer is asked.
const STORE_PATIENCE: Duration = Duration::from_millis(1500);

/// Between two questions to a store that does not answer.
const STORE_RETRY: Duration = Duration::from_millis(250);

/// The requests under way on one thread.
#[derive(Default)]
pub struct Running {
    all: RefCell<Slab<Weak<Request>>>,
    /// Whether somebody looks after them.
    watched: Cell<bool>,
}

/// A request under way, and everything that its verdict depended on.
pub struct Request {
    grant: Grant,
    permit: Permit,
    method: Method,
    client: IpAddr,
    id: String,
    judged: RefCell<Judged>,
    /// What it is answered with when it is ended before its answer has begun.
    refusal: RefCell<Option<Refusal>>,
    of: Rc<Running>,
    slot: usize,
}

/// What a request was last judged by.
pub struct Judged {
    /// The rules.
    pub world: Arc<Snapshot>,
    /// The time in which the store was read.
    pub epoch: u64,
    /// Who asked.
    pub principal: Principal,
}

impl Judged {
    fn is_expired(&self, now: Timestamp) -> bool {
        let expires = self.principal.verified().and_then(|verified| verified.validity.expires);
        expires.is_some_and(|expires| now >= expires)
    }
}

impl AsRef<Grant> for Request {
    fn as_ref(&self) -> &Grant {
        &self.grant
    }
}

impl Request {
    /// What allows it.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// Goes on with `serving` for as long as the request is allowed.
    ///
    /// # Errors
    /// It is not any more.
    pub async fn while_allowed<T>(&self, serving: impl Future<Output = T>) -> Result<T, Refusal> {
        let mut serving = pin!(serving);
        poll_fn(|cx| match self.grant.poll_withdrawn(cx) {
            Poll::Ready(reason) => Poll::Ready(Err(self.refusal.take().unwrap_or_else(|| reason.into()))),
            Poll::Pending => serving.as_mut().poll(cx).map(Ok),
        })
        .await
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.of.all.borrow_mut().remove(self.slot);
    }
}

impl Running {
    fn all(&self) -> Vec<Rc<Request>> {
        self.all.borrow().iter().filter_map(|(_, request)| request.upgrade()).collect()
    }
}

impl Thread {
    /// A request that was allowed, from here on until its answer has been passed on.
    pub(super) fn enter(self: &Rc<Self>, permit: Permit, judged: Judged, inbound: &Inbound) -> Rc<Request> {
        if !self.running.watched.replace(true) {
            tokio::task::spawn_local(Rc::clone(self).look_after_the_running());
        }
        let mut all = self.running.all.borrow_mut();
        let vacant = all.vacant_entry();
        let request = Rc::new(Request {
            grant: Grant::default(),
            permit,
            method: inbound.parts.method.clone(),
            client: inbound.client.ip().to_canonical(),
            id: inbound.request_id.clone(),
            judged: RefCell::new(judged),
            refusal: RefCell::default(),
            of: Rc::clone(&self.running),
            slot: vacant.key(),
        });
        vacant.insert(Rc::downgrade(&request));
        request
    }

    /// Runs while there are requests under way.
    async fn look_after_the_running(self: Rc<Self>) {
        let mut due = None;
        loop {
            sleep(LOOK).await;
            let running = self.running.all();
            if running.is_empty() {
                return self.running.watched.set(false);
            }
            let (world, epoch, now) = (self.current.get(), self.authn.epoch(), self.clock.now());
            let running = running.into_iter().filter(|request| request.grant.withdrawn().is_none());
            let (mut expired, rest): (Vec<_>, Vec<_>) =
                running.partition(|request| request.judged.borrow().is_expired(now));
            let is_outdated = |request: &Rc<Request>| {
                let judged = request.judged.borrow();
                judged.epoch != epoch || !Arc::ptr_eq(&judged.world, &world)
            };
            let outdated: Vec<_> = rest.into_iter().filter(is_outdated).collect();
            if outdated.is_empty() {
                due = None;
            } else if Instant::now() >= *due.get_or_insert_with(|| Instant::now() + GRACE) {
                due = None;
                expired.extend(outdated);
            }
            self.judge_anew(expired).await;
        }
    }

    async fn judge_anew(&self, requests: Vec<Rc<Request>>) {
        // Both before the store is read: what changes meanwhile is one more change after this.
        let (world, epoch) = (self.current.get(), self.authn.epoch());
        let mut asked = Asked::default();
        for request in requests {
            let principal = request.judged.borrow().principal.clone();
            let outcome = self.ask_again(&principal, &mut asked).await;
            // It may have ended while the store was asked.
            if Rc::strong_count(&request) == 1 {
                continue;
            }
            match judge(&world, &request, outcome) {
                Ok(principal) => {
                    *request.judged.borrow_mut() = Judged { world: Arc::clone(&world), epoch, principal };
                }
                Err(refusal) => self.end(&request, refusal),
            }
        }
    }

    /// Who that is now; the same somebody is asked for once, however many streams they have.
    async fn ask_again(&self, principal: &Principal, asked: &mut Asked) -> Outcome {
        let (Principal::User(verified) | Principal::Service(verified)) = principal else {
            return Outcome::NotPresented;
        };
        let key = Arc::as_ptr(verified) as usize;
        if let Some((_, outcome)) = asked.known.get(&key) {
            return outcome.clone();
        }
        let until = asked.given_up.unwrap_or_else(|| Instant::now() + STORE_PATIENCE);
        let outcome = loop {
            match timeout_at(until, self.authn.again(principal)).await {
                Ok(Outcome::Unavailable) if Instant::now() + STORE_RETRY < until => sleep(STORE_RETRY).await,
                Ok(outcome) => break outcome,
                Err(_) => break Outcome::Unavailable,
            }
        };
        if matches!(outcome, Outcome::Unavailable) {
            asked.given_up = Some(until);
        }
        asked.known.insert(key, (Arc::clone(verified), outcome.clone()));
        outcome
    }

    /// Ends a request: an answer that has begun is cut, and what was not answered is refused by its own task.
    fn end(&self, request: &Request, refusal: Refusal) {
        let reason = refusal.reason;
        if request.grant.is_streaming() {
            let (app, principal) = (&request.permit.app().name, request.permit.principal());
            let actor = principal.name().unwrap_or("anonymous");
            tracing::info!(
                request = request.id, application = %app, principal = actor, reason = reason.id(),
                "an answer was cut: it would not be allowed any more"
            );
            let path = request.permit.target().path().as_str();
            let mut cut = AuditRecord::new(self.clock.now(), event::STREAM_CUT, actor)
                .target(audited_target(&request.method, path))
                .refused(reason)
                .details(serde_json::json!({ "request": request.id }));
            cut.rule = refusal.rule.as_ref().map(ToString::to_string);
            cut.application = Some(app.to_string());
            cut.address = Some(request.client.to_string());
            let credential = principal.verified().and_then(|verified| verified.credential.as_deref());
            cut.credential = credential.map(Into::into);
            self.hand_to_audit(cut, &request.id);
        } else {
            *request.refusal.borrow_mut() = Some(refusal);
        }
        request.grant.withdraw(reason);
    }
}

/// What has been asked in one round.
#[derive(Default)]
struct Asked {
    /// By address; the principal is held, so that no other takes its place.
    known: HashMap<usize, (Arc<Verified>, Outcome)>,
    /// When the store was given up.
    given_up: Option<Instant>,
}

/// Who asks now, if they may.
fn judge(world: &Snapshot, request: &Request, outcome: Outcome) -> Result<Principal, Refusal> {
    let target = request.permit.target();
    let app = route(world, target, Place::Here)?;
    if app.name != request.permit.app().name {
        // Somebody else owns the path now, and this application has nothing here.
        return Err(Reason::NoApplication.into());
    }
    let allowed = allowed_methods(world, app)?;
    let principal = match outcome {
        Outcome::NotPresented => Principal::Anonymous,
        Outcome::Verified(principal) | Outcome::SignedIn(principal) => principal,
        Outcome::Rejected(_) | Outcome::Ambiguous => return Err(credentials_rejected(allowed)),
        Outcome::Busy | Outcome::Unavailable => return Err(Reason::StoreUnavailable.into()),
    };
    if principal.verified().is_some_and(|verified| !allowed.contains(verified.method)) {
        return Err(Reason::MethodNotAllowed.into());
    }
    let question = Question {
        system: world.config.security.methods,
        principal: &principal,
        method: &request.method,
        from: request.client,
    };
    policy::verdict(app, target, &question).map_err(|denial| denied(denial, is_secured_file(app, target)))?;
    Ok(principal)
}
