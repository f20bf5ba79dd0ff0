//! The workers of all applications, as whoever runs the gateway sees them: what has to run, what runs, reload, stop. Each
//! application has a task of its own that keeps its workers, see `keeper`; all of them are on the control thread.

mod keeper;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    app::{
        launch::Launch,
        log::AppLog,
        pool::{AppShared, AppState, PoolMessage, WorkerShared},
        supervise::keeper::Keeper,
        watch::Places,
    },
    clock::{Clock, Timestamp},
};

/// What the supervisor is told of one application.
#[derive(Clone)]
pub struct Plan {
    /// `/notes`.
    pub name: Arc<str>,
    /// What its workers are.
    pub launch: Launch,
    /// Whether it runs at all.
    pub enabled: bool,
    /// How long an import may take.
    pub start_timeout: Duration,
    /// How long a worker may take to finish what it holds.
    pub stop_timeout: Duration,
    /// How long an interpreter may give no sign of life.
    pub deadlock_timeout: Duration,
    /// Requests after which a worker is replaced.
    pub max_requests: Option<u64>,
    /// Resident memory beyond which a worker is replaced, bytes.
    pub max_memory: Option<u64>,
    /// Its log.
    pub log: AppLog,
    /// Development: where its workers tell where its modules came from; a version that does not start is shown.
    pub development: Option<Places>,
}

/// How one application is doing, for `status`.
#[derive(Debug, Clone)]
pub struct AppReport {
    /// `/notes`.
    pub name: Arc<str>,
    /// How it is doing.
    pub state: AppState,
    /// Its workers.
    pub workers: Vec<WorkerReport>,
    /// Workers that were replaced because they died.
    pub restarts: u64,
    /// Workers that were replaced because they had served or grown enough.
    pub recycled: u64,
    /// Why the last start, restart or reload failed.
    pub last_error: Option<String>,
}

/// How one worker is doing.
#[derive(Debug, Clone)]
pub struct WorkerReport {
    /// Process id.
    pub pid: u32,
    /// `3.11.7`.
    pub python: String,
    /// How long the import took, milliseconds.
    pub import_ms: u32,
    /// When it was ready.
    pub since: Timestamp,
    /// Its counters, read when they are looked at.
    pub shared: Arc<WorkerShared>,
}

/// A reload that worked.
#[derive(Debug, Clone)]
pub struct Reloaded {
    /// How many workers were swapped.
    pub workers: usize,
    /// `3.11.7`.
    pub python: String,
    /// How long the slowest import took, milliseconds.
    pub import_ms: u32,
}

/// Workers that are ready to take over; see [`Supervisor::prepare`].
#[derive(Default)]
pub struct Prepared(Vec<(Plan, Successors)>);

/// Workers that are ready and wait for the word to take over; dropping it ends them.
struct Successors {
    go: oneshot::Sender<()>,
    done: oneshot::Receiver<()>,
}

impl Successors {
    /// Returns when no new request reaches the old ones any more.
    async fn take_over(self) {
        if self.go.send(()).is_ok() {
            let _ = self.done.await;
        }
    }
}

/// All applications.
pub struct Supervisor {
    tasks: Mutex<HashMap<Arc<str>, AppTask>>,
    threads: Vec<mpsc::UnboundedSender<PoolMessage>>,
    clock: Clock,
    next_worker: Arc<AtomicU64>,
    ending: Arc<AtomicBool>,
}

struct AppTask {
    plan: Plan,
    commands: mpsc::UnboundedSender<Act>,
    report: Arc<Mutex<AppReport>>,
}

enum Act {
    Adopt(Box<Plan>),
    Reload(Box<Plan>, oneshot::Sender<Result<(Reloaded, Successors), String>>),
    Stop(oneshot::Sender<()>),
}

impl Supervisor {
    /// `threads` are the data threads that get a lane to every worker.
    #[must_use]
    pub fn new(threads: Vec<mpsc::UnboundedSender<PoolMessage>>, clock: Clock) -> Self {
        Self {
            tasks: Mutex::default(),
            threads,
            clock,
            next_worker: Arc::new(AtomicU64::new(1)),
            ending: Arc::default(),
        }
    }

    /// Starts the workers that `plans` need in place of running ones, without a request reaching them: requests are
    /// bound to the launch of the rules that judged them. [`Supervisor::apply`] then lets them take over; dropping the
    /// [`Prepared`] ends them again and leaves everything as it was.
    ///
    /// # Errors
    /// Each application whose new workers did not start, and why.
    pub async fn prepare(&self, plans: &[Plan]) -> Result<Prepared, Vec<(Arc<str>, String)>> {
        let changed = plans.iter().filter(|plan| {
            let current = self.plan(&plan.name);
            current.is_some_and(|current| current.enabled && plan.enabled && current.launch != plan.launch)
        });
        let swaps = changed.map(|plan| async { (plan.clone(), self.swap(plan.clone()).await) });
        let (mut ready, mut failed) = (Vec::new(), Vec::new());
        for (plan, swapped) in futures_util::future::join_all(swaps).await {
            match swapped {
                Ok((_, successors)) => ready.push((plan, successors)),
                Err(why) => failed.push((plan.name, why)),
            }
        }
        if failed.is_empty() { Ok(Prepared(ready)) } else { Err(failed) }
    }

