//! The immutable view that a request holds from start to end: routes, rules, certificates, system policy.
//!
//! It is built whole from the files, checked whole, and swapped in one step; a request never sees half of a change.

use std::{collections::HashMap, path::Path, sync::Arc};

use arc_swap::ArcSwap;

use crate::{
    app::{
        isolation,
        launch::{Launch, LaunchKey},
    },
    certificates::Certificates,
    clock::{Clock, Timestamp},
    config::{self, Config},
    policy::Application,
    target::NormalPath,
    written::{Problem, Severity},
};

/// One consistent view of everything that decides about a request.
pub struct Snapshot {
    /// The system, as meant.
    pub config: Config,
    /// Which application owns which path.
    pub routes: Routes,
    /// What TLS handshakes use.
    pub certificates: Certificates,
    /// When it was loaded.
    pub loaded: Timestamp,
    /// Which workers each application's requests run in.
    launches: HashMap<Arc<str>, LaunchKey>,
}

impl Snapshot {
    /// Reads and checks everything that `portcullis.toml` at `file` leads to; also returns the warnings.
    ///
    /// # Errors
    /// All mistakes of all files at once; nothing has been changed.
    pub fn load(file: &Path, clock: &Clock) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let (config, mut warnings) = config::load(file)?;
        let mut problems = Vec::new();
        let applications = match config.load_applications() {
            Ok((applications, more)) => {
                warnings.extend(more);
                applications
            }
            Err(more) => {
                problems.extend(more);
                Vec::new()
            }
        };
        let certificates = match Certificates::load(&config.tls, clock) {
            Ok(certificates) => {
                let shown = config.file.display().to_string();
                warnings.extend(
                    certificates
                        .warnings
                        .iter()
                        .map(|warning| Problem { severity: Severity::Warning, ..Problem::file(&shown, warning) }),
                );
                Some(certificates)
            }
            Err(more) => {
                problems.extend(
                    more.iter()
                        .map(|error| Problem::file(&error.file.display().to_string(), error.problem.to_string())),
                );
                None
            }
        };
        let (wrong, gaps): (Vec<_>, Vec<_>) =
            isolation::problems(&config, &applications).into_iter().partition(Problem::is_error);
        problems.extend(wrong);
        warnings.extend(gaps);
        warnings.extend(unasked(&config, &applications));
        match certificates {
            Some(certificates) if problems.is_empty() => {
                let here = applications.iter().filter(|app| !app.elsewhere);
                let launches = here.map(|app| (Arc::clone(&app.name), Launch::of(&config, app).key())).collect();
                let routes = Routes::new(applications);
                Ok((Self { config, routes, certificates, loaded: clock.now(), launches }, warnings))
            }
            _ => Err(problems),
        }
    }
}

impl Snapshot {
    /// Which workers the requests of an application run in.
    #[must_use]
    pub fn launch(&self, application: &str) -> Option<LaunchKey> {
        self.launches.get(application).copied()
    }
}

/// Applications that run elsewhere while no proxy may ask about them: nobody gets to them by way of this gate.
fn unasked(config: &Config, applications: &[Arc<Application>]) -> Option<Problem> {
    let elsewhere: Vec<_> =
        applications.iter().filter(|app| app.elsewhere && app.enabled).map(|app| &*app.name).collect();
    if elsewhere.is_empty() || !config.forward_auth.trusted.is_empty() {
        return None;
    }
    let text = format!("no proxy may ask about what runs elsewhere: {}", elsewhere.join(", "));
    let warning = Problem { severity: Severity::Warning, ..Problem::file(&config.file.display().to_string(), text) };
    Some(warning.help("name the proxies in `trusted` under [forward_auth]"))
}

/// The mounts, found by the longest that the path is in.
#[derive(Default)]
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

/// Where every thread finds the current [`Snapshot`].
#[derive(Clone)]
pub struct Current(Arc<ArcSwap<Snapshot>>);

impl Current {
    /// The first one.
    #[must_use]
    pub fn new(snapshot: Snapshot) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(snapshot)))
    }

    /// The one that a request beginning now holds until its end.
    #[must_use]
    pub fn get(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Lets every request that begins after this call see `snapshot`.
    pub fn swap(&self, snapshot: Snapshot) {
        self.0.store(Arc::new(snapshot));
    }
}
