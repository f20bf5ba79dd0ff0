//! Roles: names for what people and programs may do, granted to users and services, named in policies.

use serde_json::json;

use super::{
    ActError, Actor, Result, roles_exist, somebody_administers, unknown_role, unknown_service, unknown_user,
    users::plain_text, words,
};
use crate::{
    audit::event,
    model::{ADMINISTRATOR, Name},
    store::{Change, RoleRecord, Store},
};

/// Who gets a role or loses it.
#[derive(Debug, Clone)]
pub enum Holder {
    /// A person.
    User(Name),
    /// A program.
    Service(Name),
}

impl Holder {
    /// Their name.
    #[must_use]
    pub fn name(&self) -> &Name {
        match self {
            Self::User(name) | Self::Service(name) => name,
        }
    }
}

/// Adds a role.
///
/// # Errors
/// The name is taken, an included role does not exist, or the store cannot be written.
pub async fn add(store: &Store, actor: &Actor, name: &Name, description: &str, includes: &[Name]) -> Result<()> {
    plain_text("description", description)?;
    if includes.contains(name) {
        return Err(ActError::Refused(format!("the role `{name}` cannot include itself")));
    }
    let mut change = store.change().await?;
    if change.role(name).await?.is_some() {
        return Err(ActError::Taken { kind: "role", name: name.to_string() });
    }
    roles_exist(store, &mut change, includes).await?;
    change.add_role(name, description).await?;
    for included in includes {
        change.include_role(name, included).await?;
    }
    let details = json!({ "description": description, "includes": words(includes) });
    let record = actor.did(change.now(), event::ROLE_ADD, name.as_str()).details(details);
    Ok(change.commit(&record).await?)
}

/// Removes a role from everybody who holds it.
///
/// # Errors
/// There is no such role, it is the gate's own, nobody would administer the gate any more, or the store cannot be
/// written.
pub async fn remove(store: &Store, actor: &Actor, name: &Name) -> Result<()> {
    if name.as_str() == ADMINISTRATOR {
        return Err(ActError::Refused(format!("`{ADMINISTRATOR}` is the role of Portcullis itself and stays")));
    }
    let mut change = store.change().await?;
    let Some(role) = change.role(name).await? else { return Err(unknown_role(store, name).await) };
    let before = change.administrators().await?;
    change.remove_role(name).await?;
    somebody_administers(&mut change, before).await?;
    let details = json!({
        "includes": words(&role.includes),
        "users": words(&role.users),
        "services": words(&role.services),
    });
    let record = actor.did(change.now(), event::ROLE_REMOVE, name.as_str()).details(details);
    Ok(change.commit(&record).await?)
}

/// Grants a role; answers whether that changed anything.
///
/// # Errors
/// There is no such holder or role, or the store cannot be written.
pub async fn grant(store: &Store, actor: &Actor, holder: &Holder, role: &Name) -> Result<bool> {
    let mut change = store.change().await?;
    let held = holds(store, &mut change, holder, role).await?;
    if held {
        return Ok(false);
    }
    change.grant(holder.name(), role).await?;
    let record = actor.did(change.now(), event::ROLE_GRANT, holder.name().as_str());
    change.commit(&record.details(json!({ "role": role.as_str() }))).await?;
    Ok(true)
}

/// Takes a role away; answers whether that changed anything.
///
/// # Errors
/// There is no such holder or role, nobody would administer the gate any more, or the store cannot be written.
pub async fn revoke(store: &Store, actor: &Actor, holder: &Holder, role: &Name) -> Result<bool> {
    let mut change = store.change().await?;
    if !holds(store, &mut change, holder, role).await? {
        return Ok(false);
    }
    let before = change.administrators().await?;
    change.revoke(holder.name(), role).await?;
    somebody_administers(&mut change, before).await?;
    let record = actor.did(change.now(), event::ROLE_REVOKE, holder.name().as_str());
    change.commit(&record.details(json!({ "role": role.as_str() }))).await?;
    Ok(true)
}

/// Every role, by name.
///
/// # Errors
/// The store cannot be read.
pub async fn list(store: &Store) -> Result<Vec<RoleRecord>> {
    Ok(store.roles().await?)
}

/// One role.
///
/// # Errors
/// There is no such role, or the store cannot be read.
pub async fn get(store: &Store, name: &Name) -> Result<RoleRecord> {
    match store.role(name).await? {
        Some(role) => Ok(role),
        None => Err(unknown_role(store, name).await),
    }
}

/// Whether the role was granted to the holder itself.
async fn holds(store: &Store, change: &mut Change, holder: &Holder, role: &Name) -> Result<bool> {
    let granted = match holder {
        Holder::User(name) => match change.user(name).await? {
            Some(user) => user.granted,
            None => return Err(unknown_user(store, name).await),
        },
        Holder::Service(name) => match change.service(name).await? {
            Some(service) => service.granted,
            None => return Err(unknown_service(store, name).await),
        },
    };
    roles_exist(store, change, std::slice::from_ref(role)).await?;
    Ok(granted.contains(role))
}
