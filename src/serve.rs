//! The running gateway, put together: sockets, data threads, workers, the control socket, signals, the end.
//!
//! Everything here runs on the main thread, which lives as long as the process: workers die with the thread that
//! started them, which is what makes `kill -9` of the gateway leave nothing behind.

mod reload;

use std::{
    collections::HashMap,
    io::Write as _,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use self::reload::{Cause, Read, Refused, load};
use crate::{
    app::{
        confine::Landlock,
        isolation::Isolation,
        launch::Launch,
        log::AppLog,
        pool::AppState,
        supervise::{AppReport, Plan, Prepared, Supervisor},
        watch::{Change, Watched, Watchers},
    },
    audit::{Audit, AuditRecord, event},
    authn::{Authn, HashingPool, password::Cost},
    clock::{Clock, Timestamp},
    config::Config,
    control::{
        socket::{self, Doing, Handler},
        status::{
            self, AppStatus, AuditStatus, CertificateStatus, IsolationStatus, ReloadReport, Status, WorkerStatus,
        },
    },
    edits::Edits,
    gateway::{
        listener::{self, Connections},
        run::{Gateway, Redirect, Shared},
    },
    model::Method,
    policy::Application,
    shutdown::shutdown,
    snapshot::{Current, Snapshot},
    store::Store,
    telemetry::{self, Telemetry},
    written::{self, Problem},
};

/// How often the store's version is read: the safety net for changes that nobody announced.
const STORE_POLL: Duration = Duration::from_secs(1);

/// Exit status when configuration or policies have mistakes; the same for every command.
pub const EXIT_CONFIGURATION: u8 = 3;

/// Runs the gateway until it is told to stop. `listen` replaces the configured addresses.
///
/// # Errors
/// What kept it from starting; mistakes in files have been printed already and give [`EXIT_CONFIGURATION`].
pub fn run(config: &Path, listen: Option<SocketAddr>) -> anyhow::Result<ExitCode> {
    let clock = Clock::System;
    let file = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    let (read, loaded) = load(config, None, listen, &clock);
    let (snapshot, warnings) = match loaded {
        Ok(loaded) => loaded,
        Err(problems) => {
            let _ = write!(std::io::stderr(), "{}", written::render(&problems, false));
            return Ok(ExitCode::from(EXIT_CONFIGURATION));
        }
    };
    let telemetry = Arc::new(telemetry::init(&snapshot.config.logs));
    log_panics();
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(serve(read, file, listen, snapshot, &telemetry, clock));
    telemetry.flush();
    // Data threads that did not finish in time are left behind on purpose.
    runtime.shutdown_background();
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn serve(
    read: Read,
    file: PathBuf,
    listen: Option<SocketAddr>,
    snapshot: Snapshot,
    telemetry: &Arc<Telemetry>,
    clock: Clock,
) -> anyhow::Result<()> {
    // Before anything is worth ending in order: until then a signal simply ends the process.
    let mut signals = Signals::install()?;
    let config = snapshot.config.clone();
    let store = Store::open(&config.store, clock.clone()).await?;
    let control = socket::Listener::bind(&config.data)?;
    let authn = Arc::new(Authn::new(store.clone(), clock.clone(), hashing_pool(&config)?, &config.tokens.issuer));
    let (audit, writer) = Audit::new(store.clone());
    let writer = tokio::spawn(writer.run());

    let listeners = match listener::inherited() {
        passed if passed.is_empty() => listener::bind(&config.gateway.listen).context("cannot listen")?,
        passed => passed,
    };
    let addresses = local_addresses(&listeners)?;
    let https_port = addresses.first().map_or(443, SocketAddr::port);
    let redirects: Vec<_> = listener::bind(&config.gateway.redirect_listen)
        .context("cannot listen for redirects")?
        .into_iter()
        .map(|listener| Redirect { listener, https_port })
        .collect();
    let redirect_addresses =
        redirects.iter().map(|redirect| redirect.listener.local_addr()).collect::<Result<Vec<_>, _>>()?;

    let (trigger, ending) = shutdown();
    let shared = Shared {
        current: Current::new(snapshot),
        authn,
        audit: audit.clone(),
        limits: Arc::default(),
        access: telemetry.open("access.log"),
        clock: clock.clone(),
        connections: Connections::new(config.limits.connections),
        requests: Arc::new(AtomicU64::new(0)),
        shutdown: ending,
    };
    let gateway = Gateway::start(config.gateway.threads, &shared, &listeners, &redirects)?;
    drop((listeners, redirects));

    let (watchers, changes) = Watchers::new();
    let operator = Arc::new(Operator {
        file,
        listen,
        started: clock.now(),
        addresses,
        redirect_addresses,
        supervisor: Supervisor::new(gateway.pools.clone(), clock),
        watchers,
        shared,
        store,
        telemetry: Arc::clone(telemetry),
        read: tokio::sync::Mutex::new(read),
        refused: Mutex::new(None),
    });
    let mut edits = Edits::new();
    if config.gateway.watch {
        // Before anybody knows that the gateway runs: who has a file open then is waited for.
        edits.look(&operator.file, &config.policies).await;
    }
    operator.note(operator.happened(event::START).details(serde_json::json!({ "listen": operator.addresses })));
    tokio::select! {
        () = operator.start_applications() => {}
        // Imports may take a minute; who says stop now does not wait for them, and workers end with this process.
        () = signals.stop() => {
            tracing::info!("stopped while applications were starting");
            audit.flush().await;
            return Ok(());
        }
    }
    operator.announce();
    tokio::spawn(control.serve(Arc::clone(&operator) as Arc<dyn Handler>));
    tokio::spawn(Arc::clone(&operator).follow_certificates());
    tokio::spawn(Arc::clone(&operator).follow_store());
    tokio::spawn(Arc::clone(&operator).follow_changes(changes));
    tokio::spawn(Arc::clone(&operator).follow_edits(edits));
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    operator.until_stopped(&mut signals).await;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping");
    operator.supervisor.expect_end();
    trigger.pull();
    let patience = operator.shared.current.get().config.timeouts.stop;
    let drained = tokio::task::spawn_blocking(move || gateway.join());
    tokio::select! {
        outcome = tokio::time::timeout(patience, drained) => if outcome.is_err() {
            tracing::warn!("connections were still open when the time to stop was up (`stop` under [timeouts])");
        },
        () = signals.stop() => tracing::warn!("told to stop again: not waiting for open connections"),
    }
    operator.supervisor.stop().await;
    operator.note(operator.happened(event::STOP));
    audit.flush().await;
    writer.abort();
    operator.store.close().await;
    tracing::info!("stopped");
    Ok(())
}

fn hashing_pool(config: &Config) -> anyhow::Result<HashingPool> {
    let passwords = &config.passwords;
    let cost =
        Cost { memory_kib: passwords.memory_kib, iterations: passwords.iterations, parallelism: passwords.parallelism };
    HashingPool::new(passwords.hashing_threads, passwords.queue, cost).context("[passwords] cannot be used")
}

fn local_addresses(listeners: &[TcpListener]) -> std::io::Result<Vec<SocketAddr>> {
    listeners.iter().map(TcpListener::local_addr).collect()
}

/// A panic on a data thread ends one connection; it must not go unseen.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place, "a defect of Portcullis itself: {message}");
    }));
}

