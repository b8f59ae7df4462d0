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
mod model;
mod store;
mod tape;

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
use crate::budget::{BUDGET_EXCEEDED, Budgets, Meter};
use crate::engine::SubAgents;
use crate::feed::Feed;
use crate::journal::JournalWriter;
use crate::model::{Candidate, GuardedClient, LlmClient, Price, Providers};
use crate::planner::{INTERRUPTED, Outcome, Planner, RunState};
use crate::router::{Place, ReplicaRouter};
use model::JournalModel;
use store::ReplayStore;

pub(crate) use canonical::canonical;
pub use canonical::event_hash;
pub(crate) use tape::{Tape, TapeOptions, is_reply};

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

impl Divergence {
    /// What differs, as far as both sides have it: what the journal has at `field`, and what the replay has there.
    #[must_use]
    pub fn parted(&self) -> (Value, Value) {
        let at = |side: &Value| match side {
            Value::Object(_) => side.pointer(&self.field).cloned().unwrap_or_default(),
            other => other.clone(),
        };
        (at(&self.journal), at(&self.replay))
    }
}

/// What the planner of a replay gets in place of models and tools.
#[derive(Clone)]
pub(crate) struct Recorded {
    models: Providers,
    tape: Arc<Tape>,
}

impl Recorded {
    /// The agent's own models, answered from the tape.
    fn new(agent: &Agent, tape: &Arc<Tape>) -> Self {
        Self {
            models: behind(agent.models(), tape),
            tape: Arc::clone(tape),
        }
    }

    /// These models, answered from the tape.
    pub(crate) fn answering_for(&self, models: &Providers) -> Providers {
        behind(models, &self.tape)
    }

    /// The models that answered then, in the order in which they were asked first.
    fn then(agent: &Agent, tape: &Arc<Tape>) -> Self {
        let mut candidates: Vec<Candidate> = Vec::new();
        for entry in tape.journal() {
            let (provider, model, price) = match (&entry.body, entry.body.billed()) {
                (
                    EntryBody::ModelFailed {
                        provider, model, ..
                    },
                    _,
                ) => (provider.as_str(), model.as_str(), None),
                // One that policy denied has answered nothing.
                (EntryBody::PolicyVerdict(verdict), _)
                    if verdict.action == "model" && verdict.call_id.is_none() =>
                {
                    let attribute = |name| verdict.attributes[name].as_str();
                    match (attribute("provider"), attribute("name")) {
                        (Some(provider), Some(model)) => (provider, model, None),
                        _ => continue,
                    }
                }
                // What a tool has asked is no model of the conversation.
                (body, Some(call)) if is_reply(body) => (
                    call.provider,
                    call.model,
                    call.cost_micro_usd.map(|_| Price::FREE),
                ),
                _ => continue,
            };
            let known = candidates
                .iter_mut()
                .find(|known| known.client.provider() == provider && known.model == model);
            match known {
                Some(known) => known.price = known.price.or(price),
                None => candidates.push(Candidate {
                    client: GuardedClient::bare(Arc::new(JournalModel::new(provider, tape))),
                    model: model.to_owned(),
                    price,
                }),
            }
        }
        let models = agent.models().instead(candidates);
        let Some(models) = models else {
            return Self::new(agent, tape);
        };
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

fn behind(models: &Providers, tape: &Arc<Tape>) -> Providers {
    models.behind(|candidate| {
        let model = JournalModel::new(candidate.client.provider(), tape);
        GuardedClient::bare(Arc::new(model))
    })
}

/// Which models are asked in a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AskedModels {
    /// Those of the agent.
    Own,
    /// Those that answered then: which ones the agent has may depend on the machine.
    Recorded,
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
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) models: AskedModels,
    pub(crate) options: TapeOptions,
}

/// What a replay wrote.
pub(crate) struct Rerun {
    pub(crate) written: Vec<Entry>,
    pub(crate) divergence: Option<Divergence>,
}

impl Replay {
    /// Runs it.
    pub(crate) async fn run(self) -> Result<Rerun, StoreError> {
        let tape = Arc::new(Tape::new(self.journal, self.options));
        let recorded = match self.models {
            AskedModels::Own => Recorded::new(&self.agent, &tape),
            AskedModels::Recorded => Recorded::then(&self.agent, &tape),
        };
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
                // It decides as the run did, and reserves nothing.
                meter: Meter::new(
                    &self.budgets,
                    &store,
                    self.row.id,
                    self.row.budgets.clone(),
                    CheckpointPolicy::EachStep,
                    self.agent.cost_budget().is_some(),
                ),
                state,
                can_park: true,
                asked: Arc::default(),
                cancel: CancellationToken::new(),
                deadline: Instant::now() + REPLAY_LIMIT,
                stop: tape.stop(),
                recorded: Some(recorded.clone()),
            };
            let outcome = Box::pin(planner.run(false, true)).await?;
            if tape.was_interrupted() {
                continue;
            }
            if outcome == Outcome::Ended {
                break;
            }
            // It waits for a person, where the journal did not: what was decided about the calls then counts.
            if tape.has_diverged() && !(tape.goes_on() && tape.answer_waiting()) {
                break;
            }
        }
        let (written, divergence) = tape.finish();
        Ok(Rerun {
            written,
            divergence,
        })
    }
}

impl Replayed {
    pub(crate) fn new(journal: &[Entry], rerun: Rerun) -> Self {
        let hash = |entries: &[Entry]| event_hash(entries.iter().map(|entry| &entry.body));
        Self {
            equal: rerun.divergence.is_none(),
            hash: hash(journal),
            replayed_hash: hash(&rerun.written),
            divergence: rerun.divergence,
        }
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
    let mut interrupted = false;
    let mut model_failure = None;
    for Entry { body, .. } in journal {
        match body {
            EntryBody::Notice { code, .. } if code == INTERRUPTED => interrupted = true,
            EntryBody::Notice { code, .. } if code == BUDGET_EXCEEDED => {
                return Some(
                    "a budget ended it that it shares with other requests, and what those used is not in its journal",
                );
            }
            EntryBody::CancelRequested { .. } => {
                return Some("it was cancelled, and where exactly is not in its journal");
            }
            EntryBody::StepStarted { .. } | EntryBody::StepFinished(_) => {
                return Some("it ran a workflow; its steps are requests of their own");
            }
            EntryBody::Started { .. } => {
                started = true;
                interrupted = false;
            }
            EntryBody::ModelFailed { failure, .. } => model_failure = Some(failure),
            _ => {}
        }
    }
    let failure_is = |code| {
        failure
            .as_ref()
            .is_some_and(|failure| failure.code == code && model_failure != Some(failure))
    };
    if !started {
        Some("it ended before it ran")
    } else if *status == RequestStatus::Cancelled {
        Some("it was cancelled, and where exactly is not in its journal")
    } else if interrupted || failure_is(ErrorCode::Internal) {
        Some("it was given up after an interruption, or a fault ended it")
    } else if failure_is(ErrorCode::Timeout) {
        Some("it ran out of time, and where exactly is not in its journal")
    } else {
        None
    }
}
