//! What the application sees of a request: the permit's path and identity, and the headers it may know.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Version, header};
use portcullis_wire::{BodyKind, Identity, Pairs, Protocol, RequestHead, Strings};

use crate::{
    app::{Inbound, body::RequestBody},
    model::{Method, Principal, Verified},
    policy::Permit,
};

/// Names that say who the caller is, or what was asked for, in the words of some proxy. What is true is in `environ`
/// already, so whatever a client sends under these names is a lie or an accident. Any name that begins with one of
/// these is withheld.
const WITHHELD_PREFIXES: [&str; 15] = [
    "client-",
    "portcullis-",
    "remote-",
    "ssl-",
    "tls-client-",
    "x-auth-",
    "x-authenticated-",
    "x-client-",
    "x-forwarded",
    "x-original-",
    "x-remote-",
    "x-rewrite-",
    "x-ssl-",
    "x-user",
    "x-webauth-",
];

/// The same, exact names.
const WITHHELD: [&str; 14] = [
    "auth-type",
    "authenticated-user",
    "forwarded",
    "path-info",
    "proxy",
    "script-name",
    "true-client-ip",
    "x-cluster-client-ip",
    "x-http-method-override",
    "x-method-override",
    "x-real-ip",
    "x-scheme",
    "x-script-name",
    "x-url-scheme",
];

/// Writes the payload of a [`portcullis_wire::Kind::Request`] frame.
pub fn put(out: &mut BytesMut, permit: &Permit, inbound: &Inbound, body: &RequestBody) {
    let target = permit.target();
    let identity = identity(permit);
    let client = address(inbound.client.ip());
    // HTTP/1.0 may name no host; SERVER_NAME must not be empty (PEP 3333), so it is our own address.
    let (unnamed, local) = (target.host().name.is_empty(), address(inbound.local.ip()));
    let mut port = itoa::Buffer::new();
    let (kind, inline) = match body {
        RequestBody::Inline(bytes) => (BodyKind::Inline, bytes.as_ref()),
        _ => (BodyKind::Follows, &[][..]),
    };
    let length = body.measured().map(|length| port.format(length).as_bytes());
    let mut headers = visible_headers(&inbound.parts.headers, permit.app().pass_authorization, length);
    // HTTP/2 names the host in the request-target, and applications look for it in HTTP_HOST.
    let host = target.host().to_string();
    if !inbound.parts.headers.contains_key(header::HOST) && !host.is_empty() {
        headers.push((b"host", Cow::Borrowed(host.as_bytes())));
    }
    let head = RequestHead {
        method: inbound.parts.method.as_str(),
        protocol: match inbound.parts.version {
            Version::HTTP_10 | Version::HTTP_09 => Protocol::Http10,
            Version::HTTP_2 | Version::HTTP_3 => Protocol::Http2,
            _ => Protocol::Http11,
        },
        secure: inbound.secure,
        script_name: permit.script_name().as_bytes(),
        path_info: permit.path_info().as_bytes(),
        query: target.query().as_bytes(),
        request_uri: target.uri().as_bytes(),
        server_name: if unnamed { &local } else { &target.host().name },
        server_port: target.host().port.unwrap_or(match (unnamed, inbound.secure) {
            (true, _) => inbound.local.port(),
            (false, true) => 443,
            (false, false) => 80,
        }),
        remote_addr: &client,
        remote_port: inbound.client.port(),
        request_id: &inbound.request_id,
        identity: identity.as_deref(),
        body_kind: kind,
        headers: Pairs::default(),
        body: &[],
    };
    head.put(out, headers.iter().map(|(name, value)| (*name, value.as_ref())), inline);
}

/// The caller as the worker reads it, with the roles that this application adds.
fn identity(permit: &Permit) -> Option<Bytes> {
    let verified = permit.principal().verified()?;
    let added = &permit.app().app_roles;
    if added.is_empty() {
        return Some(verified.encoded.clone());
    }
    let roles = permit.app().roles_of(permit.principal());
    let kind = if matches!(permit.principal(), Principal::Service(_)) { "service" } else { "user" };
    Some(encode(verified, kind, &roles))
}

/// A verified caller with these roles, as the worker reads it.
#[must_use]
pub fn encode(verified: &Verified, kind: &str, roles: &[impl AsRef<str>]) -> Bytes {
    Identity {
        name: verified.name.as_str(),
        display: &verified.display,
        email: &verified.email,
        method: verified.method.word(),
        auth_type: match verified.method {
            Method::Token => "Bearer",
            Method::Password | Method::Unauthenticated => "Basic",
        },
        credential: verified.credential.as_deref().unwrap_or(""),
        kind,
        roles: Strings::default(),
    }
    .encode(roles)
}

