//! Who reads the lanes and who runs what is queued: leader and followers.
//!
//! There is no I/O thread. A Python thread that finds the run queue empty becomes the *leader*: it lets go of the GIL,
//! polls all lanes, queues what came, steps down and runs what is queued, one request after the other without letting
//! go of the GIL between them. So a burst costs one wake-up and one read, and its answers leave in one write.
//!
//! While it runs, one idle thread is *armed*: it looks once per [`STANDBY`] whether requests are still being started.
//! When one request has been running all that time it sends off the answers that were held back and takes the lead,
//! or the next request. Waking more threads than that only pays when requests are slow ([`SPREAD`]).
//!
//! Not every idle thread can run a request. One that waits *inside* a request, for its body or for credit, can read
//! the lanes meanwhile, and so can the *guard*, a native thread that is only armed when nobody else is idle: it notices
//! a cancellation while every thread is busy, or a slow request behind fast ones in a worker with one thread. These
//! *watchers* give up the lead to the first thread that can run.

mod routing;

use std::{
    collections::{HashMap, VecDeque},
    ffi::c_long,
    os::fd::OwnedFd,
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use portcullis_wire::{FailKind, INITIAL_WINDOW, Interrupt};
use pyo3::prelude::*;
use rustix::event::{EventfdFlags, Timespec, eventfd};

use crate::{
    control::forked,
    exchange::{Body, Running},
    lane::{Lane, Patience},
    python,
};

/// How long one request may run before an idle thread takes over the lead: long against a fast request, short against
/// what anybody notices.
const STANDBY: Duration = Duration::from_millis(1);

/// How long a finished answer may be held back for company.
pub(crate) const HOLD: Duration = Duration::from_micros(50);

/// How many bytes of answers are held back at most.
pub(crate) const HOLD_BYTES: usize = 32 * 1024;

/// The mean service time from which waking another thread (about 50 us until it runs) pays for itself.
const SPREAD: Duration = Duration::from_micros(500);

/// One measurement counts at most this much, so that a single slow request is forgotten after a few dozen fast ones.
const SERVICE_CAP: Duration = Duration::from_millis(10);

static CREW: OnceLock<Crew> = OnceLock::new();

/// The threads of this worker and what they share.
pub(crate) struct Crew {
    lanes: Box<[Lane]>,
    state: Mutex<State>,
    /// One per Python thread, and the guard's at the end.
    seats: Box<[Seat]>,
    /// Where threads of the application that are not ours wait for a body or for credit.
    visitors: Condvar,
    /// Readable when a signal has come: its handler runs in the main thread, which may be parked, and the kernel may
    /// have given the signal to another.
    signals: Option<OwnedFd>,
}

struct Seat {
    wake: Condvar,
    /// Gets the seat's owner out of `poll`.
    bell: OwnedFd,
}

/// Everything that changes, under one lock that is never held across a system call or a wait for the GIL.
pub(crate) struct State {
    queue: VecDeque<Job>,
    leader: Leader,
    armed: Option<usize>,
    /// Requests begun so far: the standby's clock.
    started: u64,
    /// Threads without work, the most recent last: its caches are the warmest.
    parked: Vec<usize>,
    places: Vec<Place>,
    bodies: HashMap<(usize, u32), Body>,
    visitors: usize,
    service: Duration,
    serial: u64,
    stopping: bool,
    /// A signal has come that the main thread has not looked at.
    signalled: bool,
}

#[derive(Default)]
struct Place {
    thread: c_long,
    running: Option<Running>,
    /// Told to look again.
    called: bool,
    /// Idle, but unable to run a request.
    watching: bool,
    /// In `poll`.
    polling: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leader {
    Nobody,
    Runner(usize),
    Watcher(usize),
}

/// A request that has come and not been begun.
pub(crate) struct Job {
    pub(crate) lane: usize,
    pub(crate) request: u32,
    /// Tells it from an earlier request with the same number.
    pub(crate) serial: u64,
    pub(crate) payload: Bytes,
    pub(crate) arrived: Instant,
}

/// What one Python thread remembers between two requests.
pub(crate) struct Turn {
    pub(crate) seat: usize,
    /// When the request under way was begun.
    pub(crate) began: Option<Instant>,
    held_since: Option<Instant>,
}

enum Idle {
    Work,
    Signal,
    Leave,
}

/// The crew, once the worker has booted.
pub(crate) fn crew() -> Option<&'static Crew> {
    CREW.get()
}

/// Sets up a crew of that many Python threads on those lanes. `signals` is readable when a signal has come.
pub(crate) fn assemble(
    lanes: Vec<Lane>,
    threads: usize,
    signals: Option<OwnedFd>,
) -> rustix::io::Result<&'static Crew> {
    let seats = (0..=threads)
        .map(|_| Ok(Seat { wake: Condvar::new(), bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? }))
        .collect::<rustix::io::Result<_>>()?;
    let state = State {
        queue: VecDeque::new(),
        leader: Leader::Nobody,
        armed: None,
        started: 0,
        parked: Vec::new(),
        places: (0..=threads).map(|_| Place::default()).collect(),
        bodies: HashMap::new(),
        visitors: 0,
        service: Duration::ZERO,
        serial: 0,
        stopping: false,
        signalled: false,
    };
    Ok(CREW.get_or_init(|| Crew {
        lanes: lanes.into(),
        state: Mutex::new(state),
        seats,
        visitors: Condvar::new(),
        signals,
    }))
}

