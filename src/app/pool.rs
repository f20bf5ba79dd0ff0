//! The workers of every application as one data thread sees them, and how a request finds one.
//!
//! The supervisor (`supervise`) starts and stops workers on the control thread and tells each data thread by
//! [`PoolMessage`] which lanes it has. Nothing here is locked or shared but a few counters.

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Notify, mpsc, oneshot};

use crate::{
    app::{
        lane::{Lane, Watch},
        launch::{LaneSockets, LaunchKey},
    },
    model::Reason,
};

/// After its thread was interrupted, a request has this long to come back before its worker is replaced.
const INTERRUPT_GRACE: Duration = Duration::from_secs(5);

/// While nobody can take a request, how often that is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What every thread knows of an application while it runs.
#[derive(Debug)]
pub struct AppShared {
    /// `/notes`.
    pub name: Arc<str>,
    /// Requests given to workers or waiting for one, over all data threads.
    pub under_way: AtomicU32,
    state: AtomicU8,
    /// In development: why the newest version does not start.
    broken: Mutex<Option<Arc<str>>>,
}

/// How an application is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum AppState {
    /// The first worker is not ready yet.
    Starting = 0,
    /// At least one worker is ready.
    Running = 1,
    /// No worker could be started; the log says why.
    Failed = 2,
    /// Switched off by its policy.
    Disabled = 3,
}

impl AppShared {
    /// An application about to start.
    #[must_use]
    pub fn new(name: Arc<str>) -> Self {
        let state = AtomicU8::new(AppState::Starting as u8);
        Self { name, under_way: AtomicU32::new(0), state, broken: Mutex::default() }
    }

    /// How it is doing.
    #[must_use]
    pub fn state(&self) -> AppState {
        match self.state.load(Ordering::Acquire) {
            1 => AppState::Running,
            2 => AppState::Failed,
            3 => AppState::Disabled,
            _ => AppState::Starting,
        }
    }

    /// In development: why the newest version does not start, if it does not.
    #[must_use]
    pub fn broken(&self) -> Option<Arc<str>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says so, or that it does.
    pub fn set_broken(&self, traceback: Option<&str>) {
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = traceback.map(Arc::from);
    }

    /// Says how it is doing.
    pub fn set_state(&self, state: AppState) {
        self.state.store(state as u8, Ordering::Release);
    }
}

/// What every thread knows of one worker process.
#[derive(Debug)]
pub struct WorkerShared {
    /// Unique in the life of the gateway.
    pub id: u64,
    /// The application it runs.
    pub application: Arc<str>,
    /// As which launch.
    pub launch: LaunchKey,
    /// Requests it holds, over all data threads.
    pub in_flight: AtomicU32,
    /// Requests it has ended.
    pub served: AtomicU64,
    /// Requests whose time is up and that still hold a thread each.
    pub overdue: AtomicU32,
    threads: u32,
    /// Requests after which it is to be replaced.
    max_requests: u64,
    commands: mpsc::UnboundedSender<WorkerCommand>,
    idle: Notify,
    tired: Notify,
}

