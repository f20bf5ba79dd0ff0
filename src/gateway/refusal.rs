//! Every way to say no, through one door: one status, one page, one log line, one audit record, one reason id.

mod pages;

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use self::pages::Shown;
use crate::{
    app::{Unserved, body::Body},
    gateway::limits::Exceeded,
    model::{Method, MethodSet, Reason, RuleId},
    policy::Denial,
    target::BadTarget,
};

/// A refusal: what the client may know, and what the log and the audit know besides.
#[derive(Debug)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// What the client is told when that is less than the whole truth.
    public: Option<Reason>,
    /// The rule that decided.
    pub rule: Option<RuleId>,
    /// Methods by which somebody could sign in here: makes it a 401 with challenges.
    pub sign_in: Option<MethodSet>,
    /// What was wrong with the request, for the client.
    detail: Option<Cow<'static, str>>,
    /// In development: why the application does not start. For a client that was permitted to use it, and nobody else.
    traceback: Option<Arc<str>>,
    /// More often than is allowed: when the next request is, and what the audit is told.
    exceeded: Option<Exceeded>,
    /// What `Allow` says when the method was the reason (RFC 9110 section 15.5.6).
    allow: &'static str,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        let public = (reason == Reason::ApplicationDisabled).then_some(Reason::NoApplication);
        Self {
            reason,
            public,
            rule: None,
            sign_in: None,
            detail: None,
            traceback: None,
            exceeded: None,
            allow: "GET, HEAD",
        }
    }
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self { rule: denial.rule, sign_in: denial.sign_in, ..denial.reason.into() }
    }
}

impl From<Unserved> for Refusal {
    fn from(unserved: Unserved) -> Self {
        let detail = unserved.traceback.as_ref().map(|_| BROKEN.into());
        Self { traceback: unserved.traceback, detail, ..unserved.reason.into() }
    }
}

impl From<Exceeded> for Refusal {
    fn from(exceeded: Exceeded) -> Self {
        Self { exceeded: Some(exceeded), ..Reason::RateLimited.into() }
    }
}

impl From<BadTarget> for Refusal {
    fn from(bad: BadTarget) -> Self {
        let said = bad.to_string();
        let mut letters = said.chars();
        let first = letters.next().map(|first| first.to_ascii_uppercase());
        let sentence: String = first.into_iter().chain(letters).chain(['.']).collect();
        Self { detail: Some(sentence.into()), ..bad.reason().into() }
    }
}

/// Stands above a traceback.
const BROKEN: &str = "The application does not start. Its policy has reload = true, so you see why; once that is mended \
                      and saved, this goes away by itself.";

/// How a client likes to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taste {
    /// A browser.
    Html,
    /// A program that speaks JSON.
    Json,
    /// Anything else.
    Text,
}

impl Taste {
    /// Read from `Accept`.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
        if accept.contains("text/html") {
            Self::Html
        } else if accept.contains("json") {
            Self::Json
        } else {
            Self::Text
        }
    }
}

