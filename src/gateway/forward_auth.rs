//! Forward-auth: a proxy in front of an application that runs elsewhere asks here about every request to it.
//!
//! ```text
//! GET /.portcullis/check                      the question, from a proxy in `trusted` under [forward_auth]
//! X-Forwarded-Method: POST                    about this request:
//! X-Forwarded-Uri: /wiki/edit?page=1
//! X-Forwarded-Host: apps.example.org
//! X-Forwarded-For: 192.0.2.7
//! Authorization: Basic ...                    with these credentials
//!
//! 200, Remote-User: ann, Remote-Groups: ...   yes; or the refusal that the request itself would get
//! ```
//!
//! The original request is read by the parser of every other one ([`Target::parse`]), and judged by the same code
//! (`Thread::judge`). What is read from the question is one set of headers, each exactly once, which the proxy has to
//! write itself: a second one was left over from the client, and a missing one would have to be guessed. There is no
//! second set (`X-Original-URL` and the like) to fall back to, because a client could send that.
//!
//! Whoever may ask also says which client it asks for. That is all it can do with it: an answer lets nobody into
//! anything that runs here, and what runs here is not answered about.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Uri, Version, header, request::Parts};
use hyper::body::{Body as _, Incoming};

use super::{Place, Thread, check_method, headers::node, route};
use crate::{
    app::body::Body,
    gateway::{access_log::Record, http::Peer, listener::is_in, refusal::Refusal},
    model::{Reason, Verified},
    policy::Permit,
    snapshot::Snapshot,
    target::{BadTarget, Target},
};

/// Where proxies ask, below the prefix that no application can own. Envoy writes the original path behind it, which is
/// not looked at: what is asked about stands in the headers.
const CHECK: &str = "/.portcullis/check";

/// Whether this is a question of a proxy that may ask. Anybody else gets what everybody gets below the reserved prefix:
/// nothing is there.
pub(super) fn is_asked(world: &Snapshot, peer: Peer, target: &Target) -> bool {
    target.path().below(CHECK).is_some() && is_in(&world.config.forward_auth.trusted, peer.address.ip())
}

impl Thread {
    /// Answers a proxy's question about a request that it holds. The record is that request's, from the moment it is
    /// known.
    pub(super) async fn check(
        &self,
        world: &Snapshot,
        peer: Peer,
        question: &Parts,
        body: &Incoming,
        record: &mut Record,
    ) -> Result<Response<Body>, Refusal> {
        record.asked_by = Some(peer.address.ip().to_canonical());
        if !body.is_end_stream() {
            // Bodies are the application's: nobody here looks into one, and nobody here keeps one.
            return Err(Refusal::bad_request("A question about a request comes without its body."));
        }
        let original = Original::read(&question.headers)?;
        record.client = original.client;
        record.method = original.method.clone();
        // Without its query, which may hold secrets.
        let sent = original.uri.split(|byte| *byte == b'?').next().unwrap_or_default();
        record.path = String::from_utf8_lossy(sent).into_owned();
        check_method(&original.method)?;
        let target = Target::parse(uri(original.uri)?, Version::HTTP_11, Some(original.host))?;
        record.path = target.path().as_str().to_owned();
        let app = route(world, &target, Place::Elsewhere)?;
        let permit = self.judge(world, app, target, &original.method, &question.headers, record).await?;
        permitted(&permit, &record.request).ok_or_else(|| Reason::Internal.into())
    }
}

/// The request that a proxy asks about.
struct Original<'a> {
    method: Method,
    uri: &'a [u8],
    host: &'a [u8],
    client: IpAddr,
}

impl<'a> Original<'a> {
    fn read(headers: &'a HeaderMap) -> Result<Self, Refusal> {
        let method = Method::from_bytes(once(headers, "X-Forwarded-Method")?)
            .map_err(|_| Refusal::bad_request("X-Forwarded-Method is not an HTTP method."))?;
        let client = client(once(headers, "X-Forwarded-For")?)
            .ok_or_else(|| Refusal::bad_request("X-Forwarded-For is not one address."))?;
        Ok(Self { method, uri: once(headers, "X-Forwarded-Uri")?, host: once(headers, "X-Forwarded-Host")?, client })
    }
}

fn once<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a [u8], Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value.as_bytes()),
        (None, _) => Err(Refusal::bad_request(format!("The proxy has to say {name}."))),
        (Some(_), Some(_)) => Err(Refusal::bad_request(format!("There are two {name}: the proxy has to replace it."))),
    }
}

/// One address. A list would be a chain of proxies, and only the proxy that asks knows which of them it believes.
fn client(text: &[u8]) -> Option<IpAddr> {
    Some(node(str::from_utf8(text).ok()?)?.ip().to_canonical())
}

