//! Services: programs that own tokens and have no password.

use serde_json::json;

use super::{ActError, Actor, Result, free_name, unknown_service, users::plain_text, words};
use crate::{
    audit::event,
    model::Name,
    store::{ServiceRecord, Store},
};

/// Adds a service.
///
/// # Errors
/// The name is taken, or the store cannot be written.
pub async fn add(store: &Store, actor: &Actor, name: &Name, description: &str) -> Result<()> {
    plain_text("description", description)?;
    let mut change = store.change().await?;
    free_name(&mut change, name).await?;
    change.add_service(name, description).await?;
    let record = actor.did(change.now(), event::SERVICE_ADD, name.as_str());
    Ok(change.commit(&record.details(json!({ "description": description }))).await?)
}

/// Makes sure that there is a service of that name; answers whether it was added.
///
/// # Errors
/// A user has that name, or the store cannot be written.
pub async fn ensure(store: &Store, actor: &Actor, name: &Name) -> Result<bool> {
    if store.service(name).await?.is_some() {
        return Ok(false);
    }
    match add(store, actor, name, "").await {
        Ok(()) => Ok(true),
        // Somebody else was quicker.
        Err(ActError::Taken { kind: "service", .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a service with its roles and tokens.
///
/// # Errors
/// There is no such service, or the store cannot be written.
pub async fn remove(store: &Store, actor: &Actor, name: &Name) -> Result<()> {
    let mut change = store.change().await?;
    let Some(service) = change.service(name).await? else { return Err(unknown_service(store, name).await) };
    change.remove_service(name).await?;
    let record = actor.did(change.now(), event::SERVICE_REMOVE, name.as_str());
    Ok(change.commit(&record.details(json!({ "roles": words(&service.granted) }))).await?)
}

/// Switches a service on or off; answers whether that changed anything.
///
/// # Errors
/// There is no such service, or the store cannot be written.
pub async fn set_enabled(store: &Store, actor: &Actor, name: &Name, enabled: bool) -> Result<bool> {
    let mut change = store.change().await?;
    let Some(service) = change.service(name).await? else { return Err(unknown_service(store, name).await) };
    if service.enabled == enabled {
        return Ok(false);
    }
    change.enable_service(name, enabled).await?;
    let event = if enabled { event::SERVICE_ENABLE } else { event::SERVICE_DISABLE };
    let record = actor.did(change.now(), event, name.as_str());
    change.commit(&record).await?;
    Ok(true)
}

/// Every service, by name.
///
/// # Errors
/// The store cannot be read.
pub async fn list(store: &Store) -> Result<Vec<ServiceRecord>> {
    Ok(store.services().await?)
}

/// One service.
///
/// # Errors
/// There is no such service, or the store cannot be read.
pub async fn get(store: &Store, name: &Name) -> Result<ServiceRecord> {
    match store.service(name).await? {
        Some(service) => Ok(service),
        None => Err(unknown_service(store, name).await),
    }
}
