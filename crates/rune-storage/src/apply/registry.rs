//! The registry of agent versions.

use rune_store_runtime::{PublishVersion, Reject, VersionId, VersionRow};
use rusqlite::{Connection, OptionalExtension, params};

use super::Context;
use crate::ApplyError;
use crate::read::registry::{VERSION, version_row};
use crate::row::get;

/// Registers a package, once per (agent, digest).
pub(super) fn publish(
    db: &Connection,
    context: Context,
    op: &PublishVersion,
) -> Result<VersionRow, ApplyError> {
    let known = db
        .prepare_cached(&format!("{VERSION} WHERE agent = ?1 AND digest = ?2"))?
        .query_row([&op.agent, &op.digest], version_row)
        .optional()?;
    if let Some(mut row) = known {
        if op.signature.is_some() && op.signature != row.signature {
            db.prepare_cached("UPDATE versions SET signature = ?2 WHERE version_id = ?1")?
                .execute(params![row.id.as_bytes(), op.signature])?;
            row.signature.clone_from(&op.signature);
        }
        return Ok(row);
    }
    if exists(db, op.version_id)? {
        return Err(Reject::conflict(format!("version `{}` exists already", op.version_id)).into());
    }
    if i64::try_from(op.size).is_err() {
        return Err(Reject::invalid("the package is larger than can be stored").into());
    }
    db.prepare_cached(
        "INSERT INTO versions (version_id, agent, version, description, digest, size, image,
             signature, created_at, min_replicas, max_replicas)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        op.version_id.as_bytes(),
        op.agent,
        op.version,
        op.description,
        op.digest,
        op.size,
        op.image,
        op.signature,
        context.at.as_millis(),
        op.scaling.min,
        op.scaling.max
    ])?;
    Ok(VersionRow {
        id: op.version_id,
        agent: op.agent.clone(),
        version: op.version.clone(),
        description: op.description.clone(),
        digest: op.digest.clone(),
        size: op.size,
        image: op.image.clone(),
        scaling: op.scaling,
        signature: op.signature.clone(),
        created_at: context.at,
    })
}

/// The version, rejected where it does not exist.
pub(super) fn by_id(db: &Connection, id: VersionId) -> Result<VersionRow, ApplyError> {
    db.prepare_cached(&format!("{VERSION} WHERE version_id = ?1"))?
        .query_row([id.as_bytes()], version_row)
        .optional()?
        .ok_or_else(|| Reject::not_found("version", &id).into())
}

fn exists(db: &Connection, id: VersionId) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT EXISTS (SELECT 1 FROM versions WHERE version_id = ?1)")?
        .query_row([id.as_bytes()], |row| get(row, 0))
}
