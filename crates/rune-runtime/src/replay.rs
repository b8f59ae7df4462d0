//! Replay: the planner runs over the journal of a request that has ended. Models and tools are answered from the
//! journal, what it writes is compared with the journal, and nothing leaves the process.
//!
//! The planner is the one that runs requests. It is told apart by three things: a store that keeps its entries in
//! memory ([`store`]), and the [`Tape`], which answers models and tools in the order of the journal.
//!
//! Invariants:
//! * no model is asked, no tool runs, nothing is written to the real store;
//! * two journals are equal where their [`event_hash`] is, whatever ids and times they have;
//! * after the first difference nothing more is compared.

mod canonical;
mod store;
mod tape;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rune_store_runtime::{
    BlobStore, CheckpointPolicy, Clock, Entry, EntryBody, ErrorCode, RequestRow, RequestStatus,
    Store, StoreError, Timestamp,
};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::engine::SubAgents;
use crate::feed::Feed;
use crate::journal::JournalWriter;
use crate::model::{GuardedClient, Providers};
use crate::planner::{INTERRUPTED, Outcome, Planner, RunState};
use crate::router::{Place, ReplicaRouter};
use store::ReplayStore;
use tape::JournalModel;

pub use canonical::event_hash;
pub(crate) use tape::Tape;

/// Longest replay. It waits for nothing but itself.
const REPLAY_LIMIT: Duration = Duration::from_secs(60);

/// What came of a replay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replayed {
    /// Whether the replay wrote what the journal holds.
    pub equal: bool,
    /// The [`event_hash`] of the journal.
    pub hash: String,
    /// That of the replay.
    pub replayed_hash: String,
    /// Where they part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
}

/// The first step of a replay that is not in the journal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Divergence {
    /// The entry.
    pub seq: u64,
    /// Its kind in the journal; in the replay where the journal had ended.
    pub kind: &'static str,
    /// JSON Pointer of the first part that differs; empty where the entries are of different kinds.
    pub field: String,
    /// What the journal has there; null where it had ended.
    pub journal: Value,
    /// What the replay wrote; null where it wrote nothing.
    pub replay: Value,
}

/// What the planner of a replay gets in place of models and tools.
#[derive(Clone)]
pub(crate) struct Recorded {
    models: Providers,
    tape: Arc<Tape>,
}

impl Recorded {
    fn new(agent: &Agent, tape: &Arc<Tape>) -> Self {
        let models = agent.models().behind(|candidate| {
            let model = JournalModel::new(&candidate.client, tape);
            GuardedClient::bare(Arc::new(model))
        });
        let tape = Arc::clone(tape);
        Self { models, tape }
    }

    pub(crate) const fn models(&self) -> &Providers {
        &self.models
    }

    pub(crate) fn tape(&self) -> &Tape {
        &self.tape
    }
}

/// A request and where it ran.
pub(crate) struct Replay {
    pub(crate) row: RequestRow,
    pub(crate) journal: Vec<Entry>,
    pub(crate) agent: Arc<Agent>,
    /// Calls nobody: what called other agents is not replayed.
    pub(crate) agents: SubAgents,
    pub(crate) router: ReplicaRouter,
    pub(crate) store: Store,
    pub(crate) blobs: Option<Arc<dyn BlobStore>>,
}

impl Replay {
    /// Runs it. `outputs` are answered by the tools of these calls instead of what the journal has.
    pub(crate) async fn run(
        self,
        outputs: &BTreeMap<String, Value>,
    ) -> Result<Replayed, StoreError> {
        let hash = event_hash(self.journal.iter().map(|entry| &entry.body));
        let tape = Arc::new(Tape::new(self.journal.clone(), outputs));
        let recorded = Recorded::new(&self.agent, &tape);
        let clock = Arc::new(StoreClock(self.store.clone()));
        let replay = ReplayStore::new(self.store.clone(), Arc::clone(&tape));
        let store = Store::new(Arc::new(replay), clock);
        while let Some(replica_id) = tape.begin_run() {
            let state = RunState::load(&store, self.row.id).await?;
            let feed = Feed::new(tape.next_seq());
            let journal = JournalWriter::new(
                self.row.id,
                CheckpointPolicy::EachStep,
                store.clone(),
                Arc::clone(&feed),
                tape.next_seq(),
            );
            let planner = Planner {
                request_id: self.row.id,
                session_id: self.row.session_id.clone(),
                namespace: self.row.namespace.clone(),
                caller: self.row.caller.clone(),
                deployment_id: self.row.deployment_id,
                replica_id,
                agent: Arc::clone(&self.agent),
                agents: self.agents.clone(),
                place: Place::not_needed(self.router.clone(), self.row.deployment_id),
                store: store.clone(),
                blobs: self.blobs.clone(),
                feed,
                journal,
                state,
                can_park: true,
                asked: Arc::default(),
                cancel: CancellationToken::new(),
                deadline: Instant::now() + REPLAY_LIMIT,
                stop: tape.stop(),
                recorded: Some(recorded.clone()),
            };
            let outcome = Box::pin(planner.run(false, true)).await?;
            if outcome == Outcome::Ended || tape.has_diverged() {
                break;
            }
        }
        let (replayed, divergence) = tape.finish();
        Ok(Replayed {
            equal: divergence.is_none(),
            hash,
            replayed_hash: event_hash(replayed.iter().map(|entry| &entry.body)),
            divergence,
        })
    }
}

/// The clock of the real store.
struct StoreClock(Store);

impl Clock for StoreClock {
    fn now(&self) -> Timestamp {
        self.0.now()
    }
}

/// Why a journal cannot be replayed: what it depends on is not in it.
pub(crate) fn obstacle(journal: &[Entry]) -> Option<&'static str> {
    let Some(last) = journal.last() else {
        return Some("its journal is not stored");
    };
    let EntryBody::Finished {
        status, failure, ..
    } = &last.body
    else {
        return Some("it has not ended");
    };
    let mut started = false;
    let mut answered = false;
    let mut model_failure = None;
    for Entry { body, .. } in journal {
        match body {
            EntryBody::Started { .. } if started && !answered => {
                return Some("it was interrupted, and where exactly is not in its journal");
            }
            EntryBody::Notice { code, .. } if code == INTERRUPTED => {
                return Some("it was interrupted, and where exactly is not in its journal");
            }
            EntryBody::CancelRequested { .. } => {
                return Some("it was cancelled, and where exactly is not in its journal");
            }
            EntryBody::AgentCalled { .. }
            | EntryBody::StepStarted { .. }
            | EntryBody::StepFinished(_) => return Some("it called other agents"),
            EntryBody::Accepted {
                forked_from: Some(_),
                ..
            } => return Some("it is a fork"),
            EntryBody::Started { .. } => started = true,
            EntryBody::ModelFailed { failure, .. } => model_failure = Some(failure),
            _ => {}
        }
        answered = matches!(body, EntryBody::ApprovalGiven(_));
    }
    let timed_out = failure
        .as_ref()
        .is_some_and(|failure| failure.code == ErrorCode::Timeout);
    if !started {
        Some("it ended before it ran")
    } else if *status == RequestStatus::Cancelled {
        Some("it was cancelled, and where exactly is not in its journal")
    } else if timed_out && model_failure != failure.as_ref() {
        Some("it ran out of time, and where exactly is not in its journal")
    } else {
        None
    }
}
