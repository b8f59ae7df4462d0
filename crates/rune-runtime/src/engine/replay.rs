//! Replaying a request that has ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use rune_store_runtime::{Entry, EntryBody, RequestId, RequestRow};
use serde_json::Value;

use super::child::SubAgents;
use super::{Engine, EngineError, Origin};
use crate::agent::Agent;
use crate::replay::{AskedModels, Replay, Replayed, TapeOptions, obstacle};

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
        let mut agent = self.agent_of(&row)?;
        if let Some(EntryBody::Accepted {
            forked_from: Some(origin),
            ..
        }) = journal.first().map(|entry| &entry.body)
        {
            let forked = agent.changed(&origin.changes);
            agent = Arc::new(forked.map_err(EngineError::Changes)?);
        }
        let agents = SubAgents {
            engine: self.clone(),
            request_id: id,
            session_id: row.session_id.clone(),
            namespace: row.namespace.clone(),
            agent: agent.name().to_owned(),
            networks: agent.spec().networks.clone(),
            remotes: agent.remotes().clone(),
            caller: row.caller.clone(),
            parent: row.parent.clone(),
            origin: Origin::of(&row.metadata),
            budgets: Vec::new(),
        };
        let replay = Replay {
            agent,
            agents,
            router: self.inner.router.clone(),
            store: self.inner.store.clone(),
            blobs: self.inner.blobs.get().cloned(),
            budgets: Arc::clone(&self.inner.budgets),
            row,
            journal: journal.clone(),
            models: AskedModels::Own,
            options: TapeOptions {
                outputs: outputs.clone(),
                ..TapeOptions::default()
            },
        };
        let rerun = replay.run().await?;
        Ok(Replayed::new(&journal, rerun))
    }

    /// The agent that ran a request, where that version of it still runs.
    pub(super) fn agent_of(&self, row: &RequestRow) -> Result<Arc<Agent>, EngineError> {
        let router = &self.inner.router;
        let agent = router.agent_of(row.deployment_id, row.version_id);
        let agent = agent.ok_or_else(|| EngineError::NotReplayable {
            id: row.id,
            reason: "the version of the agent that ran it is not running".to_owned(),
        })?;
        Ok(agent.now())
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
