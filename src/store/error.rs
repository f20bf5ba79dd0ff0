//! What can go wrong with the store, in words that say what to do.

use std::{io, path::PathBuf};

use sqlx::migrate::MigrateError;

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such file.
    #[error("there is no store at {}: `portcullis init` makes one", .0.display())]
    Missing(PathBuf),
    /// There already is one.
    #[error("{} exists already; it is never overwritten", .0.display())]
    Exists(PathBuf),
    /// Others than its owner can read it.
    #[error(
        "others can read {path} (mode {mode:03o}), and it holds password hashes and signing keys: `chmod 600 {path}`"
    )]
    Exposed {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The operating system refused.
    #[error("cannot open the store {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is an SQLite database of somebody else.
    #[error("{} is a database, but not one of Portcullis: check [store] path", .0.display())]
    Foreign(PathBuf),
    /// The file is damaged, or no database at all.
    #[error("the store {} is damaged ({detail}): restore it from a backup", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        detail: String,
    },
    /// A newer Portcullis has written it.
    #[error("the store {} was written by a newer Portcullis (schema {schema}): run that version, or restore a backup", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The schema's number.
        schema: i64,
    },
    /// No space.
    #[error("the disk that holds the store {} is full: nothing was changed", .0.display())]
    Full(PathBuf),
    /// May not write.
    #[error("the store {} cannot be written: check the owner and the mode of the file and its directory", .0.display())]
    ReadOnly(PathBuf),
    /// Another process holds the lock for too long.
    #[error("the store {} is locked by another process: try again", .0.display())]
    Busy(PathBuf),
    /// A row that this program did not write.
    #[error("the store holds a record that cannot be read: {0}")]
    Record(String),
    /// Anything else.
    #[error("the store {} failed: {source}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What the driver says.
        source: Box<sqlx::Error>,
    },
}

/// Primary result codes of SQLite, <https://www.sqlite.org/rescode.html>.
mod code {
    pub const PERM: u32 = 3;
    pub const BUSY: u32 = 5;
    pub const LOCKED: u32 = 6;
    pub const READONLY: u32 = 8;
    pub const CORRUPT: u32 = 11;
    pub const FULL: u32 = 13;
    pub const CANTOPEN: u32 = 14;
    pub const NOTADB: u32 = 26;
}

impl StoreError {
    /// What the driver said, read as what it means for the operator.
    pub(super) fn from_sqlx(path: &std::path::Path, error: sqlx::Error) -> Self {
        let path = path.to_path_buf();
        if matches!(error, sqlx::Error::PoolTimedOut) {
            return Self::Busy(path);
        }
        let Some(database) = error.as_database_error() else {
            return Self::Database { path, source: Box::new(error) };
        };
        // The extended code's low byte is the primary one.
        let primary = database.code().and_then(|text| text.parse::<u32>().ok()).unwrap_or(0) & 0xff;
        match primary {
            code::BUSY | code::LOCKED => Self::Busy(path),
            code::PERM | code::READONLY | code::CANTOPEN => Self::ReadOnly(path),
            code::CORRUPT | code::NOTADB => Self::Corrupt { detail: database.message().to_owned(), path },
            code::FULL => Self::Full(path),
            _ => Self::Database { path, source: Box::new(error) },
        }
    }

    pub(super) fn from_migrate(path: &std::path::Path, error: MigrateError) -> Self {
        match error {
            MigrateError::VersionMissing(schema) => Self::Newer { path: path.to_path_buf(), schema },
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Self::from_sqlx(path, error),
            other => Self::Corrupt { path: path.to_path_buf(), detail: other.to_string() },
        }
    }

    pub(super) fn from_io(path: &std::path::Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing(path),
            io::ErrorKind::AlreadyExists => Self::Exists(path),
            io::ErrorKind::StorageFull => Self::Full(path),
            _ => Self::Io { path, source },
        }
    }
}
