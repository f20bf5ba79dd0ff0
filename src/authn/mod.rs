//! Who is it?
//!
//! A request shows something, or nothing ([`Presented`]), and the answer is one of a few ([`Outcome`]). What was
//! verified once is remembered, so the question is asked in two steps:
//!
//! ```text
//! let presented = Presented::from_headers(request.headers());
//! let outcome = match authn.recall(&presented, app) {      // no I/O, no waiting: a digest and a hash table
//!     Some(outcome) => outcome,
//!     None => authn.identify(presented, app).await,         // the store, and for a password the hashing pool
//! };
//! ```
//!
//! # How a change takes effect on the next request
//!
//! Every remembered verification carries the *epoch* in which the store was read. Whoever changes users, roles or
//! tokens calls [`Authn::invalidate`], which begins another epoch; from then on nothing that was remembered is
//! believed until it has been compared with the store again. For a password that does not mean hashing again: the same
//! credentials against the same stored hash give the same answer, so it is enough that the stored hash has not changed.
//!
//! The epoch is read *before* the store. If a change happens in between, what is remembered carries an epoch that has
//! already ended, and is compared once more. The other order would lose the change.
//!
//! # What an attacker learns
//!
//! Nothing: unknown, disabled, expired and password-less users cost one verification with production parameters and
//! are rejected in the same way. The reason inside [`Outcome::Rejected`] is for our own log.

mod again;
pub mod hashing;
mod in_flight;
pub mod jwt;
pub mod password;
mod presented;
mod principal;
mod remembered;
pub mod token;
mod verify;

use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use aws_lc_rs::{digest, hmac};

pub use self::{
    hashing::{Busy, HashingPool, PoolError},
    presented::Presented,
    principal::{Credential, principal_for, principal_for_service, principal_for_token},
};
use self::{
    in_flight::InFlight,
    jwt::KeySet,
    presented::Shown,
    remembered::{Key, Remembered},
    verify::No,
};
use crate::{
    clock::{self, Clock},
    model::Principal,
    store::Store,
};

const NOT_A_TOKEN: &str = "a bearer token that is mistyped or not of this gate";

/// The answer to "who is it?".
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Nothing was presented. Whether that is enough is the policy's to say.
    NotPresented,
    /// It is known who this is: they were verified before, and nothing has changed since.
    Verified(Principal),
    /// The same, and they were verified just now: worth a line in the audit.
    SignedIn(Principal),
    /// Wrong, expired, revoked, unreadable. Never falls back to anonymous. Why is for the log alone.
    Rejected(&'static str),
    /// Two readings.
    Ambiguous,
    /// More sign-ins than can be verified: try again shortly.
    Busy,
    /// The store cannot be read, so nobody is let in.
    Unavailable,
}

impl Outcome {
    /// Who it is, if somebody was verified.
    #[must_use]
    pub fn principal(self) -> Option<Principal> {
        match self {
            Self::Verified(principal) | Self::SignedIn(principal) => Some(principal),
            _ => None,
        }
    }
}

/// Verifies credentials against the store, and remembers what it verified. One for the whole gateway.
pub struct Authn {
    store: Store,
    clock: Clock,
    pool: HashingPool,
    issuer: String,
    epoch: AtomicU64,
    /// Key of the digests that passwords are remembered by: random, and gone with the process.
    secret: hmac::Key,
    passwords: Remembered,
    tokens: Remembered,
    jwts: Remembered,
    in_flight: InFlight,
    keys: ArcSwapOption<(u64, KeySet)>,
}

impl Authn {
    /// Verifies against `store`, hashing in `pool`; JWTs have to be issued by `issuer`.
    #[must_use]
    pub fn new(store: Store, clock: Clock, pool: HashingPool, issuer: &str) -> Self {
        Self {
            store,
            clock,
            pool,
            issuer: issuer.to_owned(),
            epoch: AtomicU64::new(0),
            secret: hmac::Key::new(hmac::HMAC_SHA256, &clock::random::<32>()),
            passwords: Remembered::new(),
            tokens: Remembered::new(),
            jwts: Remembered::new(),
            in_flight: InFlight::default(),
            keys: ArcSwapOption::empty(),
        }
    }

    /// Compares everything that is remembered with the store again before it is believed. Whoever has changed
    /// identity data calls this after the change is committed; once it has returned, no request is judged by what was
    /// before.
    pub fn invalidate(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// The answer, if it can be given without the store: nothing presented, something that cannot be right, or
    /// somebody who is remembered. `application` is the name of the application, its mount.
    #[must_use]
    pub fn recall(&self, presented: &Presented, application: &str) -> Option<Outcome> {
        let recalled =
            |from: &Remembered, key: &Key| from.recall(key, self.epoch(), self.clock.now()).map(Outcome::Verified);
        match &presented.0 {
            Shown::Nothing => Some(Outcome::NotPresented),
            Shown::Ambiguous => Some(Outcome::Ambiguous),
            Shown::Unreadable { why, .. } => Some(Outcome::Rejected(why)),
            Shown::Basic(basic) => recalled(&self.passwords, &self.password_key(basic)),
            Shown::Bearer(token) => match Bearer::read(token.reveal(), application) {
                Bearer::Opaque(digest) => recalled(&self.tokens, &digest),
                Bearer::Jwt(key) => recalled(&self.jwts, &key),
                Bearer::Neither => Some(Outcome::Rejected(NOT_A_TOKEN)),
            },
        }
    }

    /// The answer. `application` is the name of the application, its mount.
    pub async fn identify(&self, presented: Presented, application: &str) -> Outcome {
        if let Some(outcome) = self.recall(&presented, application) {
            return outcome;
        }
        let verified = match &presented.0 {
            Shown::Basic(basic) => self.by_password(basic).await,
            Shown::Bearer(token) => match Bearer::read(token.reveal(), application) {
                Bearer::Opaque(digest) => self.by_token(digest).await,
                Bearer::Jwt(key) => self.by_jwt(token.reveal(), key, application).await,
                Bearer::Neither => Err(No::Rejected(NOT_A_TOKEN)),
            },
            // Answered by `recall`, every one of them.
            Shown::Nothing | Shown::Ambiguous | Shown::Unreadable { .. } => Err(No::Rejected(NOT_A_TOKEN)),
        };
        verified.unwrap_or_else(Outcome::from)
    }

    /// The time between two changes of identity data; to be read before somebody is identified.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
}

/// What a bearer token is, told by its form. The two have no text in common: ours have no dots.
enum Bearer {
    Opaque(Key),
    Jwt(Key),
    Neither,
}

impl Bearer {
    fn read(text: &str, application: &str) -> Self {
        if let Some(digest) = token::digest(text) {
            Self::Opaque(digest)
        } else if jwt::looks_like_one(text) {
            Self::Jwt(jwt_key(text, application))
        } else {
            Self::Neither
        }
    }
}

/// A JWT is remembered for one application: what it says may hold in one and not in another.
fn jwt_key(text: &str, application: &str) -> Key {
    let mut digest = digest::Context::new(&digest::SHA256);
    digest.update(application.as_bytes());
    // Neither a mount nor a bearer token holds a NUL.
    digest.update(b"\0");
    digest.update(text.as_bytes());
    let mut key = [0; 32];
    key.copy_from_slice(digest.finish().as_ref());
    key
}

#[cfg(test)]
mod tests;
