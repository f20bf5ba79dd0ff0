//! Reading. One statement per answer, so that each is one consistent view.

use std::sync::Arc;

use sqlx::{FromRow as _, Row as _, Sqlite, SqliteExecutor, sqlite::SqliteRow};

use super::{
    Owner, Result, RoleRecord, ServiceRecord, SigningKey, Store, StoreError, TokenKind, TokenRecord, UserRecord,
};
use crate::{clock::Timestamp, model::Name, secret::Secret};

/// A user with the closure of their roles; `UNION` ends the walk even if the includes had a circle.
macro_rules! users {
    ($rest:literal) => {
        concat!(
            "SELECT u.*, ",
            "(SELECT json_group_array(r.name) FROM user_roles g JOIN roles r ON r.id = g.role WHERE g.user = u.id) ",
            "AS granted, ",
            "(WITH RECURSIVE held (id) AS (SELECT role FROM user_roles WHERE user = u.id ",
            "UNION SELECT i.included FROM role_includes i JOIN held ON i.role = held.id) ",
            "SELECT json_group_array(r.name) FROM roles r JOIN held ON held.id = r.id) AS roles ",
            "FROM users u ",
            $rest
        )
    };
}

macro_rules! services {
    ($rest:literal) => {
        concat!(
            "SELECT s.*, ",
            "(SELECT json_group_array(r.name) FROM service_roles g JOIN roles r ON r.id = g.role WHERE g.service = s.id) ",
            "AS granted, ",
            "(WITH RECURSIVE held (id) AS (SELECT role FROM service_roles WHERE service = s.id ",
            "UNION SELECT i.included FROM role_includes i JOIN held ON i.role = held.id) ",
            "SELECT json_group_array(r.name) FROM roles r JOIN held ON held.id = r.id) AS roles ",
            "FROM services s ",
            $rest
        )
    };
}

macro_rules! roles {
    ($rest:literal) => {
        concat!(
            "SELECT r.*, ",
            "(SELECT json_group_array(i.name) FROM role_includes x JOIN roles i ON i.id = x.included WHERE x.role = r.id) ",
            "AS includes, ",
            "(SELECT json_group_array(u.name) FROM user_roles g JOIN users u ON u.id = g.user WHERE g.role = r.id) ",
            "AS users, ",
            "(SELECT json_group_array(s.name) FROM service_roles g JOIN services s ON s.id = g.service ",
            "WHERE g.role = r.id) AS services ",
            "FROM roles r ",
            $rest
        )
    };
}

