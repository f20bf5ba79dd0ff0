//! How long a request may wait and how long it may run.
//!
//! The two are told apart, because they mean different things: a queue that does not move is the application's load (503
//! and `Retry-After`: it has not been touched, come again), a request that does not end is its own fault (504). Only the
//! worker knows when a request was begun, and telling it for each would cost a frame; so it is asked, and only about
//! requests that have already taken as long as either may.

use std::time::Duration;

use portcullis_wire::NOT_BEGUN;
use tokio::time::{Instant, timeout_at};

use crate::{
    app::{
        answer::Answer,
        lane::{Failure, Ticket, Word},
        pool,
    },
    config::Config,
    model::Reason,
    policy::Application,
};

/// How long a worker may take to say how a request is doing. Whoever reads its lanes needs no GIL for that, so one that
/// does not answer is stopped or drowning, and its requests are judged by the clock alone.
const REPLY: Duration = Duration::from_secs(1);

/// What one request may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// Until a thread of the application takes it.
    pub queue: Duration,
    /// From then until the head of the answer.
    pub request: Duration,
}

impl Deadlines {
    /// Those of one application.
    #[must_use]
    pub fn of(config: &Config, app: &Application) -> Self {
        Self {
            queue: app.queue_timeout.unwrap_or(config.timeouts.queue),
            request: app.request_timeout.unwrap_or(config.timeouts.request),
        }
    }

    /// Waits for the answer to a request that was handed to a worker after having `waited`.
    ///
    /// # Errors
    /// Why there is none; a request that has used up its time was interrupted.
    pub async fn answer(self, ticket: &Ticket, waited: Duration) -> Result<Answer, Reason> {
        let handed = Instant::now();
        let queue_end = handed + self.queue.saturating_sub(waited);
        let mut stage = Stage::Unknown;
        let mut look = queue_end.min(handed + self.request);
        loop {
            match timeout_at(look, ticket.word()).await {
                Ok(Word::Answer(answer)) => return answer.map_err(reason),
                Ok(Word::Progress(millis)) => match (stage, millis) {
                    // Whoever withdraws what has not begun says so with its last word; this worker stalls.
                    (Stage::Asked { withdrawn: true }, NOT_BEGUN) => return Err(Reason::QueueTimeout),
                    (Stage::Asked { .. }, NOT_BEGUN) => (stage, look) = (Stage::Unknown, queue_end),
                    (Stage::Asked { .. }, millis) => {
                        let running = Duration::from_millis(millis.into());
                        (stage, look) = (Stage::Running, Instant::now() + self.request.saturating_sub(running));
                    }
                    // Nobody asked: a worker could put its end off like this for ever.
                    _ => {}
                },
                Err(_) => match stage {
                    Stage::Unknown => {
                        let withdrawn = Instant::now() >= queue_end;
                        ticket.ask(withdrawn);
                        (stage, look) = (Stage::Asked { withdrawn }, Instant::now() + REPLY);
                    }
                    Stage::Asked { .. } => (stage, look) = (Stage::Running, look.max(handed + self.request)),
                    Stage::Running => {
                        give_up(ticket);
                        return Err(Reason::ApplicationTimeout);
                    }
                },
            }
        }
    }
}

/// What is known of a request that takes long.
#[derive(Clone, Copy)]
enum Stage {
    /// Nothing, or that it had not begun.
    Unknown,
    /// The worker has been asked, or told to give it back if it has not begun.
    Asked { withdrawn: bool },
    /// It runs, or has to be taken to.
    Running,
}

fn reason(failure: Failure) -> Reason {
    match failure {
        Failure::Application => Reason::ApplicationError,
        Failure::NotBegun => Reason::QueueTimeout,
        Failure::WorkerLost | Failure::Stalled | Failure::Withdrawn => Reason::WorkerLost,
    }
}

/// Interrupts the thread that runs the request, and sees to it that the worker is replaced if that does not help.
fn give_up(ticket: &Ticket) {
    ticket.interrupt();
    tokio::task::spawn_local(pool::replace_if_stuck(ticket.watch()));
}
