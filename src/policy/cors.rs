//! Which other origins may read an application's answers, and what a browser is told about it.
//!
//! A browser asks first (a *preflight*: OPTIONS, without credentials) and then sends the request. The gate answers
//! preflights itself, before anybody has signed in, from the policy alone: the answer is the same for every path, so it
//! tells nobody which there are. On answers the policy replaces what the application says about origins: what was
//! reviewed is what holds, and two values would mean none to a browser.
//!
//! This opens an application to scripts of other origins and closes nothing: who may do what is for the rules to say.

use std::{ops::RangeInclusive, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, header};

use super::{document::verb_of, hygiene::vary};
use crate::written::{Table, Value};

/// `[app.cors]`.
#[derive(Debug)]
pub struct Cors {
    origins: Origins,
    credentials: bool,
    expose: Option<HeaderValue>,
    methods: HeaderValue,
    headers: Option<HeaderValue>,
    max_age: HeaderValue,
    at_gate: bool,
}

#[derive(Debug)]
enum Origins {
    Any,
    These(Box<[HeaderValue]>),
}

/// How long a browser need not ask again. Browsers cut it to between two hours and a day.
const MAX_AGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(24);
const MAX_AGE_DEFAULT: Duration = Duration::from_mins(10);
/// What a form on any page could send anyway.
const METHODS_DEFAULT: [Verb; 3] = [Verb::GET, Verb::HEAD, Verb::POST];
const PREFLIGHT: [(&str, bool); 2] = [("gate", true), ("application", false)];
/// Whatever an application says in one of these, the policy says instead.
const REPLACED: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

/// Reads `[app.cors]`, if it is there.
pub(super) fn read(table: &Table<'_>) -> Option<Cors> {
    if !table.is_present() {
        return None;
    }
    let origins = table.required("origins", "who may read answers: origins = [\"https://app.example.org\"]");
    let methods = table.value("methods").map(|value| all(&value, verb)).unwrap_or(METHODS_DEFAULT.to_vec());
    let headers = table.value("headers").map(|value| all(&value, name)).unwrap_or_default();
    let expose = table.value("expose").map(|value| all(&value, name)).unwrap_or_default();
    let credentials = table.value("credentials").and_then(|value| value.boolean().map(|on| (on, value)));
    let max_age = table.value("max_age").and_then(|value| value.duration(MAX_AGE)).unwrap_or(MAX_AGE_DEFAULT);
    let preflight = table.value("preflight").and_then(|value| value.word("who answers preflights", &PREFLIGHT));
    let origins = origins.and_then(|value| self::origins(&value))?;
    if let (Origins::Any, Some((true, value))) = (&origins, &credentials) {
        value.error(
            "`credentials = true` and `origins = \"any\"` do not go together: any page could act as its visitor",
            "list the origins that may, or leave credentials out",
        );
        return None;
    }
    Some(Cors {
        origins,
        credentials: credentials.is_some_and(|(on, _)| on),
        expose: joined(&expose),
        methods: joined(&methods)?,
        headers: joined(&headers),
        max_age: HeaderValue::from(max_age.as_secs()),
        at_gate: preflight.unwrap_or(true),
    })
}

fn all<T>(value: &Value<'_>, read: impl Fn(&Value<'_>) -> Option<T>) -> Vec<T> {
    value.some_items("leave the key out, or say what is allowed").iter().filter_map(read).collect()
}

fn origins(value: &Value<'_>) -> Option<Origins> {
    let items = all(value, |item| item.parse(origin, "such as https://app.example.org or http://localhost:3000"));
    if items.iter().flatten().count() == items.len() {
        let these: Vec<_> = items.into_iter().flatten().collect();
        return (!these.is_empty()).then(|| Origins::These(these.into()));
    }
    if items.len() > 1 {
        value.error("`any` stands among origins", "write origins = \"any\" alone, or leave it out");
        return None;
    }
    Some(Origins::Any)
}

