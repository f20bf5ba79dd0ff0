//! The slow path: what is done once per password or token, and again after a change.
//!
//! Each of the three reads the epoch first, then the store, and remembers what it found under that epoch.

use std::sync::Arc;

use super::{
    Authn, Busy, Outcome,
    jwt::{self, BadKey, KeySet, LEEWAY_SECONDS},
    password::MAX_PASSWORD,
    presented::Basic,
    principal::{Credential, principal_for, principal_for_token},
    remembered::{Entry, Key, Remembered},
    token::sha256,
};
use crate::{
    clock::Timestamp,
    model::{Method, Principal},
    secret::Secret,
    store::{Owner, StoreError, TokenKind, TokenRecord, UserRecord},
};

/// How long a password that was verified is not hashed again, milliseconds.
const PASSWORD_LIFETIME: i64 = 5 * 60 * 1000;
/// How long a token that was verified is not looked up again, milliseconds. Changes do not wait for it: this is the
/// net below them, and how often a token in use is seen as used.
const TOKEN_LIFETIME: i64 = 60 * 60 * 1000;
/// Later than any request.
const NEVER: Timestamp = Timestamp(i64::MAX);

/// Why nobody was verified.
pub(super) enum No {
    Rejected(&'static str),
    Busy,
    Unavailable,
}

impl From<No> for Outcome {
    fn from(no: No) -> Self {
        match no {
            No::Rejected(why) => Self::Rejected(why),
            No::Busy => Self::Busy,
            No::Unavailable => Self::Unavailable,
        }
    }
}

impl From<Busy> for No {
    fn from(_: Busy) -> Self {
        Self::Busy
    }
}

impl From<StoreError> for No {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "nobody can be verified: the store cannot be read");
        Self::Unavailable
    }
}

impl From<BadKey> for No {
    fn from(error: BadKey) -> Self {
        tracing::error!(%error, "no JWT can be verified: a signing key cannot be read");
        Self::Unavailable
    }
}

impl Authn {
    pub(super) async fn by_password(&self, basic: &Basic) -> Result<Outcome, No> {
        // Nobody's password, whoever the user is: refused before anything that costs.
        if basic.password().is_empty() || basic.password().len() > MAX_PASSWORD {
            return Err(No::Rejected("a password that is empty or too long"));
        }
        let (key, epoch) = (self.password_key(basic), self.epoch());
        let account = self.account(basic).await?;
        if let (Ok(account), Some(proof)) = (&account, self.passwords.proof(&key, self.clock.now()))
            && proof.password == Some(account.version)
        {
            return Ok(Outcome::Verified(self.remember_password(key, epoch, account, proof.proven_until)));
        }
        self.passwords.forget(&key);
        let proven_until = self.clock.now().plus_millis(PASSWORD_LIFETIME);
        let (matches, first) = self.hash(key, basic, account.as_ref().ok()).await?;
        let verified = account.and_then(|account| if matches { Ok(account) } else { Err("wrong password") });
        let mut verified = (verified.map_err(No::Rejected)?, epoch);
        if self.epoch() != epoch {
            verified = self.still(basic, &verified.0).await?;
        }
        let principal = self.remember_password(key, verified.1, &verified.0, proven_until);
        Ok(if first { Outcome::SignedIn(principal) } else { Outcome::Verified(principal) })
    }

    pub(super) async fn by_token(&self, digest: Key) -> Result<Outcome, No> {
        let epoch = self.epoch();
        let now = self.clock.now();
        let record = self.store.token_by_digest(&digest).await?;
        let record = good(record, TokenKind::Opaque, now).map_err(|why| self.tokens.reject(&digest, why))?;
        Ok(self.tokens.accept(digest, epoch, &record, now, now.plus_millis(TOKEN_LIFETIME)))
    }

    pub(super) async fn by_jwt(&self, token: &str, key: Key, application: &str) -> Result<Outcome, No> {
        let epoch = self.epoch();
        let now = self.clock.now();
        let keys = self.keys(epoch).await?;
        let claims = jwt::verify(token, &keys.1, &self.issuer, application, now)
            .map_err(|bad| self.jwts.reject(&key, bad.why()))?;
        let record = self.store.token_by_id(&claims.jti).await?;
        let record = good(record, TokenKind::Jwt, now).map_err(|why| self.jwts.reject(&key, why))?;
        if record.owner.name().as_str() != claims.sub {
            return Err(self.jwts.reject(&key, "a JWT whose subject is not its owner"));
        }
        let ends = Timestamp(claims.exp.saturating_add(LEEWAY_SECONDS).saturating_mul(1000));
        Ok(self.jwts.accept(key, epoch, &record, now, ends.min(now.plus_millis(TOKEN_LIFETIME))))
    }

    /// What a password is remembered by: nothing that could be compared with a leaked list, even in a core dump that
    /// lacks this process's key.
    pub(super) fn password_key(&self, basic: &Basic) -> Key {
        let mut key = [0; 32];
        key.copy_from_slice(aws_lc_rs::hmac::sign(&self.secret, basic.pair()).as_ref());
        key
    }

