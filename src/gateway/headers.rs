//! Headers that the gate itself reads: what makes a request ambiguous, and whose address to believe.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;

use crate::gateway::listener::is_in;

/// Headers that mean something to the gate or to `environ` and must not come twice: two values are two readings.
/// Two `Authorization` headers are refused where credentials are read.
const SINGLE: [HeaderName; 4] = [header::HOST, header::CONTENT_LENGTH, header::CONTENT_TYPE, header::TRANSFER_ENCODING];

/// Says which header came twice although only one can be meant.
#[must_use]
pub fn doubled(headers: &HeaderMap) -> Option<&'static str> {
    SINGLE.iter().find(|name| headers.get_all(*name).iter().nth(1).is_some()).map(|name| match name.as_str() {
        "host" => "two Host headers",
        "content-length" => "two Content-Length headers",
        "content-type" => "two Content-Type headers",
        _ => "two Transfer-Encoding headers",
    })
}

/// Whose request this is: the socket's peer, unless that is a trusted proxy; then the right-most address in
/// `Forwarded` (RFC 7239) or `X-Forwarded-For` that is not one of our proxies. What an untrusted peer writes there is
/// not looked at. A header that cannot be read leaves the proxy's own address, never a guess.
///
/// # Errors
/// Both headers are there and name different clients. A proxy writes one of them and passes the other on as its client
/// wrote it, and nobody can tell here which is which.
pub fn client(peer: SocketAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Result<SocketAddr, &'static str> {
    if trusted.is_empty() || !is_in(trusted, peer.ip()) {
        return Ok(peer);
    }
    let nearest = |hops| nearest_foreign(peer, hops, trusted);
    match (forwarded(headers).map(nearest), x_forwarded_for(headers).map(nearest)) {
        (Some(one), Some(other)) if one.ip().to_canonical() != other.ip().to_canonical() => {
            Err("Forwarded and X-Forwarded-For name different clients")
        }
        (Some(client), _) | (None, Some(client)) => Ok(client),
        (None, None) => Ok(peer),
    }
}

fn nearest_foreign(peer: SocketAddr, hops: Hops, trusted: &[IpNet]) -> SocketAddr {
    let mut nearest = peer;
    for hop in hops.into_iter().rev() {
        let Some(hop) = hop else { return nearest };
        nearest = hop;
        if !is_in(trusted, hop.ip()) {
            return hop;
        }
    }
    nearest
}

type Hops = Vec<Option<SocketAddr>>;

fn forwarded(headers: &HeaderMap) -> Option<Hops> {
    list(headers, &header::FORWARDED).map(|elements| {
        elements
            .into_iter()
            .map(|element| {
                element.split(';').find_map(|pair| {
                    let (name, value) = pair.trim().split_once('=')?;
                    name.eq_ignore_ascii_case("for").then(|| node(value.trim_matches('"')))?
                })
            })
            .collect()
    })
}

fn x_forwarded_for(headers: &HeaderMap) -> Option<Hops> {
    list(headers, &HeaderName::from_static("x-forwarded-for")).map(|elements| elements.into_iter().map(node).collect())
}

/// The elements of a list header, all its lines in order.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Vec<&'a str>> {
    if !headers.contains_key(name) {
        return None;
    }
    let lines = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("unreadable"));
    Some(lines.flat_map(|line| line.split(',')).map(str::trim).collect())
}

/// `192.0.2.1`, `192.0.2.1:80`, `[2001:db8::1]`, `[2001:db8::1]:80`, `2001:db8::1`.
pub(super) fn node(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address);
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 0))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn seen(peer: &str, name: &'static str, value: &'static str) -> String {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        client(peer.parse().unwrap(), &headers, &trusted).unwrap().ip().to_string()
    }

    #[test]
    fn an_untrusted_peer_is_who_it_is_whatever_it_writes() {
        assert_eq!(seen("192.0.2.9:1", "x-forwarded-for", "10.1.1.1"), "192.0.2.9");
        assert_eq!(seen("192.0.2.9:1", "forwarded", "for=10.1.1.1"), "192.0.2.9");
    }

    #[test]
    fn behind_a_trusted_proxy_the_right_most_foreign_hop_counts() {
        assert_eq!(seen("10.0.0.1:1", "x-forwarded-for", "1.1.1.1, 192.0.2.7, 10.0.0.2"), "192.0.2.7");
        assert_eq!(
            seen("[::ffff:10.0.0.1]:1", "forwarded", r#"for=1.1.1.1, for="[2001:db8::7]:99";proto=https"#),
            "2001:db8::7"
        );
    }

    #[test]
    fn an_unreadable_hop_ends_the_chain_at_the_proxy_that_wrote_it() {
        assert_eq!(seen("10.0.0.1:1", "x-forwarded-for", "192.0.2.7, unknown, 10.0.0.2"), "10.0.0.2");
        assert_eq!(seen("10.0.0.1:1", "forwarded", "for=_hidden"), "10.0.0.1");
    }

    #[test]
    fn two_headers_that_name_different_clients_are_refused() {
        let mut headers = HeaderMap::new();
        headers.insert("forwarded", HeaderValue::from_static("for=10.1.1.1"));
        headers.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.7"));
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        assert!(client("10.0.0.1:1".parse().unwrap(), &headers, &trusted).is_err());
        let peer = "192.0.2.9:1".parse().unwrap();
        assert_eq!(client(peer, &headers, &trusted), Ok(peer), "an untrusted peer's words are not even read");
    }
}
