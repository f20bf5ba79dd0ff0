//! One word to all threads: finish what you have, take nothing new.

use tokio::sync::watch;

/// The end of the gateway, as those who wait for it see it.
#[derive(Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// Begins the end.
pub struct Trigger(watch::Sender<bool>);

/// A trigger and what it pulls.
#[must_use]
pub fn shutdown() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    /// Tells everybody.
    pub fn pull(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Waits for the word. Returns also when nobody is left to give it.
    pub async fn begun(&mut self) {
        let _ = self.0.wait_for(|begun| *begun).await;
    }

    /// Whether it has been given.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        *self.0.borrow()
    }
}
