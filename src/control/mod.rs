//! What an administrator can do: one function per act.
//!
//! Every act takes the store, who does it and its arguments, and goes the same way: is it sensible, is it allowed,
//! write it, audit it, all in one transaction. The command line is a door to these functions and holds no
//! rules of its own; so is every other door that may come. Nothing here knows HTTP, and nothing here talks to the gateway's sockets except
//! through [`socket`], where a running gateway is told that something changed.

pub mod advice;
pub mod audit;
pub mod install;
pub mod passwords;
pub mod people;
pub mod roles;
pub mod services;
pub mod socket;
pub mod status;
pub mod tokens;
pub mod users;

pub use crate::store::{
    AuditFilter, AuditOutcome, Owner, RoleRecord, ServiceRecord, StoredAudit, TokenKind, TokenRecord, UserRecord,
};
use crate::{
    clock::Timestamp,
    model::{BadName, Name},
    store::{AuditRecord, Change, Store, StoreError},
};

/// What every act answers.
pub type Result<T, E = ActError> = std::result::Result<T, E>;

/// Who does it, for the audit.
#[derive(Debug, Clone)]
pub struct Actor {
    name: String,
}

impl Actor {
    /// Somebody with a shell on the machine: the file's permissions are what lets them.
    #[must_use]
    pub fn console(login: &str) -> Self {
        Self { name: format!("console:{login}") }
    }

    /// The name in the audit.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn did(&self, at: Timestamp, event: &'static str, target: impl Into<String>) -> AuditRecord {
        AuditRecord::new(at, event, &self.name).target(target)
    }
}

/// Why an act was not done. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// There is no such thing.
    #[error("there is no {kind} `{name}`{}", hint(kind, name, suggestion.as_deref()))]
    Unknown {
        /// `user`, `role`…
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// What was perhaps meant.
        suggestion: Option<String>,
    },
    /// There is one already.
    #[error("there is already a {kind} `{name}`")]
    Taken {
        /// `user`, `role`…
        kind: &'static str,
        /// What was asked for.
        name: String,
    },
    /// Nobody could administer the gate any more.
    #[error(
        "that would leave nobody who can administer Portcullis: give another enabled user the role `administrator` first"
    )]
    LastAdministrator,
    /// Not a name.
    #[error(transparent)]
    Name(#[from] BadName),
    /// Not sensible, and why.
    #[error("{0}")]
    Refused(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn hint(kind: &str, name: &str, suggestion: Option<&str>) -> String {
    match suggestion {
        Some(known) => format!(": did you mean `{known}`?"),
        None if kind == "role" => format!(": `portcullis role add {name}` makes it"),
        None => String::new(),
    }
}

/// The one of `names` that looks most like `wrong`, if any looks like it at all.
#[must_use]
pub fn similar<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    // Jaro-Winkler: 0.8 lets `anne` suggest `ann` and keeps `bob` from suggesting `rob0t`.
    const ALIKE: f64 = 0.8;
    names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(wrong, name), name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name.to_owned())
}

async fn unknown_user(store: &Store, name: &Name) -> ActError {
    let users = store.users().await.unwrap_or_default();
    unknown("user", name.as_str(), users.iter().map(|user| user.name.as_str()))
}

async fn unknown_service(store: &Store, name: &Name) -> ActError {
    let services = store.services().await.unwrap_or_default();
    unknown("service", name.as_str(), services.iter().map(|service| service.name.as_str()))
}

async fn unknown_role(store: &Store, name: &Name) -> ActError {
    let roles = store.roles().await.unwrap_or_default();
    unknown("role", name.as_str(), roles.iter().map(|role| role.name.as_str()))
}

/// The error for something that is not among `known`.
#[must_use]
pub fn unknown<'a>(kind: &'static str, name: &str, known: impl IntoIterator<Item = &'a str>) -> ActError {
    ActError::Unknown { kind, name: name.to_owned(), suggestion: similar(name, known) }
}

/// Refuses a name that a user or a service has: they share one name space.
async fn free_name(change: &mut Change, name: &Name) -> Result<()> {
    if change.user(name).await?.is_some() {
        return Err(ActError::Taken { kind: "user", name: name.to_string() });
    }
    if change.service(name).await?.is_some() {
        return Err(ActError::Taken { kind: "service", name: name.to_string() });
    }
    Ok(())
}

/// Refuses a change after which nobody administers the gate, if somebody did before it.
async fn somebody_administers(change: &mut Change, before: i64) -> Result<()> {
    if before > 0 && change.administrators().await? == 0 { Err(ActError::LastAdministrator) } else { Ok(()) }
}

async fn roles_exist(store: &Store, change: &mut Change, roles: &[Name]) -> Result<()> {
    for role in roles {
        if change.role(role).await?.is_none() {
            return Err(unknown_role(store, role).await);
        }
    }
    Ok(())
}

fn words(names: &[Name]) -> Vec<&str> {
    names.iter().map(Name::as_str).collect()
}

#[cfg(test)]
mod tests;
