//! Deployments, and with [`super::replica`] their replicas.

use async_trait::async_trait;
use rune_store_runtime::{
    DeploymentFilter, DeploymentId, DeploymentReader, DeploymentRow, DeploymentState, Page,
    PageRequest, ProjectRef, ReplicaFilter, ReplicaId, ReplicaRow, StoreError, VersionId,
};
use rusqlite::{OptionalExtension, Row};

use super::replica;
use crate::query::{Query, text};
use crate::row::{self, get};
use crate::{SqliteStore, cursor};

const LIST: &str = "deployments";

/// The columns that [`deployment_row`] reads.
pub(crate) const DEPLOYMENT: &str = "SELECT deployment_id, namespace, agent, alias, version_id, \
     replicas, env, generation, state, reason, created_at, updated_at, project, project_agent, rollout, releases, scaling FROM deployments";

type Key = (String, String, String);

#[async_trait]
impl DeploymentReader for SqliteStore {
    async fn deployment(&self, id: DeploymentId) -> Result<Option<DeploymentRow>, StoreError> {
        self.readers
            .run(move |db| {
                db.prepare_cached(&format!("{DEPLOYMENT} WHERE deployment_id = ?1"))?
                    .query_row([id.as_bytes()], deployment_row)
                    .optional()
            })
            .await
    }

    async fn deployments(
        &self,
        filter: &DeploymentFilter,
        page: &PageRequest,
    ) -> Result<Page<DeploymentRow>, StoreError> {
        let mut query = Query::new(DEPLOYMENT);
        query.and_maybe("namespace = ?", text(filter.namespace.as_ref()));
        query.and_maybe("agent = ?", text(filter.agent.as_ref()));
        query.and_maybe("alias = ?", text(filter.alias.as_ref()));
        query.and_maybe("project = ?", text(filter.project.as_ref()));
        if let Some((namespace, agent, alias)) = cursor::decode::<Key>(LIST, page)? {
            query.and(
                "(namespace, agent, alias) > (?, ?, ?)",
                [namespace, agent, alias],
            );
        }
        let query = query.order_by("namespace, agent, alias");
        let map = |row: &Row<'_>| {
            let row = deployment_row(row)?;
            let key: Key = (row.namespace.clone(), row.agent.clone(), row.alias.clone());
            Ok((key, row))
        };
        self.readers.page(LIST, page, query, map, |_| true).await
    }

    async fn replica(&self, id: ReplicaId) -> Result<Option<ReplicaRow>, StoreError> {
        replica::one(self, id).await
    }

    async fn replicas(
        &self,
        filter: &ReplicaFilter,
        page: &PageRequest,
    ) -> Result<Page<ReplicaRow>, StoreError> {
        replica::list(self, filter, page).await
    }
}

/// A row of [`DEPLOYMENT`].
pub(crate) fn deployment_row(found: &Row<'_>) -> rusqlite::Result<DeploymentRow> {
    Ok(DeploymentRow {
        id: row::id(found, 0, DeploymentId::from_bytes)?,
        namespace: get(found, 1)?,
        agent: get(found, 2)?,
        alias: get(found, 3)?,
        version_id: row::id(found, 4, VersionId::from_bytes)?,
        replicas: get(found, 5)?,
        env: row::json(found, 6)?,
        generation: get(found, 7)?,
        state: row::word(found, 8, DeploymentState::parse)?,
        reason: get(found, 9)?,
        created_at: row::time(found, 10)?,
        updated_at: row::time(found, 11)?,
        project: Option::zip(get(found, 12)?, get(found, 13)?)
            .map(|(name, agent)| ProjectRef { name, agent }),
        rollout: row::maybe_json(found, 14)?,
        releases: row::json(found, 15)?,
        scaling: row::maybe_json(found, 16)?,
    })
}