/// What a service manager or a terminal says.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn install() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Returns when it is told to stop.
    async fn stop(&mut self) {
        tokio::select! { _ = self.interrupt.recv() => {}, _ = self.terminate.recv() => {} }
    }
}

/// The control thread's view of the whole.
struct Operator {
    file: PathBuf,
    listen: Option<SocketAddr>,
    started: Timestamp,
    addresses: Vec<SocketAddr>,
    redirect_addresses: Vec<SocketAddr>,
    supervisor: Supervisor,
    watchers: Watchers,
    shared: Shared,
    store: Store,
    telemetry: Arc<Telemetry>,
    /// What was last read, whether it came into force or not. Held during a reload: they come one after the other.
    read: tokio::sync::Mutex<Read>,
    /// Since the last reload that worked.
    refused: Mutex<Option<Refused>>,
}

impl Operator {
    async fn start_applications(&self) {
        let world = self.shared.current.get();
        self.bring(&world, Prepared::default()).await;
    }

    /// Brings workers, and in development watchers, in line with the rules in force.
    async fn bring(&self, world: &Snapshot, prepared: Prepared) {
        let watched = world.routes.all().iter().filter_map(|app| Watched::of(&world.config, app));
        self.watchers.follow(watched.collect());
        self.supervisor.apply(self.plans(world), prepared).await;
    }

