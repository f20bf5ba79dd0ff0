//! What a request shows: one `Authorization` header, read once.
//!
//! Two headers, or a list in one, have two readings, and whoever stands behind us may take the other: they are
//! ambiguous and refused, never chosen from. What is read is strict: RFC 7617 for `Basic`, RFC 6750 for `Bearer`.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};

use crate::{
    model::{Method, Name},
    secret::Secret,
};

/// The longest value that is looked at, bytes.
pub const MAX_AUTHORIZATION: usize = 8 * 1024;

/// The credentials of one request, not yet verified. Shows nothing of them.
pub struct Presented(pub(super) Shown);

pub(super) enum Shown {
    Nothing,
    Ambiguous,
    /// Nobody could have meant this; `method` is what the scheme says.
    Unreadable {
        method: Option<Method>,
        why: &'static str,
    },
    Basic(Basic),
    Bearer(Secret<String>),
}

/// User and password as they were decoded, `user:password`.
pub(super) struct Basic {
    pair: Secret<Vec<u8>>,
    colon: usize,
}

impl Presented {
    /// Reads the credentials among `headers`.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        Self(match (values.next(), values.next()) {
            (None, _) => Shown::Nothing,
            (Some(value), None) => read(value),
            (Some(_), Some(_)) => Shown::Ambiguous,
        })
    }

    /// The method by which the caller wants to be known, so that one that is not allowed here is refused before any
    /// work is done; `None` when nothing was presented or nothing of that kind exists.
    #[must_use]
    pub fn method(&self) -> Option<Method> {
        match &self.0 {
            Shown::Nothing | Shown::Ambiguous => None,
            Shown::Unreadable { method, .. } => *method,
            Shown::Basic(_) => Some(Method::Password),
            Shown::Bearer(_) => Some(Method::Token),
        }
    }

    /// Whether there are credentials at all, of whatever kind.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        matches!(self.0, Shown::Nothing)
    }

    /// The user name that was given with a password, for the audit of a failed sign-in. Not verified.
    #[must_use]
    pub fn claimed_name(&self) -> Option<Name> {
        match &self.0 {
            Shown::Basic(basic) => basic.name(),
            _ => None,
        }
    }
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Shown::Nothing => "nothing",
            Shown::Ambiguous => "ambiguous credentials",
            Shown::Unreadable { .. } => "unreadable credentials",
            Shown::Basic(_) => "a name and a password",
            Shown::Bearer(_) => "a token",
        })
    }
}

impl Basic {
    /// The name, if it is one that a user can have.
    pub(super) fn name(&self) -> Option<Name> {
        let user = self.pair.reveal().get(..self.colon)?;
        Name::parse(std::str::from_utf8(user).ok()?).ok()
    }

    /// The password.
    pub(super) fn password(&self) -> &[u8] {
        self.pair.reveal().get(self.colon + 1..).unwrap_or_default()
    }

    /// Name and password as one.
    pub(super) fn pair(&self) -> &[u8] {
        self.pair.reveal()
    }
}

fn read(value: &HeaderValue) -> Shown {
    let unreadable = |method, why| Shown::Unreadable { method, why };
    let bytes = value.as_bytes();
    if bytes.len() > MAX_AUTHORIZATION {
        return unreadable(None, "credentials that are too long");
    }
    let scheme_end = bytes.iter().position(|byte| *byte == b' ').unwrap_or(bytes.len());
    let (scheme, rest) = bytes.split_at(scheme_end);
    let credentials = &rest[rest.iter().take_while(|byte| **byte == b' ').count()..];
    let method = match scheme {
        basic if basic.eq_ignore_ascii_case(b"basic") => Method::Password,
        bearer if bearer.eq_ignore_ascii_case(b"bearer") => Method::Token,
        _ => return unreadable(None, "an authentication scheme that is not known here"),
    };
    if credentials.contains(&b',') {
        return Shown::Ambiguous;
    }
    let shown = match method {
        Method::Password => read_basic(credentials),
        _ => read_bearer(credentials),
    };
    shown.unwrap_or_else(|why| unreadable(Some(method), why))
}

/// RFC 7617: base64 of `user-id ":" password`, both without control characters.
fn read_basic(credentials: &[u8]) -> Result<Shown, &'static str> {
    let pair = Secret::new(STANDARD.decode(credentials).map_err(|_| "Basic credentials that are not base64")?);
    let colon = memchr::memchr(b':', pair.reveal()).ok_or("Basic credentials without a colon")?;
    if std::str::from_utf8(&pair.reveal()[..colon]).is_err() {
        return Err("a user name that is not UTF-8");
    }
    let control = match std::str::from_utf8(pair.reveal()) {
        // Beyond ASCII there are more of them: U+0080 to U+009F.
        Ok(text) => text.chars().any(char::is_control),
        Err(_) => pair.reveal().iter().any(u8::is_ascii_control),
    };
    if control { Err("Basic credentials with control characters") } else { Ok(Shown::Basic(Basic { pair, colon })) }
}

