//! Changing identity data: one transaction, one audit record, one new version.

use sqlx::sqlite::SqliteQueryResult;

use super::{
    AuditRecord, NewToken, NewUser, Result, RoleRecord, ServiceRecord, SigningKey, Store, StoreError, UserRecord,
    audit, read,
};
use crate::{
    clock::Timestamp,
    model::{ADMINISTRATOR, Name},
    secret::Secret,
};

/// A change that has begun. It holds the write lock, so what it reads stays true until it ends; dropped without
/// [`Change::commit`] it never happened.
pub struct Change {
    transaction: read::Transaction,
    store: Store,
}

impl Store {
    /// Begins a change.
    ///
    /// # Errors
    /// Another process holds the write lock for too long, or the store cannot be written.
    pub async fn change(&self) -> Result<Change> {
        // IMMEDIATE takes the write lock now: upgrading a read lock later would fail instead of wait.
        let transaction = self.told(self.pool().begin_with("BEGIN IMMEDIATE").await)?;
        Ok(Change { transaction, store: self.clone() })
    }
}

/// Runs a statement of the change; a macro because the bound values live as long as the call.
macro_rules! run {
    ($change:expr, $sql:literal $(, $value:expr)* $(,)?) => {{
        let done: sqlx::Result<SqliteQueryResult> =
            sqlx::query($sql)$(.bind($value))*.execute(&mut *$change.transaction).await;
        $change.store.told(done)
    }};
}

impl Change {
    /// Makes it true: bumps the version, writes the audit record, commits.
    ///
    /// # Errors
    /// The store cannot be written; then nothing has changed.
    pub async fn commit(mut self, record: &AuditRecord) -> Result<()> {
        run!(self, "UPDATE meta SET value = value + 1 WHERE key = 'version'")?;
        let written = audit::insert(&mut self.transaction, record).await;
        self.store.told(written)?;
        let Self { transaction, store } = self;
        store.told(transaction.commit().await)
    }

