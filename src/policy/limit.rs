//! How often: `limit = "60/m per user"`, as written and as meant. Counting is `src/gateway/limits.rs`.

use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use super::rule::Effect;
use crate::written::{Value, nearest};

/// So many requests in such a time, for each of whom it is counted.
#[derive(Debug, Clone)]
pub struct Limit {
    /// What its counts are found by: the file, the place in it by what it says, and the text. Whatever else changes in a
    /// policy, the counts stay.
    pub id: Arc<str>,
    /// Requests that may come at once after a pause.
    pub requests: NonZeroU32,
    /// In this time that many come back, evenly.
    pub window: Duration,
    /// For whom each is counted.
    pub per: Per,
    text: Box<str>,
}

/// For whom requests are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// The verified name; the address for the anonymous principal.
    User,
    /// The client's address; of IPv6 the /64, which is what one client is given.
    Address,
    /// The token; whoever came without one as by [`Per::User`].
    Token,
}

impl Limit {
    /// A limit by what it means; its text is also what its counts are found by.
    #[must_use]
    pub fn new(requests: NonZeroU32, window: Duration, per: Per, text: &str) -> Self {
        Self { id: text.into(), requests, window, per, text: text.into() }
    }

    /// The same limit, standing in a place of its own.
    pub(super) fn at(self, file: &str, place: &str) -> Self {
        Self { id: format!("{file} {place} {}", self.text).into(), ..self }
    }
}

/// As it was written.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// More than this in one window is as good as none.
const REQUESTS_MOST: u32 = 1_000_000;
const UNITS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
const PER: [(&str, Per); 3] = [("user", Per::User), ("address", Per::Address), ("token", Per::Token)];
const HELP: &str = "such as limit = \"60/m per user\": a number, s, m, h or d, and per user, per address or per token";

/// Reads a limit, or a list of them; what is wrong is reported.
pub(super) fn read(value: &Value<'_>) -> Vec<Limit> {
    let items = value.some_items("leave the key out, or say how often");
    let mut limits = Vec::<Limit>::new();
    for item in &items {
        let Some(limit) = item.parse(parse, HELP) else { continue };
        if limits.iter().any(|earlier| earlier.per == limit.per && earlier.window == limit.window) {
            item.error(format!("`{limit}` stands beside another limit for the same time"), "the smaller one is enough");
        }
        limits.push(limit);
    }
    limits
}

/// Reads the limits of a rule. Where there is nothing to count, it must not look as if there were.
pub(super) fn of_rule(value: &Value<'_>, effect: Effect, reports: bool) -> Vec<Limit> {
    match effect {
        Effect::Allow if reports => {
            value
                .warning("the limit of a rule that only reports counts nothing", "it counts once the rule is enforced");
            read(value)
        }
        Effect::Allow => read(value),
        Effect::Deny => {
            let help = "put it into an [[allow]], or into [app]";
            value.key_error("`limit` on a deny: whom it matches is refused every time", help);
            Vec::new()
        }
    }
}

fn parse(text: &str) -> Result<Limit, String> {
    let (rate, per) = text.split_once(" per ").ok_or("does not say per whom")?;
    let (requests, unit) = rate.trim().split_once('/').ok_or("does not say in which time")?;
    let requests = match requests.trim_end().parse::<u32>() {
        Ok(0) => Err("allows nothing; a [[deny]] says that".to_owned()),
        Ok(requests) if requests <= REQUESTS_MOST => Ok(requests),
        Err(_) if requests.is_empty() || !requests.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err("does not begin with a whole number".to_owned())
        }
        _ => Err(format!("is more than {REQUESTS_MOST} requests")),
    }?;
    let unit = unit.trim_start();
    let seconds = UNITS.iter().find(|(word, _)| *word == unit).map(|(_, seconds)| *seconds);
    let seconds = seconds.ok_or_else(|| match unit.chars().next().map(|first| first.to_ascii_lowercase()) {
        Some(first) if "smhd".contains(first) => format!("has no such time `{unit}`; did you mean `{first}`?"),
        _ => format!("has no such time `{unit}`"),
    })?;
    let per = per.trim();
    let whom = PER.iter().find(|(word, _)| *word == per).map(|(_, whom)| *whom);
    let whom = whom.ok_or_else(|| match nearest(per, PER.iter().map(|(word, _)| *word)) {
        Some(meant) => format!("cannot be counted per `{per}`; did you mean `per {meant}`?"),
        None => format!("cannot be counted per `{per}`"),
    })?;
    let requests = NonZeroU32::new(requests).ok_or("allows nothing")?;
    Ok(Limit::new(requests, Duration::from_secs(seconds), whom, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::written::File;

    fn read_text(text: &str) -> (Vec<Limit>, Vec<String>) {
        let (read, problems) = File::new("p.toml", text).read(|root| root.value("limit").map(|value| read(&value)));
        (read.unwrap(), problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_limit_is_a_number_a_time_and_whom_it_is_for() {
        for (text, requests, seconds, per) in [
            ("60/m per user", 60, 60, Per::User),
            ("1/s per address", 1, 1, Per::Address),
            ("1000000/d per token", 1_000_000, 86_400, Per::Token),
            ("3 / h  per  user", 3, 3600, Per::User),
        ] {
            let limit = parse(text).unwrap();
            let read = (limit.requests.get(), limit.window.as_secs(), limit.per, limit.to_string());
            assert_eq!(read, (requests, seconds, per, text.to_owned()));
        }
        let (limits, problems) = read_text("limit = [\"5/s per address\", \"100/h per address\", \"60/s per user\"]");
        assert_eq!((limits.len(), problems.len()), (3, 0));
    }

    #[test]
    fn mistakes_have_a_place_and_a_hint() {
        for (text, said) in [
            ("limit = 60", "p.toml:1:9: `limit` has to be a string, not a whole number"),
            ("limit = []", "p.toml:1:9: `limit` is an empty list"),
            ("limit = \"60/m\"", "p.toml:1:9: `60/m` does not say per whom (such as limit = \"60/m per user\""),
            ("limit = \"60 per user\"", "does not say in which time"),
            ("limit = \"many/m per user\"", "does not begin with a whole number"),
            ("limit = \"-1/m per user\"", "does not begin with a whole number"),
            ("limit = \"1.5/m per user\"", "does not begin with a whole number"),
            ("limit = \"0/m per user\"", "allows nothing"),
            ("limit = \"1000001/m per user\"", "is more than 1000000 requests"),
            ("limit = \"99999999999/m per user\"", "is more than 1000000 requests"),
            ("limit = \"60/min per user\"", "did you mean `m`?"),
            ("limit = \"60/w per user\"", "has no such time `w`"),
            ("limit = \"60/m per usr\"", "did you mean `per user`?"),
            ("limit = \"60/m per planet\"", "cannot be counted per `planet`"),
            (
                "limit = [\"60/m per user\", \"5/m per user\"]",
                "p.toml:1:27: `5/m per user` stands beside another limit",
            ),
        ] {
            let (_, problems) = read_text(text);
            assert!(problems.len() == 1 && problems[0].contains(said), "{text}: {problems:?}");
        }
    }
}
