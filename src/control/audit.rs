//! Reading the audit.

use super::Result;
use crate::store::{AuditFilter, Store, StoredAudit};

/// Records read at a time, so that exporting years of them costs no memory.
const PAGE: u32 = 1000;

/// The newest records, in their order.
///
/// # Errors
/// The store cannot be read.
pub async fn newest(store: &Store, filter: &AuditFilter, limit: u32) -> Result<Vec<StoredAudit>> {
    Ok(store.newest_audit(filter, limit).await?)
}

/// The next records after a place, in their order; none at the end. Begin after 0.
///
/// # Errors
/// The store cannot be read.
pub async fn page(store: &Store, filter: &AuditFilter, after: i64) -> Result<Vec<StoredAudit>> {
    Ok(store.audit_after(filter, after, PAGE).await?)
}