    fn plans(&self, world: &Snapshot) -> Vec<Plan> {
        let config = &world.config;
        let plan = |app: &Arc<Application>| Plan {
            name: Arc::clone(&app.name),
            launch: Launch::of(config, app),
            enabled: app.enabled,
            start_timeout: app.start_timeout.unwrap_or(config.timeouts.start),
            stop_timeout: app.stop_timeout.unwrap_or(config.timeouts.stop),
            deadlock_timeout: app.deadlock_timeout.unwrap_or(config.timeouts.deadlock),
            max_requests: app.max_requests,
            max_memory: app.max_memory,
            log: AppLog::new(self.telemetry.open_application(&app.name), log_path(config, &app.name)),
            development: app.reload.then(|| self.watchers.places(&app.name)),
        };
        world.routes.all().iter().filter(|app| !app.elsewhere).map(plan).collect()
    }

    /// Says where it is, on standard output and in the log.
    fn announce(&self) {
        let world = self.shared.current.get();
        let mut out = std::io::stdout().lock();
        for address in &self.addresses {
            let _ = writeln!(out, "listening on https://{address}");
            tracing::info!(%address, "listening");
        }
        for address in &self.redirect_addresses {
            let _ = writeln!(out, "redirecting from http://{address}");
        }
        for app in world.routes.all().iter().filter(|app| app.enabled) {
            let origin = self.addresses.first().map(ToString::to_string).unwrap_or_default();
            let _ = match app.elsewhere {
                true => writeln!(out, "  elsewhere: {}  {}", app.name, app.title),
                false => writeln!(out, "  https://{origin}{}  {}", app.name, app.title),
            };
            if world.config.security.methods.and(app.methods).is_empty() {
                tracing::warn!(
                    application = %app.name, methods = %app.methods, level = %world.config.security.level,
                    "method-not-permitted: the application uses only methods that the system policy forbids; everybody gets 403"
                );
            }
        }
        let _ = out.flush();
    }

    async fn until_stopped(&self, signals: &mut Signals) {
        loop {
            tokio::select! {
                _ = signals.interrupt.recv() => return,
                _ = signals.terminate.recv() => return,
                _ = signals.hangup.recv() => self.hang_up().await,
            }
        }
    }

    /// SIGHUP: everything again, logs and applications too.
    async fn hang_up(&self) {
        tracing::info!("SIGHUP: reloading");
        self.telemetry.reopen();
        if self.reload_files(Cause::Asked).await.is_ok() {
            let names: Vec<_> = self.supervisor.reports().into_iter().map(|report| report.name).collect();
            for name in names {
                // A failure is in the log, and the old workers go on.
                let _ = self.reload_application(&name).await;
            }
        }
    }

    async fn reload_application(&self, name: &str) -> Result<(), String> {
        let outcome = self.supervisor.reload(name).await;
        let details = match &outcome {
            Ok(reloaded) => serde_json::json!({ "workers": reloaded.workers, "import_ms": reloaded.import_ms }),
            Err(why) => serde_json::json!({ "failed": why.lines().last() }),
        };
        let record = self.happened(event::APPLICATION_RELOAD).target(name).details(details);
        self.note(if outcome.is_ok() { record } else { record.failed() });
        outcome.map(|_| ())
    }

    fn happened(&self, event: &'static str) -> AuditRecord {
        AuditRecord::new(self.shared.clock.now(), event, "gateway")
    }

    fn note(&self, record: AuditRecord) {
        if self.shared.audit.record(record).is_err() {
            tracing::warn!("the audit is full, a record was lost");
        }
    }

    /// Development: files that changed are a reload, of one application after the other for each, but of several at once.
    async fn follow_changes(self: Arc<Self>, mut changes: mpsc::UnboundedReceiver<Change>) {
        while let Some(change) = changes.recv().await {
            let operator = Arc::clone(&self);
            tokio::spawn(async move { operator.reload_changed(change).await });
        }
    }

    async fn reload_changed(&self, change: Change) {
        let (application, file, others) = (&change.application, change.file.display(), change.others);
        tracing::info!(%application, %file, others, "a file changed: reloading");
        // A failure is in the log, and requests are answered with it.
        let _ = self.reload_application(application).await;
    }

    async fn follow_store(self: Arc<Self>) {
        let mut seen = None;
        loop {
            if let Ok(version) = self.store.version().await
                && seen.replace(version) != Some(version)
            {
                self.shared.authn.invalidate();
            }
            tokio::time::sleep(STORE_POLL).await;
        }
    }

