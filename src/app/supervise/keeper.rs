//! Keeps the workers of one application: starts them, replaces those that die, hang, have served or grown enough, swaps
//! them for a new version, and stops them in order. A task of its own on the control thread.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use portcullis_wire::Level;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};

use super::{Act, AppReport, Plan, Reloaded, Successors, Supervisor, WorkerReport, lock};
use crate::{
    app::{
        nursery::Nursery,
        pool::{AppShared, AppState, PoolMessage, WorkerShared},
        process::GOOD_END,
        worker::{BootError, Start, Worker},
    },
    clock::{Clock, Timestamp},
};

/// The pause before the second restart in a row; doubles up to [`BACK_OFF_MOST`]. The first restart is immediate.
const BACK_OFF: Duration = Duration::from_millis(100);

/// The longest pause after starts that failed: short enough that an application whose database came back is not waited
/// for.
const BACK_OFF_MOST: Duration = Duration::from_secs(30);

/// The same for workers that started and died later: whatever kills them, the application can run, and it is missed.
const BACK_OFF_RAN: Duration = Duration::from_secs(2);

/// A worker that lived this long is not part of a crash loop.
const STABLE: Duration = Duration::from_secs(10);

/// How often the memory of workers with a limit is looked at.
const MEMORY_POLL: Duration = Duration::from_secs(2);

/// Keeps one application's workers.
pub(super) struct Keeper {
    plan: Plan,
    shared: Arc<AppShared>,
    report: Arc<Mutex<AppReport>>,
    threads: Vec<mpsc::UnboundedSender<PoolMessage>>,
    clock: Clock,
    next_worker: Arc<AtomicU64>,
    ending: Arc<AtomicBool>,
    workers: Vec<Running>,
    /// Deaths and failed starts in a row.
    failures: u32,
    /// Workers that are to be replaced, and why, one after the other: a start takes a core for a while.
    tired: VecDeque<(u64, String)>,
    renewing: bool,
    /// Retired workers on their way out.
    leaving: JoinSet<()>,
    /// Where the workers of the running version come from.
    nursery: Nursery,
    /// Development: a reload failed and is shown. No worker that was under way may hide that by serving an older
    /// version; the next reload that works brings all of them.
    awaits_change: bool,
}

struct Running {
    worker: Arc<Worker>,
    since: Timestamp,
    started: Instant,
}

enum Event {
    Died {
        id: u64,
        how: String,
    },
    Booted(Result<Worker, BootError>),
    Retry,
    /// A worker has served or grown enough.
    Tired {
        id: u64,
        why: String,
    },
    /// What is to take the place of a tired worker.
    Renewed {
        id: u64,
        why: String,
        booted: Result<Worker, BootError>,
    },
}

impl Keeper {
    pub(super) fn new(
        supervisor: &Supervisor,
        plan: Plan,
        shared: Arc<AppShared>,
        report: Arc<Mutex<AppReport>>,
    ) -> Self {
        Self {
            plan,
            shared,
            report,
            threads: supervisor.threads.clone(),
            clock: supervisor.clock.clone(),
            next_worker: Arc::clone(&supervisor.next_worker),
            ending: Arc::clone(&supervisor.ending),
            workers: Vec::new(),
            failures: 0,
            tired: VecDeque::new(),
            renewing: false,
            leaving: JoinSet::new(),
            nursery: Nursery::default(),
            awaits_change: false,
        }
    }

    /// Serves the application until it is told to stop.
    pub(super) async fn run(mut self, mut acts: mpsc::UnboundedReceiver<Act>) {
        let (events, mut happened) = mpsc::unbounded_channel();
        if self.plan.enabled {
            for _ in 0..self.plan.launch.workers {
                self.boot_in_background(&events);
            }
        } else {
            self.set_state(AppState::Disabled);
        }
        loop {
            tokio::select! {
                act = acts.recv() => match act {
                    Some(Act::Adopt(plan)) => self.plan = *plan,
                    Some(Act::Reload(plan, reply)) => self.reload(*plan, &events, reply).await,
                    Some(Act::Stop(reply)) => {
                        self.stop().await;
                        let _ = reply.send(());
                        return;
                    }
                    None => return,
                },
                Some(event) = happened.recv() => self.handle(event, &events).await,
            }
            self.refresh_report();
        }
    }

