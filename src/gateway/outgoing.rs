//! What the gate adds to an answer on its way out, by the policy of the application that owns the path.
//!
//! Nothing is known of it before there is an application; from then on refusals are dressed as well, because a script of
//! an origin that is allowed should be able to read that it has to sign in.

use std::{net::Ipv4Addr, sync::Arc};

use ::http::{HeaderMap, HeaderValue, Response, StatusCode, header, request::Parts};

use crate::{
    app::body::Body,
    gateway::refusal::Refusal,
    model::Reason,
    policy::{Application, cors},
    target::Target,
};

/// What is known of a request that its answer's headers depend on.
#[derive(Default)]
pub struct Outgoing {
    app: Option<Arc<Application>>,
    /// Whether a browser that is told to come by HTTPS only should remember this host.
    lasting: bool,
    /// The origin that may read the answer.
    origin: Option<HeaderValue>,
    preflight: bool,
    /// Whether the answer is for somebody in particular.
    pub signed_in: bool,
}

impl Outgoing {
    /// The request belongs to this application.
    pub fn begin(&mut self, app: &Arc<Application>, target: &Target, parts: &Parts) {
        self.app = Some(Arc::clone(app));
        self.lasting = is_lasting(&target.host().name);
        if let Some(cors) = &app.cors {
            self.origin = cors.allowed(&parts.headers);
            self.preflight = cors::is_preflight(&parts.method, &parts.headers);
        }
    }

    /// The answer to a browser that asks for permission: browsers show no credentials then, so nobody is asked for any,
    /// and it is the same for every path.
    pub fn preflight(&self) -> Option<Result<Response<Body>, Refusal>> {
        let at_gate = self.app.as_ref().and_then(|app| app.cors.as_ref()).is_some_and(cors::Cors::at_gate);
        if !self.preflight || !at_gate {
            return None;
        }
        if self.origin.is_none() {
            return Some(Err(Reason::OriginNotAllowed.into()));
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.headers_mut().insert(header::SERVER, HeaderValue::from_static("Portcullis"));
        Some(Ok(response))
    }

    /// Adds to what an application, a file or [`Outgoing::preflight`] answered.
    pub fn dress(&self, mut response: Response<Body>) -> Response<Body> {
        let Some(app) = &self.app else { return response };
        let headers = response.headers_mut();
        app.hygiene.add(headers, self.signed_in);
        self.add_hsts(app, headers);
        self.mark(app, headers);
        response
    }

    /// Adds to a refusal, whose own set is stricter than any application's.
    pub fn dress_refusal(&self, headers: &mut HeaderMap) {
        let Some(app) = &self.app else { return };
        self.add_hsts(app, headers);
        self.mark(app, headers);
    }

    fn add_hsts(&self, app: &Application, headers: &mut HeaderMap) {
        if let Some(value) = app.hygiene.hsts().filter(|_| self.lasting) {
            headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert_with(|| value.clone());
        }
    }

    fn mark(&self, app: &Application, headers: &mut HeaderMap) {
        let Some(cors) = &app.cors else { return };
        match &self.origin {
            // An application that answers preflights itself says what it likes there.
            _ if self.preflight && !cors.at_gate() => {}
            Some(origin) if self.preflight => cors.permit(headers, origin.clone()),
            origin => cors.mark(headers, origin.clone()),
        }
    }
}

/// Whether a host is one that a browser should remember. `localhost` with a development certificate is not: it is every
/// project on a developer's machine, of which others speak plain HTTP. Addresses are none for browsers either (RFC 6797
/// section 8.1.1), and an HTTP/1.0 request may name no host.
fn is_lasting(host: &str) -> bool {
    let local = host == "localhost" || host.ends_with(".localhost");
    !(host.is_empty() || local || host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_remember_names_and_neither_localhost_nor_addresses() {
        for host in ["notes.example.org", "intranet", "localhost.example.org", "notlocalhost"] {
            assert!(is_lasting(host), "{host}");
        }
        for host in ["localhost", "notes.localhost", "127.0.0.1", "192.0.2.7", "[::1]", ""] {
            assert!(!is_lasting(host), "{host}");
        }
    }
}