/// An origin as browsers write it, which is what it is compared with byte by byte; `None` is any.
fn origin(text: &str) -> Result<Option<HeaderValue>, String> {
    if text == "any" {
        return Ok(None);
    }
    if text == "*" {
        return Err("is not an origin; did you mean `any`?".to_owned());
    }
    if text == "null" {
        return Err("is what every sandboxed page sends, a hostile one too".to_owned());
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(format!("has no scheme; did you mean `https://{text}`?"));
    };
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(format!("would never match; did you mean `{}`?", text.to_ascii_lowercase()));
    }
    let scheme_ok = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if let Some((host, _)) = rest.split_once(['/', '?', '#']) {
        return Err(format!("has more than an origin; did you mean `{scheme}://{host}`?"));
    }
    if rest.contains('*') {
        return Err("has a wildcard: whoever gets hold of one name of a domain would be let in".to_owned());
    }
    let default_port = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => "",
    };
    if let Some(host) = rest.strip_suffix(default_port).filter(|_| !default_port.is_empty()) {
        return Err(format!("would never match: browsers leave the port out; did you mean `{scheme}://{host}`?"));
    }
    let host = crate::target::Host::parse(rest.as_bytes()).map_err(|why| format!("is not an origin: {why}"))?;
    // `https://a.example.` is another origin than `https://a.example`, and nobody means it.
    if !scheme_ok || host.to_string() != rest {
        return Err("is not an origin as browsers write it".to_owned());
    }
    HeaderValue::from_str(text).map(Some).map_err(|_| "is not an origin".to_owned())
}

fn verb(value: &Value<'_>) -> Option<Verb> {
    value.parse(verb_of, "in capitals: methods = [\"GET\", \"PUT\"]")
}

/// `*` is no name here: next to credentials browsers take it for a header that is called so.
fn name(value: &Value<'_>) -> Option<HeaderName> {
    let read = |text: &str| match HeaderName::try_from(text) {
        Ok(name) if text != "*" => Ok(name),
        _ => Err("is not the name of a header"),
    };
    value.parse(read, "such as [\"authorization\", \"content-type\"]")
}

fn joined<T: AsRef<str>>(items: &[T]) -> Option<HeaderValue> {
    let text = items.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    HeaderValue::try_from(text).ok().filter(|value| !value.is_empty())
}