    async fn handle(&mut self, event: Event, events: &mpsc::UnboundedSender<Event>) {
        match event {
            Event::Died { id, how } => self.died(id, &how, events),
            Event::Retry => {
                if self.needs_more() {
                    self.boot_in_background(events);
                }
            }
            Event::Tired { id, why } => {
                self.tired.push_back((id, why));
                self.renew_next(events);
            }
            Event::Renewed { id, why, booted } => {
                self.renewing = false;
                match booted {
                    Ok(worker) => self.renewed(id, &why, worker, events).await,
                    Err(error) => {
                        let pid = self.running(id).map(|running| running.worker.pid);
                        tracing::error!(application = %self.plan.name, pid, "a worker could not be replaced and goes on: {error}");
                        let events = events.clone();
                        tokio::spawn(async move {
                            tokio::time::sleep(BACK_OFF_MOST).await;
                            let _ = events.send(Event::Tired { id, why });
                        });
                    }
                }
                self.renew_next(events);
            }
            // Booted while a reload brought a full set, or another description: one too many.
            Event::Booted(Ok(worker)) if !self.is_wanted(&worker) => {
                worker.kill("a newer one took its place");
                if self.needs_more() {
                    self.boot_in_background(events);
                }
            }
            Event::Booted(Ok(worker)) => {
                tracing::info!(
                    application = %self.plan.name,
                    pid = worker.pid,
                    python = worker.ready.python,
                    import_ms = worker.ready.import_ms,
                    "worker ready"
                );
                self.attach(worker, events).await;
                lock(&self.report).last_error = None;
                self.shared.set_broken(None);
                self.set_state(AppState::Running);
            }
            Event::Booted(Err(error)) => {
                self.say(&format!("the application did not start: {error}"));
                tracing::error!(application = %self.plan.name, log = %self.plan.log.location().display(), "the application did not start: {error}");
                lock(&self.report).last_error = Some(error.to_string());
                if self.workers.is_empty() {
                    self.show_broken(&error.to_string());
                    self.set_state(AppState::Failed);
                }
                self.retry_later(BACK_OFF_MOST, events);
            }
        }
    }

    /// Starts what is to take the place of the next tired worker.
    fn renew_next(&mut self, events: &mpsc::UnboundedSender<Event>) {
        while !self.renewing
            && let Some((id, why)) = self.tired.pop_front()
        {
            if self.running(id).is_none() {
                continue;
            }
            self.renewing = true;
            let (events, boot) = (events.clone(), self.boot(self.plan.clone(), self.nursery.clone()));
            tokio::spawn(async move {
                let booted = boot.await;
                let _ = events.send(Event::Renewed { id, why, booted });
            });
        }
    }

    /// The new worker is there before the old one stops taking requests.
    async fn renewed(&mut self, id: u64, why: &str, worker: Worker, events: &mpsc::UnboundedSender<Event>) {
        let same = worker.shared.launch == self.plan.launch.key();
        let Some(index) = self.workers.iter().position(|running| running.worker.shared.id == id).filter(|_| same)
        else {
            // The old one has died or was reloaded meanwhile.
            let _ = events.send(Event::Booted(Ok(worker)));
            return;
        };
        let old = self.workers.remove(index);
        tracing::info!(application = %self.plan.name, pid = worker.pid, replaces = old.worker.pid, "worker replaced, because the old one {why}");
        self.attach(worker, events).await;
        lock(&self.report).recycled += 1;
        self.retire(&[id]).await;
        self.let_go(vec![old]);
    }

    /// Retired workers finish what they hold, and end.
    fn let_go(&mut self, retired: Vec<Running>) {
        while self.leaving.try_join_next().is_some() {}
        let (patience, application) = (self.plan.stop_timeout, Arc::clone(&self.plan.name));
        for running in retired {
            let application = Arc::clone(&application);
            self.leaving.spawn(async move {
                let how = running.worker.stop(patience).await;
                if how != GOOD_END {
                    let pid = running.worker.pid;
                    tracing::warn!(%application, pid, "a worker that was to go {how}");
                }
            });
        }
    }

    fn running(&self, id: u64) -> Option<&Running> {
        self.workers.iter().find(|running| running.worker.shared.id == id)
    }

    fn is_wanted(&self, worker: &Worker) -> bool {
        self.needs_more() && worker.shared.launch == self.plan.launch.key()
    }

    fn died(&mut self, id: u64, how: &str, events: &mpsc::UnboundedSender<Event>) {
        let Some(index) = self.workers.iter().position(|running| running.worker.shared.id == id) else { return };
        let running = self.workers.remove(index);
        if self.ending.load(Ordering::Acquire) {
            return;
        }
        let pid = running.worker.pid;
        let lost = running.worker.shared.in_flight.load(Ordering::Acquire);
        self.say(&format!("worker {pid} {how}; requests it held: {lost}"));
        tracing::error!(application = %self.plan.name, pid, requests = lost, "worker {how}");
        {
            let mut report = lock(&self.report);
            report.restarts += 1;
            report.last_error = Some(format!("worker {pid} {how}"));
        }
        // Told, not waited for: its lanes are dead already.
        drop(self.retire(&[id]));
        if running.started.elapsed() >= STABLE {
            self.failures = 0;
        }
        if self.workers.is_empty() {
            self.set_state(AppState::Starting);
        }
        self.retry_later(BACK_OFF_RAN, events);
    }

