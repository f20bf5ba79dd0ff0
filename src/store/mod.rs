//! What is kept: users, services, roles, tokens, signing keys and the audit, in one SQLite file.
//!
//! Reading is a method of [`Store`]. Changing identity goes through a [`Change`], which is one transaction:
//!
//! ```text
//! let mut change = store.change().await?;          // takes the write lock, so what is checked stays true
//! change.add_user(&user).await?;
//! change.grant(&user.name, &role).await?;
//! change.commit(record).await?;                    // the audit record, the version and the change: all or nothing
//! ```
//!
//! A change that is dropped never happened, and [`Change::commit`] wants an audit record: there is no way to change
//! identity data without saying so. Whether somebody *may* is decided one floor up, in `control`.
//!
//! The version counter is what makes "takes effect on the next request" cheap: whoever remembers a verification
//! compares one number.

mod audit;
mod change;
mod error;
mod read;
mod records;

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sqlx::{
    SqlSafeStr as _, SqlitePool,
    migrate::{Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

pub use change::Change;
pub use error::StoreError;
pub use records::{
    AuditFilter, AuditOutcome, AuditRecord, NewToken, NewUser, Owner, RoleRecord, ServiceRecord, SigningKey,
    StoredAudit, TokenKind, TokenRecord, UserRecord,
};

use crate::clock::Clock;

/// What every function of this room answers.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Stands in the header of our files (`PRAGMA application_id`), so that a wrong path is told from a damaged file: `PTCL`.
const APPLICATION_ID: i64 = 0x5054_434c;
/// How long to wait for another process that writes, before saying so.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections, each with a thread of its own: reads are rare, because verified credentials are remembered.
const CONNECTIONS: u32 = 4;

/// The store. Cheap to clone; every clone is the same file.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    pool: SqlitePool,
    path: PathBuf,
    clock: Clock,
}

impl Store {
    /// Opens the store at `path` and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is none (it is never made by accident, an empty store behind a mistyped path
    /// would let nobody in), or what else keeps it from being used.
    pub async fn open(path: &Path, clock: Clock) -> Result<Self> {
        check_file(path)?;
        Self::connect(path, clock).await
    }

    /// Makes a store at `path`: a file of mode 0600, in a directory that is made with mode 0700 if it is not there.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if there is a file already, or what keeps it from being made.
    pub async fn create(path: &Path, clock: Clock) -> Result<Self> {
        create_file(path).map_err(|error| StoreError::from_io(path, error))?;
        Self::connect(path, clock).await
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The clock that its records are written with.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// Closes every connection; SQLite then folds the write-ahead log into the file.
    pub async fn close(&self) {
        self.inner.pool.close().await;
    }

    async fn connect(path: &Path, clock: Clock) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            // With WAL this is the setting that survives loss of power: an acknowledged revocation stays revoked.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            // A damaged or hostile file must not run code through its own schema.
            .pragma("trusted_schema", "OFF");
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(BUSY_TIMEOUT)
            // No reaper: connections to a file do not go stale, and a reaper would tie the pool to one runtime.
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_with(options)
            .await
            .map_err(|error| StoreError::from_sqlx(path, error))?;
        let store = Self { inner: Arc::new(Inner { pool, path: path.to_path_buf(), clock }) };
        store.recognise().await?;
        migrator().run(store.pool()).await.map_err(|error| StoreError::from_migrate(path, error))?;
        Ok(store)
    }

    /// Refuses a database that is not ours before anything is written into it.
    async fn recognise(&self) -> Result<()> {
        let (id, tables): (i64, i64) =
            sqlx::query_as("SELECT application_id, (SELECT count(*) FROM sqlite_schema) FROM pragma_application_id")
                .fetch_one(self.pool())
                .await
                .map_err(|error| self.error(error))?;
        match (id, tables) {
            (APPLICATION_ID, _) => Ok(()),
            (0, 0) => {
                // Just created: a constant of this file, no input.
                let mark = sqlx::AssertSqlSafe(format!("PRAGMA application_id = {APPLICATION_ID}"));
                sqlx::query(mark).execute(self.pool()).await.map_err(|error| self.error(error))?;
                Ok(())
            }
            _ => Err(StoreError::Foreign(self.path().to_path_buf())),
        }
    }

    fn pool(&self) -> &SqlitePool {
        &self.inner.pool
    }

    fn error(&self, error: sqlx::Error) -> StoreError {
        StoreError::from_sqlx(&self.inner.path, error)
    }
}

fn migrator() -> Migrator {
    let migration = |version, description: &'static str, sql: &'static str| {
        Migration::new(version, description.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(vec![
        migration(1, "identity", include_str!("migrations/0001_identity.sql")),
        migration(2, "audit", include_str!("migrations/0002_audit.sql")),
    ])
}

/// Makes the empty file first, with its mode, so that SQLite never creates one that others can read. Its `-wal` and
/// `-shm` files take the mode of the file itself.
fn create_file(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    // `create_new` follows no symbolic link that somebody may have put there.
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.flush()
}

fn check_file(path: &Path) -> Result<()> {
    let metadata = fs::metadata(path).map_err(|error| StoreError::from_io(path, error))?;
    let mode = metadata.permissions().mode() & 0o777;
    if !metadata.is_file() {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "it is not a file");
        return Err(StoreError::Io { path: path.to_path_buf(), source });
    }
    if metadata.len() == 0 {
        return Err(StoreError::Corrupt { path: path.to_path_buf(), detail: "it is empty".to_owned() });
    }
    if mode & 0o077 != 0 {
        return Err(StoreError::Exposed { path: path.display().to_string(), mode });
    }
    Ok(())
}

#[cfg(test)]
pub mod testing {
    //! A store of its own for every test.

    use super::*;

    /// A new store in a directory that goes away with the first value.
    pub async fn temporary(clock: Clock) -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(&directory.path().join("data/test.sqlite3"), clock).await.unwrap();
        (directory, store)
    }

    /// Does to the file what this program never does.
    pub async fn execute(store: &Store, sql: &'static str) {
        sqlx::query(sql).execute(store.pool()).await.unwrap();
    }
}

#[cfg(test)]
mod tests;
