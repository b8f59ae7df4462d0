//! Secrets. What is written is ciphertext already.

use rune_store_runtime::limits::{
    MAX_QUEUE_NAME_BYTES, MAX_SEALED_SECRET_BYTES, MAX_SECRET_NAME_BYTES, MAX_SECRETS,
};
use rune_store_runtime::{PutSecret, Reject, RemoveSecret, is_secret_name};
use rusqlite::{Connection, params};

use super::Context;
use crate::ApplyError;
use crate::row::get;

/// Stores a secret; an older one of the name is replaced.
pub(super) fn put(db: &Connection, context: Context, op: &PutSecret) -> Result<(), ApplyError> {
    check(op)?;
    let names = params![op.namespace, op.name];
    let known: bool = db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM secrets WHERE namespace = ?1 AND name = ?2)")?
        .query_row(names, |row| get(row, 0))?;
    let stored: u32 = db
        .prepare_cached("SELECT count(*) FROM secrets WHERE namespace = ?1")?
        .query_row([&op.namespace], |row| get(row, 0))?;
    if !known && stored >= MAX_SECRETS {
        let message = format!(
            "namespace `{}` has {MAX_SECRETS} secrets, and may have no more",
            op.namespace
        );
        return Err(Reject::conflict(message).into());
    }
    db.prepare_cached(
        "INSERT INTO secrets (namespace, name, key_id, sealed, updated_by, created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)
         ON CONFLICT (namespace, name) DO UPDATE SET key_id = excluded.key_id,
             sealed = excluded.sealed, updated_by = excluded.updated_by,
             updated_at = excluded.updated_at",
    )?
    .execute(params![
        op.namespace,
        op.name,
        op.sealed.key_id,
        op.sealed.bytes,
        op.by,
        context.at.as_millis()
    ])?;
    Ok(())
}

fn check(op: &PutSecret) -> Result<(), Reject> {
    let within = |text: &str| !text.is_empty() && text.len() <= MAX_QUEUE_NAME_BYTES;
    if !within(&op.namespace) || !within(&op.sealed.key_id) {
        return Err(Reject::invalid(format!(
            "the namespace and the id of the key have 1 to {MAX_QUEUE_NAME_BYTES} bytes"
        )));
    }
    if !is_secret_name(&op.name) {
        return Err(Reject::invalid(format!(
            "a secret's name is 1 to {MAX_SECRET_NAME_BYTES} of A-Z, a-z, 0-9 and _, and begins with no digit"
        )));
    }
    if op.sealed.bytes.is_empty() || op.sealed.bytes.len() > MAX_SEALED_SECRET_BYTES {
        return Err(Reject::invalid(format!(
            "an encrypted secret has 1 to {MAX_SEALED_SECRET_BYTES} bytes"
        )));
    }
    Ok(())
}

/// Deletes a secret.
pub(super) fn remove(db: &Connection, op: &RemoveSecret) -> Result<(), ApplyError> {
    let removed = db
        .prepare_cached("DELETE FROM secrets WHERE namespace = ?1 AND name = ?2")?
        .execute([&op.namespace, &op.name])?;
    if removed == 0 {
        let name = format!("{}/{}", op.namespace, op.name);
        return Err(Reject::not_found("secret", &name).into());
    }
    Ok(())
}
