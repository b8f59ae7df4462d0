//! Replicas.

use rune_store_runtime::{PutReplica, RemoveReplica};
use rusqlite::{Connection, params};

use super::{Context, deployment};
use crate::ApplyError;

/// Creates a replica's row or moves it.
pub(super) fn put(db: &Connection, context: Context, op: &PutReplica) -> Result<(), ApplyError> {
    deployment::by_id(db, op.deployment_id)?;
    db.prepare_cached(
        "INSERT INTO replicas (replica_id, deployment_id, version_id, state, reason, backend,
             endpoint, created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8)
         ON CONFLICT (replica_id) DO UPDATE SET
             deployment_id = excluded.deployment_id, version_id = excluded.version_id,
             state = excluded.state, reason = excluded.reason, backend = excluded.backend,
             endpoint = excluded.endpoint, updated_at = excluded.updated_at",
    )?
    .execute(params![
        op.replica_id.as_bytes(),
        op.deployment_id.as_bytes(),
        op.version_id.as_bytes(),
        op.state.as_str(),
        op.reason,
        op.backend,
        op.endpoint,
        context.at.as_millis()
    ])?;
    Ok(())
}

/// Removes a replica's row.
pub(super) fn remove(db: &Connection, op: &RemoveReplica) -> Result<(), ApplyError> {
    db.prepare_cached("DELETE FROM replicas WHERE replica_id = ?1")?
        .execute([op.replica_id.as_bytes()])?;
    Ok(())
}
