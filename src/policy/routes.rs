//! Which application owns which path: one answer for requests, for tools and for what policies expect of themselves.

use std::{collections::HashMap, sync::Arc};

use super::Application;
use crate::target::NormalPath;

/// The mounts, found by the longest that the path is in.
#[derive(Clone, Default)]
pub struct Routes {
    by_mount: HashMap<Box<str>, Arc<Application>>,
    in_order: Vec<Arc<Application>>,
    deepest: usize,
}

impl Routes {
    /// Applications by their names; the compiler has made sure that no two share one.
    #[must_use]
    pub fn new(applications: Vec<Arc<Application>>) -> Self {
        let key = |application: &Application| application.name.trim_end_matches('/').into();
        Self {
            by_mount: applications.iter().map(|application| (key(application), Arc::clone(application))).collect(),
            deepest: applications.iter().map(|application| application.name.len()).max().unwrap_or(0),
            in_order: applications,
        }
    }

    /// Who owns `path`: the application with the longest mount that ends where a segment of the path does.
    #[must_use]
    pub fn find(&self, path: &NormalPath) -> Option<&Arc<Application>> {
        // An application at `/` owns what no other does, but not what is the gate's own.
        if path.is_reserved() {
            return None;
        }
        let path = path.as_str();
        let mut end = path.len();
        loop {
            if end <= self.deepest
                && let Some(application) = self.by_mount.get(&path[..end])
            {
                return Some(application);
            }
            if end == 0 {
                return None;
            }
            end = path[..end].rfind('/')?;
        }
    }

    /// All of them, in the order of their files.
    #[must_use]
    pub fn all(&self) -> &[Arc<Application>] {
        &self.in_order
    }
}
