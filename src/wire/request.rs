//! The request head, written by the gateway and read by the worker without copying.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    Malformed,
    frame::{Reader, put_count, put_string},
};

/// `SERVER_PROTOCOL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Protocol {
    /// `HTTP/1.0`
    Http10 = 0,
    /// `HTTP/1.1`
    Http11 = 1,
    /// `HTTP/2`
    Http2 = 2,
}

/// How the body comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum BodyKind {
    /// It stands at the end of this frame, complete; possibly empty.
    Inline = 0,
    /// It follows in [`crate::Kind::Body`] frames.
    Follows = 1,
}

/// The verified user or service. Absent when the caller is anonymous.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity<'a> {
    /// `REMOTE_USER`.
    pub name: &'a str,
    /// What to call them on a page; empty when unknown.
    pub display: &'a str,
    /// Empty when unknown.
    pub email: &'a str,
    /// The authentication method: `password`, `token`.
    pub method: &'a str,
    /// `AUTH_TYPE`: `Basic`, `Bearer`.
    pub auth_type: &'a str,
    /// Public id of the session or token; empty when there is none.
    pub credential: &'a str,
    /// `user` or `service`.
    pub kind: &'a str,
    /// Role names, effective in this application.
    pub roles: Strings<'a>,
}

/// Everything the worker needs to build `environ`, except what is the same for the life of the worker.
///
/// Header names are lower-case and already free of everything an application must not see (hop-by-hop headers,
/// `authorization`, `proxy`, names with other characters than letters, digits and `-`).
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// `REQUEST_METHOD`, as received.
    pub method: &'a str,
    /// `SERVER_PROTOCOL`.
    pub protocol: Protocol,
    /// `wsgi.url_scheme` is `https` when true.
    pub secure: bool,
    /// `SCRIPT_NAME`: the mount, decoded, empty or with a leading and no trailing slash.
    pub script_name: &'a [u8],
    /// `PATH_INFO`: the rest of the judged path, decoded.
    pub path_info: &'a [u8],
    /// `QUERY_STRING`: raw, without the question mark.
    pub query: &'a [u8],
    /// `REQUEST_URI`: the request-target's path and query as received.
    pub request_uri: &'a [u8],
    /// `SERVER_NAME`: the host that was asked for.
    pub server_name: &'a str,
    /// `SERVER_PORT`.
    pub server_port: u16,
    /// `REMOTE_ADDR`.
    pub remote_addr: &'a str,
    /// `REMOTE_PORT`.
    pub remote_port: u16,
    /// `portcullis.request_id`.
    pub request_id: &'a str,
    /// The caller as [`Identity::encode`] wrote it; `None` when anonymous. Same bytes, same identity: a gateway encodes
    /// a caller once, and a worker recognises one it has seen.
    pub identity: Option<&'a [u8]>,
    /// How the body comes.
    pub body_kind: BodyKind,
    /// As received; empty in a head that is to be written.
    pub headers: Pairs<'a>,
    /// The whole body when [`BodyKind::Inline`], otherwise empty.
    pub body: &'a [u8],
}

impl<'a> RequestHead<'a> {
    /// Writes the payload of a [`crate::Kind::Request`] frame; `headers` are pairs of lower-case name and value, duplicates
    /// already joined.
    pub fn put<'h>(
        &self,
        out: &mut BytesMut,
        headers: impl ExactSizeIterator<Item = (&'h [u8], &'h [u8])>,
        body: &[u8],
    ) {
        out.put_u8(self.protocol as u8);
        out.put_u8(u8::from(self.secure));
        out.put_u8(self.body_kind as u8);
        out.put_u8(u8::from(self.identity.is_some()));
        out.put_u16_le(self.server_port);
        out.put_u16_le(self.remote_port);
        for field in [
            self.method.as_bytes(),
            self.script_name,
            self.path_info,
            self.query,
            self.request_uri,
            self.server_name.as_bytes(),
            self.remote_addr.as_bytes(),
            self.request_id.as_bytes(),
        ] {
            put_string(out, field);
        }
        if let Some(identity) = self.identity {
            put_string(out, identity);
        }
        put_count(out, headers.len());
        for (name, value) in headers {
            put_string(out, name);
            put_string(out, value);
        }
        put_string(out, body);
    }

    /// Whether the body of the request in this payload follows in frames of its own: all that has to be known to route
    /// frames, without reading the rest of the head.
    ///
    /// # Errors
    /// A payload that ends before, or another value than [`BodyKind`] has.
    pub fn body_follows(payload: &[u8]) -> Result<bool, Malformed> {
        flag(payload.get(2).copied().ok_or(Malformed("kind of body"))?, "kind of body")
    }

    /// Reads the payload of a [`crate::Kind::Request`] frame.
    ///
    /// # Errors
    /// Any payload that [`RequestHead::put`] could not have written.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader(payload);
        let protocol = match r.u8("protocol")? {
            0 => Protocol::Http10,
            1 => Protocol::Http11,
            2 => Protocol::Http2,
            _ => return Err(Malformed("protocol")),
        };
        let secure = flag(r.u8("scheme")?, "scheme")?;
        let body_kind = if flag(r.u8("kind of body")?, "kind of body")? { BodyKind::Follows } else { BodyKind::Inline };
        let identified = flag(r.u8("identity")?, "identity")?;
        let (server_port, remote_port) = (r.u16("server port")?, r.u16("remote port")?);
        Ok(Self {
            protocol,
            secure,
            body_kind,
            server_port,
            remote_port,
            method: r.text("method")?,
            script_name: r.string("script name")?,
            path_info: r.string("path info")?,
            query: r.string("query")?,
            request_uri: r.string("request uri")?,
            server_name: r.text("server name")?,
            remote_addr: r.text("remote address")?,
            request_id: r.text("request id")?,
            identity: if identified { Some(r.string("identity")?) } else { None },
            headers: Pairs::parse(&mut r)?,
            body: r.string("body").and_then(|body| r.finish("bytes after the body").map(|()| body))?,
        })
    }
}

