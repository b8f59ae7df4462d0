//! The tape: the journal that is replayed, how far the replay is, and the answers that models and tools get from it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::stream;
use rune_store_runtime::{
    ApprovalDecision, AuditVerdict, Entry, EntryBody, ErrorCode, Failure, GrantRow, PolicyVerdict,
    ReplicaId, Timestamp, ToolIntent, ToolOutcome,
};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Divergence;
use super::canonical::{canonical, first_difference};
use crate::model::{
    GuardedClient, LlmClient, ModelError, ModelErrorKind, ModelEvent, ModelOutput, ModelRequest,
    ModelStream,
};

/// A journal that answers.
pub(crate) struct Tape {
    journal: Vec<Entry>,
    /// The results of the tools that ran, in the order in which they ended.
    results: Vec<ToolOutcome>,
    /// How many of them were handed out.
    ended: watch::Sender<usize>,
    stop: CancellationToken,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the replay has written.
    written: Vec<Entry>,
    /// Model replies and failures that were handed out.
    asked: usize,
    /// Verdicts that asked a person which were handed out.
    granted: usize,
    /// What of the session is history: what had ended by then.
    history_until: Timestamp,
    divergence: Option<Divergence>,
}

impl Tape {
    pub(super) fn new(journal: Vec<Entry>, outputs: &BTreeMap<String, Value>) -> Self {
        let bodies = || journal.iter().map(|entry| &entry.body);
        let ran = |outcome: &ToolOutcome| {
            bodies().any(|body| {
                matches!(body, EntryBody::ToolIntent(intent)
                    if (intent.step, &intent.call_id) == (outcome.step, &outcome.call_id))
            })
        };
        let results = bodies().filter_map(|body| match body {
            EntryBody::ToolResult(outcome) if ran(outcome) => {
                let mut outcome = outcome.clone();
                if let Some(output) = outputs.get(&outcome.call_id) {
                    outcome.failure = None;
                    outcome.output = Some(output.clone());
                }
                Some(outcome)
            }
            _ => None,
        });
        let results = results.collect();
        // What the caller sent is given.
        let written = journal.first().cloned().into_iter().collect();
        Self {
            journal,
            results,
            ended: watch::Sender::new(0),
            stop: CancellationToken::new(),
            state: Mutex::new(State {
                written,
                ..State::default()
            }),
        }
    }

    /// Fires when the replay has left the journal.
    pub(super) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// The replica of the next run; nothing where the journal has no further one.
    pub(super) fn begin_run(&self) -> Option<ReplicaId> {
        let mut state = self.lock();
        self.copy_given(&mut state);
        let rest = self.journal.get(state.written.len()..)?;
        let (at, id) = rest.iter().find_map(|entry| match entry.body {
            EntryBody::Started { replica_id, .. } => Some((entry.at, replica_id)),
            _ => None,
        })?;
        state.history_until = at;
        Some(id)
    }

    pub(super) fn next_seq(&self) -> u64 {
        self.lock().written.len() as u64 + 1
    }

    pub(super) fn has_diverged(&self) -> bool {
        self.lock().divergence.is_some()
    }

    pub(super) fn history_until(&self) -> Timestamp {
        self.lock().history_until
    }

    /// What was written, and where it left the journal.
    pub(super) fn finish(&self) -> (Vec<Entry>, Option<Divergence>) {
        let mut state = self.lock();
        self.copy_given(&mut state);
        if let (None, Some(entry)) = (
            &state.divergence,
            self.journal.get(state.written.len()).cloned(),
        ) {
            state.divergence = Some(Divergence {
                seq: entry.seq,
                kind: entry.body.kind(),
                field: String::new(),
                journal: canonical(&entry.body).unwrap_or_default(),
                replay: Value::Null,
            });
        }
        (state.written.clone(), state.divergence.clone())
    }

    /// What was written after entry `after`.
    pub(super) fn written(&self, after: u64, limit: u32) -> Vec<Entry> {
        let state = self.lock();
        let after = usize::try_from(after).unwrap_or(usize::MAX);
        let entries = state.written.iter().skip(after).take(limit as usize);
        entries.cloned().collect()
    }

    /// Adds what the replay writes, and compares it. Answers the first and the last number.
    pub(super) fn write(&self, at: Timestamp, bodies: Vec<EntryBody>) -> (u64, u64) {
        let mut state = self.lock();
        let mut first = None;
        for body in bodies {
            self.copy_given(&mut state);
            let seq = state.written.len() as u64 + 1;
            first.get_or_insert(seq);
            if state.divergence.is_none() {
                state.divergence = self.compare(seq, &body);
                if state.divergence.is_some() {
                    self.stop.cancel();
                }
            }
            let request_id = self.journal[0].request_id;
            state.written.push(Entry {
                request_id,
                seq,
                at,
                body,
            });
        }
        let last = state.written.len() as u64;
        (first.unwrap_or(last + 1), last)
    }

    fn compare(&self, seq: u64, body: &EntryBody) -> Option<Divergence> {
        let index = usize::try_from(seq).ok()?.checked_sub(1)?;
        let recorded = self.journal.get(index).map(|entry| &entry.body);
        let journal = recorded.and_then(canonical).unwrap_or_default();
        let replay = canonical(body).unwrap_or_default();
        let kind = recorded.unwrap_or(body).kind();
        (journal != replay).then(|| Divergence {
            seq,
            kind,
            field: if kind == body.kind() {
                first_difference(&journal, &replay)
            } else {
                String::new()
            },
            journal,
            replay,
        })
    }