/// What a data thread asks of the supervisor.
#[derive(Debug)]
pub enum WorkerCommand {
    /// Raise in the thread that runs this request.
    Interrupt {
        /// Index of the lane.
        lane: u32,
        /// Request on that lane.
        request: u32,
    },
    /// Kill it and start another.
    Replace(&'static str),
    /// The same, after it has written the stacks of its threads to its log.
    Abort(&'static str),
    /// It closed a lane: it is on its way out, or has to be.
    LaneClosed,
}

impl WorkerShared {
    /// A worker about to be started; its supervisor reads `commands`. After `max_requests` it is [tired](Self::tired).
    #[must_use]
    pub fn new(
        id: u64,
        application: Arc<str>,
        launch: LaunchKey,
        threads: u16,
        max_requests: Option<u64>,
        commands: mpsc::UnboundedSender<WorkerCommand>,
    ) -> Self {
        Self {
            id,
            application,
            launch,
            in_flight: AtomicU32::new(0),
            served: AtomicU64::new(0),
            overdue: AtomicU32::new(0),
            threads: threads.into(),
            max_requests: max_requests.unwrap_or(u64::MAX),
            commands,
            idle: Notify::new(),
            tired: Notify::new(),
        }
    }

    /// Asks its supervisor for something; a worker that is gone needs nothing any more.
    pub fn command(&self, command: WorkerCommand) {
        let _ = self.commands.send(command);
    }

    /// Whether all its threads are held by requests that should have ended: what is given to it now would only wait.
    pub fn is_stuck(&self) -> bool {
        self.overdue.load(Ordering::Acquire) >= self.threads
    }

    /// Counts requests as ended.
    pub fn finished(&self, count: u32) {
        if count == 0 {
            return;
        }
        let before = self.served.fetch_add(u64::from(count), Ordering::Relaxed);
        if before < self.max_requests && before + u64::from(count) >= self.max_requests {
            self.tired.notify_one();
        }
        if self.in_flight.fetch_sub(count, Ordering::AcqRel) == count {
            self.idle.notify_waiters();
        }
    }

    /// Waits until it has served as many requests as it may.
    pub async fn tired(&self) {
        self.tired.notified().await;
    }

    /// Waits until it holds no request.
    pub async fn drained(&self) {
        loop {
            let idle = self.idle.notified();
            if self.in_flight.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }
}

/// What the supervisor tells a data thread.
pub enum PoolMessage {
    /// An application exists.
    Open(Arc<AppShared>),
    /// A worker is ready; this is the thread's lane to it.
    Attach {
        /// The worker.
        worker: Arc<WorkerShared>,
        /// Its index among the worker's lanes.
        index: u32,
        /// The thread's end.
        sockets: LaneSockets,
        /// Told when the lane takes requests.
        done: oneshot::Sender<()>,
    },
    /// A worker gets no new requests.
    Retire {
        /// The worker.
        worker: u64,
        /// Told when no new request of this thread can reach it.
        done: oneshot::Sender<()>,
    },
    /// Requests that wait should look again: the application's state has changed.
    Changed(Arc<str>),
    /// An application is gone.
    Close(Arc<str>),
}

/// One data thread's lanes.
#[derive(Default)]
pub struct Pools {
    by_application: RefCell<HashMap<Arc<str>, Rc<Pool>>>,
}

struct Pool {
    shared: Arc<AppShared>,
    lanes: RefCell<Vec<Rc<Lane>>>,
    changed: Notify,
}

impl Pools {
    /// Follows the supervisor's messages until it is gone.
    pub async fn follow(self: Rc<Self>, mut messages: mpsc::UnboundedReceiver<PoolMessage>) {
        while let Some(message) = messages.recv().await {
            self.apply(message);
        }
    }

    fn apply(&self, message: PoolMessage) {
        match message {
            PoolMessage::Open(shared) => {
                let pool = Pool { shared, lanes: RefCell::default(), changed: Notify::new() };
                self.by_application.borrow_mut().entry(Arc::clone(&pool.shared.name)).or_insert(Rc::new(pool));
            }
            PoolMessage::Attach { worker, index, sockets, done } => {
                if let Some(pool) = self.get(&worker.application) {
                    match Lane::open(worker, index, sockets) {
                        Ok(lane) => {
                            let mut lanes = pool.lanes.borrow_mut();
                            lanes.retain(|lane| !lane.is_over());
                            lanes.push(lane);
                        }
                        Err(error) => tracing::error!(%error, "a lane could not be opened"),
                    }
                    pool.changed.notify_waiters();
                }
                let _ = done.send(());
            }
            PoolMessage::Retire { worker, done } => {
                for pool in self.by_application.borrow().values() {
                    pool.lanes.borrow_mut().retain(|lane| {
                        let retired = lane.worker().id == worker;
                        if retired {
                            lane.retire();
                        }
                        !retired
                    });
                }
                let _ = done.send(());
            }
            PoolMessage::Changed(application) => {
                if let Some(pool) = self.get(&application) {
                    pool.changed.notify_waiters();
                }
            }
            PoolMessage::Close(application) => {
                if let Some(pool) = self.by_application.borrow_mut().remove(&application) {
                    pool.changed.notify_waiters();
                }
            }
        }
    }

    fn get(&self, application: &str) -> Option<Rc<Pool>> {
        self.by_application.borrow().get(application).cloned()
    }

    /// In development: why the newest version of an application does not start, if it does not.
    #[must_use]
    pub fn broken(&self, application: &str) -> Option<Arc<str>> {
        self.get(application)?.shared.broken()
    }

    /// Takes a place among the requests that an application has under way: before anything is kept for it.
    ///
    /// # Errors
    /// [`Reason::QueueFull`] when `most` are under way already, [`Reason::ApplicationUnavailable`] when there is no such
    /// application.
    pub fn seat(&self, application: &str, most: usize) -> Result<Seat, Reason> {
        let pool = self.get(application).ok_or(Reason::ApplicationUnavailable)?;
        let seat = Seat(Arc::clone(&pool.shared));
        let before = pool.shared.under_way.fetch_add(1, Ordering::AcqRel);
        if before as usize >= most { Err(Reason::QueueFull) } else { Ok(seat) }
    }

    /// Finds a worker for one request: of those of its launch, the one that holds the fewest. While an application starts
    /// or its only worker is being replaced, waits up to `patience`, and tells how long it did.
    ///
    /// # Errors
    /// [`Reason::ApplicationUnavailable`] when no worker came.
    pub async fn lane(
        &self,
        application: &str,
        launch: LaunchKey,
        patience: Duration,
    ) -> Result<(Rc<Lane>, Duration), Reason> {
        let pool = self.get(application).ok_or(Reason::ApplicationUnavailable)?;
        if let Some(lane) = pool.least_busy(launch) {
            return Ok((lane, Duration::ZERO));
        }
        let began = Instant::now();
        let lane = tokio::time::timeout(patience, pool.wait_for_lane(launch)).await;
        lane.unwrap_or(None).map(|lane| (lane, began.elapsed())).ok_or(Reason::ApplicationUnavailable)
    }
}

impl Pool {
    fn least_busy(&self, launch: LaunchKey) -> Option<Rc<Lane>> {
        let lanes = self.lanes.borrow();
        lanes
            .iter()
            .filter(|lane| lane.worker().launch == launch && lane.is_open())
            .min_by_key(|lane| lane.worker().in_flight.load(Ordering::Relaxed))
            .cloned()
    }

    async fn wait_for_lane(&self, launch: LaunchKey) -> Option<Rc<Lane>> {
        loop {
            let changed = self.changed.notified();
            if let Some(lane) = self.least_busy(launch) {
                return Some(lane);
            }
            if matches!(self.shared.state(), AppState::Failed | AppState::Disabled) {
                return None;
            }
            // A stuck worker that comes back tells nobody.
            let _ = tokio::time::timeout(LOOK_AGAIN, changed).await;
        }
    }
}

/// Counts one request as under way until it is dropped.
pub struct Seat(Arc<AppShared>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Replaces a worker that does not let go of an interrupted request.
pub async fn replace_if_stuck(watch: Watch) {
    tokio::time::sleep(INTERRUPT_GRACE).await;
    if watch.is_open() {
        watch.worker().command(WorkerCommand::Abort("a request did not end after its time-out"));
    }
}