    /// Brings what runs in line with `plans`, once their rules are in force: prepared workers take over, new
    /// applications start, gone ones stop.
    pub async fn apply(&self, plans: Vec<Plan>, prepared: Prepared) {
        for (plan, successors) in prepared.0 {
            successors.take_over().await;
            if let Some(task) = self.lock().get_mut(&plan.name) {
                task.plan = plan;
            }
        }
        for gone in self.names_except(&plans) {
            self.remove(&gone).await;
        }
        for plan in plans {
            match self.plan(&plan.name) {
                None => self.start(plan),
                Some(current) if current.enabled == plan.enabled => self.adopt(plan),
                Some(_) => {
                    self.remove(&plan.name).await;
                    self.start(plan);
                }
            }
        }
    }

    /// Starts new workers of an application and lets them take over once they are ready.
    ///
    /// # Errors
    /// Why the new ones could not be started, with the traceback; the old ones go on.
    pub async fn reload(&self, name: &str) -> Result<Reloaded, String> {
        let plan = self.plan(name).ok_or_else(|| format!("there is no application {name}"))?;
        if !plan.enabled {
            return Err(format!("{name} is disabled by its policy"));
        }
        let (reloaded, successors) = self.swap(plan).await?;
        successors.take_over().await;
        Ok(reloaded)
    }

    /// How everything is doing, by name.
    #[must_use]
    pub fn reports(&self) -> Vec<AppReport> {
        let mut reports: Vec<_> = self.lock().values().map(|task| lock(&task.report).clone()).collect();
        reports.sort_by(|a, b| a.name.cmp(&b.name));
        reports
    }

    /// From now on a worker that ends is no news: data threads that finish close their lanes, and workers follow.
    pub fn expect_end(&self) {
        self.ending.store(true, Ordering::Release);
    }

    /// Stops all workers; each gets its time to finish.
    pub async fn stop(&self) {
        let names: Vec<_> = self.lock().keys().cloned().collect();
        futures_util::future::join_all(names.iter().map(|name| self.remove(name))).await;
    }

    /// New time-outs need no new workers.
    fn adopt(&self, plan: Plan) {
        if let Some(task) = self.lock().get_mut(&plan.name) {
            task.plan = plan.clone();
            let _ = task.commands.send(Act::Adopt(Box::new(plan)));
        }
    }

    /// Has new workers started beside the running ones.
    async fn swap(&self, plan: Plan) -> Result<(Reloaded, Successors), String> {
        let (reply, answer) = oneshot::channel();
        {
            let tasks = self.lock();
            let task = tasks.get(&plan.name).ok_or_else(|| format!("there is no application {}", plan.name))?;
            let _ = task.commands.send(Act::Reload(Box::new(plan.clone()), reply));
        }
        answer.await.unwrap_or_else(|_| Err("the application is stopping".to_owned()))
    }

    fn start(&self, plan: Plan) {
        let shared = Arc::new(AppShared::new(Arc::clone(&plan.name)));
        for thread in &self.threads {
            let _ = thread.send(PoolMessage::Open(Arc::clone(&shared)));
        }
        let report = Arc::new(Mutex::new(AppReport {
            name: Arc::clone(&plan.name),
            state: AppState::Starting,
            workers: Vec::new(),
            restarts: 0,
            recycled: 0,
            last_error: None,
        }));
        let (commands, acts) = mpsc::unbounded_channel();
        let keeper = Keeper::new(self, plan.clone(), shared, Arc::clone(&report));
        self.lock().insert(Arc::clone(&plan.name), AppTask { plan, commands, report });
        tokio::spawn(keeper.run(acts));
    }

    async fn remove(&self, name: &str) {
        let Some(task) = self.lock().remove(name) else { return };
        let (reply, done) = oneshot::channel();
        let _ = task.commands.send(Act::Stop(reply));
        let _ = done.await;
        for thread in &self.threads {
            let _ = thread.send(PoolMessage::Close(Arc::from(name)));
        }
    }

    fn plan(&self, name: &str) -> Option<Plan> {
        self.lock().get(name).map(|task| task.plan.clone())
    }

    fn names_except(&self, plans: &[Plan]) -> Vec<Arc<str>> {
        self.lock().keys().filter(|name| plans.iter().all(|plan| plan.name != **name)).cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, AppTask>> {
        lock(&self.tasks)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