impl<'a> Identity<'a> {
    /// The bytes that stand for this caller in a [`RequestHead`]; `roles` replaces [`Identity::roles`].
    #[must_use]
    pub fn encode(&self, roles: &[impl AsRef<str>]) -> Bytes {
        let mut out = BytesMut::new();
        for field in [self.name, self.display, self.email, self.method, self.auth_type, self.credential, self.kind] {
            put_string(&mut out, field.as_bytes());
        }
        put_count(&mut out, roles.len());
        for role in roles {
            put_string(&mut out, role.as_ref().as_bytes());
        }
        out.freeze()
    }

    /// Reads what [`Identity::encode`] wrote.
    ///
    /// # Errors
    /// Any other bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader(bytes);
        Ok(Self {
            name: r.text("user name")?,
            display: r.text("display name")?,
            email: r.text("e-mail")?,
            method: r.text("authentication method")?,
            auth_type: r.text("authentication type")?,
            credential: r.text("credential id")?,
            kind: r.text("kind of principal")?,
            roles: Strings::parse(&mut r).and_then(|roles| r.finish("bytes after the roles").map(|()| roles))?,
        })
    }
}

/// A checked list of UTF-8 strings inside a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Strings<'a> {
    count: u16,
    bytes: &'a [u8],
}

impl<'a> Strings<'a> {
    fn parse(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        let count = r.u16("count of strings")?;
        let all = r.0;
        for _ in 0..count {
            r.text("string in a list")?;
        }
        Ok(Self { count, bytes: &all[..all.len() - r.0.len()] })
    }

    /// The strings in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut r = Reader(self.bytes);
        (0..self.count).map_while(move |_| r.text("string in a list").ok())
    }
}

/// A checked list of name and value inside a payload.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pairs<'a> {
    count: u16,
    bytes: &'a [u8],
}

impl<'a> Pairs<'a> {
    pub(crate) fn parse(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        let count = r.u16("count of headers")?;
        let all = r.0;
        for _ in 0..count {
            r.string("header name")?;
            r.string("header value")?;
        }
        Ok(Self { count, bytes: &all[..all.len() - r.0.len()] })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u16 {
        self.count
    }

    /// The pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut r = Reader(self.bytes);
        (0..self.count).map_while(move |_| Some((r.string("header name").ok()?, r.string("header value").ok()?)))
    }
}

fn flag(byte: u8, what: &'static str) -> Result<bool, Malformed> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed(what)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(body: &[u8], roles: &[String], headers: &[(Vec<u8>, Vec<u8>)]) -> BytesMut {
        let identity = Identity {
            name: "ann",
            display: "Ann",
            email: "",
            method: "token",
            auth_type: "Bearer",
            credential: "t1",
            kind: "user",
            roles: Strings::default(),
        }
        .encode(roles);
        let head = RequestHead {
            method: "GET",
            protocol: Protocol::Http2,
            secure: true,
            script_name: b"/notes",
            path_info: b"/a",
            query: b"q=1",
            request_uri: b"/notes/a?q=1",
            server_name: "localhost",
            server_port: 8443,
            remote_addr: "127.0.0.1",
            remote_port: 5,
            request_id: "r1",
            identity: Some(&identity),
            body_kind: BodyKind::Inline,
            headers: Pairs::default(),
            body: &[],
        };
        let mut out = BytesMut::new();
        head.put(&mut out, headers.iter().map(|(n, v)| (n.as_slice(), v.as_slice())), body);
        out
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(
            body in prop::collection::vec(any::<u8>(), 0..200),
            roles in prop::collection::vec("[a-z]{0,9}", 0..5),
            headers in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20), prop::collection::vec(any::<u8>(), 0..20)), 0..9),
        ) {
            let payload = sample(&body, &roles, &headers);
            let head = RequestHead::parse(&payload).unwrap();
            prop_assert_eq!(RequestHead::body_follows(&payload), Ok(head.body_kind == BodyKind::Follows));
            prop_assert_eq!(head.method, "GET");
            prop_assert_eq!(head.request_uri, b"/notes/a?q=1");
            prop_assert_eq!(head.body, body.as_slice());
            let identity = Identity::parse(head.identity.unwrap()).unwrap();
            prop_assert_eq!(identity.name, "ann");
            prop_assert_eq!(identity.roles.iter().map(str::to_owned).collect::<Vec<_>>(), roles);
            prop_assert_eq!(head.headers.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect::<Vec<_>>(), headers);
        }

        #[test]
        fn a_cut_or_changed_payload_never_panics(cut in 0usize..200, at in 0usize..200, byte in any::<u8>()) {
            let mut payload = sample(b"body", &["a".to_owned()], &[(b"accept".to_vec(), b"*/*".to_vec())]);
            let at = at % payload.len();
            payload[at] = byte;
            let cut = cut % payload.len();
            if let Ok(head) = RequestHead::parse(&payload[..cut]) {
                let _ = head.headers.iter().count();
                let _ = head.identity.map(Identity::parse);
            }
            let _ = RequestHead::parse(&payload).map(|head| head.headers.iter().count());
        }
    }
}
