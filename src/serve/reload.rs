//! Reading everything again: because somebody says so, because files were edited, because certificates were renewed. All
//! of it comes into force in one step, or nothing does.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::{Duration, SystemTime},
};

use super::Operator;
use crate::{
    app::{launch::Launch, supervise::Prepared},
    audit::event,
    clock::{Clock, Timestamp},
    config::{self, Config},
    control::status::ReloadReport,
    edits::{Edits, Stamp},
    snapshot::Snapshot,
    written::{self, Problem},
};

/// How often certificate files are looked at. A renewal is in force this much later at the latest.
const CERTIFICATE_POLL: Duration = Duration::from_secs(2);

/// How often files that change while they are read are read anew.
const READ_TRIES: usize = 3;

/// What was read when, to tell whether it has been edited since.
pub(super) struct Read {
    /// The directory that `portcullis.toml` named; the one known before, if it could not be read.
    policies: PathBuf,
    stamp: Stamp,
}

/// A snapshot and its warnings, or every mistake.
pub(super) type Loaded = Result<(Snapshot, Vec<Problem>), Vec<Problem>>;

/// Reads everything, and again if it was edited meanwhile: what is put in force has stood there at one time. `policies`
/// is where they were before.
pub(super) fn load(
    config: &Path,
    policies: Option<&Path>,
    listen: Option<SocketAddr>,
    clock: &Clock,
) -> (Read, Loaded) {
    let named = config::load(config).ok().map(|(config, _)| config.policies);
    let policies = named.or(policies.map(Path::to_owned)).unwrap_or_default();
    let file = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    let first = Stamp::of(&file, &policies);
    let mut stamp = first.clone();
    for _ in 0..READ_TRIES {
        let loaded = Snapshot::load(config, clock).map(|(mut snapshot, warnings)| {
            if let Some(listen) = listen {
                snapshot.config.gateway.listen = vec![listen];
            }
            (snapshot, warnings)
        });
        let now = Stamp::of(&file, &policies);
        if now == stamp {
            return (Read { policies, stamp }, loaded);
        }
        stamp = now;
    }
    let problem = Problem::file(&config.to_string_lossy(), "this or a policy changes while it is read");
    // By the first stamp whoever watches sees that there is something to read, also if this was the last change.
    (Read { policies, stamp: first }, Err(vec![problem.help("try again when nobody writes any more")]))
}

/// Why files are read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Somebody said so.
    Asked,
    /// A file has changed, and nobody has said that it is meant.
    Noticed,
}

/// A reload that was refused.
#[derive(Clone)]
pub(super) struct Refused {
    /// When the first was, since the last that worked.
    pub since: Timestamp,
    /// As `reload` shows it.
    pub report: String,
    /// Whether only renewed certificates were looked at.
    of_certificates: bool,
}

impl Operator {
    pub(super) async fn reload_files(&self, cause: Cause) -> Result<ReloadReport, Vec<Problem>> {
        let mut read = self.read.lock().await;
        let (file, policies, listen) = (self.file.clone(), read.policies.clone(), self.listen);
        let clock = self.shared.clock.clone();
        // Reading may take a while, and the control thread has others to serve.
        let loading = tokio::task::spawn_blocking(move || load(&file, Some(&policies), listen, &clock)).await;
        let loaded = match loading {
            Ok((now, loaded)) => {
                *read = now;
                loaded.and_then(|(snapshot, warnings)| self.meant(cause, snapshot).map(|snapshot| (snapshot, warnings)))
            }
            Err(defect) => Err(vec![Problem::file(&self.file.to_string_lossy(), defect.to_string())]),
        };
        let loaded = match loaded {
            Ok((snapshot, warnings)) => self.prepare(&snapshot).await.map(|prepared| (snapshot, warnings, prepared)),
            Err(problems) => Err(problems),
        };
        let (snapshot, warnings, prepared) = match loaded {
            Ok(loaded) => loaded,
            Err(problems) => {
                self.refuse(&problems, false);
                return Err(problems);
            }
        };
        let before = self.shared.current.get();
        let needs_restart = needs_restart(&before.config, &snapshot.config);
        self.shared.current.swap(snapshot);
        self.shared.authn.invalidate();
        let world = self.shared.current.get();
        self.shared.limits.keep(world.routes.all());
        self.bring(&world, prepared).await;
        let names = |snapshot: &Snapshot| -> Vec<Arc<str>> {
            snapshot.routes.all().iter().map(|app| Arc::clone(&app.name)).collect()
        };
        let (old, new) = (names(&before), names(&world));
        let restarted = world.routes.all().iter().filter(|app| !app.elsewhere).filter(|app| {
            let earlier = before.routes.all().iter().find(|earlier| earlier.name == app.name);
            earlier.is_none_or(|earlier| Launch::of(&before.config, earlier) != Launch::of(&world.config, app))
        });
        let report = ReloadReport {
            applications: new.len(),
            restarted: restarted.map(|app| app.name.to_string()).collect(),
            stopped: old.iter().filter(|name| !new.contains(name)).map(ToString::to_string).collect(),
            warnings: warnings.iter().map(ToString::to_string).collect(),
            needs_restart,
        };
        *self.refused() = None;
        tracing::info!(applications = report.applications, "configuration and policies reloaded");
        let details = serde_json::json!({ "applications": report.applications });
        self.note(self.happened(event::RELOAD).details(details));
        Ok(report)
    }