    /// Starts another worker: at once after a first failure, later and later after more, up to a limit.
    fn retry_later(&mut self, most: Duration, events: &mpsc::UnboundedSender<Event>) {
        let pause = match self.failures {
            0 => Duration::ZERO,
            n => BACK_OFF.saturating_mul(1 << (n - 1).min(16)).min(most),
        };
        self.failures = self.failures.saturating_add(1);
        let events = events.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let _ = events.send(Event::Retry);
        });
    }

    fn boot_in_background(&self, events: &mpsc::UnboundedSender<Event>) {
        let (events, boot) = (events.clone(), self.boot(self.plan.clone(), self.nursery.clone()));
        tokio::spawn(async move {
            let _ = events.send(Event::Booted(boot.await));
        });
    }

    fn boot(&self, plan: Plan, nursery: Nursery) -> impl Future<Output = Result<Worker, BootError>> + use<> {
        let id = self.next_worker.fetch_add(1, Ordering::Relaxed);
        let (lanes, clock) = (self.threads.len(), self.clock.clone());
        async move {
            let start = Start {
                launch: &plan.launch,
                lanes,
                id,
                patience: plan.start_timeout,
                deadlock: plan.deadlock_timeout,
                max_requests: plan.max_requests.map(|most| jittered(most, id)),
                log: plan.log.clone(),
                places: plan.development.clone(),
                clock,
            };
            nursery.worker(start).await
        }
    }

    /// Hands a ready worker's lanes to the data threads.
    async fn attach(&mut self, mut worker: Worker, events: &mpsc::UnboundedSender<Event>) {
        let mut attached = Vec::new();
        for (index, (thread, sockets)) in self.threads.iter().zip(worker.lanes.drain(..)).enumerate() {
            let (done, is_done) = oneshot::channel();
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let message = PoolMessage::Attach { worker: Arc::clone(&worker.shared), index, sockets, done };
            if thread.send(message).is_ok() {
                attached.push(is_done);
            }
        }
        futures_util::future::join_all(attached).await;
        let (id, ended, events) = (worker.shared.id, worker.ended(), events.clone());
        let tired = until_tired(Arc::clone(&worker.shared), worker.pid, self.plan.max_memory);
        tokio::spawn(async move {
            let mut ended = std::pin::pin!(ended);
            tokio::select! {
                how = &mut ended => {
                    let _ = events.send(Event::Died { id, how });
                    return;
                }
                why = tired => { let _ = events.send(Event::Tired { id, why }); }
            }
            let how = ended.await;
            let _ = events.send(Event::Died { id, how });
        });
        self.workers.push(Running { worker: Arc::new(worker), since: self.clock.now(), started: Instant::now() });
    }

    /// No new requests for these workers. Returns once every data thread knows.
    fn retire(&self, ids: &[u64]) -> impl Future<Output = ()> + use<> {
        let mut retired = Vec::new();
        for thread in &self.threads {
            for id in ids {
                let (done, is_done) = oneshot::channel();
                if thread.send(PoolMessage::Retire { worker: *id, done }).is_ok() {
                    retired.push(is_done);
                }
            }
        }
        async move {
            futures_util::future::join_all(retired).await;
        }
    }

    /// Boots new workers, says how that went, and lets them take over when told so; without that word they end.
    async fn reload(
        &mut self,
        plan: Plan,
        events: &mpsc::UnboundedSender<Event>,
        reply: oneshot::Sender<Result<(Reloaded, Successors), String>>,
    ) {
        let nursery = Nursery::default();
        let new = match self.boot_all(&plan, &nursery).await {
            Ok(new) => new,
            Err(error) => {
                // Other workers than the running ones are for other rules, which then do not come into force.
                let shown = plan.launch == self.plan.launch && self.show_broken(&error);
                let instead =
                    if shown { "this is what requests are answered with" } else { "the running version goes on" };
                self.say(&format!("the reload failed, {instead}: {error}"));
                tracing::error!(application = %self.plan.name, "the reload failed, {instead}: {error}");
                lock(&self.report).last_error = Some(error.clone());
                if shown {
                    self.awaits_change = true;
                    self.set_state(AppState::Failed);
                }
                let _ = reply.send(Err(error));
                return;
            }
        };
        let outcome = Reloaded {
            workers: new.len(),
            python: new.first().map(|worker| worker.ready.python.clone()).unwrap_or_default(),
            import_ms: new.iter().map(|worker| worker.ready.import_ms).max().unwrap_or_default(),
        };
        let old = std::mem::take(&mut self.workers);
        for worker in new {
            self.attach(worker, events).await;
        }
        let ((go, may_go), (have_gone, done)) = (oneshot::channel(), oneshot::channel());
        let _ = reply.send(Ok((outcome.clone(), Successors { go, done })));
        let goes = may_go.await.is_ok();
        let replaced = if goes {
            self.plan = plan;
            self.nursery = nursery;
            self.failures = 0;
            self.awaits_change = false;
            self.set_state(AppState::Running);
            lock(&self.report).last_error = None;
            tracing::info!(application = %self.plan.name, workers = outcome.workers, import_ms = outcome.import_ms, "reloaded");
            old
        } else {
            std::mem::replace(&mut self.workers, old)
        };
        self.retire(&ids(&replaced)).await;
        if goes {
            // Not before the old ones are out of reach: after a mistake comes the mended version, never an older one.
            self.shared.set_broken(None);
        }
        let _ = have_gone.send(());
        self.let_go(replaced);
    }

    /// All the workers of a plan, or none and the reason.
    async fn boot_all(&self, plan: &Plan, nursery: &Nursery) -> Result<Vec<Worker>, String> {
        let boots: Vec<_> = (0..plan.launch.workers).map(|_| self.boot(plan.clone(), nursery.clone())).collect();
        let (ready, failed): (Vec<_>, Vec<_>) =
            futures_util::future::join_all(boots).await.into_iter().partition(Result::is_ok);
        let ready: Vec<Worker> = ready.into_iter().flatten().collect();
        match failed.into_iter().find_map(Result::err) {
            None => Ok(ready),
            Some(error) => {
                for worker in ready {
                    worker.kill("another worker of the same reload did not start");
                }
                Err(error.to_string())
            }
        }
    }

    async fn stop(&mut self) {
        let workers = std::mem::take(&mut self.workers);
        self.retire(&ids(&workers)).await;
        self.let_go(workers);
        while self.leaving.join_next().await.is_some() {}
    }

    /// Whether another worker of the running version is to be started, or taken in.
    fn needs_more(&self) -> bool {
        self.workers.len() < usize::from(self.plan.launch.workers) && !self.awaits_change
    }

    fn set_state(&self, state: AppState) {
        self.shared.set_state(state);
        for thread in &self.threads {
            let _ = thread.send(PoolMessage::Changed(Arc::clone(&self.plan.name)));
        }
        self.refresh_report();
    }

    fn refresh_report(&self) {
        let mut report = lock(&self.report);
        report.state = self.shared.state();
        report.workers = self.workers.iter().map(Running::report).collect();
    }

    /// In development, has requests answered with why the application does not start; says whether they are.
    fn show_broken(&self, error: &str) -> bool {
        let develops = self.plan.development.is_some();
        if develops {
            self.shared.set_broken(Some(error));
        }
        develops
    }

    fn say(&self, message: &str) {
        let level = Some(Level::Error);
        self.plan.log.of_worker(0, self.clock.clone()).write("gate", level, "", "", message);
    }
}

