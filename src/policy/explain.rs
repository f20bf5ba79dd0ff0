//! A verdict for people: what was asked, what every rule had to do with it, what decided, and what would change it.

use std::{fmt, net::IpAddr};

use serde::Serialize;

use super::{
    Application, Default_, Effect, Question,
    judge::{self, Refusal, Step, Trace, Tries},
    rule::{Rule, Who, list},
};
use crate::{
    model::{Method, MethodSet, Principal, Reason},
    target::Target,
};

/// A verdict and everything that led to it. `Display` is for people, `Serialize` for programs.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// The HTTP method.
    pub method: String,
    /// The canonical path.
    pub path: String,
    /// Who asks: `ann (password)`, `anonymous`.
    pub principal: String,
    /// The roles it holds here, those that the application adds among them.
    pub roles: Vec<String>,
    /// The client's address.
    pub from: IpAddr,
    /// The application's name.
    pub application: String,
    /// Whether it runs elsewhere, and a proxy asks.
    pub elsewhere: bool,
    /// The file that describes it.
    pub file: String,
    /// The part of the path that rules see.
    pub path_info: String,
    /// The methods that the system policy and the application agree on.
    pub methods: Vec<&'static str>,
    /// Every rule, in the order of the file.
    pub rules: Vec<RuleStep>,
    /// Whether the request is allowed.
    pub allowed: bool,
    /// 200, or the status of the refusal.
    pub status: u16,
    /// The reason id of a refusal.
    pub reason: Option<&'static str>,
    /// What decided: a line of the file, the default, or what was checked before any rule.
    pub decided_by: String,
    /// The rule that decided, `policies/notes.toml:14`; nothing if it was something else.
    pub rule: Option<String>,
    /// The methods that the client is asked to sign in with.
    pub sign_in: Vec<&'static str>,
    /// What would change the answer.
    pub hints: Vec<String>,
    /// What would have come instead, had the rules that only report been enforced.
    pub would_refuse: Option<WouldRefuse>,
}

/// What a request would have got, had the rules that only report been enforced.
#[derive(Debug, Clone, Serialize)]
pub struct WouldRefuse {
    /// 401 or 403.
    pub status: u16,
    /// The reason id.
    pub reason: &'static str,
    /// What would have decided.
    pub decided_by: String,
    /// The rule that would have, if it was one.
    pub rule: Option<String>,
}

/// What one rule had to do with a verdict.
#[derive(Debug, Clone, Serialize)]
pub struct RuleStep {
    /// `policies/notes.toml:14`
    pub rule: String,
    /// The rule on one line.
    pub text: String,
    /// Whether it decided.
    pub decides: bool,
    /// Why, or why not.
    pub why: String,
}

impl Explanation {
    pub(super) fn new(app: &Application, target: &Target, q: &Question<'_>) -> Self {
        let judged = |tries: &Tries| {
            let mut heard = Heard { begun: false, steps: vec![None; app.rules.rules.len()] };
            let (path_info, outcome) = match app.mount.split(target.path()) {
                Some((_, path_info)) => (path_info, judge::judge(app, tries, path_info, q, &mut heard)),
                None => ("", Err(Refusal { reason: Reason::NoApplication, rule: None, sign_in: None })),
            };
            (path_info, outcome, heard)
        };
        let (path_info, outcome, heard) = judged(&app.rules.enforced);
        let trial = app.rules.trial.as_ref().map(judged);
        // The gateway asks this before it asks for a verdict.
        let outcome = match outcome {
            _ if !app.enabled => Err(Refusal { reason: Reason::ApplicationDisabled, rule: None, sign_in: None }),
            outcome => outcome,
        };
        let refusal = outcome.err();
        let denied = refusal.is_some_and(|refusal| refusal.reason == Reason::DeniedByRule);
        let told = Told { app, q, denied };
        Self {
            method: q.method.to_string(),
            path: target.path().to_string(),
            principal: principal(q.principal),
            roles: told.roles(),
            from: q.from.to_canonical(),
            application: app.name.to_string(),
            elsewhere: app.elsewhere,
            file: app.file.to_string(),
            path_info: path_info.to_owned(),
            methods: words(q.system.and(app.methods)),
            rules: app
                .rules
                .iter()
                .enumerate()
                .map(|(number, rule)| {
                    let heard = trial.as_ref().filter(|_| rule.reports).map_or(&heard, |(_, _, heard)| heard);
                    told.step(rule, heard.begun, heard.steps[number])
                })
                .collect(),
            allowed: refusal.is_none(),
            status: refusal.map_or(200, status),
            reason: refusal.map(|refusal| refusal.reason.id()),
            decided_by: told.decided_by(outcome),
            rule: told.rule_id(outcome),
            sign_in: refusal.and_then(|refusal| refusal.sign_in).map(words).unwrap_or_default(),
            hints: refusal.map(|refusal| told.hints(refusal)).unwrap_or_default(),
            would_refuse: trial.and_then(|(_, outcome, _)| outcome.err()).filter(|_| refusal.is_none()).map(
                |refusal| WouldRefuse {
                    status: status(refusal),
                    reason: refusal.reason.id(),
                    decided_by: told.decided_by(Err(refusal)),
                    rule: told.rule_id(Err(refusal)),
                },
            ),
        }
    }
}

