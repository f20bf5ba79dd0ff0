//! The verdict. One function for the live decision and for `explain`; what differs is only who listens on the way.

use std::{net::IpAddr, ops::ControlFlow};

use super::{
    Application, Default_, Question,
    rule::{Asker, Rule},
    trie::{AskedVerb, Path, Trie},
};
use crate::model::{Method, MethodSet, Reason};

/// A no: the reason, the number of the rule, and the methods by which signing in could help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub reason: Reason,
    pub rule: Option<usize>,
    pub sign_in: Option<MethodSet>,
}

/// What a rule whose path matches had to do with a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It is about other HTTP methods.
    OtherVerb,
    /// An allow, and a more specific one decides.
    LessSpecific { than: usize },
    /// The allow that decides.
    Decides,
    /// A deny about others.
    AboutOthers,
    /// A deny that spares this principal.
    Spares,
    /// A deny about other authentication methods.
    OtherAuth,
    /// A deny about other networks.
    OtherNetwork,
    /// A deny that holds.
    Denies,
}

/// Listens to a verdict being found.
pub(super) trait Trace {
    /// Whether to go on after the answer is known, so that every rule is heard of.
    const EVERYTHING: bool;

    /// The rules are looked at; without this call, the answer was known before.
    fn begin(&mut self);

    /// A rule whose path matches was looked at.
    fn step(&mut self, rule: usize, step: Step);
}

/// Nobody listens: the live decision.
pub(super) struct Silent;

impl Trace for Silent {
    const EVERYTHING: bool = false;

    fn begin(&mut self) {}

    fn step(&mut self, _: usize, _: Step) {}
}

/// Whether the question is answered with yes, and by which allow (`None`: by the default).
pub(super) fn judge<T: Trace>(
    app: &Application,
    tries: &Tries,
    path_info: &str,
    q: &Question<'_>,
    trace: &mut T,
) -> Result<Option<usize>, Refusal> {
    let case = Case::new(app, tries, path_info, q);
    case.methods()?;
    trace.begin();
    let denied = case.denied(trace);
    let deciding = if denied.is_ok() || T::EVERYTHING { case.deciding(trace) } else { None };
    match denied? {
        None => case.granted(deciding),
        // Signing in lifts the deny; it is offered if it could also satisfy what decides afterwards.
        Some(denied) => {
            let could = denied.sign_in.unwrap_or(MethodSet::NONE).and(case.could(deciding));
            Err(Refusal { sign_in: Some(could).filter(|could| !could.is_empty()), ..denied })
        }
    }
}

/// One question put to one application.
struct Case<'a> {
    app: &'a Application,
    tries: &'a Tries,
    path_info: &'a str,
    q: &'a Question<'a>,
    verb: AskedVerb<'a>,
    asker: Asker<'a>,
    from: IpAddr,
    /// The methods that the system policy and the application agree on.
    permitted: MethodSet,
}

impl<'a> Case<'a> {
    fn new(app: &'a Application, tries: &'a Tries, path_info: &'a str, q: &'a Question<'a>) -> Self {
        let asker = Asker { principal: q.principal, app_roles: &app.app_roles };
        // `::ffff:10.0.0.1` is 10.0.0.1 that came through a dual-stack socket.
        let (verb, from) = (AskedVerb::new(q.method), q.from.to_canonical());
        Self { app, tries, path_info, q, verb, asker, from, permitted: q.system.and(app.methods) }
    }

    /// Before any rule: is this a way to come here at all?
    fn methods(&self) -> Result<(), Refusal> {
        let refuse = |reason| Err(Refusal { reason, rule: None, sign_in: None });
        if self.permitted.is_empty() {
            return refuse(Reason::MethodNotPermitted);
        }
        let Some(verified) = self.q.principal.verified() else { return Ok(()) };
        if !self.permitted.contains(verified.method) {
            return refuse(Reason::MethodNotAllowed);
        }
        let elsewhere = |names: &Vec<_>| !names.contains(&self.app.name);
        if verified.applications.as_ref().is_some_and(elsewhere) {
            return refuse(Reason::TokenNotForApplication);
        }
        Ok(())
    }

    /// Whether a deny holds. One that signing in could lift is not the end: `Some`, with the methods that lift them all.
    fn denied<T: Trace>(&self, trace: &mut T) -> Result<Option<Refusal>, Refusal> {
        let rules = &self.app.rules;
        let (mut lifting, mut lifted, mut lasting) = (self.permitted.credentials(), None, None);
        let _ = self.tries.deny.walk(Path::guarded(self.path_info), |leaf| {
            let number = leaf.rule;
            let rule = &rules.rules[number];
            let step = if leaf.verbs.cover(self.verb) { self.deny_step(rule) } else { Step::OtherVerb };
            trace.step(number, step);
            if step != Step::Denies {
                return ControlFlow::<()>::Continue(());
            }
            lifting = lifting.and(self.lifting(rule));
            if self.q.principal.verified().is_some() || self.lifting(rule).is_empty() {
                keep_first(&mut lasting, number);
            } else {
                keep_first(&mut lifted, number);
            }
            ControlFlow::Continue(())
        });
        // Several may hold; the one that nothing lifts is named before the others, and the first in the file before all.
        let refusal = |rule| Refusal { reason: Reason::DeniedByRule, rule: Some(rule), sign_in: None };
        match (lasting, lifted) {
            (Some(rule), _) => Err(refusal(rule)),
            (None, Some(rule)) => Ok(Some(Refusal { sign_in: Some(lifting), ..refusal(rule) })),
            (None, None) => Ok(None),
        }
    }