impl Running {
    fn report(&self) -> WorkerReport {
        WorkerReport {
            pid: self.worker.pid,
            python: self.worker.ready.python.clone(),
            import_ms: self.worker.ready.import_ms,
            since: self.since,
            shared: Arc::clone(&self.worker.shared),
        }
    }
}

/// Waits until a worker has served or grown enough, and says which.
async fn until_tired(shared: Arc<WorkerShared>, pid: u32, max_memory: Option<u64>) -> String {
    let most = max_memory.map_or(u64::MAX, |most| jittered(most, shared.id));
    let grown = async {
        if max_memory.is_none() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(MEMORY_POLL).await;
            if let Some(bytes) = resident(pid).filter(|bytes| *bytes > most) {
                return bytes;
            }
        }
    };
    tokio::select! {
        () = shared.tired() => format!("has served {} requests (`max_requests`)", shared.served.load(Ordering::Relaxed)),
        bytes = grown => format!("holds {} MiB of memory (`max_memory`)", bytes >> 20),
    }
}

/// Resident memory of a process, bytes.
fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Up to a tenth less, differently for each worker, so that those which started together are not replaced together.
fn jittered(most: u64, worker: u64) -> u64 {
    // The golden ratio spreads consecutive numbers evenly.
    let spread = worker.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
    most - (most / 10).saturating_mul(spread) / 1024
}

fn ids(workers: &[Running]) -> Vec<u64> {
    workers.iter().map(|running| running.worker.shared.id).collect()
}