    /// Starts the workers that new rules need before the rules are in force: new rules never apply to old code.
    async fn prepare(&self, snapshot: &Snapshot) -> Result<Prepared, Vec<Problem>> {
        self.supervisor.prepare(&self.plans(snapshot)).await.map_err(|failed| {
            let problem = |(name, why): (Arc<str>, String)| {
                let policy = snapshot.routes.all().iter().find(|app| app.name == name);
                let file = policy.map_or_else(|| name.to_string(), |app| app.file.to_string());
                Problem::file(&file, format!("{name} does not start as it is described now: {why}"))
            };
            failed.into_iter().map(problem).collect()
        })
    }

    /// What was read stays out of force, and everybody can see why.
    fn refuse(&self, problems: &[Problem], of_certificates: bool) {
        // Warnings of the same report are no reason.
        let lines: Vec<_> = problems.iter().filter(|problem| problem.is_error()).map(ToString::to_string).collect();
        for line in &lines {
            tracing::error!("reload refused, the earlier configuration stays in force: {line}");
        }
        self.note(self.happened(event::RELOAD).details(serde_json::json!({ "refused": lines })).failed());
        let mut refused = self.refused();
        let since = refused.as_ref().map_or_else(|| self.shared.clock.now(), |refused| refused.since);
        *refused = Some(Refused { since, report: written::render(problems, false), of_certificates });
    }

    /// What only looks like a change: a file that somebody has emptied to fill it again is not the wish to have every
    /// default, and a directory without policies not the wish to have no applications. Whoever means it says so.
    fn meant(&self, cause: Cause, snapshot: Snapshot) -> Result<Snapshot, Vec<Problem>> {
        let help = "`portcullis reload` takes it if it is meant";
        let is_empty = || std::fs::metadata(&self.file).is_ok_and(|data| data.len() == 0);
        let before = !self.shared.current.get().routes.all().is_empty();
        let file = self.file.to_string_lossy();
        match cause {
            Cause::Noticed if is_empty() => Err(vec![Problem::file(&file, "is empty").help(help)]),
            Cause::Noticed if before && snapshot.routes.all().is_empty() => {
                let policies = snapshot.config.policies.to_string_lossy();
                Err(vec![Problem::file(&policies, "there are no policies any more").help(help)])
            }
            _ => Ok(snapshot),
        }
    }

    pub(super) fn refused(&self) -> std::sync::MutexGuard<'_, Option<Refused>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Edits come into force by themselves, unless the configuration in force says that they wait.
    pub(super) async fn follow_edits(self: Arc<Self>, mut edits: Edits) {
        loop {
            let policies = self.read.lock().await.policies.clone();
            if !self.shared.current.get().config.gateway.watch {
                edits.rest();
                edits.wait().await;
                continue;
            }
            let now = edits.look(&self.file, &policies).await;
            if self.read.lock().await.stamp == now {
                edits.wait().await;
                continue;
            }
            let now = edits.settled(&self.file, &policies, now).await;
            // Somebody may have said `reload` meanwhile.
            let Some((file, others)) = now.difference(&self.read.lock().await.stamp) else { continue };
            tracing::info!(file = %file.display(), others, "edited: reloading");
            if let Ok(report) = self.reload_files(Cause::Noticed).await {
                for warning in &report.warnings {
                    tracing::warn!("{warning}");
                }
                for change in &report.needs_restart {
                    tracing::warn!("{change}: in force after a restart only");
                }
            }
        }
    }

    /// A renewed certificate needs nobody to announce it.
    pub(super) async fn follow_certificates(self: Arc<Self>) {
        let mut seen = self.certificate_times();
        loop {
            tokio::time::sleep(CERTIFICATE_POLL).await;
            let now = self.certificate_times();
            if now != seen {
                seen = now;
                self.renew_certificates().await;
            }
        }
    }

    /// Certificates alone: edits of policies that wait for their word must not come into force with a renewal.
    async fn renew_certificates(&self) {
        let _one_at_a_time = self.read.lock().await;
        let renewed = self.shared.current.get().renewed(&self.shared.clock);
        let is_ours = |refused: &Option<Refused>| refused.as_ref().is_none_or(|refused| refused.of_certificates);
        match renewed {
            Ok(snapshot) => {
                self.shared.current.swap(snapshot);
                tracing::info!("a certificate file changed: certificates reloaded");
                let mut refused = self.refused();
                if is_ours(&refused) {
                    *refused = None;
                }
            }
            Err(problems) if is_ours(&self.refused()) => self.refuse(&problems, true),
            // What was refused before is still what an operator has to mend first.
            Err(problems) => {
                problems.iter().for_each(|problem| tracing::error!("certificates stay as they are: {problem}"))
            }
        }
    }

    fn certificate_times(&self) -> Vec<Option<(SystemTime, u64)>> {
        let world = self.shared.current.get();
        let files = world.config.tls.certificates.iter().flat_map(|files| [&files.certificate, &files.key]);
        files.map(|file| file.metadata().ok().and_then(|data| Some((data.modified().ok()?, data.len())))).collect()
    }
}

/// Changes that a reload cannot bring into force.
fn needs_restart(before: &Config, after: &Config) -> Vec<String> {
    let changes = [
        ("`listen` under [gateway]", before.gateway.listen != after.gateway.listen),
        ("`redirect_listen` under [gateway]", before.gateway.redirect_listen != after.gateway.redirect_listen),
        ("`threads` under [gateway]", before.gateway.threads != after.gateway.threads),
        ("`connections` under [limits]", before.limits.connections != after.limits.connections),
        ("[passwords]", before.passwords != after.passwords),
        ("[tokens]", before.tokens != after.tokens),
        ("[store]", before.store != after.store),
        ("[data]", before.data != after.data),
        ("[logs]", before.logs != after.logs),
    ];
    changes.into_iter().filter(|(_, changed)| *changed).map(|(what, _)| what.to_owned()).collect()
}
