//! Security facts on their way to the store.
//!
//! A data thread hands a record over with [`Audit::record`] and goes on; one [`Writer`] appends them in batches. The
//! queue is bounded, so a store that hangs costs records, never memory or requests; what was lost is counted, and the
//! count is itself audited when writing works again. While it does not, [`Audit::healthy`] says so, and the security
//! level decides whether requests are still let through.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use crate::store::Store;
pub use crate::store::{AuditOutcome, AuditRecord};

/// The events, so that what is written and what is searched for is one word.
pub mod event {
    /// Credentials were verified against the store, or were not.
    pub const SIGN_IN: &str = "sign-in";
    /// A request was refused.
    pub const REFUSAL: &str = "refusal";
    /// A running answer was cut, because it would not be allowed any more.
    pub const STREAM_CUT: &str = "stream-cut";
    /// A request was let through that a rule with `mode = "report"` would have refused.
    pub const WOULD_REFUSE: &str = "refusal.reported";
    /// The gateway started.
    pub const START: &str = "gateway.start";
    /// The gateway stopped.
    pub const STOP: &str = "gateway.stop";
    /// Configuration and policies were read again.
    pub const RELOAD: &str = "gateway.reload";
    /// An application's workers were replaced.
    pub const APPLICATION_RELOAD: &str = "application.reload";
    /// Records were lost.
    pub const LOST: &str = "audit.lost";
    /// The installation was made.
    pub const INIT: &str = "install.init";
    /// A user was added.
    pub const USER_ADD: &str = "user.add";
    /// A user was removed.
    pub const USER_REMOVE: &str = "user.remove";
    /// A user was switched on.
    pub const USER_ENABLE: &str = "user.enable";
    /// A user was switched off.
    pub const USER_DISABLE: &str = "user.disable";
    /// A user's password was replaced.
    pub const USER_PASSWORD: &str = "user.password";
    /// A role was added.
    pub const ROLE_ADD: &str = "role.add";
    /// A role was removed.
    pub const ROLE_REMOVE: &str = "role.remove";
    /// A role was granted.
    pub const ROLE_GRANT: &str = "role.grant";
    /// A role was taken away.
    pub const ROLE_REVOKE: &str = "role.revoke";
    /// A service was added.
    pub const SERVICE_ADD: &str = "service.add";
    /// A service was removed.
    pub const SERVICE_REMOVE: &str = "service.remove";
    /// A service was switched on.
    pub const SERVICE_ENABLE: &str = "service.enable";
    /// A service was switched off.
    pub const SERVICE_DISABLE: &str = "service.disable";
    /// A token was made.
    pub const TOKEN_CREATE: &str = "token.create";
    /// A token was revoked.
    pub const TOKEN_REVOKE: &str = "token.revoke";
}

/// Records that may wait: about 8 MiB at a kilobyte each, and seconds of a flood of refusals.
const QUEUE: usize = 8192;
/// Records in one transaction: enough that the disk's sync is shared, few enough that the write lock is short.
const BATCH: usize = 256;
/// The first wait after a failed write; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(250);
/// The longest wait between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The queue is full: the record was counted and dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit queue is full")]
pub struct Full;

/// Where records are handed over. Cheap to clone, usable from every thread.
#[derive(Clone)]
pub struct Audit {
    queue: mpsc::Sender<Message>,
    state: Arc<State>,
}

/// Appends what was handed over; runs where the store may be waited for.
pub struct Writer {
    queue: mpsc::Receiver<Message>,
    state: Arc<State>,
    store: Store,
    /// Of the lost ones, how many the audit knows about.
    told: u64,
}

struct State {
    /// Lost since the start.
    lost: AtomicU64,
    healthy: AtomicBool,
}

enum Message {
    Record(Box<AuditRecord>),
    Flush(oneshot::Sender<()>),
}

impl Audit {
    /// The handle and its writer; somebody has to run [`Writer::run`].
    #[must_use]
    pub fn new(store: Store) -> (Self, Writer) {
        Self::with_queue(store, QUEUE)
    }

    fn with_queue(store: Store, capacity: usize) -> (Self, Writer) {
        let (sender, receiver) = mpsc::channel(capacity);
        let state = Arc::new(State { lost: AtomicU64::new(0), healthy: AtomicBool::new(true) });
        (Self { queue: sender, state: Arc::clone(&state) }, Writer { queue: receiver, state, store, told: 0 })
    }

    /// Hands a record over; never waits.
    ///
    /// # Errors
    /// The queue is full or the writer is gone; the record is counted as lost.
    pub fn record(&self, record: AuditRecord) -> Result<(), Full> {
        self.queue.try_send(Message::Record(Box::new(record))).map_err(|_| {
            self.state.lost.fetch_add(1, Ordering::Relaxed);
            // The strictest level serves nothing until what waits, and the loss, stand in the store.
            self.state.healthy.store(false, Ordering::Relaxed);
            Full
        })
    }

