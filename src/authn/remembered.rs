//! Credentials that were verified, so that the next request with them costs a hash table.
//!
//! What is remembered is found by a digest of the credentials, never by the credentials; is good for one *epoch*, the
//! time between two changes of identity data; and holds the time from which it is no longer good whatever happens.
//! Failures are not remembered: an attacker's guesses must not push out who works here, and a user who was just added
//! must not wait.

use std::sync::Arc;

use quick_cache::sync::Cache;

use crate::{clock::Timestamp, model::Principal};

/// A digest of credentials.
pub(super) type Key = [u8; 32];

/// How many verified credentials of each kind are remembered. An entry has about 600 bytes with its principal, so at
/// most some 40 MiB each; beyond that the least useful are verified again.
const CAPACITY: usize = 65_536;

/// One verification.
#[derive(Clone)]
pub(super) struct Entry {
    /// Who it was.
    pub principal: Principal,
    /// The epoch in which the store was read, as it was *before* it was read.
    pub epoch: u64,
    /// From then on the user or the token has expired.
    pub expires: Timestamp,
    /// From then on the proof itself has to be made again.
    pub proven_until: Timestamp,
    /// SHA-256 of the PHC string that a password matched.
    pub password: Option<[u8; 32]>,
}

/// Verified credentials of one kind.
pub(super) struct Remembered(Cache<Key, Arc<Entry>>);

impl Remembered {
    pub(super) fn new() -> Self {
        Self(Cache::new(CAPACITY))
    }

    /// Who presented this, if that is still known for certain.
    pub(super) fn recall(&self, key: &Key, epoch: u64, now: Timestamp) -> Option<Principal> {
        let entry = self.0.get(key)?;
        let good = entry.epoch == epoch && now < entry.expires && now < entry.proven_until;
        good.then(|| entry.principal.clone())
    }

    /// A proof that is still good, of a principal that may no longer be.
    pub(super) fn proof(&self, key: &Key, now: Timestamp) -> Option<Arc<Entry>> {
        self.0.get(key).filter(|entry| now < entry.proven_until)
    }

    pub(super) fn remember(&self, key: Key, entry: Entry) {
        self.0.insert(key, Arc::new(entry));
    }

    pub(super) fn forget(&self, key: &Key) {
        self.0.remove(key);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
