//! The audit table: appended to and read, nothing else.

use std::borrow::Cow;

use sqlx::{Row as _, sqlite::SqliteRow};

use super::{AuditFilter, AuditOutcome, AuditRecord, Result, Store, StoredAudit, read};
use crate::clock::Timestamp;

/// The event that also moves "last sign-in", "last failure" and "last used": they are read off the audit, so the two
/// can never disagree.
const SIGN_IN: &str = "sign-in";

impl Store {
    /// Appends records, all or none.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn append_audit(&self, records: &[AuditRecord]) -> Result<()> {
        let mut transaction = self.told(self.pool().begin_with("BEGIN IMMEDIATE").await)?;
        for record in records {
            let written = insert(&mut transaction, record).await;
            self.told(written)?;
        }
        self.told(transaction.commit().await)
    }

    /// The newest so many records, in their order.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn newest_audit(&self, filter: &AuditFilter, limit: u32) -> Result<Vec<StoredAudit>> {
        let rows = sqlx::query(
            "SELECT * FROM (SELECT * FROM audit WHERE ($1 IS NULL OR event GLOB $1) AND ($2 IS NULL OR at >= $2) \
             ORDER BY sequence DESC LIMIT $3) ORDER BY sequence",
        )
        .bind(pattern(filter))
        .bind(filter.since.map(|at| at.0))
        .bind(limit)
        .fetch_all(self.pool())
        .await;
        self.told(rows.and_then(|rows| rows.iter().map(stored).collect()))
    }

    /// The next so many records after a place, in their order.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn audit_after(&self, filter: &AuditFilter, after: i64, limit: u32) -> Result<Vec<StoredAudit>> {
        let rows = sqlx::query(
            "SELECT * FROM audit WHERE ($1 IS NULL OR event GLOB $1) AND ($2 IS NULL OR at >= $2) AND sequence > $3 \
             ORDER BY sequence LIMIT $4",
        )
        .bind(pattern(filter))
        .bind(filter.since.map(|at| at.0))
        .bind(after)
        .bind(limit)
        .fetch_all(self.pool())
        .await;
        self.told(rows.and_then(|rows| rows.iter().map(stored).collect()))
    }
}

/// `user.` means `user.add`, `user.remove`…; GLOB, because LIKE folds case and `_` is one of its wildcards.
fn pattern(filter: &AuditFilter) -> Option<String> {
    filter.event.as_ref().map(|event| match event.strip_suffix('.') {
        Some(family) => format!("{}.*", literal(family)),
        None => literal(event),
    })
}

pub(super) async fn insert(transaction: &mut read::Transaction, record: &AuditRecord) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO audit (at, event, actor, target, application, address, outcome, reason, rule, credential, details) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(record.at.0)
    .bind(&*record.event)
    .bind(&record.actor)
    .bind(&record.target)
    .bind(&record.application)
    .bind(&record.address)
    .bind(record.outcome.word())
    .bind(record.reason.as_deref())
    .bind(&record.rule)
    .bind(&record.credential)
    .bind(record.details.as_ref().map(ToString::to_string))
    .execute(&mut **transaction)
    .await?;
    if record.event == SIGN_IN { note_sign_in(transaction, record).await } else { Ok(()) }
}

async fn note_sign_in(transaction: &mut read::Transaction, record: &AuditRecord) -> sqlx::Result<()> {
    // Two statements written out: SQL is never put together from pieces.
    let user = match record.outcome {
        AuditOutcome::Ok => "UPDATE users SET last_sign_in = max(coalesce(last_sign_in, 0), $2) WHERE name = $1",
        _ => "UPDATE users SET last_failure = max(coalesce(last_failure, 0), $2) WHERE name = $1",
    };
    sqlx::query(user).bind(&record.actor).bind(record.at.0).execute(&mut **transaction).await?;
    if record.outcome == AuditOutcome::Ok && record.credential.is_some() {
        sqlx::query("UPDATE tokens SET last_used = max(coalesce(last_used, 0), $2) WHERE id = $1")
            .bind(&record.credential)
            .bind(record.at.0)
            .execute(&mut **transaction)
            .await?;
    }
    Ok(())
}

fn stored(row: &SqliteRow) -> sqlx::Result<StoredAudit> {
    let details: Option<&str> = row.try_get("details")?;
    let outcome: &str = row.try_get("outcome")?;
    let unknown = || sqlx::Error::Decode(format!("audit outcome `{outcome}`").into());
    Ok(StoredAudit {
        sequence: row.try_get("sequence")?,
        record: AuditRecord {
            at: Timestamp(row.try_get("at")?),
            event: Cow::Owned(row.try_get("event")?),
            actor: row.try_get("actor")?,
            target: row.try_get("target")?,
            application: row.try_get("application")?,
            address: row.try_get("address")?,
            outcome: AuditOutcome::from_word(outcome).ok_or_else(unknown)?,
            reason: row.try_get::<Option<String>, _>("reason")?.map(Cow::Owned),
            rule: row.try_get("rule")?,
            credential: row.try_get("credential")?,
            details: details.map(read::decode).transpose()?,
        },
    })
}

/// A GLOB pattern that matches `text` and nothing else.
fn literal(text: &str) -> String {
    text.chars().fold(String::new(), |mut pattern, c| {
        match c {
            '*' | '?' | '[' => pattern.extend(['[', c, ']']),
            c => pattern.push(c),
        }
        pattern
    })
}