    /// Whom the name means, if they may sign in with a password at all.
    async fn account(&self, basic: &Basic) -> Result<Result<Account, &'static str>, No> {
        let user = match basic.name() {
            Some(name) => self.store.user(&name).await?,
            None => None,
        };
        Ok(Account::usable(user, self.clock.now()))
    }

    /// Whether the password is the account's, and whether it was this request that found out. Without an account it
    /// costs the same and is never a match.
    async fn hash(&self, key: Key, basic: &Basic, account: Option<&Account>) -> Result<(bool, bool), Busy> {
        let question = (key, account.map_or([0; 32], |account| account.version));
        let mut first = false;
        let verify = || {
            first = true;
            let phc = account.map(|account| account.phc.clone());
            self.pool.verify(Secret::new(basic.password().to_vec()), phc)
        };
        let matches = self.in_flight.ask(question, verify).await?;
        Ok((matches && account.is_some(), first))
    }

    /// The account as it is now, if what was verified still holds: something changed while the request waited for a
    /// thread.
    async fn still(&self, basic: &Basic, verified: &Account) -> Result<(Account, u64), No> {
        let epoch = self.epoch();
        let now = self.account(basic).await?.map_err(No::Rejected)?;
        if now.version == verified.version { Ok((now, epoch)) } else { Err(No::Rejected("wrong password")) }
    }

    fn remember_password(&self, key: Key, epoch: u64, account: &Account, proven_until: Timestamp) -> Principal {
        let credential = Credential { password: Some(account.version), ..Credential::default() };
        let principal = principal_for(&account.user, Method::Password, credential);
        let expires = account.user.expires.unwrap_or(NEVER);
        let password = Some(account.version);
        self.passwords.remember(key, Entry { principal: principal.clone(), epoch, expires, proven_until, password });
        principal
    }

    /// The keys of this epoch.
    async fn keys(&self, epoch: u64) -> Result<Arc<(u64, KeySet)>, No> {
        if let Some(keys) = self.keys.load_full().filter(|keys| keys.0 == epoch) {
            return Ok(keys);
        }
        let stored = self.store.signing_keys().await?;
        let keys = KeySet::new(stored.iter().map(|key| (key.kid.as_str(), &key.private_pem)))?;
        let keys = Arc::new((epoch, keys));
        self.keys.store(Some(Arc::clone(&keys)));
        Ok(keys)
    }
}

/// A user who may sign in with a password.
pub(super) struct Account {
    pub(super) user: UserRecord,
    phc: Secret<String>,
    /// SHA-256 of the PHC string: another password, or the same under another salt, is another version.
    pub(super) version: [u8; 32],
}

impl Account {
    pub(super) fn usable(user: Option<UserRecord>, now: Timestamp) -> Result<Self, &'static str> {
        let user = user.ok_or("no such user")?;
        usable(&user, now)?;
        let phc = user.password.clone().ok_or("the user has no password")?;
        Ok(Self { version: sha256(phc.reveal().as_bytes()), user, phc })
    }
}

fn usable(user: &UserRecord, now: Timestamp) -> Result<(), &'static str> {
    match user.expires {
        _ if !user.enabled => Err("the user is disabled"),
        Some(expires) if now >= expires => Err("the user has expired"),
        _ => Ok(()),
    }
}

/// The record of a token that may be used.
pub(super) fn good(record: Option<TokenRecord>, kind: TokenKind, now: Timestamp) -> Result<TokenRecord, &'static str> {
    let record = record.filter(|record| record.kind == kind).ok_or("no such token")?;
    if record.revoked.is_some() {
        return Err("the token was revoked");
    }
    if record.expires.is_some_and(|expires| now >= expires) {
        return Err("the token has expired");
    }
    match &record.owner {
        Owner::User(user) => usable(user, now)?,
        Owner::Service(service) if !service.enabled => return Err("the service is disabled"),
        Owner::Service(_) => (),
    }
    Ok(record)
}

impl Remembered {
    /// Remembers a good token.
    fn accept(&self, key: Key, epoch: u64, record: &TokenRecord, now: Timestamp, proven_until: Timestamp) -> Outcome {
        let known = self.proof(&key, now).is_some();
        let principal = principal_for_token(record);
        let owner = match &record.owner {
            Owner::User(user) => user.expires,
            Owner::Service(_) => None,
        };
        let expires = record.expires.unwrap_or(NEVER).min(owner.unwrap_or(NEVER));
        self.remember(key, Entry { principal: principal.clone(), epoch, expires, proven_until, password: None });
        if known { Outcome::Verified(principal) } else { Outcome::SignedIn(principal) }
    }

    /// Forgets one that is not.
    fn reject(&self, key: &Key, why: &'static str) -> No {
        self.forget(key);
        No::Rejected(why)
    }
}
