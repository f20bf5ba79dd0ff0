//! Everybody who could come: for tools that ask the rules about all of them.
//!
//! The store is walked page by page and nothing is kept, so that a hundred thousand users cost time and no memory. A
//! user comes by password if there is one; a token is somebody of its own, because it may be good for less than its
//! owner is.

use super::Result;
use crate::{
    authn::{Credential, principal_for, principal_for_token},
    clock::Timestamp,
    model::{Method, Principal},
    policy::Known,
    store::{Owner, Store, TokenRecord, UserRecord},
};

/// Records read at a time.
const PAGE: u32 = 1000;

/// Somebody who could come, and as whom.
#[derive(Debug, Clone)]
pub struct Person {
    /// Name of the user, or public id of the token.
    pub name: String,
    /// The owner of a token; `None` for a user who comes by password.
    pub owner: Option<TokenOwner>,
    /// As whom they are judged.
    pub principal: Principal,
}

/// Whose token it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenOwner {
    /// The name.
    pub name: String,
    /// Whether it is a service.
    pub is_service: bool,
}

/// Who was left out, because nothing of theirs would be accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Users who are disabled.
    pub users_disabled: usize,
    /// Users whose time is over.
    pub users_expired: usize,
    /// Users who have no password; their tokens count for themselves.
    pub users_without_password: usize,
    /// Tokens that were revoked.
    pub tokens_revoked: usize,
    /// Tokens whose time is over.
    pub tokens_expired: usize,
    /// Tokens of disabled or expired owners.
    pub tokens_of_others: usize,
}

/// Why nothing of an owner is accepted.
pub(super) fn off(owner: &Owner, now: Timestamp) -> bool {
    match owner {
        Owner::User(user) => !user.enabled || over(user.expires, now),
        Owner::Service(service) => !service.enabled,
    }
}

pub(super) fn over(expires: Option<Timestamp>, now: Timestamp) -> bool {
    expires.is_some_and(|at| at <= now)
}

/// Meets everybody who could come, users first, and counts the others.
///
/// # Errors
/// The store cannot be read.
pub async fn everybody(store: &Store, now: Timestamp, mut meet: impl FnMut(Person)) -> Result<LeftOut> {
    let mut left_out = LeftOut::default();
    each_user(store, |user| {
        if !user.enabled {
            left_out.users_disabled += 1;
        } else if over(user.expires, now) {
            left_out.users_expired += 1;
        } else if user.password.is_none() {
            left_out.users_without_password += 1;
        } else {
            let principal = principal_for(&user, Method::Password, Credential::default());
            meet(Person { name: user.name.to_string(), owner: None, principal });
        }
    })
    .await?;
    each_token(store, |token| {
        if token.revoked.is_some() {
            left_out.tokens_revoked += 1;
        } else if over(token.expires, now) {
            left_out.tokens_expired += 1;
        } else if off(&token.owner, now) {
            left_out.tokens_of_others += 1;
        } else {
            let is_service = matches!(token.owner, Owner::Service(_));
            let owner = Some(TokenOwner { name: token.owner.name().to_string(), is_service });
            meet(Person { name: token.id.to_string(), owner, principal: principal_for_token(&token) });
        }
    })
    .await?;
    Ok(left_out)
}

/// Every name there is, for warnings of rules that name nobody.
///
/// # Errors
/// The store cannot be read.
pub async fn known(store: &Store, now: Timestamp) -> Result<Known> {
    let mut known = Known {
        roles: store.roles().await?.into_iter().map(|role| role.name).collect(),
        services: store.services().await?.into_iter().map(|service| service.name).collect(),
        ..Known::default()
    };
    each_user(store, |user| known.users.extend([user.name])).await?;
    each_token(store, |token| {
        if token.revoked.is_none() && !over(token.expires, now) {
            known.tokens.insert(token.id.to_string());
        }
    })
    .await?;
    Ok(known)
}

/// Every user, by name.
///
/// # Errors
/// The store cannot be read.
pub async fn each_user(store: &Store, mut meet: impl FnMut(UserRecord)) -> Result<()> {
    let mut after = String::new();
    loop {
        let page = store.users_after(&after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.name.to_string();
        page.into_iter().for_each(&mut meet);
    }
}

/// Every token, by its public id.
///
/// # Errors
/// The store cannot be read.
pub async fn each_token(store: &Store, mut meet: impl FnMut(TokenRecord)) -> Result<()> {
    let mut after = String::new();
    loop {
        let page = store.tokens_after(&after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.id.to_string();
        page.into_iter().for_each(&mut meet);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicI64};

    use super::*;
    use crate::{
        clock::Clock,
        store::testing::{execute, temporary},
    };

    const MANY: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) \
                        INSERT INTO users (name, created, password, enabled, expires) \
                        SELECT 'u' || i, 0, iif(i % 5 = 0, NULL, 'x'), i % 7 <> 0, iif(i % 11 = 0, 50, NULL) FROM n";
    const TOKENS: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200) \
                          INSERT INTO tokens (id, kind, user, created, revoked, expires) \
                          SELECT 'tok_' || i, 'jwt', i, 0, iif(i % 3 = 0, 9, NULL), iif(i % 4 = 0, 50, NULL) FROM n";

    #[tokio::test]
    async fn everybody_is_met_once_over_all_pages_or_counted() {
        let (_directory, store) = temporary(Clock::Manual(Arc::new(AtomicI64::new(100)))).await;
        execute(&store, MANY).await;
        execute(&store, TOKENS).await;
        let (mut users, mut tokens) = (Vec::new(), Vec::new());
        let left_out = everybody(&store, Timestamp(100), |person| match person.owner {
            None => users.push(person.name),
            Some(_) => tokens.push(person.name),
        })
        .await
        .unwrap();
        let over = |i: &usize| !i.is_multiple_of(7) && i.is_multiple_of(11);
        let off = |i: &usize| i.is_multiple_of(7) || i.is_multiple_of(11);
        let count = |is: &dyn Fn(&usize) -> bool, of: usize| (1..=of).filter(is).count();
        assert_eq!(left_out.users_disabled, count(&|i| i.is_multiple_of(7), 2500));
        assert_eq!(left_out.users_expired, count(&over, 2500));
        assert_eq!(left_out.users_without_password, count(&|i| !off(i) && i.is_multiple_of(5), 2500));
        assert_eq!(users.len(), count(&|i| !off(i) && !i.is_multiple_of(5), 2500));
        assert_eq!(left_out.tokens_revoked, count(&|i| i.is_multiple_of(3), 1200));
        let good = |i: &usize| !i.is_multiple_of(3) && !i.is_multiple_of(4);
        assert_eq!(left_out.tokens_of_others, count(&|i| good(i) && off(i), 1200));
        assert_eq!(tokens.len(), count(&|i| good(i) && !off(i), 1200));
        users.sort();
        users.dedup();
        assert_eq!(users.len(), count(&|i| !off(i) && !i.is_multiple_of(5), 2500), "nobody twice");
        let known = known(&store, Timestamp(100)).await.unwrap();
        assert_eq!((known.users.len(), known.tokens.len()), (2500, count(&good, 1200)));
    }
}