impl Turn {
    pub(crate) fn new(seat: usize) -> Self {
        Self { seat, began: None, held_since: None }
    }
}

impl Crew {
    pub(crate) fn lane(&self, lane: usize) -> &Lane {
        &self.lanes[lane]
    }

    /// The sockets of all lanes.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = &OwnedFd> {
        self.lanes.iter().flat_map(|lane| [&lane.socket, &lane.files])
    }

    /// The state; callers do not wait for anything while they hold it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells which Python thread sits where, before its first [`Crew::next`].
    pub(crate) fn sit_down(&self, seat: usize, thread: c_long) {
        self.lock().places[seat].thread = thread;
    }

    /// Closes the request before and gives the next one to run; `None` when it is time to leave.
    pub(crate) fn next(&self, py: Python<'_>, turn: &mut Turn) -> Option<Job> {
        let mut now = self.close(py, turn);
        loop {
            let (job, hold) = {
                let mut state = self.lock();
                (self.begin(&mut state, turn.seat, now), state.service <= HOLD && state.leader == Leader::Nobody)
            };
            if let Some(job) = job.filter(|_| !forked()) {
                if turn.held_since.is_some_and(|since| !hold || now.duration_since(since) > HOLD) {
                    self.flush(py);
                    turn.held_since = None;
                }
                turn.began = Some(now);
                return Some(job);
            }
            self.flush(py);
            turn.held_since = None;
            match py.detach(|| self.idle(turn.seat)) {
                Idle::Work => {}
                Idle::Signal => self.signal(py),
                Idle::Leave => return None,
            }
            now = Instant::now();
        }
    }

    /// Sends off everything that is held back.
    pub(crate) fn flush(&self, py: Python<'_>) {
        for lane in &self.lanes {
            if !lane.flush(Patience::None) {
                py.detach(|| lane.flush(Patience::Endless));
            }
        }
    }

    /// Whether an answer may be held back while the application runs: only while somebody stands by to send it off.
    /// Who takes the lead from then on sends it off, too.
    pub(crate) fn may_hold(&self) -> bool {
        self.lock().leader == Leader::Nobody
    }

    /// Waits inside a request until `check` has an answer, reading the lanes meanwhile if nobody else does. `seat` is
    /// that of the calling thread; `None` for a thread of the application's own.
    pub(crate) fn watch<T: Send>(
        &self,
        py: Python<'_>,
        seat: Option<usize>,
        mut check: impl FnMut(&mut State) -> Option<T> + Send,
    ) -> T {
        self.flush(py);
        py.detach(|| {
            let mut state = self.lock();
            loop {
                if let Some(answer) = check(&mut state) {
                    self.resume(&mut state, seat);
                    return answer;
                }
                state = match seat {
                    None => self.visit(state),
                    Some(seat) if state.leader == Leader::Nobody => self.attend_as_watcher(state, seat),
                    Some(seat) if state.leader == Leader::Watcher(seat) => self.attend_as_watcher(state, seat),
                    Some(seat) => self.watch_idly(state, seat),
                };
            }
        })
    }

    /// No new work: what is queued or running is finished, then every thread leaves.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        for seat in 0..self.seats.len() {
            self.call(&mut state, seat);
        }
    }

    /// Whether that request is queued or running: otherwise an interruption is too late, and need not wait for the GIL.
    pub(crate) fn has(&self, Interrupt { lane, request }: Interrupt) -> bool {
        let (state, lane) = (self.lock(), lane as usize);
        state.seat_of(lane, request).is_some() || state.is_queued(lane, request)
    }

    /// The request has used up its time: raises in the thread that runs it, if it still does.
    pub(crate) fn interrupt(&self, py: Python<'_>, Interrupt { lane, request }: Interrupt) {
        let lane = lane as usize;
        let mut state = self.lock();
        if let Some(seat) = state.seat_of(lane, request) {
            let Place { thread, running, .. } = &mut state.places[seat];
            if let Some(running) = running {
                running.interrupted = true;
            }
            let thread = *thread;
            self.call(&mut state, seat);
            // Still under the lock, and with the GIL: the thread cannot have gone on to its next request.
            python::raise_in(py, thread);
        } else {
            self.drop_queued(&mut state, lane, request, FailKind::Cancelled);
        }
    }

    /// What the guard does for the life of the process: nothing, unless everybody else is busy.
    pub(crate) fn guard(&self) -> ! {
        let seat = self.seats.len() - 1;
        let mut state = self.lock();
        loop {
            state = self.watch_idly(state, seat);
            if state.leader == Leader::Nobody {
                state = self.attend_as_watcher(state, seat);
            }
            while state.leader == Leader::Watcher(seat) {
                state = self.attend_as_watcher(state, seat);
            }
        }
    }

    /// Accounts for the request that this thread has finished.
    fn close(&self, py: Python<'_>, turn: &mut Turn) -> Instant {
        let now = Instant::now();
        let Some(began) = turn.began.take() else { return now };
        turn.held_since.get_or_insert(now);
        let mut state = self.lock();
        let service = now.duration_since(began).min(SERVICE_CAP);
        state.service = (state.service * 7 + service) / 8;
        let place = &mut state.places[turn.seat];
        if let Some(running) = place.running.take() {
            if running.interrupted {
                python::unraise_in(py, place.thread);
            }
            if running.follows {
                state.bodies.remove(&(running.lane, running.request));
            }
        }
        now
    }

    fn begin(&self, state: &mut State, seat: usize, now: Instant) -> Option<Job> {
        let job = state.queue.pop_front()?;
        state.started += 1;
        let key = (job.lane, job.request);
        let follows = !state.bodies.is_empty() && state.bodies.contains_key(&key);
        state.places[seat].running = Some(Running::new(&job, follows, now));
        self.arm_somebody(state);
        Some(job)
    }

    fn signal(&self, py: Python<'_>) {
        // A handler that raises means to end the process, as it would in any program.
        if let Err(error) = py.check_signals() {
            error.write_unraisable(py, None);
            self.stop();
        }
    }

    /// Waits without the GIL until there is something to run or to leave for.
    fn idle(&self, seat: usize) -> Idle {
        let mut state = self.lock();
        loop {
            if seat == 0 && std::mem::take(&mut state.signalled) {
                return Idle::Signal;
            }
            if !state.queue.is_empty() {
                return Idle::Work;
            }
            if forked() {
                return Idle::Leave;
            }
            if state.stopping {
                drop(state);
                // What was sent before the order to stop counts as accepted.
                self.attend(seat, Some(&Timespec::default()));
                return if self.lock().queue.is_empty() { Idle::Leave } else { Idle::Work };
            }
            match state.leader {
                Leader::Runner(other) if other != seat => state = self.park(state, seat),
                leader => {
                    if let Leader::Watcher(watcher) = leader {
                        self.ring(&state, watcher);
                    }
                    state.leader = Leader::Runner(seat);
                    state.places[seat].polling = true;
                    drop(state);
                    self.send_off();
                    let complete = self.attend(seat, None);
                    state = self.lock();
                    state.places[seat].polling = false;
                    if !state.queue.is_empty() || state.stopping || !complete || state.signalled && seat == 0 {
                        state.leader = Leader::Nobody;
                        self.spread(&mut state);
                    }
                    if !complete && seat == 0 {
                        return Idle::Signal;
                    }
                }
            }
        }
    }

    /// With slow requests: one more thread for each further request, and one to read the lanes.
    fn spread(&self, state: &mut State) {
        if state.service > SPREAD {
            self.summon_for_queue(state);
        }
    }

    fn summon_for_queue(&self, state: &mut State) {
        for _ in 0..state.queue.len().min(state.parked.len()) {
            if let Some(seat) = state.parked.pop() {
                self.call(state, seat);
            }
        }
    }

    fn park<'a>(&'a self, mut state: MutexGuard<'a, State>, seat: usize) -> MutexGuard<'a, State> {
        state.parked.push(seat);
        state = self.stand_by(state, seat);
        state.parked.retain(|parked| *parked != seat);
        state
    }

    fn watch_idly<'a>(&'a self, mut state: MutexGuard<'a, State>, seat: usize) -> MutexGuard<'a, State> {
        state.places[seat].watching = true;
        state = self.stand_by(state, seat);
        state.places[seat].watching = false;
        state
    }

    /// Waits to be called; while armed, also for a request that runs too long with nobody reading the lanes.
    fn stand_by<'a>(&'a self, mut state: MutexGuard<'a, State>, seat: usize) -> MutexGuard<'a, State> {
        let wake = &self.seats[seat].wake;
        // The guard leaves it to the others unless it comes back from the lanes while somebody runs.
        let is_guard = seat + 1 == self.seats.len();
        if state.armed.is_none() && (!is_guard || state.leader == Leader::Nobody) {
            state.armed = Some(seat);
        }
        while !state.places[seat].called {
            if state.armed != Some(seat) {
                state = wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let before = state.started;
            let (again, waited) = wake.wait_timeout(state, STANDBY).unwrap_or_else(PoisonError::into_inner);
            state = again;
            if !waited.timed_out() || state.started != before {
                continue;
            }
            let could_run = !state.queue.is_empty() && !state.places[seat].watching;
            if state.leader != Leader::Nobody && !could_run {
                // All is quiet, or the lead is taken; whoever begins a request without a leader arms somebody again.
                state.armed = None;
                continue;
            }
            drop(state);
            self.send_off();
            state = self.lock();
            break;
        }
        state.places[seat].called = false;
        if state.armed == Some(seat) {
            state.armed = None;
        }
        state
    }

    fn visit<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.visitors += 1;
        self.arm_somebody(&mut state);
        state = self.visitors.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.visitors -= 1;
        state
    }

    fn attend_as_watcher<'a>(&'a self, mut state: MutexGuard<'a, State>, seat: usize) -> MutexGuard<'a, State> {
        state.leader = Leader::Watcher(seat);
        // What the leader before has queued and a watcher cannot run.
        self.summon_for_queue(&mut state);
        state.places[seat].polling = true;
        drop(state);
        self.send_off();
        self.attend(seat, None);
        state = self.lock();
        state.places[seat].polling = false;
        self.summon_for_queue(&mut state);
        // The lead may have been taken over during that read, by a thread that has been polling since.
        if let Leader::Runner(runner) = state.leader
            && !state.queue.is_empty()
        {
            self.ring(&state, runner);
        }
        state
    }

    /// Leaves a wait inside a request for the application's code.
    fn resume(&self, state: &mut State, seat: Option<usize>) {
        if let Some(seat) = seat {
            state.places[seat].called = false;
            if state.leader == Leader::Watcher(seat) {
                state.leader = Leader::Nobody;
            }
        }
        self.arm_somebody(state);
    }

    /// Somebody is about to run while nobody reads the lanes: sees to it that an idle thread keeps an eye on that.
    fn arm_somebody(&self, state: &mut State) {
        if state.armed.is_some() || state.leader != Leader::Nobody {
            return;
        }
        let watcher = || state.places.iter().position(|place| place.watching);
        let Some(seat) = state.parked.last().copied().or_else(watcher) else { return };
        state.armed = Some(seat);
        self.seats[seat].wake.notify_one();
    }

    /// Has the owner of a seat look at the state again, wherever it waits.
    fn call(&self, state: &mut State, seat: usize) {
        state.places[seat].called = true;
        self.seats[seat].wake.notify_one();
        self.ring(state, seat);
        if state.visitors > 0 {
            self.visitors.notify_all();
        }
    }

    fn ring(&self, state: &State, seat: usize) {
        if state.places[seat].polling {
            let _ = rustix::io::write(&self.seats[seat].bell, &1u64.to_ne_bytes());
        }
    }

    /// Sends off what others have held back, as far as the sockets take it.
    fn send_off(&self) {
        for lane in &self.lanes {
            lane.flush(Patience::None);
        }
    }
}

