//! What agents know.

use rune_store_runtime::limits::{MAX_KNOWLEDGE_NAME_BYTES, MAX_PROPERTIES_BYTES};
use rune_store_runtime::{
    MemoryScope, Properties, PutEntity, PutRelation, Reject, entity_text, merge_properties,
};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Context, encode_within};
use crate::ApplyError;
use crate::row::{get, json};

/// Adds an entity or adds to it; true where it is new.
pub(super) fn put_entity(
    db: &Connection,
    context: Context,
    op: &PutEntity,
) -> Result<bool, ApplyError> {
    check_name("the name of an entity", &op.name)?;
    check_name("the type of an entity", &op.kind)?;
    let scope = [&op.scope.namespace, &op.scope.agent, &op.name];
    let known: Option<(i64, Properties)> = db
        .prepare_cached(
            "SELECT id, properties FROM entities WHERE namespace = ?1 AND agent = ?2 AND name = ?3",
        )?
        .query_row(scope, |row| Ok((get(row, 0)?, json(row, 1)?)))
        .optional()?;
    let (known, properties) = merged(known, &op.properties);
    let stored = encode_within(&properties, "the properties", MAX_PROPERTIES_BYTES)?;
    let id: i64 = db
        .prepare_cached(
            "INSERT INTO entities (namespace, agent, name, kind, properties, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)
             ON CONFLICT (namespace, agent, name) DO UPDATE SET
                 kind = excluded.kind, properties = excluded.properties,
                 updated_at = excluded.updated_at
             RETURNING id",
        )?
        .query_row(
            params![
                op.scope.namespace,
                op.scope.agent,
                op.name,
                op.kind,
                stored,
                context.at.as_millis()
            ],
            |row| get(row, 0),
        )?;
    db.prepare_cached("INSERT OR REPLACE INTO entity_words (rowid, words) VALUES (?1, ?2)")?
        .execute(params![id, entity_text(&op.name, &op.kind, &properties)])?;
    Ok(known.is_none())
}

/// Adds a relation or adds to it; true where it is new.
pub(super) fn put_relation(
    db: &Connection,
    context: Context,
    op: &PutRelation,
) -> Result<bool, ApplyError> {
    check_name("the type of a relation", &op.kind)?;
    let source = entity(db, &op.scope, &op.from)?;
    let target = entity(db, &op.scope, &op.to)?;
    let known: Option<(i64, Properties)> = db
        .prepare_cached(
            "SELECT id, properties FROM relations WHERE source = ?1 AND kind = ?2 AND target = ?3",
        )?
        .query_row(params![source, op.kind, target], |row| {
            Ok((get(row, 0)?, json(row, 1)?))
        })
        .optional()?;
    let (known, properties) = merged(known, &op.properties);
    let stored = encode_within(&properties, "the properties", MAX_PROPERTIES_BYTES)?;
    db.prepare_cached(
        "INSERT INTO relations (source, kind, target, properties, created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?5)
         ON CONFLICT (source, kind, target) DO UPDATE SET
             properties = excluded.properties, updated_at = excluded.updated_at",
    )?
    .execute(params![
        source,
        op.kind,
        target,
        stored,
        context.at.as_millis()
    ])?;
    Ok(known.is_none())
}

/// What is known together with what is new.
fn merged(known: Option<(i64, Properties)>, new: &Properties) -> (Option<i64>, Properties) {
    let (id, mut properties) = known.map_or_else(Default::default, |(id, known)| (Some(id), known));
    merge_properties(&mut properties, new);
    (id, properties)
}

fn check_name(what: &str, name: &str) -> Result<(), Reject> {
    if name.is_empty() || name.len() > MAX_KNOWLEDGE_NAME_BYTES {
        return Err(Reject::invalid(format!(
            "{what} has 1 to {MAX_KNOWLEDGE_NAME_BYTES} bytes"
        )));
    }
    Ok(())
}

fn entity(db: &Connection, scope: &MemoryScope, name: &str) -> Result<i64, ApplyError> {
    db.prepare_cached("SELECT id FROM entities WHERE namespace = ?1 AND agent = ?2 AND name = ?3")?
        .query_row([scope.namespace.as_str(), &scope.agent, name], |row| {
            get(row, 0)
        })
        .optional()?
        .ok_or_else(|| Reject::not_found("entity", &name).into())
}