/// Remembers what the verdict heard.
struct Heard {
    begun: bool,
    steps: Vec<Option<Step>>,
}

impl Trace for Heard {
    const EVERYTHING: bool = true;

    fn begin(&mut self) {
        self.begun = true;
    }

    fn step(&mut self, rule: usize, step: Step) {
        self.steps[rule] = Some(step);
    }
}

fn status(refusal: Refusal) -> u16 {
    match refusal.reason {
        Reason::NoApplication | Reason::ApplicationDisabled => 404,
        _ if refusal.sign_in.is_some() => 401,
        _ => 403,
    }
}

fn words(methods: MethodSet) -> Vec<&'static str> {
    methods.iter().map(Method::word).collect()
}

fn principal(principal: &Principal) -> String {
    match principal {
        Principal::Anonymous => "anonymous".to_owned(),
        Principal::User(verified) => format!("{} ({})", verified.name, verified.method),
        Principal::Service(verified) => format!("service {} ({})", verified.name, verified.method),
    }
}

/// Finds the words for one question to one application.
struct Told<'a> {
    app: &'a Application,
    q: &'a Question<'a>,
    /// Whether a deny has the last word, and what an allow would have said does not matter.
    denied: bool,
}

impl Told<'_> {
    fn roles(&self) -> Vec<String> {
        self.app.roles_of(self.q.principal).iter().map(ToString::to_string).collect()
    }

    fn step(&self, rule: &Rule, begun: bool, step: Option<Step>) -> RuleStep {
        let decides = !rule.reports && step == Some(if self.denied { Step::Denies } else { Step::Decides });
        let why = match step {
            None if begun => "path does not match".to_owned(),
            None => "not reached".to_owned(),
            Some(step) => self.why(rule, step),
        };
        RuleStep { rule: rule.id().to_string(), text: rule.to_string(), decides, why }
    }

    fn why(&self, rule: &Rule, step: Step) -> String {
        match step {
            Step::OtherVerb => format!("not about {}", self.q.method),
            Step::LessSpecific { than } => format!("less specific than line {}", self.rule(than).id().line),
            Step::Decides if rule.reports || self.denied => "would decide".to_owned(),
            Step::Denies if rule.reports => "would deny".to_owned(),
            Step::Decides => "the most specific: it decides".to_owned(),
            Step::AboutOthers => "about others".to_owned(),
            Step::Spares => format!("spares {}", list(&rule.unless_who)),
            Step::OtherAuth => format!("not about {}", self.q.principal.method()),
            Step::OtherNetwork => format!("not about {}", self.q.from.to_canonical()),
            Step::Denies => "it denies".to_owned(),
        }
    }

    fn rule(&self, number: usize) -> &Rule {
        &self.app.rules.rules[number]
    }

    fn rule_id(&self, outcome: Result<Option<usize>, Refusal>) -> Option<String> {
        let rule = outcome.unwrap_or_else(|refusal| refusal.rule);
        rule.map(|number| self.rule(number).id().to_string())
    }

    fn decided_by(&self, outcome: Result<Option<usize>, Refusal>) -> String {
        let rule = |number| format!("{}  {}", self.rule(number).id(), self.rule(number));
        let by_default = || format!("the default, {}, of {}", self.app.default, self.app.file);
        match outcome {
            Ok(Some(number)) | Err(Refusal { rule: Some(number), .. }) => rule(number),
            Ok(None) => by_default(),
            Err(Refusal { reason: Reason::DeniedByDefault | Reason::CredentialsRequired, .. }) => by_default(),
            Err(Refusal { reason: Reason::MethodNotPermitted, .. }) => {
                format!(
                    "the methods of {} ({}) and of the system policy ({})",
                    self.app.name, self.app.methods, self.q.system
                )
            }
            Err(Refusal { reason: Reason::MethodNotAllowed, .. }) => {
                format!("the methods permitted for {}: {}", self.app.name, self.permitted())
            }
            Err(Refusal { reason: Reason::TokenNotForApplication, .. }) => {
                "the token's own list of applications".to_owned()
            }
            Err(Refusal { reason: Reason::ApplicationDisabled, .. }) => format!("enabled = false in {}", self.app.file),
            Err(_) => "the routes: the path is not below this application's mount".to_owned(),
        }
    }

    fn permitted(&self) -> MethodSet {
        self.q.system.and(self.app.methods)
    }

    fn hints(&self, refusal: Refusal) -> Vec<String> {
        let rule = refusal.rule.map(|number| self.rule(number));
        let mut hints = Vec::new();
        match refusal.reason {
            Reason::NotAllowedByRule | Reason::CredentialsRequired | Reason::DeniedByDefault => {
                hints.extend(self.who_would_be_allowed(rule));
            }
            Reason::NetworkNotAllowed => {
                hints.extend(rule.map(|rule| format!("only from: {}", list(&rule.from))));
            }
            Reason::MethodNotAllowed => {
                let effective = self.permitted().and(rule.map_or(MethodSet::ALL, Rule::auth));
                hints.push(format!("would be asked further when authenticated by: {effective}"));
            }
            Reason::MethodNotPermitted => {
                let needed = rule.map_or(self.app.methods, |rule| self.app.methods.and(rule.auth()));
                hints.push(format!("would be asked further if the system policy permitted: {needed}"));
            }
            Reason::SecondFactorRequired => {
                hints.push("would be let in with a second factor; this version knows none yet".to_owned());
            }
            Reason::TokenNotForApplication => {
                hints.push(format!("would be asked further with a token for {}", self.app.name))
            }
            Reason::ApplicationDisabled => hints.push("would be asked further if it were enabled".to_owned()),
            Reason::DeniedByRule => hints.extend(rule.map(lifted)),
            _ => {}
        }
        if let Some(methods) = refusal.sign_in {
            hints.push(format!("is asked to sign in by: {methods}"));
        }
        hints
    }

    fn who_would_be_allowed(&self, rule: Option<&Rule>) -> Option<String> {
        let (who, effective) = match rule {
            Some(rule) => (list(&rule.who), self.permitted().and(rule.auth()).and(rule.comes_by())),
            None if self.app.default == Default_::Deny => {
                return Some("would need an [[allow]] that matches, or another default".to_owned());
            }
            None => (self.app.default.to_string(), self.permitted()),
        };
        let anyone = rule.map_or(self.app.default == Default_::Anyone, |rule| rule.who.contains(&Who::Anyone));
        // A role may be held without having signed in, but that is no way to get it.
        let effective = if anyone { effective } else { effective.credentials() };
        Some(match effective.is_empty() {
            true => format!("would be allowed for: {who}; but no permitted method lets them come"),
            false if anyone && !effective.contains(Method::Unauthenticated) => format!(
                "would be allowed for: whoever signed in, by {effective}; for strangers if `unauthenticated` were among \
                 the methods of {} and of the system policy",
                self.app.name
            ),
            false => format!("would be allowed for: {who}, by {effective}"),
        })
    }
}

