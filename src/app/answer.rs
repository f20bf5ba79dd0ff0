//! An application's answer as its worker sent it, and what is checked before any of it is passed on.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use portcullis_wire::{Malformed, ResponseHead};

/// What belongs to one connection and not to an answer (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Status line and headers of an answer.
#[derive(Debug)]
pub struct Head {
    /// Three digits.
    pub status: StatusCode,
    /// The application's reason phrase, when it is not the standard one.
    pub reason: Option<Bytes>,
    /// As the application gave them, hop-by-hop ones already removed by the worker.
    pub headers: HeaderMap,
    /// How long the request waited in the worker before it ran, microseconds.
    pub queued_us: u32,
}

/// An application's answer.
#[derive(Debug)]
pub enum Answer {
    /// Head and body at once.
    Complete(Head, Bytes),
    /// The body follows: [`crate::app::lane::Ticket::poll_piece`].
    Streaming(Head),
}

/// Room for what the gate adds to an application's headers, so that the map need not grow: `Server`, and what
/// `policy::hygiene` lists.
const ADDED: usize = 8;

/// Reads a head; the bytes behind it are the body of a complete answer.
///
/// hyper writes what it is given, so everything that would let an answer be read as two is checked here again, although
/// an honest worker has done so: whoever shares the client's connection must not be answered by this application.
pub(super) fn read_head(payload: &Bytes, complete: bool) -> Result<(Head, Bytes), Malformed> {
    let (head, used) = ResponseHead::parse(payload)?;
    let status = StatusCode::from_u16(head.status).map_err(|_| Malformed("status"))?;
    if status.is_informational() {
        return Err(Malformed("an informational status"));
    }
    let mut headers = HeaderMap::with_capacity(usize::from(head.headers.count()) + ADDED);
    for (name, value) in head.headers.iter() {
        let name = HeaderName::from_bytes(name).map_err(|_| Malformed("header name"))?;
        if HOP_BY_HOP.contains(&name.as_str()) {
            return Err(Malformed("a hop-by-hop header"));
        }
        let value = HeaderValue::from_maybe_shared(payload.slice_ref(value)).map_err(|_| Malformed("header value"))?;
        headers.append(name, value);
    }
    let body = payload.slice(used..);
    check_length(status, &headers, complete.then_some(body.len()))?;
    let standard = status.canonical_reason().is_some_and(|reason| reason.as_bytes() == head.reason);
    let reason = (!standard).then(|| payload.slice_ref(head.reason));
    Ok((Head { status, reason, headers, queued_us: head.queued_us }, body))
}

/// One Content-Length at most, a number, and that of the body when there is one.
fn check_length(status: StatusCode, headers: &HeaderMap, body: Option<usize>) -> Result<(), Malformed> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let (first, second) = (lengths.next(), lengths.next());
    if second.is_some() {
        return Err(Malformed("two Content-Length headers"));
    }
    let Some(length) = first else { return Ok(()) };
    let digits = length.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let length: u64 = digits.and_then(|text| text.parse().ok()).ok_or(Malformed("Content-Length"))?;
    // An answer to HEAD, 204 and 304 announce a length and bring nothing.
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    match body {
        Some(bytes) if bytes as u64 != length && bytes > 0 => Err(Malformed("another Content-Length than the body's")),
        Some(bytes) if bytes > 0 && bodiless => Err(Malformed("a body where there is none")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};

    use super::*;

    fn read(status: u16, headers: &[(&str, &str)], body: &str) -> Result<(Head, Bytes), Malformed> {
        let mut payload = BytesMut::new();
        let headers = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        ResponseHead::put(&mut payload, status, b"OK", 0, headers);
        payload.put_slice(body.as_bytes());
        read_head(&payload.freeze(), true)
    }

    #[test]
    fn an_honest_answer_is_read_with_its_body() {
        let (head, body) = read(200, &[("Content-Length", "5"), ("X-A", "1"), ("X-A", "2")], "hello").unwrap();
        assert_eq!((head.status.as_u16(), &body[..]), (200, &b"hello"[..]));
        assert_eq!(head.headers.get_all("x-a").iter().count(), 2);
        // An answer to HEAD announces what it does not bring.
        assert!(read(200, &[("Content-Length", "5")], "").is_ok());
    }

    #[test]
    fn an_answer_that_could_be_read_as_two_is_none() {
        for (status, headers, body) in [
            (200, &[("Content-Length", "5")][..], "hello HTTP/1.1 200 OK\r\n\r\n"),
            (200, &[("Content-Length", "5"), ("content-length", "5")], "hello"),
            (200, &[("Content-Length", "+5")], "hello"),
            (200, &[("Transfer-Encoding", "chunked")], "0\r\n\r\n"),
            (200, &[("Connection", "upgrade")], ""),
            (204, &[("Content-Length", "5")], "hello"),
            (100, &[], ""),
            (101, &[], ""),
            (200, &[("X", "a\r\nSet-Cookie: b")], ""),
            (200, &[("X: a\r\nY", "b")], ""),
        ] {
            assert!(read(status, headers, body).is_err(), "{status} {headers:?} {body:?}");
        }
    }
}
