//! The cache.

use rune_store_runtime::limits::MAX_ENTRY_BYTES;
use rune_store_runtime::{CachePut, CacheRemove, CacheSweep};
use rusqlite::{Connection, params};

use super::{Context, encode_within};
use crate::ApplyError;

/// Puts a value.
pub(super) fn put(db: &Connection, op: &CachePut) -> Result<(), ApplyError> {
    let value = encode_within(&op.value, "the value", MAX_ENTRY_BYTES)?;
    db.prepare_cached(
        "INSERT INTO cache (key, value, expires_at) VALUES (?1, ?2, ?3)
         ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at",
    )?
    .execute(params![op.key, value, op.expires_at.as_millis()])?;
    Ok(())
}

/// Removes a key.
pub(super) fn remove(db: &Connection, op: &CacheRemove) -> Result<(), ApplyError> {
    db.prepare_cached("DELETE FROM cache WHERE key = ?1")?
        .execute([&op.key])?;
    Ok(())
}

/// Deletes what has expired, soonest first.
pub(super) fn sweep(db: &Connection, context: Context, op: &CacheSweep) -> Result<u64, ApplyError> {
    let swept = db
        .prepare_cached(
            "DELETE FROM cache WHERE id IN (
                 SELECT id FROM cache WHERE expires_at <= ?1 ORDER BY expires_at, id LIMIT ?2)",
        )?
        .execute(params![context.at.as_millis(), op.limit])?;
    Ok(swept as u64)
}