/// Path and query as the client sent them. The `http` crate cuts a raw `#` off without a word, and the proxy may pass
/// it on; an authority or a scheme would be a second host.
fn uri(text: &[u8]) -> Result<Uri, Refusal> {
    if text.contains(&b'#') {
        return Err(BadTarget::Form("it has a raw `#`").into());
    }
    if !text.starts_with(b"/") {
        return Err(BadTarget::Form("its path does not begin with `/`").into());
    }
    Uri::try_from(text).map_err(|_| BadTarget::Path("it cannot be sent in a request").into())
}

/// Yes, and who it is. All headers are always there, empty where there is nothing to say: a proxy that replaces a
/// client's header only where the answer has one then replaces it too. `None` if a value cannot be a header's.
fn permitted(permit: &Permit, request_id: &str) -> Option<Response<Body>> {
    let of = |part: fn(&Verified) -> &str| permit.principal().verified().map_or("", part);
    let roles = permit.app().roles_of(permit.principal());
    let groups = roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(",");
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    for (name, value) in [
        (HeaderName::from_static("remote-user"), of(|verified| verified.name.as_str())),
        (HeaderName::from_static("remote-groups"), &groups),
        (HeaderName::from_static("remote-name"), of(|verified| &verified.display)),
        (HeaderName::from_static("remote-email"), of(|verified| &verified.email)),
        (HeaderName::from_static("portcullis-request"), request_id),
        (header::CACHE_CONTROL, "no-store"),
        (header::SERVER, "Portcullis"),
    ] {
        headers.insert(name, HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(&str, &str)]) -> Result<String, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let said = |original: Original<'_>| {
            let target = Target::parse(uri(original.uri)?, Version::HTTP_11, Some(original.host))?;
            Ok(format!("{} {} at {} for {}", original.method, target.path(), target.host(), original.client))
        };
        let refused = |refusal: Refusal| format!("{} {}", refusal.status().as_u16(), refusal.reason);
        Original::read(&map).and_then(said).map_err(refused)
    }

    const WHOLE: [(&str, &str); 4] = [
        ("X-Forwarded-Method", "POST"),
        ("X-Forwarded-Uri", "/wiki/a%20b?x=1"),
        ("X-Forwarded-Host", "apps.example.org"),
        ("X-Forwarded-For", "192.0.2.7"),
    ];

    #[test]
    fn a_question_has_each_header_exactly_once() {
        assert_eq!(read(&WHOLE).unwrap(), "POST /wiki/a b at apps.example.org for 192.0.2.7");
        for (index, header) in WHOLE.into_iter().enumerate() {
            let missing: Vec<_> = WHOLE.into_iter().filter(|(name, _)| *name != header.0).collect();
            let doubled: Vec<_> = WHOLE.into_iter().chain([header]).collect();
            let elsewhere: Vec<_> = missing.iter().copied().chain([("X-Original-Url", "/wiki/")]).collect();
            for headers in [missing, doubled, elsewhere] {
                assert_eq!(read(&headers).unwrap_err(), "400 bad-request", "{index}: {headers:?}");
            }
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_no_answer() {
        let with = |changed: (&'static str, &'static str)| {
            read(&WHOLE.map(|(name, value)| if name == changed.0 { changed } else { (name, value) }))
        };
        for (changed, refused) in [
            (("X-Forwarded-Uri", "/wiki/a#b"), "400 bad-request"),
            (("X-Forwarded-Uri", "https://apps.example.org/wiki/"), "400 bad-request"),
            (("X-Forwarded-Uri", "wiki"), "400 bad-request"),
            (("X-Forwarded-Uri", ""), "400 bad-request"),
            (("X-Forwarded-Uri", "/wiki/a b"), "400 bad-path"),
            (("X-Forwarded-Uri", "/wiki/%2e%2e/a"), "400 bad-path"),
            (("X-Forwarded-Uri", "//wiki/a"), "400 bad-path"),
            (("X-Forwarded-Host", "apps.example.org, example.org"), "400 bad-host"),
            (("X-Forwarded-Method", "GET, POST"), "400 bad-request"),
            (("X-Forwarded-Method", ""), "400 bad-request"),
            (("X-Forwarded-For", "10.0.0.1, 192.0.2.7"), "400 bad-request"),
            (("X-Forwarded-For", "unix:"), "400 bad-request"),
        ] {
            assert_eq!(with(changed).unwrap_err(), refused, "{changed:?}");
        }
        for address in ["[2001:db8::7]:80", "2001:db8::7", "192.0.2.7:99"] {
            assert!(with(("X-Forwarded-For", address)).is_ok(), "{address}");
        }
    }
}