    fn app_statuses(&self) -> Vec<AppStatus> {
        let world = self.shared.current.get();
        let reports: HashMap<_, _> =
            self.supervisor.reports().into_iter().map(|report| (Arc::clone(&report.name), report)).collect();
        world
            .routes
            .all()
            .iter()
            .map(|app| AppStatus {
                name: app.name.to_string(),
                title: app.title.clone(),
                enabled: app.enabled,
                state: match reports.get(&app.name) {
                    Some(report) => state(report.state),
                    None if app.elsewhere && !app.enabled => status::AppState::Disabled,
                    None if app.elsewhere => status::AppState::Elsewhere,
                    None => status::AppState::Starting,
                },
                workers: reports.get(&app.name).map(workers).unwrap_or_default(),
                restarts: reports.get(&app.name).map_or(0, |report| report.restarts),
                recycled: reports.get(&app.name).map_or(0, |report| report.recycled),
                last_error: reports.get(&app.name).and_then(|report| report.last_error.clone()),
                log: if app.elsewhere {
                    String::new()
                } else {
                    log_path(&world.config, &app.name).display().to_string()
                },
                isolation: if app.elsewhere { IsolationStatus::default() } else { isolation(&world.config, app) },
            })
            .collect()
    }

    fn status_now(&self) -> Status {
        let world = self.shared.current.get();
        let now = self.shared.clock.now();
        let text = |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect();
        let logs = &world.config.logs.directory;
        let refused = self.refused().clone();
        Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started.rfc3339(),
            uptime_seconds: u64::try_from((now.0 - self.started.0) / 1000).unwrap_or(0),
            config: self.file.display().to_string(),
            listen: text(&self.addresses),
            redirect: text(&self.redirect_addresses),
            level: world.config.security.level.to_string(),
            methods: world.config.security.methods.iter().map(Method::word).map(str::to_owned).collect(),
            applications: self.app_statuses(),
            loaded: world.loaded.rfc3339(),
            reload_problem: refused.as_ref().map(|refused| refused.report.clone()),
            reload_refused_since: refused.as_ref().map(|refused| refused.since.rfc3339()),
            watching: world.config.gateway.watch,
            certificates: world
                .certificates
                .described
                .iter()
                .map(|certificate| CertificateStatus {
                    file: certificate.file.display().to_string(),
                    names: certificate.names.clone(),
                    not_after: certificate.not_after.rfc3339(),
                    days_left: (certificate.not_after.0 - now.0).div_euclid(24 * 3600 * 1000),
                })
                .collect(),
            connections: self.shared.connections.count() as u64,
            requests: self.shared.requests.load(Ordering::Relaxed),
            audit: AuditStatus { healthy: self.shared.audit.healthy(), lost: self.shared.audit.lost() },
            logs: ["messages.log", "access.log"].map(|name| logs.join(name).display().to_string()).to_vec(),
        }
    }
}

impl Handler for Operator {
    fn changed(&self) -> Doing<'_, Result<(), String>> {
        Box::pin(async {
            self.shared.authn.invalidate();
            Ok(())
        })
    }

    fn reload(&self) -> Doing<'_, Result<ReloadReport, Vec<Problem>>> {
        Box::pin(self.reload_files(Cause::Asked))
    }

    fn status(&self) -> Doing<'_, Status> {
        Box::pin(async { self.status_now() })
    }

    fn reload_app(&self, name: String) -> Doing<'_, Result<(), String>> {
        Box::pin(async move { self.reload_application(&name).await })
    }

    fn apps(&self) -> Doing<'_, Vec<AppStatus>> {
        Box::pin(async { self.app_statuses() })
    }
}

fn log_path(config: &Config, application: &str) -> PathBuf {
    config.logs.directory.join(telemetry::application_file(application))
}

fn isolation(config: &Config, app: &Application) -> IsolationStatus {
    let walls = Isolation::of(config, &config.namespace(&app.namespace)).walls();
    let (covered, missing) = walls.landlock.map(Landlock::covers).unwrap_or_default();
    let words = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect();
    IsolationStatus {
        summary: walls.to_string(),
        landlock: match walls.landlock {
            Some(Landlock::Version(version)) => Some(version),
            _ => None,
        },
        user: walls.user,
        covered: words(covered),
        missing: words(missing),
    }
}

fn state(state: AppState) -> status::AppState {
    match state {
        AppState::Starting => status::AppState::Starting,
        AppState::Running => status::AppState::Running,
        AppState::Failed => status::AppState::Failed,
        AppState::Disabled => status::AppState::Disabled,
    }
}

fn workers(report: &AppReport) -> Vec<WorkerStatus> {
    let one = |worker: &crate::app::supervise::WorkerReport| WorkerStatus {
        pid: Some(worker.pid),
        state: "ready".to_owned(),
        python: Some(worker.python.clone()),
        requests: worker.shared.served.load(Ordering::Relaxed),
    };
    report.workers.iter().map(one).collect()
}