/// Whom a deny does not hold for.
fn lifted(rule: &Rule) -> String {
    debug_assert_eq!(rule.effect, Effect::Deny, "only a deny denies");
    let mut spared = Vec::new();
    if !rule.unless_who.is_empty() {
        spared.push(list(&rule.unless_who));
    }
    if !rule.who.is_empty() {
        spared.push(format!("whoever is not {}", list(&rule.who)));
    }
    if let Some(auth) = rule.auth {
        spared.push(format!("whoever came by {}", MethodSet::ALL.without(auth)));
    }
    if !rule.from.is_empty() {
        spared.push(format!("whoever is not at {}", list(&rule.from)));
    }
    match spared.is_empty() {
        true => "this deny holds for everybody".to_owned(),
        false => format!("this deny does not hold for: {}", spared.join("; or ")),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}  as {} from {}", self.method, self.path, self.principal, self.from)?;
        let place = if self.elsewhere { ", runs elsewhere" } else { "" };
        writeln!(f, "application  {}  {}{place}", self.application, self.file)?;
        writeln!(f, "path         {}", if self.path_info.is_empty() { "/" } else { &self.path_info })?;
        let or_none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
        writeln!(f, "methods      {}", or_none(self.methods.join(", ")))?;
        writeln!(f, "roles        {}", or_none(self.roles.join(", ")))?;
        let width = self.rules.iter().map(|step| step.text.chars().count()).max().unwrap_or(0);
        let place = self.rules.iter().map(|step| step.rule.chars().count()).max().unwrap_or(0) + 2;
        for step in &self.rules {
            let (mark, rule) = (if step.decides { '+' } else { 'x' }, format!("({})", step.rule));
            writeln!(f, "{mark} {:width$}  {rule:place$}  {}", step.text, step.why)?;
        }
        let verdict = self.reason.map_or_else(|| "allowed".to_owned(), |reason| format!("{} {reason}", self.status));
        write!(f, "{verdict}  decided by {}", self.decided_by)?;
        self.hints.iter().try_for_each(|hint| write!(f, "\n{hint}"))?;
        if let Some(would) = &self.would_refuse {
            write!(f, "\nwould be {} {}, were rules enforced that only report: ", would.status, would.reason)?;
            write!(f, "{}", would.decided_by)?;
        }
        Ok(())
    }
}