    /// Waits until everything handed over so far stands in the store, or the writer is gone.
    pub async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.queue.send(Message::Flush(done)).await.is_ok() {
            // An error means the writer is gone, and so is everything it could still write.
            let _gone = wait.await;
        }
    }

    /// How many records were lost since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.state.lost.load(Ordering::Relaxed)
    }

    /// Whether the last attempt to write worked.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.state.healthy.load(Ordering::Relaxed)
    }
}

impl Writer {
    /// Writes until every [`Audit`] is gone and the queue is empty.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.queue.recv_many(&mut batch, BATCH).await > 0 {
            let (records, flushes) = sort(batch.drain(..));
            self.write(records).await;
            for done in flushes {
                // Whoever asked may have stopped waiting.
                let _gone = done.send(());
            }
        }
    }

    /// Appends `records`, however long it takes: giving up would lose them, and the queue bounds what waits behind.
    async fn write(&mut self, mut records: Vec<AuditRecord>) {
        let mut wait = RETRY_MIN;
        loop {
            let lost = self.state.lost.load(Ordering::Relaxed);
            let known = records.len();
            records.extend((lost > self.told).then(|| self.lost_record(lost - self.told)));
            if records.is_empty() {
                return;
            }
            let Err(error) = self.store.append_audit(&records).await else {
                self.told = lost;
                return self.state.healthy.store(true, Ordering::Relaxed);
            };
            records.truncate(known);
            if self.state.healthy.swap(false, Ordering::Relaxed) {
                tracing::error!(%error, "the audit cannot be written");
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    fn lost_record(&self, records: u64) -> AuditRecord {
        AuditRecord::new(self.store.clock().now(), event::LOST, "gateway").details(json!({ "records": records }))
    }
}

fn sort(batch: impl Iterator<Item = Message>) -> (Vec<AuditRecord>, Vec<oneshot::Sender<()>>) {
    let (mut records, mut flushes) = (Vec::new(), Vec::new());
    for message in batch {
        match message {
            Message::Record(record) => records.push(*record),
            Message::Flush(done) => flushes.push(done),
        }
    }
    (records, flushes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::{Clock, Timestamp},
        store::{
            AuditFilter,
            testing::{execute, temporary},
        },
    };

    fn record(event: &'static str) -> AuditRecord {
        AuditRecord::new(Timestamp(1), event, "ann")
    }

    async fn events(store: &Store) -> Vec<String> {
        let stored = store.audit_after(&AuditFilter::default(), 0, 99).await.unwrap();
        stored.into_iter().map(|audit| audit.record.event.into_owned()).collect()
    }

    #[tokio::test]
    async fn what_is_handed_over_is_written_in_order() {
        let (_dir, store) = temporary(Clock::System).await;
        let (audit, writer) = Audit::new(store.clone());
        tokio::spawn(writer.run());
        audit.record(record(event::SIGN_IN)).unwrap();
        audit.record(record(event::REFUSAL)).unwrap();
        audit.flush().await;
        assert_eq!(events(&store).await, [event::SIGN_IN, event::REFUSAL]);
        assert!(audit.healthy());
    }

    #[tokio::test]
    async fn a_full_queue_loses_counts_and_tells() {
        let (_dir, store) = temporary(Clock::System).await;
        let (audit, writer) = Audit::with_queue(store.clone(), 1);
        audit.record(record(event::REFUSAL)).unwrap();
        assert_eq!(audit.record(record(event::REFUSAL)), Err(Full));
        assert_eq!(audit.record(record(event::REFUSAL)), Err(Full));
        assert_eq!(audit.lost(), 2);
        tokio::spawn(writer.run());
        audit.flush().await;
        assert_eq!(events(&store).await, [event::REFUSAL, event::LOST]);
        let lost = store.audit_after(&AuditFilter::default(), 0, 99).await.unwrap().pop().unwrap();
        assert_eq!(lost.record.details, Some(json!({ "records": 2 })));
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_written_is_told_and_nothing_is_forgotten() {
        let (_dir, store) = temporary(Clock::System).await;
        let (audit, writer) = Audit::new(store.clone());
        let break_it = "CREATE TRIGGER broken BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'broken'); END";
        execute(&store, break_it).await;
        tokio::spawn(writer.run());
        audit.record(record(event::REFUSAL)).unwrap();
        while audit.healthy() {
            tokio::task::yield_now().await;
        }
        execute(&store, "DROP TRIGGER broken").await;
        audit.flush().await;
        assert!(audit.healthy());
        assert_eq!(events(&store).await, [event::REFUSAL]);
    }
}
