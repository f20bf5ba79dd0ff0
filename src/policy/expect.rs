//! What a policy is expected to do, written beside its rules: `[[expect]]` in the policy, `[[case]]` in `*.cases.toml`.
//!
//! ```text
//! [[expect]]
//! request = "GET /notes/admin/users"
//! from    = "10.1.2.3"
//! as      = { anonymous = "sign-in", "role:sales" = "deny", "role:admin" = "mfa" }
//! ```
//!
//! A policy that does not do what it says of itself is not what its author meant, so a failed `[[expect]]` is an error
//! like any other and keeps the policy from coming into force. Cases may be about all applications together; they are
//! run when somebody asks.
//!
//! Nobody here is in the store: `role:sales` is somebody who holds just that role, `user:ann` holds none but those named
//! beside, `"user:ann role:sales"`. Whoever may sign in by several methods comes by the one that gets furthest, unless
//! `by` says which; from 192.0.2.1, an address that belongs to nobody (RFC 5737), unless `from` says from where.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use http::Method as Verb;

use super::{Application, Explanation, Known, Question, document, lint, rule::Who};
use crate::{
    model::{Method, MethodSet, Name, Principal, Reason, Verified},
    target::Target,
    written::{File, Problem, Severity, Source, Table, Value, nearest, shown},
};

/// One request, and what comes of it for whom.
#[derive(Debug)]
pub struct Expectation {
    /// As written: `GET /notes/admin/users`.
    pub request: String,
    verb: Verb,
    target: Target,
    from: IpAddr,
    by: Option<Method>,
    said: Vec<Said>,
    place: Problem,
}

/// What is expected for one principal.
#[derive(Debug)]
struct Said {
    whom: Whom,
    outcome: Outcome,
    place: Problem,
}

/// Who asks, as far as an expectation says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Whom(Vec<Who>);

/// What comes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Refused for good.
    Deny,
    /// Asked to sign in.
    SignIn,
    /// Asked for a second factor.
    Mfa,
    /// Let in.
    Allow,
}

const OUTCOMES: [(&str, Outcome); 4] =
    [("allow", Outcome::Allow), ("deny", Outcome::Deny), ("sign-in", Outcome::SignIn), ("mfa", Outcome::Mfa)];

/// An address of TEST-NET-1, so that no rule about a real network is met by accident.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

const WHOM_HELP: &str = "anonymous, signed-in, role:NAME, user:NAME, service:NAME or token:ID; several with spaces: \
                         \"user:ann role:sales\"";

/// Reads a `*.cases.toml`.
///
/// # Errors
/// Every mistake in it.
pub fn cases(source: &Source) -> Result<Vec<Expectation>, Vec<Problem>> {
    let (cases, problems) = File::new(Arc::clone(&source.file), &source.text).read(|root| {
        let tables = root.tables("case");
        if tables.is_empty() {
            root.error("there is no case in it", "begin each with [[case]]");
        }
        Some(tables.iter().filter_map(read).collect())
    });
    match cases {
        Some(cases) if !problems.iter().any(Problem::is_error) => Ok(cases),
        _ => Err(problems),
    }
}

/// Reads one table; a mistake was reported when there is nothing.
pub(super) fn read(table: &Table<'_>) -> Option<Expectation> {
    let request = table.required("request", "a method and a path: request = \"GET /notes/admin\"");
    let by = table.value("by").and_then(|value| value.word("an authentication method", &METHODS));
    let from = table.value("from").map(|value| value.parse(address, "such as 10.1.2.3 or 2001:db8::1"));
    let written = table.table("as");
    if !written.is_present() {
        table.required("as", "who gets what: as = { anonymous = \"sign-in\", \"role:sales\" = \"allow\" }");
    }
    let entries = written.entries();
    if written.is_present() && entries.is_empty() {
        table.error("`as` names nobody", WHOM_HELP);
    }
    let said: Option<Vec<_>> = entries.iter().map(said).collect::<Vec<_>>().into_iter().collect();
    let request = request?;
    let (verb, target) =
        request.parse(parse_request, "a method and a path as a client sends it: \"GET /notes/admin\"")?;
    let said = said.filter(|said| !said.is_empty())?;
    let from = match from {
        Some(written) => written?,
        None => NOWHERE,
    };
    let place = request.problem(Severity::Error, "");
    Some(Expectation { request: request.string()?.to_owned(), verb, target, from, by, said, place })
}

const METHODS: [(&str, Method); 2] = [("password", Method::Password), ("token", Method::Token)];

fn address(text: &str) -> Result<IpAddr, &'static str> {
    text.parse().map_err(|_| "is not an address")
}

fn parse_request(text: &str) -> Result<(Verb, Target), String> {
    let (verb, path) = text.split_once(' ').ok_or("is not a method and a path")?;
    let verb = document::verb_of(verb).map_err(|why| format!("begins with `{}`, which {why}", shown(verb)))?;
    let target = Target::on_paper(path.trim_start()).map_err(|bad| format!("is refused for everybody: {bad}"))?;
    Ok((verb, target))
}

fn said(value: &Value<'_>) -> Option<Said> {
    let whom = whom(value.key()).map_err(|why| value.key_error(format!("`{}` {why}", shown(value.key())), WHOM_HELP));
    let outcome = value.word("an outcome", &OUTCOMES);
    Some(Said { whom: whom.ok()?, outcome: outcome?, place: value.problem(Severity::Error, "") })
}

