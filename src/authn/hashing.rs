//! A bounded pool of threads that do nothing but hash passwords.
//!
//! One verification is 15 ms of a core and 19 MiB of memory, and anybody on the network can ask for one. So a fixed
//! number of threads each keep one arena, a fixed number of sign-ins wait, and the next one is told [`Busy`] at once.
//! Memory is threads x cost whatever the number of clients, and ordinary requests never wait behind a hash: the
//! threads run at a lower priority than the data threads.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

use super::password::{self, BadCost, Cost, Stored};
use crate::secret::Secret;

/// After so long without a sign-in a thread gives its arena back.
const KEEP_ARENA: Duration = Duration::from_secs(30);
/// How much the threads yield to the data threads: a storm of sign-ins must not double everybody's response time.
const NICENESS: i32 = 10;

/// Every thread is busy and the queue is full: try again shortly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more sign-ins at once than can be verified")]
pub struct Busy;

/// Why a pool could not be started.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// Argon2 cannot work with these parameters.
    #[error(transparent)]
    Cost(#[from] BadCost),
    /// The operating system gives no thread.
    #[error("cannot start a thread for password hashing: {0}")]
    Thread(#[from] std::io::Error),
}

/// The pool. Cheap to clone; the threads end with the last clone.
#[derive(Clone)]
pub struct HashingPool {
    owner: Arc<Owner>,
}

impl HashingPool {
    /// Starts `threads` threads (at least one) and lets `queue` sign-ins wait for them.
    ///
    /// # Errors
    /// A cost that Argon2 cannot work with, or no threads to be had.
    pub fn new(threads: usize, queue: usize, cost: Cost) -> Result<Self, PoolError> {
        let shared = Arc::new(Shared {
            jobs: Mutex::new(Jobs { waiting: VecDeque::with_capacity(queue), idle: 0, closed: false }),
            bell: Condvar::new(),
            queue,
            nobody: password::unmatchable(&cost)?,
            verifications: AtomicU64::new(0),
        });
        // Made first, so that threads which did start end again if a later one does not.
        let owner = Arc::new(Owner(shared));
        for number in 0..threads.max(1) {
            let shared = Arc::clone(&owner.0);
            thread::Builder::new().name(format!("hashing-{number}")).spawn(move || shared.work())?;
        }
        Ok(Self { owner })
    }

    /// Whether `phc` is the hash of `password`. `None`, for a user who does not exist or has no password, and a string
    /// that is no hash, cost the same and are never a match.
    ///
    /// # Errors
    /// [`Busy`], at once.
    pub async fn verify(&self, password: Secret<Vec<u8>>, phc: Option<Secret<String>>) -> Result<bool, Busy> {
        let (answer, verdict) = oneshot::channel();
        self.owner.0.submit(Job { password, phc, answer })?;
        // A closed channel is a pool that is shutting down.
        verdict.await.map_err(|_| Busy)
    }

    /// How many verifications have been done, of whatever result.
    #[must_use]
    pub fn verifications(&self) -> u64 {
        self.owner.0.verifications.load(Ordering::Relaxed)
    }
}

/// Ends the threads when the last handle goes.
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        let mut jobs = self.0.jobs();
        jobs.closed = true;
        jobs.waiting.clear();
        drop(jobs);
        self.0.bell.notify_all();
    }
}

struct Shared {
    jobs: Mutex<Jobs>,
    bell: Condvar,
    queue: usize,
    /// What unknown users are verified against.
    nobody: Secret<String>,
    verifications: AtomicU64,
}

struct Jobs {
    waiting: VecDeque<Job>,
    /// Threads waiting for a job: one for each may be handed over without it counting as queued.
    idle: usize,
    closed: bool,
}

struct Job {
    password: Secret<Vec<u8>>,
    phc: Option<Secret<String>>,
    answer: oneshot::Sender<bool>,
}

impl Shared {
    fn submit(&self, job: Job) -> Result<(), Busy> {
        let mut jobs = self.jobs();
        if jobs.waiting.len() >= self.queue + jobs.idle {
            // Whoever has gone away since does not hold a place against somebody who is still there.
            jobs.waiting.retain(|waiting| !waiting.answer.is_closed());
        }
        if jobs.closed || jobs.waiting.len() >= self.queue + jobs.idle {
            return Err(Busy);
        }
        jobs.waiting.push_back(job);
        drop(jobs);
        self.bell.notify_one();
        Ok(())
    }