/// An address as text; IPv4 inside IPv6 is written as what it is.
fn address(ip: std::net::IpAddr) -> Cow<'static, str> {
    match ip.to_canonical() {
        std::net::IpAddr::V4(ip) if ip.is_loopback() && ip.octets() == [127, 0, 0, 1] => Cow::Borrowed("127.0.0.1"),
        ip => Cow::Owned(ip.to_string()),
    }
}

type Header<'a> = (&'a [u8], Cow<'a, [u8]>);

/// The headers an application may see, duplicates joined (RFC 9110 section 5.3; cookies RFC 6265 section 5.4).
/// `measured` replaces Content-Length when the gate has measured the body itself.
fn visible_headers<'a>(headers: &'a HeaderMap, authorization: bool, measured: Option<&'a [u8]>) -> Vec<Header<'a>> {
    let named_by_connection = connection_options(headers);
    let mut visible: Vec<Header<'a>> = Vec::with_capacity(headers.keys_len() + 2);
    let all_single = headers.len() == headers.keys_len();
    for (name, value) in headers {
        if !all_single && visible.iter().any(|(seen, _)| *seen == name.as_str().as_bytes()) {
            continue;
        }
        if !is_visible(name, authorization) || named_by_connection.iter().any(|option| option == name.as_str()) {
            continue;
        }
        if measured.is_some() && name == header::CONTENT_LENGTH {
            continue;
        }
        let value = if all_single { Cow::Borrowed(value.as_bytes()) } else { joined(headers, name) };
        visible.push((name.as_str().as_bytes(), value));
    }
    if let Some(length) = measured {
        visible.push((b"content-length", Cow::Borrowed(length)));
    }
    visible
}

fn is_visible(name: &HeaderName, authorization: bool) -> bool {
    let text = name.as_str();
    // What nearly every request carries, before the lists are searched.
    if matches!(
        text,
        "host"
            | "user-agent"
            | "accept"
            | "accept-encoding"
            | "accept-language"
            | "cookie"
            | "content-type"
            | "content-length"
            | "referer"
            | "origin"
    ) {
        return true;
    }
    let hop_by_hop = matches!(
        text,
        "connection" | "keep-alive" | "te" | "trailer" | "transfer-encoding" | "upgrade" | "http2-settings"
    ) || text.starts_with("proxy-");
    // `X-A` and `X_A` would be one variable in `environ`: only one of them may be able to set it.
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let allowed = match text {
        "authorization" => authorization,
        "expect" => false,
        _ => !WITHHELD.contains(&text) && !WITHHELD_PREFIXES.iter().any(|prefix| text.starts_with(prefix)),
    };
    plain && !hop_by_hop && allowed
}

/// The headers that `Connection` names as meant for us alone (RFC 9110 section 7.6.1).
fn connection_options(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|option| option.trim().to_ascii_lowercase())
        // What belongs to the message cannot be declared to be the connection's: it would change what the application
        // is asked.
        .filter(|option| {
            let whole = ["host", "content-length", "content-type", "cookie", "authorization"];
            !matches!(option.as_str(), "" | "close" | "keep-alive") && !whole.contains(&option.as_str())
        })
        .collect()
}

fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Cow<'a, [u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next().map_or(&[][..], |value| value.as_bytes());
    let mut all = Cow::Borrowed(first);
    let separator: &[u8] = if name == header::COOKIE { b"; " } else { b"," };
    for value in values {
        let all = all.to_mut();
        all.extend_from_slice(separator);
        all.extend_from_slice(value.as_bytes());
    }
    all
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn seen(headers: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        visible_headers(&map, false, None)
            .into_iter()
            .map(|(name, value)| {
                (String::from_utf8(name.to_vec()).unwrap(), String::from_utf8(value.into_owned()).unwrap())
            })
            .collect()
    }

    #[test]
    fn identity_in_any_spelling_stays_outside() {
        let spellings = [
            "Remote-User",
            "remote_user",
            "REMOTE_USER",
            "X-Remote-User",
            "X-Forwarded-User",
            "X-Auth-Request-Email",
            "Proxy",
            "Proxy-Authorization",
            "Authorization",
            "Script-Name",
            "Path-Info",
            "X-Original-URL",
            "X_A",
            "X.A",
            "X-User",
            "X-SSL-Client-S-DN",
            "True-Client-IP",
            "Forwarded",
            "X-Real-IP",
            "X-HTTP-Method-Override",
        ];
        for name in spellings {
            assert_eq!(seen(&[(name, "admin")]), [], "{name}");
        }
    }

    #[test]
    fn what_connection_names_is_removed_and_duplicates_are_joined() {
        let kept = seen(&[("Connection", "close, X-Secret"), ("X-Secret", "1"), ("Accept", "a"), ("Accept", "b")]);
        assert_eq!(kept, [("accept".to_owned(), "a,b".to_owned())]);
        assert_eq!(seen(&[("Cookie", "a=1"), ("Cookie", "b=2")]), [("cookie".to_owned(), "a=1; b=2".to_owned())]);
    }
}
