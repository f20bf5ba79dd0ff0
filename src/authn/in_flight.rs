//! The same credentials at the same time are verified once.
//!
//! A browser opens six connections and sends the same password on each. Six hashes would take six places in the queue
//! of the [`HashingPool`](super::HashingPool) for one answer.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OnceCell;

/// What is being verified: digests of the credentials and of the hash that they are compared with. Both, because the
/// hash may change while somebody waits, and an answer about the old one is no answer about the new.
pub(super) type Question = ([u8; 32], [u8; 32]);

/// Verifications that somebody is waiting for. As many as there are requests that wait, no more.
#[derive(Default)]
pub(super) struct InFlight(Mutex<HashMap<Question, Asked>>);

#[derive(Default)]
struct Asked {
    answer: Arc<OnceCell<bool>>,
    waiting: usize,
}

impl InFlight {
    /// The answer to `question`: by `verify`, or by somebody else's that is running already. If whoever runs it goes
    /// away, the next one who waits runs its own; an error is nobody else's.
    pub(super) async fn ask<E, F>(&self, question: Question, verify: impl FnOnce() -> F) -> Result<bool, E>
    where
        F: Future<Output = Result<bool, E>>,
    {
        let seat = Seat { answer: self.join(question), at: self, question };
        seat.answer.get_or_try_init(verify).await.copied()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    fn join(&self, question: Question) -> Arc<OnceCell<bool>> {
        let mut all = self.all();
        let asked = all.entry(question).or_default();
        asked.waiting += 1;
        Arc::clone(&asked.answer)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Question, Asked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits. The last to leave takes the question along, so that no answer outlives those who asked.
struct Seat<'a> {
    at: &'a InFlight,
    question: Question,
    answer: Arc<OnceCell<bool>>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut all = self.at.all();
        if let Some(asked) = all.get_mut(&self.question) {
            asked.waiting -= 1;
            if asked.waiting == 0 {
                all.remove(&self.question);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn six_ask_and_one_works() {
        let (in_flight, runs) = (InFlight::default(), AtomicUsize::new(0));
        let ask = |question| {
            in_flight.ask(question, || async {
                runs.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok::<_, ()>(true)
            })
        };
        let same = futures_util::future::join_all((0..6).map(|_| ask(([1; 32], [2; 32])))).await;
        assert_eq!((same, runs.load(Ordering::Relaxed)), (vec![Ok(true); 6], 1));
        assert_eq!(ask(([1; 32], [3; 32])).await, Ok(true));
        assert_eq!(ask(([1; 32], [2; 32])).await, Ok(true));
        assert_eq!(runs.load(Ordering::Relaxed), 3, "an answer is not kept");
        assert!(in_flight.all().is_empty());
    }

    #[tokio::test]
    async fn an_error_is_nobody_elses_and_who_goes_away_is_replaced() {
        let in_flight = InFlight::default();
        let question = ([1; 32], [2; 32]);
        let never = in_flight.ask(question, std::future::pending::<Result<bool, &str>>);
        let next = in_flight.ask(question, || async { Ok::<_, &str>(false) });
        let (first, second) = tokio::join!(
            async {
                tokio::select! { biased; _ = never => true, () = tokio::task::yield_now() => false }
            },
            next
        );
        assert_eq!((first, second), (false, Ok(false)));
        assert_eq!(in_flight.ask(question, || async { Err("busy") }).await, Err("busy"));
        assert!(in_flight.all().is_empty());
    }
}