impl Store {
    /// The user of that name.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn user(&self, name: &Name) -> Result<Option<UserRecord>> {
        self.told(user(self.pool(), name.as_str()).await)
    }

    /// Every user, by name.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn users(&self) -> Result<Vec<UserRecord>> {
        let rows = self.told(sqlx::query(users!("ORDER BY u.name")).fetch_all(self.pool()).await)?;
        self.told(rows.iter().map(UserRecord::from_row).collect())
    }

    /// The next so many users after a name, by name: for who walks over all of them and keeps none.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn users_after(&self, name: &str, limit: u32) -> Result<Vec<UserRecord>> {
        let rows = sqlx::query(users!("WHERE u.name > $1 ORDER BY u.name LIMIT $2")).bind(name).bind(limit);
        let rows = self.told(rows.fetch_all(self.pool()).await)?;
        self.told(rows.iter().map(UserRecord::from_row).collect())
    }

    /// The service of that name.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn service(&self, name: &Name) -> Result<Option<ServiceRecord>> {
        self.told(service(self.pool(), name.as_str()).await)
    }

    /// Every service, by name.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn services(&self) -> Result<Vec<ServiceRecord>> {
        let rows = self.told(sqlx::query(services!("ORDER BY s.name")).fetch_all(self.pool()).await)?;
        self.told(rows.iter().map(ServiceRecord::from_row).collect())
    }

    /// The role of that name.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn role(&self, name: &Name) -> Result<Option<RoleRecord>> {
        self.told(role(self.pool(), name.as_str()).await)
    }

    /// Every role, by name.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn roles(&self) -> Result<Vec<RoleRecord>> {
        let rows = self.told(sqlx::query(roles!("ORDER BY r.name")).fetch_all(self.pool()).await)?;
        self.told(rows.iter().map(RoleRecord::from_row).collect())
    }

    /// The token whose text has that SHA-256.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn token_by_digest(&self, digest: &[u8; 32]) -> Result<Option<TokenRecord>> {
        let row = sqlx::query("SELECT * FROM tokens WHERE digest = $1").bind(&digest[..]);
        let row = self.told(row.fetch_optional(self.pool()).await)?;
        self.token(row).await
    }

    /// The token of that public id, which is also a JWT's `jti`.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn token_by_id(&self, id: &str) -> Result<Option<TokenRecord>> {
        let row = sqlx::query("SELECT * FROM tokens WHERE id = $1").bind(id);
        let row = self.told(row.fetch_optional(self.pool()).await)?;
        self.token(row).await
    }

    /// Every token, newest first; of one owner only, if that is asked for.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn tokens(&self, owner: Option<&Name>) -> Result<Vec<TokenRecord>> {
        let rows = sqlx::query(
            "SELECT t.* FROM tokens t LEFT JOIN users u ON u.id = t.user LEFT JOIN services s ON s.id = t.service \
             WHERE $1 IS NULL OR u.name = $1 OR s.name = $1 ORDER BY t.created DESC, t.id",
        )
        .bind(owner.map(Name::as_str));
        let rows = self.told(rows.fetch_all(self.pool()).await)?;
        let mut tokens = Vec::with_capacity(rows.len());
        for row in rows {
            tokens.extend(self.token(Some(row)).await?);
        }
        Ok(tokens)
    }

    /// The next so many tokens after a public id, by id.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn tokens_after(&self, id: &str, limit: u32) -> Result<Vec<TokenRecord>> {
        let rows = sqlx::query("SELECT * FROM tokens WHERE id > $1 ORDER BY id LIMIT $2").bind(id).bind(limit);
        let mut tokens = Vec::new();
        for row in self.told(rows.fetch_all(self.pool()).await)? {
            tokens.extend(self.token(Some(row)).await?);
        }
        Ok(tokens)
    }

    /// The keys that sign JWTs, newest first.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn signing_keys(&self) -> Result<Vec<SigningKey>> {
        let rows = sqlx::query("SELECT * FROM signing_keys ORDER BY created DESC, kid").fetch_all(self.pool()).await;
        self.told(rows.and_then(|rows| rows.iter().map(SigningKey::from_row).collect()))
    }

    /// The counter that every change of identity data bumps.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn version(&self) -> Result<i64> {
        self.told(sqlx::query_scalar("SELECT value FROM meta WHERE key = 'version'").fetch_one(self.pool()).await)
    }

    /// The owner is read after the token: one that was removed in between takes the token along.
    async fn token(&self, row: Option<SqliteRow>) -> Result<Option<TokenRecord>> {
        let Some(row) = row else { return Ok(None) };
        let owner = self.told(token_owner(self.pool(), &row).await)?;
        owner.map(|owner| self.told(token(&row, owner))).transpose()
    }

    pub(super) fn told<T>(&self, answer: sqlx::Result<T>) -> Result<T> {
        answer.map_err(|error| match error {
            sqlx::Error::Decode(detail) => StoreError::Record(detail.to_string()),
            error => self.error(error),
        })
    }
}

pub(super) async fn user(from: impl SqliteExecutor<'_>, name: &str) -> sqlx::Result<Option<UserRecord>> {
    let row = sqlx::query(users!("WHERE u.name = $1")).bind(name).fetch_optional(from).await?;
    row.as_ref().map(UserRecord::from_row).transpose()
}

pub(super) async fn service(from: impl SqliteExecutor<'_>, name: &str) -> sqlx::Result<Option<ServiceRecord>> {
    let row = sqlx::query(services!("WHERE s.name = $1")).bind(name).fetch_optional(from).await?;
    row.as_ref().map(ServiceRecord::from_row).transpose()
}