fn whom(text: &str) -> Result<Whom, String> {
    if text == "anonymous" {
        return Ok(Whom(Vec::new()));
    }
    let mut found = Vec::new();
    for word in text.split_whitespace() {
        match document::who(word)? {
            Who::Anyone => return Err("is nobody in particular".to_owned()),
            Who::User(_) | Who::Service(_) if found.iter().any(|who| matches!(who, Who::User(_) | Who::Service(_))) => {
                return Err("names two at once".to_owned());
            }
            who => found.push(who),
        }
    }
    match found.is_empty() {
        true => Err(nearest(text, ["anonymous"]).map_or("names nobody", |_| "is not `anonymous`").to_owned()),
        false => Ok(Whom(found)),
    }
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("anonymous");
        }
        f.write_str(&self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    }
}

impl Expectation {
    /// What is asked for.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// How many principals it speaks about.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.said.len()
    }

    /// A problem with its request.
    #[must_use]
    pub fn problem(&self, message: impl Into<String>) -> Problem {
        Problem { message: message.into(), ..self.place.clone() }
    }

    /// Whom it speaks about without their being there.
    pub(super) fn unknown(&self, known: &Known) -> Vec<Problem> {
        let of = |said: &Said| {
            let unknown = said.whom.0.iter().filter_map(|who| lint::unknown(who, known)).next()?;
            let severity = Severity::Warning;
            Some(Problem { severity, message: unknown.0, ..said.place.clone() }.help(unknown.1))
        };
        self.said.iter().filter_map(of).collect()
    }

    /// What comes out otherwise than expected, each where it is written.
    #[must_use]
    pub fn failures(&self, app: &Application, system: MethodSet) -> Vec<Problem> {
        self.said.iter().filter_map(|said| self.failure(said, app, system)).collect()
    }

    fn failure(&self, said: &Said, app: &Application, system: MethodSet) -> Option<Problem> {
        let asked = |principal: Principal| {
            let question = Question { system, principal: &principal, method: &self.verb, from: self.from };
            let explanation = super::explain(app, &self.target, &question);
            (outcome(&explanation), explanation)
        };
        let came = said.whom.comes_by(self.by, system.and(app.methods));
        // Of several that get as far, the first is told of.
        let (found, explanation) = came.into_iter().rev().map(asked).max_by_key(|(outcome, _)| *outcome)?;
        if found == said.outcome {
            return None;
        }
        let message = format!("{} is expected to get `{}`, and gets `{found}`", said.whom, said.outcome);
        let mut help = format!("{}, as {}: ", self.request, explanation.principal);
        help.push_str(&explanation.reason.map_or_else(String::new, |reason| format!("{reason}, ")));
        help.push_str(&format!("decided by {}", explanation.decided_by));
        let is_named = |who: &Who| matches!(who, Who::User(_) | Who::Service(_) | Who::Token(_));
        if said.whom.0.iter().any(is_named) && !said.whom.0.iter().any(|who| matches!(who, Who::Role(_))) {
            help.push_str(&format!("; no store is asked here, so roles are named beside: \"{} role:NAME\"", said.whom));
        }
        Some(Problem { message, ..said.place.clone() }.help(help))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(OUTCOMES.iter().find(|(_, outcome)| outcome == self).map_or("", |(word, _)| *word))
    }
}

fn outcome(explanation: &Explanation) -> Outcome {
    match explanation.status {
        _ if explanation.allowed => Outcome::Allow,
        401 => Outcome::SignIn,
        _ if explanation.reason == Some(Reason::SecondFactorRequired.id()) => Outcome::Mfa,
        _ => Outcome::Deny,
    }
}

impl Whom {
    /// Everything they could be when they ask.
    fn comes_by(&self, by: Option<Method>, permitted: MethodSet) -> Vec<Principal> {
        if self.0.is_empty() {
            return vec![Principal::Anonymous];
        }
        let is_token = |who: &Who| matches!(who, Who::Token(_) | Who::Service(_));
        let methods: Vec<Method> = match by {
            Some(by) => vec![by],
            None if self.0.iter().any(is_token) => vec![Method::Token],
            // Where no method is permitted, the answer is the same for each.
            None if permitted.credentials().is_empty() => vec![Method::Password],
            None => permitted.credentials().iter().collect(),
        };
        methods.into_iter().filter_map(|method| self.principal(method)).collect()
    }

    fn principal(&self, method: Method) -> Option<Principal> {
        let named = self.0.iter().find_map(|who| match who {
            Who::User(name) | Who::Service(name) => Some(name.clone()),
            _ => None,
        });
        let token = self.0.iter().find_map(|who| match who {
            Who::Token(id) => Some(Arc::clone(id)),
            _ => None,
        });
        let roles = self.0.iter().filter_map(|who| match who {
            Who::Role(name) => Some(name.clone()),
            _ => None,
        });
        let name = named.or_else(|| Name::parse("somebody").ok())?;
        let verified = Verified { credential: token, ..Verified::on_paper(name, roles.collect(), method) };
        let is_service = self.0.iter().any(|who| matches!(who, Who::Service(_)));
        Some(if is_service { Principal::Service(Arc::new(verified)) } else { Principal::User(Arc::new(verified)) })
    }
}
