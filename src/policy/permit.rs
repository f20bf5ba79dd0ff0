//! The proof that a request was allowed, and its opposite.

use std::sync::Arc;

use super::{Application, Limit, Verdict};
use crate::{
    model::{MethodSet, Principal, Reason, RuleId},
    target::Target,
};

/// The proof that a request was allowed. Only [`super::decide`] makes one; it cannot be copied, and an application is
/// served because of it.
#[derive(Debug)]
#[must_use = "a permit that is dropped is a request that is never served"]
pub struct Permit {
    app: Arc<Application>,
    target: Target,
    principal: Principal,
    rule: Option<usize>,
    would_refuse: Option<Box<Denial>>,
}

impl Permit {
    pub(super) fn new(app: Arc<Application>, target: Target, principal: Principal, verdict: Verdict) -> Self {
        Self { app, target, principal, rule: verdict.rule, would_refuse: verdict.would_refuse.map(Box::new) }
    }

    /// The application that may run.
    #[must_use]
    pub const fn app(&self) -> &Arc<Application> {
        &self.app
    }

    /// What it was asked for.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// Who asked.
    #[must_use]
    pub const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The allow that decided; `None` if it was the application's default.
    #[must_use]
    pub fn rule(&self) -> Option<&RuleId> {
        self.rule.map(|number| self.app.rules.rules[number].id())
    }

    /// What would have come instead, had the rules that only report been enforced.
    #[must_use]
    pub fn would_refuse(&self) -> Option<&Denial> {
        self.would_refuse.as_deref()
    }

    /// How often the allow that decided lets somebody in.
    #[must_use]
    pub fn limits(&self) -> &[Limit] {
        self.rule.map_or(&[], |number| &self.app.rules.rules[number].limits)
    }

    /// `SCRIPT_NAME`: the mount, empty for `/`.
    #[must_use]
    pub fn script_name(&self) -> &str {
        self.split().0
    }

    /// `PATH_INFO`: the rest of the judged path.
    #[must_use]
    pub fn path_info(&self) -> &str {
        self.split().1
    }

    /// Its parts, when it has been used.
    #[must_use]
    pub fn into_parts(self) -> (Arc<Application>, Target, Principal) {
        (self.app, self.target, self.principal)
    }

    fn split(&self) -> (&str, &str) {
        // No permit is made for a target outside the mount; if one were, the application would see the whole path.
        self.app.mount.split(self.target.path()).unwrap_or(("", self.target.path()))
    }
}

/// Why a request is not allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The public reason.
    pub reason: Reason,
    /// The rule that decided, if one did.
    pub rule: Option<RuleId>,
    /// The methods by which signing in could help. `Some` is a 401 with these challenges, `None` is a 403.
    pub sign_in: Option<MethodSet>,
}
