//! Headers that keep an answer where it belongs: in one browser, over HTTPS, in no foreign frame.
//!
//! What `[app.headers]` says is made into header values once, when the policy is read; a request only copies them. An
//! application overrides each by setting the header itself. The refusals of the gate keep a stricter set of their own
//! (`src/gateway/refusal.rs`).

use std::{ops::RangeInclusive, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::written::{Table, Value};

/// What the gate adds to the answers of one application.
#[derive(Debug)]
pub struct Hygiene {
    hsts: Option<HeaderValue>,
    /// The same for every answer.
    fixed: Box<[(HeaderName, HeaderValue)]>,
    /// Whether answers to somebody who signed in are kept out of shared caches.
    private: bool,
}

/// How long browsers remember to come by HTTPS only. 0 makes them forget it; beyond two years nobody remembers why.
const HSTS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(2 * 365 * 24);
/// A year, as the lists of browsers ask for at least. Without `includeSubDomains`: other names of a domain are not ours.
const HSTS_DEFAULT: Duration = Duration::from_hours(365 * 24);

const FRAME: [(&str, Option<&str>); 3] = [("deny", Some("DENY")), ("same-origin", Some("SAMEORIGIN")), ("any", None)];
const CACHE: [(&str, bool); 2] = [("private", true), ("as-is", false)];
/// The W3C's words, and one for a header that is left to the application.
const REFERRER: [(&str, Option<&str>); 9] = [
    ("no-referrer", Some("no-referrer")),
    ("no-referrer-when-downgrade", Some("no-referrer-when-downgrade")),
    ("same-origin", Some("same-origin")),
    ("origin", Some("origin")),
    ("strict-origin", Some("strict-origin")),
    ("origin-when-cross-origin", Some("origin-when-cross-origin")),
    ("strict-origin-when-cross-origin", Some("strict-origin-when-cross-origin")),
    ("unsafe-url", Some("unsafe-url")),
    ("as-is", None),
];

/// Reads `[app.headers]`; a table that is absent means the defaults.
pub(super) fn read(table: &Table<'_>) -> Hygiene {
    let hsts = table.value("hsts").map_or(Some(Some(HSTS_DEFAULT)), |value| hsts(&value)).flatten();
    let frame = table.value("frame").and_then(|value| value.word("a kind of framing", &FRAME));
    let nosniff = table.value("nosniff").and_then(|value| value.boolean()).unwrap_or(true);
    let referrer = table.value("referrer").and_then(|value| value.word("a referrer policy", &REFERRER));
    let cache = table.value("cache").and_then(|value| value.word("a way to be cached", &CACHE));
    let fixed = [
        nosniff.then_some((header::X_CONTENT_TYPE_OPTIONS, "nosniff")),
        frame.unwrap_or(Some("SAMEORIGIN")).map(|value| (header::X_FRAME_OPTIONS, value)),
        referrer.unwrap_or(Some("strict-origin-when-cross-origin")).map(|value| (header::REFERRER_POLICY, value)),
    ];
    Hygiene {
        hsts: hsts.and_then(|age| HeaderValue::try_from(format!("max-age={}", age.as_secs())).ok()),
        fixed: fixed.into_iter().flatten().map(|(name, value)| (name, HeaderValue::from_static(value))).collect(),
        private: cache.unwrap_or(true),
    }
}

/// `false`, or for how long; the outer `None` was reported.
fn hsts(value: &Value<'_>) -> Option<Option<Duration>> {
    if value.is_false() { Some(None) } else { value.duration(HSTS).map(Some) }
}

impl Hygiene {
    /// `Strict-Transport-Security`, where browsers should remember it.
    #[must_use]
    pub const fn hsts(&self) -> Option<&HeaderValue> {
        self.hsts.as_ref()
    }

    /// Adds what the application has not said itself to its answer to somebody who signed in, or did not.
    pub fn add(&self, headers: &mut HeaderMap, signed_in: bool) {
        for (name, value) in &self.fixed {
            headers.entry(name).or_insert_with(|| value.clone());
        }
        // Who sets Cache-Control has thought about caches, and may even want this answer in a shared one.
        if !self.private || headers.contains_key(header::CACHE_CONTROL) {
            return;
        }
        if signed_in {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private"));
        }
        // The same address has another answer for whoever shows other credentials, or none.
        vary(headers, "authorization");
    }
}

/// Says that the answer depends on a header of the request, unless that has been said (RFC 9110 section 12.5.5).
pub(super) fn vary(headers: &mut HeaderMap, name: &'static str) {
    let said = |line: &HeaderValue| {
        let mut names = line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        names.any(|said| said == b"*" || said.eq_ignore_ascii_case(name.as_bytes()))
    };
    if !headers.get_all(header::VARY).iter().any(said) {
        headers.append(header::VARY, HeaderValue::from_static(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::written::File;

    fn read_text(text: &str) -> (Hygiene, Vec<String>) {
        let (read, problems) = File::new("p.toml", text).read(|root| Some(read(root)));
        (read.unwrap(), problems.iter().map(ToString::to_string).collect())
    }

    fn added(text: &str, own: &[(&'static str, &'static str)], signed_in: bool) -> Vec<String> {
        let (hygiene, problems) = read_text(text);
        assert_eq!(problems, [""; 0]);
        let mut headers = HeaderMap::new();
        for (name, value) in own {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        hygiene.add(&mut headers, signed_in);
        let mut lines: Vec<_> = headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    #[test]
    fn the_defaults_are_safe() {
        let all = [
            "cache-control: private",
            "referrer-policy: strict-origin-when-cross-origin",
            "vary: authorization",
            "x-content-type-options: nosniff",
            "x-frame-options: SAMEORIGIN",
        ];
        assert_eq!(added("", &[], true), all);
        assert_eq!(added("", &[], false), all[1..], "what nobody signed in for may be shared");
        assert_eq!(read_text("").0.hsts().unwrap(), "max-age=31536000");
    }

    #[test]
    fn every_header_can_be_switched_off_and_is_the_applications_where_it_sets_one() {
        let off = "hsts = false\nframe = \"any\"\nnosniff = false\nreferrer = \"as-is\"\ncache = \"as-is\"\n";
        assert_eq!(added(off, &[], true), [""; 0]);
        assert_eq!(read_text(off).0.hsts(), None);
        let own = [("cache-control", "public"), ("referrer-policy", "origin"), ("x-frame-options", "DENY")];
        let kept = ["cache-control: public", "referrer-policy: origin", "x-content-type-options: nosniff"];
        assert_eq!(added("", &own, true), [&kept[..], &["x-frame-options: DENY"]].concat());
    }

    #[test]
    fn every_word_has_its_value() {
        for (text, line) in [
            ("frame = \"deny\"", "x-frame-options: DENY"),
            ("referrer = \"no-referrer\"", "referrer-policy: no-referrer"),
        ] {
            assert!(added(text, &[], false).contains(&line.to_owned()), "{text}");
        }
        for (text, age) in
            [("hsts = \"30d\"", "max-age=2592000"), ("hsts = 0", "max-age=0"), ("hsts = \"1h\"", "max-age=3600")]
        {
            assert_eq!(read_text(text).0.hsts().unwrap(), age);
        }
    }

    #[test]
    fn mistakes_have_a_place_and_a_hint() {
        for (text, said) in [
            ("hsts = true", "p.toml:1:8: `hsts` has to be a duration, not true or false"),
            ("hsts = \"a year\"", "p.toml:1:8: `hsts` has to be a duration, not `a year`"),
            ("hsts = \"900d\"", "p.toml:1:8: `hsts` is 900d (it has to be from 0s to 730d)"),
            (
                "frame = \"sameorigin\"",
                "p.toml:1:9: `sameorigin` is not a kind of framing (did you mean `same-origin`?)",
            ),
            ("frame = false", "p.toml:1:9: `frame` has to be a string, not true or false"),
            ("nosniff = \"no\"", "p.toml:1:11: `nosniff` has to be true or false, not a string"),
            ("referrer = \"none\"", "p.toml:1:12: `none` is not a referrer policy"),
            ("cache = \"public\"", "p.toml:1:9: `public` is not a way to be cached"),
            ("sniff = true", "did you mean `nosniff`?"),
        ] {
            let (_, problems) = read_text(text);
            assert!(problems.len() == 1 && problems[0].contains(said), "{text}: {problems:?}");
        }
    }
}