pub(super) async fn role(from: impl SqliteExecutor<'_>, name: &str) -> sqlx::Result<Option<RoleRecord>> {
    let row = sqlx::query(roles!("WHERE r.name = $1")).bind(name).fetch_optional(from).await?;
    row.as_ref().map(RoleRecord::from_row).transpose()
}

async fn token_owner(from: impl SqliteExecutor<'_>, token: &SqliteRow) -> sqlx::Result<Option<Owner>> {
    if let Some(id) = token.try_get::<Option<i64>, _>("user")? {
        let row = sqlx::query(users!("WHERE u.id = $1")).bind(id).fetch_optional(from).await?;
        return row.as_ref().map(|row| UserRecord::from_row(row).map(Owner::User)).transpose();
    }
    let id: i64 = token.try_get("service")?;
    let row = sqlx::query(services!("WHERE s.id = $1")).bind(id).fetch_optional(from).await?;
    row.as_ref().map(|row| ServiceRecord::from_row(row).map(Owner::Service)).transpose()
}

fn token(row: &SqliteRow, owner: Owner) -> sqlx::Result<TokenRecord> {
    let applications: Option<String> = row.try_get("applications")?;
    Ok(TokenRecord {
        id: row.try_get::<String, _>("id")?.into(),
        owner,
        applications: applications.map(|json| applications_of(&json)).transpose()?,
        kind: match row.try_get::<&str, _>("kind")? {
            "jwt" => TokenKind::Jwt,
            _ => TokenKind::Opaque,
        },
        label: row.try_get("label")?,
        created: Timestamp(row.try_get("created")?),
        expires: time(row, "expires")?,
        revoked: time(row, "revoked")?,
        last_used: time(row, "last_used")?,
    })
}

impl sqlx::FromRow<'_, SqliteRow> for UserRecord {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            name: name(row.try_get("name")?)?,
            display: row.try_get("display")?,
            email: row.try_get("email")?,
            enabled: row.try_get("enabled")?,
            expires: time(row, "expires")?,
            password: row.try_get::<Option<String>, _>("password")?.map(Secret::new),
            roles: names(row, "roles")?,
            granted: names(row, "granted")?,
            created: Timestamp(row.try_get("created")?),
            password_changed: time(row, "password_changed")?,
            last_sign_in: time(row, "last_sign_in")?,
            last_failure: time(row, "last_failure")?,
        })
    }
}

impl sqlx::FromRow<'_, SqliteRow> for ServiceRecord {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            name: name(row.try_get("name")?)?,
            description: row.try_get("description")?,
            enabled: row.try_get("enabled")?,
            roles: names(row, "roles")?,
            granted: names(row, "granted")?,
            created: Timestamp(row.try_get("created")?),
        })
    }
}

impl sqlx::FromRow<'_, SqliteRow> for RoleRecord {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            name: name(row.try_get("name")?)?,
            description: row.try_get("description")?,
            includes: names(row, "includes")?,
            users: names(row, "users")?,
            services: names(row, "services")?,
            created: Timestamp(row.try_get("created")?),
        })
    }
}

impl sqlx::FromRow<'_, SqliteRow> for SigningKey {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            kid: row.try_get("kid")?,
            private_pem: Secret::new(row.try_get("private_pem")?),
            created: Timestamp(row.try_get("created")?),
        })
    }
}

fn time(row: &SqliteRow, column: &'static str) -> sqlx::Result<Option<Timestamp>> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Timestamp))
}

fn names(row: &SqliteRow, column: &'static str) -> sqlx::Result<Vec<Name>> {
    let mut names = decode::<Vec<String>>(row.try_get(column)?)?
        .into_iter()
        .map(|text| name(&text))
        .collect::<sqlx::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn name(text: &str) -> sqlx::Result<Name> {
    Name::parse(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

fn applications_of(json: &str) -> sqlx::Result<Vec<Arc<str>>> {
    Ok(decode::<Vec<String>>(json)?.into_iter().map(Arc::from).collect())
}

pub(super) fn decode<T: serde::de::DeserializeOwned>(json: &str) -> sqlx::Result<T> {
    serde_json::from_str(json).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Only here so that the driver's name stands once.
pub(super) type Transaction = sqlx::Transaction<'static, Sqlite>;