    /// When it happens, by the store's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.store.clock().now()
    }

    /// The user of that name.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn user(&mut self, name: &Name) -> Result<Option<UserRecord>> {
        let found = read::user(&mut *self.transaction, name.as_str()).await;
        self.store.told(found)
    }

    /// The service of that name.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn service(&mut self, name: &Name) -> Result<Option<ServiceRecord>> {
        let found = read::service(&mut *self.transaction, name.as_str()).await;
        self.store.told(found)
    }

    /// The role of that name.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn role(&mut self, name: &Name) -> Result<Option<RoleRecord>> {
        let found = read::role(&mut *self.transaction, name.as_str()).await;
        self.store.told(found)
    }

    /// How many users could administer the gate now: enabled, not expired, holding `administrator` directly or not.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn administrators(&mut self) -> Result<i64> {
        let now = self.now();
        let count = sqlx::query_scalar(
            "WITH RECURSIVE grants (id) AS (SELECT id FROM roles WHERE name = $1 \
             UNION SELECT i.role FROM role_includes i JOIN grants ON i.included = grants.id) \
             SELECT count(DISTINCT u.id) FROM users u JOIN user_roles g ON g.user = u.id \
             JOIN grants ON grants.id = g.role \
             WHERE u.enabled = 1 AND (u.expires IS NULL OR u.expires > $2)",
        )
        .bind(ADMINISTRATOR)
        .bind(now.0)
        .fetch_one(&mut *self.transaction)
        .await;
        self.store.told(count)
    }

    /// Adds a user, without roles.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn add_user(&mut self, user: &NewUser) -> Result<()> {
        let now = self.now();
        let password = user.password.as_ref().map(|phc| phc.reveal().as_str());
        run!(
            self,
            "INSERT INTO users (name, display, email, created, expires, password, password_changed) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            user.name.as_str(),
            &user.display,
            &user.email,
            now.0,
            user.expires.map(|at| at.0),
            password,
            password.map(|_| now.0),
        )?;
        Ok(())
    }

    /// Replaces a user's password (a PHC string).
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn set_password(&mut self, user: &Name, phc: &Secret<String>) -> Result<()> {
        let now = self.now();
        run!(
            self,
            "UPDATE users SET password = $2, password_changed = $3 WHERE name = $1",
            user.as_str(),
            phc.reveal().as_str(),
            now.0,
        )
        .and_then(|done| one(&done, user))
    }

    /// Switches a user on or off.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn enable_user(&mut self, user: &Name, enabled: bool) -> Result<()> {
        run!(self, "UPDATE users SET enabled = $2 WHERE name = $1", user.as_str(), enabled)
            .and_then(|done| one(&done, user))
    }

    /// Removes a user with their roles and tokens.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn remove_user(&mut self, user: &Name) -> Result<()> {
        run!(self, "DELETE FROM users WHERE name = $1", user.as_str()).and_then(|done| one(&done, user))
    }

    /// Adds a service, without roles.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn add_service(&mut self, name: &Name, description: &str) -> Result<()> {
        let now = self.now();
        run!(
            self,
            "INSERT INTO services (name, description, created) VALUES ($1, $2, $3)",
            name.as_str(),
            description,
            now.0,
        )?;
        Ok(())
    }

    /// Switches a service on or off.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn enable_service(&mut self, service: &Name, enabled: bool) -> Result<()> {
        run!(self, "UPDATE services SET enabled = $2 WHERE name = $1", service.as_str(), enabled)
            .and_then(|done| one(&done, service))
    }

    /// Removes a service with its roles and tokens.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn remove_service(&mut self, service: &Name) -> Result<()> {
        run!(self, "DELETE FROM services WHERE name = $1", service.as_str()).and_then(|done| one(&done, service))
    }

    /// Adds a role.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn add_role(&mut self, name: &Name, description: &str) -> Result<()> {
        let now = self.now();
        run!(
            self,
            "INSERT INTO roles (name, description, created) VALUES ($1, $2, $3)",
            name.as_str(),
            description,
            now.0,
        )?;
        Ok(())
    }

    /// Lets holding `role` mean holding `included` too.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn include_role(&mut self, role: &Name, included: &Name) -> Result<()> {
        run!(
            self,
            "INSERT OR IGNORE INTO role_includes (role, included) \
             SELECT a.id, b.id FROM roles a, roles b WHERE a.name = $1 AND b.name = $2",
            role.as_str(),
            included.as_str(),
        )?;
        Ok(())
    }

    /// Removes a role from everybody who holds it and everything that includes it.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn remove_role(&mut self, role: &Name) -> Result<()> {
        run!(self, "DELETE FROM roles WHERE name = $1", role.as_str()).and_then(|done| one(&done, role))
    }

    /// Grants a role to a user or service, whichever has that name.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn grant(&mut self, holder: &Name, role: &Name) -> Result<()> {
        run!(
            self,
            "INSERT OR IGNORE INTO user_roles (user, role) \
             SELECT u.id, r.id FROM users u, roles r WHERE u.name = $1 AND r.name = $2",
            holder.as_str(),
            role.as_str(),
        )?;
        run!(
            self,
            "INSERT OR IGNORE INTO service_roles (service, role) \
             SELECT s.id, r.id FROM services s, roles r WHERE s.name = $1 AND r.name = $2",
            holder.as_str(),
            role.as_str(),
        )?;
        Ok(())
    }

    /// Takes a role from a user or service.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn revoke(&mut self, holder: &Name, role: &Name) -> Result<()> {
        run!(
            self,
            "DELETE FROM user_roles WHERE user = (SELECT id FROM users WHERE name = $1) \
             AND role = (SELECT id FROM roles WHERE name = $2)",
            holder.as_str(),
            role.as_str(),
        )?;
        run!(
            self,
            "DELETE FROM service_roles WHERE service = (SELECT id FROM services WHERE name = $1) \
             AND role = (SELECT id FROM roles WHERE name = $2)",
            holder.as_str(),
            role.as_str(),
        )?;
        Ok(())
    }

    /// Adds a token of the user or service that has the owner's name.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn add_token(&mut self, token: &NewToken) -> Result<()> {
        let now = self.now();
        let applications = token.applications.as_ref().map(|names| {
            serde_json::Value::from(names.iter().map(ToString::to_string).collect::<Vec<_>>()).to_string()
        });
        run!(
            self,
            "INSERT INTO tokens (id, kind, digest, label, user, service, applications, created, expires) \
             VALUES ($1, $2, $3, $4, (SELECT id FROM users WHERE name = $5), \
             (SELECT id FROM services WHERE name = $5), $6, $7, $8)",
            &*token.id,
            if token.digest.is_some() { "opaque" } else { "jwt" },
            token.digest.as_ref().map(|digest| &digest[..]),
            &token.label,
            token.owner.as_str(),
            applications,
            now.0,
            token.expires.map(|at| at.0),
        )?;
        Ok(())
    }

    /// Revokes a token; the time of an earlier revocation stays.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn revoke_token(&mut self, id: &str) -> Result<()> {
        let now = self.now();
        run!(self, "UPDATE tokens SET revoked = coalesce(revoked, $2) WHERE id = $1", id, now.0)
            .and_then(|done| one(&done, id))
    }

    /// Adds a signing key, which signs from now on.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn add_signing_key(&mut self, key: &SigningKey) -> Result<()> {
        run!(
            self,
            "INSERT INTO signing_keys (kid, private_pem, created) VALUES ($1, $2, $3)",
            &key.kid,
            key.private_pem.reveal(),
            key.created.0,
        )?;
        Ok(())
    }
}

/// A change that changed nothing was aimed at what is not there: the caller looked first, so this is a defect.
fn one(done: &SqliteQueryResult, what: impl std::fmt::Display) -> Result<()> {
    match done.rows_affected() {
        1.. => Ok(()),
        0 => Err(StoreError::Record(format!("there is no `{what}`"))),
    }
}
