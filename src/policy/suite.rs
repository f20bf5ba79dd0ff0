//! Policies together with what they say of themselves: expectations stay unproved until somebody runs them.
//!
//! Loading for real runs those of the policies at once ([`super::load`]); `policy test` wants to say how each went, and
//! runs files of cases too, which may be about all applications together.

use std::sync::Arc;

use super::{Expectation, Routes};
use crate::{model::MethodSet, written::Problem};

/// Applications, and what is expected of them.
pub struct Suite {
    /// Every application, by the paths it owns.
    pub routes: Routes,
    /// What was noticed while reading.
    pub warnings: Vec<Problem>,
    /// One for each policy that expects something, in the order of the files.
    pub proofs: Vec<Proof>,
}

/// The expectations of one file.
pub struct Proof {
    /// The file.
    pub file: Arc<str>,
    /// The mount of the application that they have to be about; `None` for cases, which are about any.
    about: Option<Arc<str>>,
    expectations: Vec<Expectation>,
}

impl Proof {
    /// What the policy of one application expects of it.
    pub(super) const fn of_policy(file: Arc<str>, application: Arc<str>, expectations: Vec<Expectation>) -> Self {
        Self { file, about: Some(application), expectations }
    }

    /// A file of cases.
    #[must_use]
    pub const fn of_cases(file: Arc<str>, cases: Vec<Expectation>) -> Self {
        Self { file, about: None, expectations: cases }
    }

    /// How many principals it speaks about: each is one thing to be proved.
    #[must_use]
    pub fn count(&self) -> usize {
        self.expectations.iter().map(Expectation::count).sum()
    }

    /// What comes out otherwise than expected. Every request is routed as a real one is.
    #[must_use]
    pub fn failures(&self, routes: &Routes, system: MethodSet) -> Vec<Problem> {
        self.expectations.iter().flat_map(|expectation| self.failure(expectation, routes, system)).collect()
    }

    fn failure(&self, expectation: &Expectation, routes: &Routes, system: MethodSet) -> Vec<Problem> {
        let request = &expectation.request;
        let stray = |whose: &str, help: &str| {
            let not = self.about.as_ref().map(|own| format!(", not of {own}")).unwrap_or_default();
            vec![expectation.problem(format!("`{request}` is a path of {whose}{not}")).help(help)]
        };
        let own = "an [[expect]] is about the application of its own file";
        match (routes.find(expectation.target().path()), &self.about) {
            (Some(app), Some(about)) if app.name != *about => stray(&app.name, own),
            (Some(app), _) => expectation.failures(app, system),
            (None, Some(_)) => stray("no application", own),
            (None, None) => stray("no application", "everybody gets 404 there, whatever the policies say"),
        }
    }
}