/// RFC 6750 section 2.1: `1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`.
fn read_bearer(credentials: &[u8]) -> Result<Shown, &'static str> {
    let token = std::str::from_utf8(credentials).map_err(|_| "a bearer token that is not one")?;
    let body = token.trim_end_matches('=');
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    if body.is_empty() || !body.bytes().all(allowed) {
        return Err("a bearer token that is not one");
    }
    Ok(Shown::Bearer(Secret::new(token.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presented(values: &[&[u8]]) -> Presented {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        Presented::from_headers(&headers)
    }

    fn basic(pair: &[u8]) -> Presented {
        presented(&[format!("Basic {}", STANDARD.encode(pair)).as_bytes()])
    }

    fn is_unreadable(presented: &Presented) -> bool {
        matches!(presented.0, Shown::Unreadable { .. })
    }

    #[test]
    fn the_scheme_is_case_insensitive_and_the_first_colon_splits() {
        for scheme in ["Basic", "basic", "BASIC", "bAsIc"] {
            for spaces in [" ", "   "] {
                let value = format!("{scheme}{spaces}{}", STANDARD.encode("Ann:pass:word: "));
                let shown = presented(&[value.as_bytes()]);
                assert_eq!(shown.method(), Some(Method::Password), "{value}");
                let Shown::Basic(basic) = &shown.0 else { panic!("{value}") };
                assert_eq!((basic.name().unwrap().as_str(), basic.password()), ("ann", b"pass:word: ".as_slice()));
            }
        }
        let shown = presented(&[b"bEARER abc-._~+/9=="]);
        assert_eq!(shown.method(), Some(Method::Token));
        assert!(matches!(&shown.0, Shown::Bearer(token) if token.reveal() == "abc-._~+/9=="));
        assert!(presented(&[]).is_nothing());
    }

    #[test]
    fn two_readings_are_ambiguous() {
        let good = b"Basic YTpi".as_slice();
        for values in [
            vec![good, good],
            vec![good, b"Bearer abc".as_slice()],
            vec![b"Digest x".as_slice(), good],
            vec![b"".as_slice(), good],
            vec![b"Basic YTpi, Basic YTpj".as_slice()],
            vec![b"Basic YTpi,Bearer abc".as_slice()],
            vec![b"Bearer abc, Basic YTpi".as_slice()],
            vec![b"Bearer abc,".as_slice()],
        ] {
            let shown = presented(&values);
            assert!(matches!(shown.0, Shown::Ambiguous), "{values:?}");
            assert_eq!(shown.method(), None);
        }
    }

    #[test]
    fn odd_values_are_never_read_as_something() {
        for value in [
            b"".as_slice(),
            b"Basic",
            b"Basic ",
            b"Basic\tYTpi",
            b"BasicYTpi",
            b"Basic  ",
            b"Basic YTpi YTpi",
            b"Basic YTpi=",
            b"Basic YTp",
            b"Basic YTpiYg",
            b"Basic YTpiYh==",
            b"Basic YT pi",
            b"Basic YTp\xe9",
            b"Basic YWI=",
            b"Basic _-_-",
            b"Bearer",
            b"Bearer ",
            b"Bearer =",
            b"Bearer a=b",
            b"Bearer a b",
            b"Bearer a\tb",
            b"Bearer \"abc\"",
            b"Bearer a%20b",
            b"Bearer \xc3\xa9",
            b"Token abc",
            b"Digest username=\"a\"",
            b"Negotiate abc",
            b"Basic: YTpi",
            b"\xc2\xa0Basic YTpi",
        ] {
            assert!(is_unreadable(&presented(&[value])), "{}", value.escape_ascii());
        }
        assert!(is_unreadable(&presented(&[format!("Bearer {}", "a".repeat(MAX_AUTHORIZATION)).as_bytes()])));
    }

    #[test]
    fn control_characters_and_names_that_are_not_text_are_refused() {
        for pair in [
            b"a\0:b".as_slice(),
            b"a:b\0",
            b"a:b\n",
            b"a\r\nx:b",
            b"a:\x7f",
            b"a:\x1b",
            "a:\u{85}".as_bytes(),
            b"\xff:b",
            b"\xc0\xaf:b",
        ] {
            assert!(is_unreadable(&basic(pair)), "{}", pair.escape_ascii());
        }
        assert!(matches!(basic(b"ann:\xff\xfe").0, Shown::Basic(_)), "any other bytes can be a password");
        assert!(matches!(basic(b":").0, Shown::Basic(_)), "an empty name is a wrong one");
    }

    #[test]
    fn nothing_of_a_secret_is_shown() {
        for shown in [basic(b"ann:sesame"), presented(&[b"Bearer sesame"]), presented(&[b"Basic sesame!"])] {
            let text = format!("{shown:?}");
            assert!(!text.contains("sesame") && !text.contains("ann:"), "{text}");
        }
    }

    #[test]
    fn the_claimed_name_is_a_name_or_nothing() {
        assert_eq!(basic(b"ANN:x").claimed_name().unwrap().as_str(), "ann");
        assert_eq!(basic(b"{a b}:x").claimed_name(), None);
        assert_eq!(presented(&[b"Bearer abc"]).claimed_name(), None);
    }
}
