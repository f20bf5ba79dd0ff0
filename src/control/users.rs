//! Users: people who sign in.

use serde_json::json;

use super::{
    ActError, Actor, Result, free_name,
    passwords::{self, PasswordRules},
    roles_exist, somebody_administers, unknown_user, words,
};
use crate::{
    audit::event,
    clock::Timestamp,
    model::Name,
    secret::Secret,
    store::{NewUser, Store, UserRecord},
};

/// A user to be added.
pub struct UserArgs {
    /// Unique among users and services.
    pub name: Name,
    /// What to call them; may be empty.
    pub display: String,
    /// May be empty.
    pub email: String,
    /// From then on they may not sign in.
    pub expires: Option<Timestamp>,
    /// What they hold.
    pub roles: Vec<Name>,
    /// What they sign in with, in the clear; it is hashed here and nowhere kept.
    pub password: Secret<String>,
}

/// Adds a user.
///
/// # Errors
/// The name is taken, a role does not exist, the password is too weak, or the store cannot be written.
pub async fn add(store: &Store, actor: &Actor, user: UserArgs, rules: &PasswordRules) -> Result<()> {
    plain_text("display name", &user.display)?;
    plain_text("e-mail address", &user.email)?;
    // Hashed before the write lock is taken: it costs as long as everything else together.
    let phc = passwords::hash(&user.password, &user.name, rules).await?;
    let mut change = store.change().await?;
    free_name(&mut change, &user.name).await?;
    roles_exist(store, &mut change, &user.roles).await?;
    let UserArgs { name, display, email, expires, roles, .. } = user;
    let record = actor.did(change.now(), event::USER_ADD, name.as_str()).details(
        json!({ "roles": words(&roles), "display": display, "email": email, "expires": expires.map(Timestamp::rfc3339) }),
    );
    let user = NewUser { name, display, email, expires, password: Some(phc) };
    change.add_user(&user).await?;
    for role in &roles {
        change.grant(&user.name, role).await?;
    }
    Ok(change.commit(&record).await?)
}

/// Removes a user with everything they hold: roles and tokens.
///
/// # Errors
/// There is no such user, it is the last administrator, or the store cannot be written.
pub async fn remove(store: &Store, actor: &Actor, name: &Name) -> Result<()> {
    let mut change = store.change().await?;
    let Some(user) = change.user(name).await? else { return Err(unknown_user(store, name).await) };
    let before = change.administrators().await?;
    change.remove_user(name).await?;
    somebody_administers(&mut change, before).await?;
    let details = json!({ "roles": words(&user.granted), "enabled": user.enabled });
    let record = actor.did(change.now(), event::USER_REMOVE, name.as_str()).details(details);
    Ok(change.commit(&record).await?)
}

/// Switches a user on or off; answers whether that changed anything.
///
/// # Errors
/// There is no such user, it is the last administrator, or the store cannot be written.
pub async fn set_enabled(store: &Store, actor: &Actor, name: &Name, enabled: bool) -> Result<bool> {
    let mut change = store.change().await?;
    let Some(user) = change.user(name).await? else { return Err(unknown_user(store, name).await) };
    if user.enabled == enabled {
        return Ok(false);
    }
    let before = change.administrators().await?;
    change.enable_user(name, enabled).await?;
    somebody_administers(&mut change, before).await?;
    let event = if enabled { event::USER_ENABLE } else { event::USER_DISABLE };
    let record = actor.did(change.now(), event, name.as_str());
    change.commit(&record).await?;
    Ok(true)
}

/// Replaces a user's password.
///
/// # Errors
/// There is no such user, the password is too weak, or the store cannot be written.
pub async fn set_password(
    store: &Store,
    actor: &Actor,
    name: &Name,
    password: &Secret<String>,
    rules: &PasswordRules,
) -> Result<()> {
    get(store, name).await?;
    let phc = passwords::hash(password, name, rules).await?;
    let mut change = store.change().await?;
    if change.user(name).await?.is_none() {
        return Err(unknown_user(store, name).await);
    }
    change.set_password(name, &phc).await?;
    let record = actor.did(change.now(), event::USER_PASSWORD, name.as_str());
    Ok(change.commit(&record).await?)
}

/// Every user, by name.
///
/// # Errors
/// The store cannot be read.
pub async fn list(store: &Store) -> Result<Vec<UserRecord>> {
    Ok(store.users().await?)
}

/// One user.
///
/// # Errors
/// There is no such user, or the store cannot be read.
pub async fn get(store: &Store, name: &Name) -> Result<UserRecord> {
    match store.user(name).await? {
        Some(user) => Ok(user),
        None => Err(unknown_user(store, name).await),
    }
}

/// Display names and addresses end up in logs, pages and `environ`: no line breaks, no control characters.
pub(super) fn plain_text(what: &str, text: &str) -> Result<()> {
    const MAX: usize = 256;
    if text.chars().any(char::is_control) || text.len() > MAX {
        return Err(ActError::Refused(format!("the {what} has control characters or more than {MAX} bytes")));
    }
    Ok(())
}
