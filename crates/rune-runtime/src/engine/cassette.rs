//! Recording requests as cassettes, and playing cassettes.

use std::sync::Arc;

use rune_spec::CassetteFile;
use rune_store_runtime::{
    Block, CheckpointPolicy, Cost, DeploymentId, Entry, EntryBody, ImageSource, MessageRow,
    RequestId, RequestRow, RequestStatus, Timestamp, Usage, VersionId, input_parts,
};

use super::child::SubAgents;
use super::{Engine, EngineError, Origin};
use crate::agent::Agent;
use crate::cassette::{Cassette, Played, difference, prompt_of, session, unmet};
use crate::history;
use crate::replay::{AskedModels, Divergence, Replay, TapeOptions, is_reply};

impl Engine {
    /// The recorded run of a request that has ended.
    ///
    /// # Errors
    /// [`EngineError::NotReplayable`] says why there is none.
    pub async fn record(&self, id: RequestId) -> Result<CassetteFile, EngineError> {
        let refused = |reason: &str| EngineError::NotReplayable {
            id,
            reason: reason.to_owned(),
        };
        let row = self.request(id).await?;
        let journal = self.journal(id).await?;
        if let Some(EntryBody::Accepted {
            forked_from: Some(_),
            ..
        }) = journal.first().map(|entry| &entry.body)
        {
            return Err(refused("it is a fork, whose beginning ran elsewhere"));
        }
        if self.agent_of(&row)?.component().is_some() {
            return Err(refused(
                "its agent is a component, whose runs are not recorded",
            ));
        }
        let replayed = self.replay(id).await?;
        if let Some(divergence) = replayed.divergence {
            return Err(refused(&format!(
                "it does not replay the same: entry {} ({}) differs",
                divergence.seq, divergence.kind
            )));
        }
        let agent = self.agent_of(&row)?;
        let began = journal.iter().find_map(|entry| match entry.body {
            EntryBody::Started { .. } => Some(entry.at),
            _ => None,
        });
        let shown = match history::window(agent.spec().memory_profile, agent.token_budget()) {
            Some(window) => {
                let store = &self.inner.store;
                history::rows(store, &row.session_id, window.read, began).await?
            }
            None => Vec::new(),
        };
        if shown.iter().any(|row| row.compaction.is_some()) {
            return Err(refused(
                "the conversation before it was replaced by a summary",
            ));
        }
        if has_stored_image(&shown) || is_apart(&journal) {
            return Err(refused(
                "it has images that are kept apart from its journal",
            ));
        }
        let mut file = Cassette::record(&row, prompt_of(&agent), shown, &journal);
        file.mcp_tools = agent.mcp_tools();
        Ok(file)
    }

    /// Plays a cassette to an agent: its models are answered from the cassette, and its tools, too, unless
    /// `live_tools`.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn play(
        &self,
        cassette: &Cassette,
        agent: Arc<Agent>,
        live_tools: bool,
    ) -> Result<Played, EngineError> {
        let expect = cassette.file().expect.as_ref();
        let agent = if live_tools {
            agent.now()
        } else {
            agent.with_mcp_tools(&cassette.file().mcp_tools)
        };
        let changed = match expect {
            None => prompt_divergence(cassette, &agent),
            Some(_) => None,
        };
        let row = row(cassette, &agent);
        let agents = SubAgents {
            engine: self.clone(),
            request_id: row.id,
            session_id: row.session_id.clone(),
            namespace: row.namespace.clone(),
            agent: agent.name().to_owned(),
            networks: agent.spec().networks.clone(),
            remotes: agent.remotes().clone(),
            caller: row.caller.clone(),
            parent: None,
            origin: Origin::default(),
            budgets: Vec::new(),
        };
        let replay = Replay {
            row,
            journal: cassette.journal().to_vec(),
            agent,
            agents,
            router: self.inner.router.clone(),
            store: self.inner.store.clone(),
            blobs: self.inner.blobs.get().cloned(),
            budgets: Arc::clone(&self.inner.budgets),
            models: AskedModels::Recorded,
            options: TapeOptions {
                live_tools,
                goes_on: expect.is_some(),
                ignores_machine: true,
                history: Some(cassette.history().to_vec()),
                ..TapeOptions::default()
            },
        };
        let rerun = replay.run().await?;
        let (divergence, unmet) = match expect {
            Some(expect) => (None, unmet(expect, &rerun.written)),
            None => (first(rerun.divergence, changed), Vec::new()),
        };
        Ok(Played {
            passed: divergence.is_none() && unmet.is_empty(),
            divergence,
            unmet,
            journal: rerun.written,
        })
    }
}

/// The one that comes first in the journal.
fn first(run: Option<Divergence>, prompt: Option<Divergence>) -> Option<Divergence> {
    match (run, prompt) {
        (Some(run), Some(prompt)) if run.seq < prompt.seq => Some(run),
        (run, prompt) => prompt.or(run),
    }
}

/// Where the models would be told something else than then: at the first that was asked.
fn prompt_divergence(cassette: &Cassette, agent: &Agent) -> Option<Divergence> {
    let then = &cassette.file().prompt;
    let (field, journal, replay) = difference(then, &prompt_of(agent))?;
    let mut entries = cassette.journal().iter();
    let asked = entries.find(|entry| is_reply(&entry.body))?;
    Some(Divergence {
        seq: asked.seq,
        kind: "model_request",
        field,
        journal,
        replay,
    })
}

fn has_stored_image(shown: &[MessageRow]) -> bool {
    let mut blocks = shown.iter().flat_map(|row| &row.message.blocks);
    blocks.any(is_stored)
}

fn is_stored(block: &Block) -> bool {
    matches!(
        block,
        Block::Image {
            source: ImageSource::Stored { .. }
        }
    ) || matches!(block, Block::ToolResult { images, .. } if !images.is_empty())
}

fn is_apart(journal: &[Entry]) -> bool {
    let input = journal.first().and_then(|entry| match &entry.body {
        EntryBody::Accepted { input, .. } => input_parts(input),
        _ => None,
    });
    let shown = |entry: &Entry| matches!(&entry.body, EntryBody::ToolResult(outcome) if !outcome.images.is_empty());
    input.is_some_and(|parts| parts.iter().any(is_stored)) || journal.iter().any(shown)
}

/// The request that a run that is played belongs to. It is in no store.
fn row(cassette: &Cassette, agent: &Agent) -> RequestRow {
    let file = cassette.file();
    RequestRow {
        id: cassette.request_id(),
        session_id: session(),
        namespace: file.namespace.clone(),
        agent: agent.name().to_owned(),
        deployment_id: DeploymentId::from_bytes([0; 16]),
        version_id: VersionId::from_bytes([0; 16]),
        replica_id: None,
        status: RequestStatus::Running,
        attempts: 0,
        cancel_requested: false,
        caller: file.caller.clone(),
        metadata: std::collections::BTreeMap::new(),
        checkpoint: CheckpointPolicy::EachStep,
        parent: None,
        budgets: Vec::new(),
        last_seq: 1,
        output: None,
        failure: None,
        usage: Usage::default(),
        cost: Cost::default(),
        model_calls: 0,
        tool_calls: 0,
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
    }
}