impl State {
    /// The request that runs in that seat.
    pub(crate) fn running_in(&mut self, seat: usize) -> Option<&mut Running> {
        self.places.get_mut(seat)?.running.as_mut()
    }

    /// The body of that request, while it runs.
    pub(crate) fn body(&mut self, lane: usize, request: u32, serial: u64) -> Option<&mut Body> {
        self.bodies.get_mut(&(lane, request)).filter(|body| body.serial == serial)
    }

    /// The Python thread of that seat.
    pub(crate) fn thread(&self, seat: usize) -> c_long {
        self.places[seat].thread
    }

    fn seat_of(&self, lane: usize, request: u32) -> Option<usize> {
        let is_it = |running: &Running| running.lane == lane && running.request == request;
        self.places.iter().position(|place| place.running.as_ref().is_some_and(is_it))
    }

    fn is_queued(&self, lane: usize, request: u32) -> bool {
        self.queue.iter().any(|job| job.lane == lane && job.request == request)
    }

    fn running(&mut self, lane: usize, request: u32) -> Option<&mut Running> {
        let seat = self.seat_of(lane, request)?;
        self.running_in(seat)
    }
}

/// Whole microseconds, as the frames carry them.
pub(crate) fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

/// The window of a response that nobody has granted anything for yet.
pub(crate) const WINDOW: u32 = INITIAL_WINDOW;
