//! Whether what a request was allowed still is, while it runs.
//!
//! A [`Permit`](crate::policy::Permit) says that a request was allowed when it was judged. An event stream may run for
//! days after that, so whoever judged can take the word back: the request's task and its answer look here whenever they
//! are polled, and are woken.

use std::{
    cell::{Cell, RefCell},
    task::{Context, Poll, Waker},
};

use crate::{app::lane::Watch, model::Reason};

/// The word that a request may run; one for each, on its data thread.
#[derive(Default)]
pub struct Grant {
    withdrawn: Cell<Option<Reason>>,
    waker: RefCell<Option<Waker>>,
    /// Whether an answer that takes its time has begun.
    streaming: Cell<bool>,
    /// The exchange that such an answer comes from.
    exchange: RefCell<Option<Watch>>,
}

impl Grant {
    /// Why the request may not go on, if it may not.
    #[must_use]
    pub fn withdrawn(&self) -> Option<Reason> {
        self.withdrawn.get()
    }

    /// Whether its answer has begun: then it can only be cut, and no longer be refused.
    #[must_use]
    pub fn is_streaming(&self) -> bool {
        self.streaming.get()
    }

    /// Takes the word back.
    ///
    /// The application is told now: an answer whose client reads nothing is not polled, and would hold a thread until
    /// somebody notices.
    pub fn withdraw(&self, reason: Reason) {
        self.withdrawn.set(Some(reason));
        if let Some(exchange) = self.exchange.take() {
            exchange.cut();
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Ready when it has been taken back; wakes the task then.
    pub fn poll_withdrawn(&self, cx: &mut Context<'_>) -> Poll<Reason> {
        if let Some(reason) = self.withdrawn.get() {
            return Poll::Ready(reason);
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The answer comes from this exchange.
    pub(super) fn comes_from(&self, exchange: Watch) {
        *self.exchange.borrow_mut() = Some(exchange);
    }

    /// An answer that takes its time has begun.
    pub(super) fn begin_streaming(&self) {
        self.streaming.set(true);
    }
}
