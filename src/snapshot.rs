//! The immutable view that a request holds from start to end: routes, rules, certificates, system policy.
//!
//! It is built whole from the files, checked whole, and swapped in one step; a request never sees half of a change.

use std::{collections::HashMap, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use ipnet::IpNet;

use crate::{
    app::{
        isolation,
        launch::{Launch, LaunchKey},
    },
    certificates::Certificates,
    clock::{Clock, Timestamp},
    config::{self, Config},
    policy::{Application, Routes},
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
        let certificates = certificates(&config, clock).map_or_else(
            |more| {
                problems.extend(more);
                None
            },
            |(certificates, more)| {
                warnings.extend(more);
                Some(certificates)
            },
        );
        let (wrong, gaps): (Vec<_>, Vec<_>) =
            isolation::problems(&config, &applications).into_iter().partition(Problem::is_error);
        problems.extend(wrong);
        warnings.extend(gaps);
        warnings.extend(unasked(&config, &applications));
        warnings.extend(shared_with_a_proxy(&config, &applications));
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

/// What is in the files of certificates, and the warnings.
fn certificates(config: &Config, clock: &Clock) -> Result<(Certificates, Vec<Problem>), Vec<Problem>> {
    let shown = config.file.display().to_string();
    let warning = |text: &String| Problem { severity: Severity::Warning, ..Problem::file(&shown, text) };
    match Certificates::load(&config.tls, clock) {
        Ok(certificates) => {
            let warnings = certificates.warnings.iter().map(warning).collect();
            Ok((certificates, warnings))
        }
        Err(errors) => Err(errors
            .iter()
            .map(|error| Problem::file(&error.file.display().to_string(), error.problem.to_string()))
            .collect()),
    }
}

impl Snapshot {
    /// The same with certificates as they are in their files now.
    ///
    /// # Errors
    /// What is wrong with them; nothing has been changed.
    pub fn renewed(&self, clock: &Clock) -> Result<Self, Vec<Problem>> {
        let (certificates, _warnings) = certificates(&self.config, clock)?;
        let (config, routes, launches) = (self.config.clone(), self.routes.clone(), self.launches.clone());
        Ok(Self { config, routes, certificates, loaded: self.loaded, launches })
    }

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

/// A proxy that may ask from an address which applications have too: they may ask as well, and say who they are for. That
/// lets nobody in, but guesses past every limit per address.
fn shared_with_a_proxy(config: &Config, applications: &[Arc<Application>]) -> Option<Problem> {
    let here: Vec<_> = applications.iter().filter(|app| !app.elsewhere && app.enabled).map(|app| &*app.name).collect();
    let is_loopback = |network: &&IpNet| network.addr().is_loopback();
    let trusted = config.forward_auth.trusted.iter().find(is_loopback).filter(|_| !here.is_empty())?;
    let text = format!("{trusted} may ask at /.portcullis/check, and so may what runs here: {}", here.join(", "));
    let warning = Problem { severity: Severity::Warning, ..Problem::file(&config.file.display().to_string(), text) };
    Some(warning.help("give the proxy an address of its own, or run those applications behind another gate"))
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