impl Refusal {
    /// A request whose head cannot be taken in one way only.
    #[must_use]
    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self { detail: Some(detail.into()), ..Reason::BadRequest.into() }
    }

    /// Wrong credentials, or none, where `methods` could let somebody in.
    #[must_use]
    pub fn credentials(reason: Reason, methods: MethodSet) -> Self {
        Self { sign_in: Some(methods), ..reason.into() }
    }

    /// A method that no application ever sees.
    #[must_use]
    pub fn method() -> Self {
        Self { allow: "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS", ..Reason::HttpMethodRefused.into() }
    }

    /// The same refusal as if nothing were there; for secured static files.
    #[must_use]
    pub fn hidden(mut self) -> Self {
        if self.status() == StatusCode::FORBIDDEN {
            self.public = Some(Reason::NoFile);
        }
        self
    }

    /// The status the client gets.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        if self.sign_in.is_some() { StatusCode::UNAUTHORIZED } else { status(self.public.unwrap_or(self.reason)) }
    }

    /// How many refusals stand behind the audit record of this one; `None`: behind that of another.
    #[must_use]
    pub fn audited(&self) -> Option<u64> {
        self.exceeded.as_ref().map_or(Some(0), |exceeded| exceeded.unrecorded)
    }

    /// Whether the request's head has two readings: then nobody can say where the next request begins either, and an
    /// HTTP/1 connection is closed behind the answer (RFC 9112 section 6.3).
    #[must_use]
    pub fn ends_connection(&self) -> bool {
        matches!(self.reason, Reason::BadRequest | Reason::BadHost)
    }

    /// The one answer to a refused request. `realm` is shown by a browser that asks for a password.
    #[must_use]
    pub fn respond(&self, taste: Taste, request_id: &str, realm: &str) -> Response<Body> {
        let status = self.status();
        let shown = self.public.unwrap_or(self.reason);
        let says = self.detail.as_deref().unwrap_or_else(|| sentence(shown));
        let shown = Shown { status, says, reason: shown, request_id, traceback: self.traceback.as_deref() };
        let (kind, body) = pages::render(&shown, taste);
        let mut response = Response::new(Body::full(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        for (name, value) in [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, "no-store"),
            (header::SERVER, "Portcullis"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (
                header::CONTENT_SECURITY_POLICY,
                "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
            ),
            (header::REFERRER_POLICY, "no-referrer"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        insert(headers, HeaderName::from_static("portcullis-reason"), shown.reason.id());
        insert(headers, HeaderName::from_static("portcullis-request"), request_id);
        if let Some(exceeded) = &self.exceeded {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(exceeded.seconds()));
        } else if let Some(seconds) = retry_after(self.reason) {
            insert(headers, header::RETRY_AFTER, seconds);
        }
        if self.reason == Reason::HttpMethodRefused {
            insert(headers, header::ALLOW, self.allow);
        }
        self.challenge(headers, realm);
        response
    }

    /// Exactly the methods that could let somebody in (RFC 9110 section 11.6.1), one header each, so that simple
    /// clients find theirs.
    fn challenge(&self, headers: &mut HeaderMap, realm: &str) {
        let Some(methods) = self.sign_in else { return };
        let realm: String =
            realm.chars().filter(|c| !c.is_control() && *c != '"' && *c != '\\' && c.is_ascii()).collect();
        if methods.contains(Method::Password) {
            append(headers, &format!("Basic realm=\"{realm}\", charset=\"UTF-8\""));
        }
        if methods.contains(Method::Token) {
            let error = if self.reason == Reason::CredentialsRejected { ", error=\"invalid_token\"" } else { "" };
            append(headers, &format!("Bearer realm=\"{realm}\"{error}"));
        }
    }
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn append(headers: &mut HeaderMap, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.append(header::WWW_AUTHENTICATE, value);
    }
}

const fn status(reason: Reason) -> StatusCode {
    match reason {
        Reason::BadRequest | Reason::BadPath | Reason::BadHost | Reason::AmbiguousCredentials => {
            StatusCode::BAD_REQUEST
        }
        Reason::HostNotServed => StatusCode::MISDIRECTED_REQUEST,
        Reason::CredentialsRequired | Reason::CredentialsRejected => StatusCode::UNAUTHORIZED,
        Reason::MethodNotPermitted
        | Reason::MethodNotAllowed
        | Reason::TokenNotForApplication
        | Reason::DeniedByRule
        | Reason::NotAllowedByRule
        | Reason::NetworkNotAllowed
        | Reason::SecondFactorRequired
        | Reason::OriginNotAllowed
        | Reason::DeniedByDefault
        | Reason::ApplicationHere => StatusCode::FORBIDDEN,
        Reason::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Reason::NoApplication | Reason::ApplicationDisabled | Reason::ApplicationElsewhere | Reason::NoFile => {
            StatusCode::NOT_FOUND
        }
        Reason::HttpMethodRefused => StatusCode::METHOD_NOT_ALLOWED,
        Reason::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
        Reason::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Reason::ApplicationError | Reason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Reason::WorkerLost => StatusCode::BAD_GATEWAY,
        Reason::SignInBusy
        | Reason::StoreUnavailable
        | Reason::AuditUnavailable
        | Reason::ApplicationUnavailable
        | Reason::QueueFull
        | Reason::QueueTimeout => StatusCode::SERVICE_UNAVAILABLE,
        Reason::ApplicationTimeout => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// Seconds after which it may be worth trying again.
const fn retry_after(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::SignInBusy | Reason::QueueFull => Some("1"),
        Reason::QueueTimeout | Reason::ApplicationUnavailable | Reason::StoreUnavailable | Reason::AuditUnavailable => {
            Some("5")
        }
        _ => None,
    }
}

/// What happened and what the reader can do, in one sentence.
const fn sentence(reason: Reason) -> &'static str {
    match reason {
        Reason::BadRequest => "The request is not well formed.",
        Reason::BadPath => "The path can be read in more than one way.",
        Reason::BadHost => "The host is missing or not well formed.",
        Reason::HostNotServed => "This host is not served here.",
        Reason::AmbiguousCredentials => "The request carries credentials more than once.",
        Reason::NoApplication | Reason::ApplicationDisabled | Reason::NoFile => "There is nothing at this address.",
        Reason::ApplicationElsewhere => "This application is served at another address, not here.",
        Reason::ApplicationHere => "This application is served by the gate itself, not by way of a proxy.",
        Reason::MethodNotPermitted => {
            "This application relies on a way to sign in that this installation does not permit."
        }
        Reason::MethodNotAllowed => "This way to sign in is not accepted here.",
        Reason::OriginNotAllowed => "Pages of this origin may not use this application.",
        Reason::RateLimited => "You have asked too often; try again a little later.",
        Reason::CredentialsRequired => "Sign in to go on.",
        Reason::CredentialsRejected => "The name, password or token is not right, or no longer valid.",
        Reason::TokenNotForApplication => "This token is for another application.",
        Reason::SignInBusy => "Too many people are signing in; try again in a moment.",
        Reason::StoreUnavailable => "Your credentials cannot be checked at the moment.",
        Reason::DeniedByRule | Reason::NotAllowedByRule | Reason::DeniedByDefault => "You may not do this.",
        Reason::NetworkNotAllowed => "You may not do this from where you are.",
        Reason::SecondFactorRequired => "This needs a second factor, and none was used.",
        Reason::AuditUnavailable => "Nothing is served while the audit cannot be written.",
        Reason::HttpMethodRefused => "This method is not supported here.",
        Reason::BodyTooLarge => "What was sent is larger than this application accepts.",
        Reason::RequestTimeout => "The request took too long to arrive.",
        Reason::ApplicationUnavailable => "The application is not running at the moment.",
        Reason::QueueFull => "The application has more to do than it can take; try again in a moment.",
        Reason::QueueTimeout => "The application was too busy to begin with this request; try again in a moment.",
        Reason::ApplicationTimeout => "The application did not answer in time.",
        Reason::WorkerLost => "The application stopped while it worked on this request.",
        Reason::ApplicationError => "The application failed.",
        Reason::Internal => "Something went wrong.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_name_just_the_methods_that_could_help() {
        let only_token = Refusal::credentials(Reason::CredentialsRequired, MethodSet::NONE.with(Method::Token));
        let response = only_token.respond(Taste::Text, "r", "Team \"notes\"");
        let challenges: Vec<_> = response.headers().get_all(header::WWW_AUTHENTICATE).iter().collect();
        assert_eq!(challenges, ["Bearer realm=\"Team notes\""]);
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }

    #[test]
    fn a_disabled_application_looks_like_none() {
        let response = Refusal::from(Reason::ApplicationDisabled).respond(Taste::Text, "r", "x");
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()["portcullis-reason"], "no-application");
    }
}
