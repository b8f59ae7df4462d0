//! Replaying a request that has ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use rune_store_runtime::{Entry, RequestId};
use serde_json::Value;

use super::child::SubAgents;
use super::{Engine, EngineError};
use crate::replay::{Replay, Replayed, obstacle};

/// Entries read from the store at a time.
const JOURNAL_PAGE: u32 = 256;

impl Engine {
    /// Runs a request again over its journal, in memory: models and tools are answered from the journal. Tells whether
    /// the run writes the same journal, or where it first writes something else.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::NotReplayable`] and [`EngineError::Store`].
    pub async fn replay(&self, id: RequestId) -> Result<Replayed, EngineError> {
        self.replay_with(id, &BTreeMap::new()).await
    }

    /// [`Engine::replay`] where the tools of some calls, by the calls' ids, had answered something else.
    ///
    /// # Errors
    /// As [`Engine::replay`].
    pub async fn replay_with(
        &self,
        id: RequestId,
        outputs: &BTreeMap<String, Value>,
    ) -> Result<Replayed, EngineError> {
        let row = self.request(id).await?;
        let journal = self.journal(id).await?;
        let refused = |reason: &str| EngineError::NotReplayable {
            id,
            reason: reason.to_owned(),
        };
        if let Some(reason) = obstacle(&journal) {
            return Err(refused(reason));
        }
        let replicas = self.inner.router.replicas(row.deployment_id);
        let replica = replicas
            .iter()
            .find(|replica| replica.version_id() == row.version_id);
        let replica = replica
            .ok_or_else(|| refused("the version of the agent that ran it is not running"))?;
        let agent = Arc::clone(replica.agent());
        let agents = SubAgents {
            engine: self.clone(),
            request_id: id,
            session_id: row.session_id.clone(),
            namespace: row.namespace.clone(),
            agent: agent.name().to_owned(),
            networks: agent.spec().networks.clone(),
            caller: row.caller.clone(),
            parent: None,
        };
        let replay = Replay {
            agent,
            agents,
            router: self.inner.router.clone(),
            store: self.inner.store.clone(),
            blobs: self.inner.blobs.get().cloned(),
            row,
            journal,
        };
        Ok(replay.run(outputs).await?)
    }

    /// All entries of a request that are stored.
    pub(super) async fn journal(&self, id: RequestId) -> Result<Vec<Entry>, EngineError> {
        let mut journal: Vec<Entry> = Vec::new();
        loop {
            let after = journal.last().map_or(0, |entry| entry.seq);
            let entries = self.inner.store.journal(id, after, JOURNAL_PAGE).await?;
            if entries.is_empty() {
                return Ok(journal);
            }
            journal.extend(entries);
        }
    }
}
