//! What agents remember.

use rune_store_runtime::limits::{MAX_MEMORY_KEY_BYTES, MAX_MEMORY_VALUE_BYTES};
use rune_store_runtime::{MemoryForget, MemoryPut, Reject};
use rusqlite::{Connection, params};

use super::{Context, encode_within};
use crate::ApplyError;

/// Remembers a value.
pub(super) fn put(db: &Connection, context: Context, op: &MemoryPut) -> Result<(), ApplyError> {
    if op.key.is_empty() || op.key.len() > MAX_MEMORY_KEY_BYTES {
        return Err(Reject::invalid(format!(
            "a memory key has 1 to {MAX_MEMORY_KEY_BYTES} bytes"
        ))
        .into());
    }
    let value = encode_within(&op.value, "the value", MAX_MEMORY_VALUE_BYTES)?;
    let tags = encode_within(&op.tags, "the list of tags", MAX_MEMORY_VALUE_BYTES)?;
    db.prepare_cached(
        "INSERT INTO memories (namespace, agent, key, value, tags, created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)
         ON CONFLICT (namespace, agent, key) DO UPDATE SET
             value = excluded.value, tags = excluded.tags, updated_at = excluded.updated_at",
    )?
    .execute(params![
        op.scope.namespace,
        op.scope.agent,
        op.key,
        value,
        tags,
        context.at.as_millis()
    ])?;
    Ok(())
}

/// Forgets a key.
pub(super) fn forget(db: &Connection, op: &MemoryForget) -> Result<(), ApplyError> {
    db.prepare_cached("DELETE FROM memories WHERE namespace = ?1 AND agent = ?2 AND key = ?3")?
        .execute([&op.scope.namespace, &op.scope.agent, &op.key])?;
    Ok(())
}