    fn work(&self) {
        // Not being allowed to is no reason not to verify passwords.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        let mut arena = Vec::new();
        while let Some(job) = self.next(&mut arena) {
            if job.answer.is_closed() {
                continue;
            }
            let (stored, real) = match job.phc.as_ref().and_then(|phc| Stored::parse(phc.reveal())) {
                Some(stored) => (Some(stored), true),
                None => (Stored::parse(self.nobody.reveal()), false),
            };
            let matches = stored.is_some_and(|stored| stored.matches(job.password.reveal(), &mut arena));
            self.verifications.fetch_add(1, Ordering::Relaxed);
            let _ = job.answer.send(matches && real);
        }
    }

    /// The next job, or `None` when the pool is closed. Gives the arena back while nothing happens.
    fn next<T>(&self, arena: &mut Vec<T>) -> Option<Job> {
        let mut jobs = self.jobs();
        loop {
            if jobs.closed {
                return None;
            }
            if let Some(job) = jobs.waiting.pop_front() {
                return Some(job);
            }
            jobs.idle += 1;
            let (woken, timeout) = self.bell.wait_timeout(jobs, KEEP_ARENA).unwrap_or_else(PoisonError::into_inner);
            jobs = woken;
            jobs.idle -= 1;
            if timeout.timed_out() {
                *arena = Vec::new();
            }
        }
    }

    /// The queue; a thread that panicked while it held the lock leaves a queue that is still whole.
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future as _,
        task::{Context, Waker},
    };

    use super::*;

    fn phc(password: &str, cost: &Cost) -> Option<Secret<String>> {
        Some(password::hash(&Secret::new(password.to_owned()), cost).unwrap())
    }

    fn bytes(password: &str) -> Secret<Vec<u8>> {
        Secret::new(password.as_bytes().to_vec())
    }

    #[tokio::test]
    async fn right_wrong_and_unknown_each_cost_one_verification() {
        let cost = Cost::danger_test_minimum();
        let pool = HashingPool::new(1, 4, cost).unwrap();
        assert_eq!(pool.verify(bytes("right"), phc("right", &cost)).await, Ok(true));
        assert_eq!(pool.verify(bytes("wrong"), phc("right", &cost)).await, Ok(false));
        assert_eq!(pool.verify(bytes("right"), None).await, Ok(false));
        assert_eq!(pool.verify(bytes("right"), Some(Secret::new("no hash".to_owned()))).await, Ok(false));
        assert_eq!(pool.verifications(), 4);
    }

    #[tokio::test]
    async fn more_than_the_pool_and_its_queue_can_take_is_refused_at_once() {
        // Slow enough that the first is still running when the last is submitted.
        let slow = Cost { memory_kib: 64 * 1024, iterations: 4, parallelism: 1 };
        let pool = HashingPool::new(1, 2, Cost::danger_test_minimum()).unwrap();
        let hash = phc("p", &slow);
        let verdicts = futures_util::future::join_all((0..20).map(|_| pool.verify(bytes("p"), hash.clone()))).await;
        let done = verdicts.iter().filter(|verdict| **verdict == Ok(true)).count();
        let busy = verdicts.iter().filter(|verdict| **verdict == Err(Busy)).count();
        assert_eq!(done + busy, 20);
        assert!((2..=3).contains(&done), "one running (if its thread had started) and two waiting, not {done}");
        assert_eq!(pool.verify(bytes("p"), hash).await, Ok(true), "and afterwards there is room again");
    }

    #[tokio::test]
    async fn who_went_away_is_not_verified_and_holds_no_place() {
        let slow = Cost { memory_kib: 64 * 1024, iterations: 4, parallelism: 1 };
        let cost = Cost::danger_test_minimum();
        let pool = HashingPool::new(1, 1, cost).unwrap();
        let slow = tokio::spawn({
            let (pool, hash) = (pool.clone(), phc("p", &slow));
            async move { pool.verify(bytes("p"), hash).await }
        });
        while pool.owner.0.jobs().idle == 1 || !pool.owner.0.jobs().waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        {
            let mut gone = Box::pin(pool.verify(bytes("p"), None));
            let mut context = Context::from_waker(Waker::noop());
            assert!(gone.as_mut().poll(&mut context).is_pending());
            assert_eq!(pool.verify(bytes("p"), None).await, Err(Busy));
        }
        assert_eq!(pool.verify(bytes("p"), phc("p", &cost)).await, Ok(true));
        assert_eq!(slow.await.unwrap(), Ok(true));
        assert_eq!(pool.verifications(), 2);
    }
}