    /// Takes over what somebody else wrote, at the place where it was: answers of people, and notices that are not
    /// compared.
    fn copy_given(&self, state: &mut State) {
        while let Some(entry) = self.journal.get(state.written.len()) {
            let given = matches!(entry.body, EntryBody::ApprovalGiven(_));
            if state.divergence.is_some() || !(given || canonical(&entry.body).is_none()) {
                return;
            }
            state.written.push(entry.clone());
        }
    }

    /// The remembered decision that counted when policy asked, if one did.
    pub(super) fn grant(&self, tool: &str, policies: &[String]) -> Option<GrantRow> {
        let nth = {
            let mut state = self.lock();
            state.granted += 1;
            state.granted - 1
        };
        let mut asking = self.journal.iter().filter_map(|entry| match &entry.body {
            EntryBody::PolicyVerdict(verdict) => {
                let by_policy = verdict.by_policy.unwrap_or(verdict.verdict);
                (by_policy == AuditVerdict::Asked).then_some((entry.at, verdict))
            }
            _ => None,
        });
        let (at, verdict): (_, &PolicyVerdict) = asking.nth(nth)?;
        let decision = match verdict.verdict {
            AuditVerdict::Asked => return None,
            AuditVerdict::Allowed => ApprovalDecision::Approve,
            AuditVerdict::Denied => ApprovalDecision::Deny,
        };
        let by = verdict.reason.strip_prefix('`')?.rsplit_once('`')?.0;
        Some(GrantRow {
            namespace: String::new(),
            agent: String::new(),
            session_id: None,
            tool: tool.to_owned(),
            policies: policies.to_vec(),
            decision,
            by: by.to_owned(),
            at,
        })
    }

    /// The result of a call, once it is its turn.
    pub(crate) async fn tool(
        &self,
        intent: &ToolIntent,
        stop: &CancellationToken,
        attempts: &mut u32,
    ) -> Result<Value, Failure> {
        let mine =
            |result: &ToolOutcome| (result.step, &result.call_id) == (intent.step, &intent.call_id);
        let Some(index) = self.results.iter().position(mine) else {
            let message = "the journal has no result of this call";
            return Err(Failure::new(ErrorCode::Unavailable, message));
        };
        let mut ended = self.ended.subscribe();
        tokio::select! {
            biased;
            _ = ended.wait_for(|ended| *ended == index) => {}
            () = stop.cancelled() => {
                let message = "the replay has left the journal";
                return Err(Failure::new(ErrorCode::Cancelled, message));
            }
        }
        self.ended.send_replace(index + 1);
        let ToolOutcome {
            output,
            failure,
            attempts: tried,
            ..
        } = self.results[index].clone();
        *attempts = tried;
        match failure {
            Some(failure) => Err(failure),
            None => Ok(output.unwrap_or_default()),
        }
    }

    /// The next thing a model said.
    fn next_reply(&self) -> Option<&EntryBody> {
        let nth = {
            let mut state = self.lock();
            state.asked += 1;
            state.asked - 1
        };
        let bodies = self.journal.iter().map(|entry| &entry.body);
        let mut replies = bodies.filter(|body| {
            matches!(
                body,
                EntryBody::ModelReply(_) | EntryBody::ModelFailed { .. }
            )
        });
        replies.nth(nth)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every state of it is a valid one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers in the place of a provider.
pub(super) struct JournalModel {
    provider: String,
    tape: Arc<Tape>,
}

impl JournalModel {
    pub(super) fn new(client: &GuardedClient, tape: &Arc<Tape>) -> Self {
        Self {
            provider: client.provider().to_owned(),
            tape: Arc::clone(tape),
        }
    }

    fn error(&self, kind: ModelErrorKind, failure: &Failure, provider: &str) -> ModelError {
        let prefix = format!("{provider}: ");
        let message = failure.message.strip_prefix(&prefix);
        ModelError::new(
            kind,
            &self.provider,
            message.unwrap_or(failure.message.as_str()),
        )
    }
}

#[async_trait]
impl LlmClient for JournalModel {
    fn provider(&self) -> &str {
        &self.provider
    }

    async fn stream(&self, _: &ModelRequest) -> Result<ModelStream, ModelError> {
        let event = match self.tape.next_reply() {
            Some(EntryBody::ModelReply(reply)) => Ok(ModelEvent::Done(ModelOutput {
                blocks: reply.blocks.clone(),
                stop: reply.stop,
                usage: reply.usage,
            })),
            Some(EntryBody::ModelFailed {
                provider,
                failure,
                next_provider,
                ..
            }) => {
                let kind = match failure.code {
                    ErrorCode::InvalidInput => ModelErrorKind::InvalidRequest,
                    ErrorCode::Timeout => ModelErrorKind::Timeout,
                    _ => ModelErrorKind::Transport,
                };
                if next_provider.as_ref() != Some(provider) {
                    return Err(self.error(kind, failure, provider));
                }
                // It was asked again, as is done after a reply that broke off.
                Err(self.error(ModelErrorKind::Truncated, failure, provider))
            }
            _ => {
                let message = "the journal has no further reply";
                return Err(ModelError::new(
                    ModelErrorKind::Transport,
                    &self.provider,
                    message,
                ));
            }
        };
        Ok(Box::pin(stream::once(std::future::ready(event))))
    }
}
