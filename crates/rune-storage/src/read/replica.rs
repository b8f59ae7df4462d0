//! Replicas.

use rune_store_runtime::{
    DeploymentId, Page, PageRequest, ReplicaFilter, ReplicaId, ReplicaRow, ReplicaState,
    StoreError, VersionId,
};
use rusqlite::{OptionalExtension, Row};

use crate::query::{Query, blob};
use crate::row::{self, get};
use crate::{SqliteStore, cursor};

const LIST: &str = "replicas";

const REPLICA: &str = "SELECT id, replica_id, deployment_id, version_id, state, reason, backend, \
     endpoint, created_at, updated_at FROM replicas";

pub(super) async fn one(
    store: &SqliteStore,
    id: ReplicaId,
) -> Result<Option<ReplicaRow>, StoreError> {
    store
        .readers
        .run(move |db| {
            db.prepare_cached(&format!("{REPLICA} WHERE replica_id = ?1"))?
                .query_row([id.as_bytes()], replica_row)
                .optional()
        })
        .await
}

pub(super) async fn list(
    store: &SqliteStore,
    filter: &ReplicaFilter,
    page: &PageRequest,
) -> Result<Page<ReplicaRow>, StoreError> {
    let mut query = Query::new(REPLICA);
    let deployment = filter.deployment_id.as_ref().map(DeploymentId::as_bytes);
    query.and_maybe("deployment_id = ?", deployment.map(blob));
    query.and_maybe("id > ?", cursor::decode::<i64>(LIST, page)?);
    let map = |row: &Row<'_>| Ok((get::<i64>(row, 0)?, replica_row(row)?));
    store
        .readers
        .page(LIST, page, query.order_by("id"), map, |_| true)
        .await
}

fn replica_row(found: &Row<'_>) -> rusqlite::Result<ReplicaRow> {
    Ok(ReplicaRow {
        id: row::id(found, 1, ReplicaId::from_bytes)?,
        deployment_id: row::id(found, 2, DeploymentId::from_bytes)?,
        version_id: row::id(found, 3, VersionId::from_bytes)?,
        state: row::word(found, 4, ReplicaState::parse)?,
        reason: get(found, 5)?,
        backend: get(found, 6)?,
        endpoint: get(found, 7)?,
        created_at: row::time(found, 8)?,
        updated_at: row::time(found, 9)?,
    })
}