/// Whether a browser asks for permission: OPTIONS with both headers, one of them alone is an ordinary request.
#[must_use]
pub fn is_preflight(method: &Verb, headers: &HeaderMap) -> bool {
    *method == Verb::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

impl Cors {
    /// Whether the gate answers preflights, or the application as any other request.
    #[must_use]
    pub const fn at_gate(&self) -> bool {
        self.at_gate
    }

    /// The `Access-Control-Allow-Origin` for whoever sent these headers; two origins are none.
    #[must_use]
    pub fn allowed(&self, request: &HeaderMap) -> Option<HeaderValue> {
        let Origins::These(these) = &self.origins else { return Some(HeaderValue::from_static("*")) };
        let mut sent = request.get_all(header::ORIGIN).iter();
        let (first, second) = (sent.next()?, sent.next());
        these.iter().find(|origin| second.is_none() && *origin == first).cloned()
    }

    /// Tells a browser who may read this answer: `allowed`, or nobody else.
    pub fn mark(&self, headers: &mut HeaderMap, allowed: Option<HeaderValue>) {
        for name in &REPLACED {
            headers.remove(name);
        }
        // Also where there is none: a cache must not hand what was answered to one origin to another.
        if matches!(self.origins, Origins::These(_)) {
            vary(headers, "origin");
        }
        let Some(allowed) = allowed else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        if self.credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(expose) = &self.expose {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }

    /// The same on the answer to a preflight of an origin that is allowed, with all that may be asked.
    pub fn permit(&self, headers: &mut HeaderMap, allowed: HeaderValue) {
        self.mark(headers, Some(allowed));
        headers.remove(header::ACCESS_CONTROL_EXPOSE_HEADERS);
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
        if let Some(names) = &self.headers {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::written::File;

    fn read_text(text: &str) -> (Option<Cors>, Vec<String>) {
        let text = format!("[cors]\n{text}\n");
        let (read, problems) = File::new("p.toml", &text).read(|root| Some(read(&root.table("cors"))));
        (read.unwrap(), problems.iter().map(ToString::to_string).collect())
    }

    fn from(origins: &[&'static str]) -> HeaderMap {
        origins.iter().map(|origin| (header::ORIGIN, HeaderValue::from_static(origin))).collect()
    }

    #[test]
    fn origins_are_compared_byte_by_byte() {
        let (cors, problems) = read_text("origins = [\"https://a.example\", \"http://localhost:3000\"]");
        assert_eq!(problems, [""; 0]);
        let cors = cors.unwrap();
        for origin in ["https://a.example", "http://localhost:3000"] {
            assert_eq!(cors.allowed(&from(&[origin])).unwrap(), origin);
        }
        for origin in [
            "http://a.example",
            "https://A.example",
            "https://a.example:443",
            "https://a.example.",
            "https://a.example.evil.example",
            "https://evil.example?https://a.example",
            "https://xa.example",
            "http://localhost",
            "null",
            "*",
            "",
        ] {
            assert_eq!(cors.allowed(&from(&[origin])), None, "{origin}");
        }
        assert_eq!(cors.allowed(&from(&["https://a.example", "https://a.example"])), None, "two origins are none");
        assert_eq!(cors.allowed(&from(&[])), None);
        assert_eq!(read_text("origins = \"any\"").0.unwrap().allowed(&from(&["https://x.example"])).unwrap(), "*");
    }

    #[test]
    fn what_an_application_says_about_origins_is_replaced() {
        let cors = read_text("origins = \"https://a.example\"\nexpose = \"etag\"\ncredentials = true").0.unwrap();
        let said = || -> HeaderMap {
            [
                (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
                (header::ACCESS_CONTROL_ALLOW_HEADERS, "*"),
                (header::VARY, "accept"),
            ]
            .map(|(name, value)| (name, HeaderValue::from_static(value)))
            .into_iter()
            .collect()
        };
        let mut headers = said();
        cors.mark(&mut headers, None);
        assert_eq!(headers.keys().collect::<Vec<_>>(), [header::VARY], "a stranger is told nothing");
        assert_eq!(headers.get_all(header::VARY).iter().collect::<Vec<_>>(), ["accept", "origin"]);
        let mut headers = said();
        cors.mark(&mut headers, cors.allowed(&from(&["https://a.example"])));
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        assert_eq!(headers[header::ACCESS_CONTROL_EXPOSE_HEADERS], "etag");
        assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_HEADERS));
    }

    #[test]
    fn mistakes_have_a_place_and_a_hint() {
        for (text, said) in [
            ("methods = \"GET\"", "[cors] has no `origins`"),
            ("origins = []", "p.toml:2:11: `origins` is an empty list"),
            ("origins = 3", "p.toml:2:11: `origins` has to be a string, not a whole number"),
            ("origins = \"*\"", "did you mean `any`?"),
            ("origins = \"null\"", "every sandboxed page"),
            ("origins = \"a.example\"", "did you mean `https://a.example`?"),
            ("origins = \"https://a.example/\"", "did you mean `https://a.example`?"),
            ("origins = \"https://A.example\"", "did you mean `https://a.example`?"),
            ("origins = \"https://a.example:443\"", "did you mean `https://a.example`?"),
            ("origins = \"https://*.example\"", "has a wildcard"),
            ("origins = \"https://a.example.\"", "is not an origin as browsers write it"),
            ("origins = \"https://me@a.example\"", "is not an origin"),
            ("origins = \"https://\"", "is not an origin"),
            ("origins = [\"any\", \"https://a.example\"]", "`any` stands among origins"),
            ("origins = \"any\"\ncredentials = true", "p.toml:3:15: `credentials = true` and `origins = \"any\"`"),
            ("origins = \"any\"\nmethods = \"get\"", "did you mean `GET`?"),
            ("origins = \"any\"\nheaders = \"*\"", "`*` is not the name of a header"),
            ("origins = \"any\"\nexpose = \"a b\"", "`a b` is not the name of a header"),
            ("origins = \"any\"\nmax_age = \"2d\"", "it has to be from 0s to 1d"),
            ("origins = \"any\"\npreflight = \"app\"", "`app` is not who answers preflights"),
            ("origins = \"any\"\ncredential = true", "did you mean `credentials`?"),
        ] {
            let (_, problems) = read_text(text);
            assert!(problems.len() == 1 && problems[0].contains(said), "{text}: {problems:?}");
        }
    }
}