    fn deny_step(&self, rule: &Rule) -> Step {
        if !rule.names(&self.asker) {
            Step::AboutOthers
        } else if rule.spares(&self.asker) {
            Step::Spares
        } else if !rule.auth().contains(self.q.principal.method()) {
            Step::OtherAuth
        } else if !rule.is_from(self.from) {
            Step::OtherNetwork
        } else {
            Step::Denies
        }
    }

    /// The methods by which somebody the deny does not hold for could sign in.
    ///
    /// A deny that holds for the anonymous principal names everybody, so only its exceptions help.
    fn lifting(&self, rule: &Rule) -> MethodSet {
        let others = self.permitted.credentials().without(rule.auth());
        if rule.unless_who.is_empty() { others } else { self.permitted.credentials() }
    }

    /// The most specific allow for this path and method.
    fn deciding<T: Trace>(&self, trace: &mut T) -> Option<usize> {
        let mut deciding = None;
        let _ = self.tries.allow.walk(Path::plain(self.path_info), |leaf| {
            let step = match deciding {
                // A rule with several paths may match by more than one of them.
                Some(number) if number == leaf.rule => return ControlFlow::Continue(()),
                _ if !leaf.verbs.cover(self.verb) => Step::OtherVerb,
                Some(than) => Step::LessSpecific { than },
                None => Step::Decides,
            };
            trace.step(leaf.rule, step);
            if step == Step::Decides {
                deciding = Some(leaf.rule);
            }
            if deciding.is_some() && !T::EVERYTHING { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        deciding
    }

    fn granted(&self, deciding: Option<usize>) -> Result<Option<usize>, Refusal> {
        let reason = match deciding {
            Some(number) => self.refused_by(&self.app.rules.rules[number]),
            None => self.refused_by_default(),
        };
        let Some(reason) = reason else { return Ok(deciding) };
        let refusal = Refusal { reason, rule: deciding, sign_in: None };
        // Who asks and how strongly is what signing in changes.
        let who = matches!(reason, Reason::NotAllowedByRule | Reason::DeniedByDefault | Reason::SecondFactorRequired);
        let could = self.could(deciding);
        if who && self.q.principal.verified().is_none() && !could.is_empty() {
            return Err(Refusal { reason: Reason::CredentialsRequired, sign_in: Some(could), ..refusal });
        }
        Err(refusal)
    }

    fn refused_by(&self, rule: &Rule) -> Option<Reason> {
        let (effective, principal) = (self.permitted.and(rule.auth()), self.q.principal);
        let came_by = principal.method();
        if effective.is_empty() {
            Some(Reason::MethodNotPermitted)
        } else if came_by != Method::Unauthenticated && !effective.contains(came_by) {
            Some(Reason::MethodNotAllowed)
        } else if !rule.is_from(self.from) {
            Some(Reason::NetworkNotAllowed)
        } else if !effective.contains(came_by) || !rule.names(&self.asker) {
            Some(Reason::NotAllowedByRule)
        } else if rule.mfa.is_some() {
            Some(Reason::SecondFactorRequired)
        } else {
            None
        }
    }

    fn refused_by_default(&self) -> Option<Reason> {
        let named = match &self.app.default {
            Default_::Deny => false,
            Default_::SignedIn => self.q.principal.verified().is_some(),
            Default_::Anyone => true,
            Default_::Role(role) => self.asker.has_role(role),
        };
        let granted = named && self.permitted.contains(self.q.principal.method());
        (!granted).then_some(Reason::DeniedByDefault)
    }

    /// The methods by which somebody could sign in and be let in, from this address, by what decides.
    fn could(&self, deciding: Option<usize>) -> MethodSet {
        let credentials = self.permitted.credentials();
        match deciding.map(|number| &self.app.rules.rules[number]) {
            Some(rule) if rule.is_from(self.from) => credentials.and(rule.auth()).and(rule.comes_by()),
            Some(_) => MethodSet::NONE,
            None if self.app.default == Default_::Deny => MethodSet::NONE,
            None => credentials,
        }
    }
}

fn keep_first(first: &mut Option<usize>, number: usize) {
    *first = Some(first.map_or(number, |first| first.min(number)));
}

/// The rules of an application, compiled.
#[derive(Debug)]
pub struct Rules {
    /// In the order of the file.
    pub(super) rules: Vec<Rule>,
    /// Whether any rule looks at where a client is.
    pub(super) by_network: bool,
    /// Without the rules that only report.
    pub(super) enforced: Tries,
    /// With them, as if they were enforced; `None` if there are none.
    pub(super) trial: Option<Tries>,
}

/// Where rules hold.
#[derive(Debug)]
pub(super) struct Tries {
    pub allow: Trie,
    pub deny: Trie,
}

impl Rules {
    /// Every rule, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }
}
