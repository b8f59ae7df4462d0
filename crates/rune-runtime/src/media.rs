//! The models that media tools ask: in which order, under which policy and budgets, and what the journal says of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use rune_store_runtime::limits::{MAX_CALL_COST_MICRO_USD, MAX_CALL_TOKENS};
use rune_store_runtime::{
    AuditVerdict, EntryBody, ErrorCode, Failure, ModelCall, PolicyVerdict, ToolModelCall, Usage,
};
use rune_tools::{
    MadeMedia, MediaAccess, MediaDescription, MediaModel, MediaQuestion, MediaTranscript, NewImage,
    NewSpeech, NewTranscript, ToolError, ToolErrorKind,
};
use tokio::time::Instant;

use crate::agent::Agent;
use crate::budget::{Quote, ToolMeter};
use crate::model::media::{MediaCandidate, MediaDone, MediaFailed, MediaOutput, MediaRequest};
use crate::model::{CallStep, ModelError, ModelErrorKind, OFFLINE_NOTICE, metrics};
use crate::policy::{self, PolicyResource};

/// The models that one call of a tool asks.
pub(crate) struct MediaCalls {
    pub(crate) agent: Arc<Agent>,
    /// Absent where the call is played again.
    pub(crate) meter: Option<Arc<ToolMeter>>,
    /// Who made the request.
    pub(crate) caller: String,
    pub(crate) step: u32,
    pub(crate) call_id: String,
    /// What policy has said of models; committed with the result of the call.
    pub(crate) verdicts: Mutex<Vec<PolicyVerdict>>,
    /// Whether a model was sent something of which it is not known what came of it.
    pub(crate) is_under_way: AtomicBool,
}

impl MediaCalls {
    /// What policy has said of models.
    pub(crate) fn entries(&self) -> Vec<EntryBody> {
        let verdicts = self.lock().clone();
        verdicts.into_iter().map(EntryBody::PolicyVerdict).collect()
    }

    /// Asks policy about a model.
    ///
    /// # Errors
    /// Why it is denied.
    pub(crate) fn decide(&self, provider: &str, model: &str) -> Result<(), String> {
        let resource = PolicyResource::Model { provider, model };
        let policy = self.agent.policy();
        if !policy.asks(&resource) {
            return Ok(());
        }
        let decision = policy.decide(&self.caller, resource);
        let verdict = policy::without_a_person(
            policy::verdict(self.step, Some(&self.call_id), &resource, &decision),
            "a tool that runs does not wait for a person",
        );
        let denied = verdict.verdict == AuditVerdict::Denied;
        let refusal = denied.then(|| {
            let (name, reason) = (&verdict.resource, &verdict.reason);
            format!("policy denies the model `{name}`: {reason}")
        });
        let mut verdicts = self.lock();
        let is_known = |known: &PolicyVerdict| known.resource == verdict.resource;
        if !verdicts.iter().any(is_known) {
            verdicts.push(verdict);
        }
        refusal.map_or(Ok(()), Err)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<PolicyVerdict>> {
        // A list of verdicts is one at any time.
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the models that can do it, until one has answered. Where nobody knows what came of a call, no other is asked: it
    /// may have been done, and paid for.
    async fn ask(&self, request: MediaRequest) -> Result<(MediaModel, MediaOutput), ToolError> {
        let Some(meter) = &self.meter else {
            return Err(ToolError::new(
                ToolErrorKind::Unavailable,
                "the call is played again and asks no model",
            ));
        };
        let found = self.agent.media_models(&request);
        let found = found.map_err(|why| ToolError::new(ToolErrorKind::Unavailable, why))?;
        let mut failures: Vec<ToolError> = Vec::new();
        let mut patience = meter.patience();
        for candidate in found {
            if let Err(why) = self.decide(&candidate.provider, &candidate.model) {
                failures.push(ToolError::new(ToolErrorKind::Denied, why));
                continue;
            }
            let (prompt, output) = request.estimate();
            let quote = Quote {
                provider: &candidate.provider,
                model: &candidate.model,
                price: candidate.price,
                is_counted: candidate.is_counted,
                prompt,
                output,
            };
            let admitted = match meter.admit(quote, &mut patience).await {
                Ok(admitted) => admitted,
                // The next one may be cheaper, or have a price.
                Err(failure) if failure.code == ErrorCode::LimitExceeded => {
                    failures.push(refused(&failure));
                    continue;
                }
                Err(failure) => return Err(refused(&failure)),
            };
            let started = Instant::now();
            let on_step = |step| {
                admitted.step(step);
                self.set_under_way(step == CallStep::Sent);
            };
            let asked = candidate.ask(&request, &on_step).await;
            self.set_under_way(false);
            let MediaFailed { error, is_unknown } = match asked {
                Ok(done) => {
                    let booked = admitted.answered(self.called(&candidate, &done, started));
                    booked.await.map_err(|failure| refused(&failure))?;
                    let by = by(&candidate, done.complete);
                    let output = done.output.map_err(|error| failed(&error, false))?;
                    return Ok((by, output));
                }
                Err(failed) => failed,
            };
            metrics::failed(&candidate.provider, &candidate.model, error.kind);
            tracing::warn!(tool_call = %self.call_id, %error, "model call of a tool failed");
            let settled = admitted.failed(is_unknown).await;
            settled.map_err(|failure| refused(&failure))?;
            failures.push(failed(&error, is_unknown));
            if is_unknown || !self.agent.models().goes_on(&error) {
                break;
            }
        }
        Err(joined(&failures))
    }

    /// A call that was answered, for the journal and the ledger.
    fn called(
        &self,
        candidate: &MediaCandidate,
        done: &MediaDone,
        started: Instant,
    ) -> ToolModelCall {
        let price = candidate.price.filter(|_| done.usage.is_some());
        let usage = counted(done.usage.unwrap_or_default());
        metrics::answered(&candidate.provider, &candidate.model, &usage);
        ToolModelCall {
            step: self.step,
            call_id: self.call_id.clone(),
            call: ModelCall {
                provider: candidate.provider.clone(),
                model: candidate.model.clone(),
                usage,
                cost_micro_usd: price.map(|price| price.cost(&usage).min(MAX_CALL_COST_MICRO_USD)),
                duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            },
            counted: done.usage.is_some(),
        }
    }

    fn set_under_way(&self, is_under_way: bool) {
        self.is_under_way.store(is_under_way, Ordering::Relaxed);
    }
}

#[async_trait]
impl MediaAccess for MediaCalls {
    async fn describe(&self, question: MediaQuestion) -> Result<MediaDescription, ToolError> {
        match self.ask(MediaRequest::Describe(question)).await? {
            (by, MediaOutput::Text(text)) => Ok(MediaDescription { by, text }),
            (by, _) => Err(other(&by)),
        }
    }

    async fn transcribe(&self, wanted: NewTranscript) -> Result<MediaTranscript, ToolError> {
        match self.ask(MediaRequest::Transcribe(wanted)).await? {
            (
                by,
                MediaOutput::Transcript {
                    text,
                    language,
                    segments,
                },
            ) => Ok(MediaTranscript {
                by,
                text,
                language,
                segments,
            }),
            (by, _) => Err(other(&by)),
        }
    }

    async fn draw(&self, wanted: NewImage) -> Result<MadeMedia, ToolError> {
        self.make(MediaRequest::Draw(wanted)).await
    }

    async fn speak(&self, wanted: NewSpeech) -> Result<MadeMedia, ToolError> {
        self.make(MediaRequest::Speak(wanted)).await
    }

    fn is_under_way(&self) -> bool {
        self.is_under_way.load(Ordering::Relaxed)
    }
}

impl MediaCalls {
    async fn make(&self, request: MediaRequest) -> Result<MadeMedia, ToolError> {
        match self.ask(request).await? {
            (by, MediaOutput::File { bytes, text }) => Ok(MadeMedia { by, bytes, text }),
            (by, _) => Err(other(&by)),
        }
    }
}

fn by(candidate: &MediaCandidate, complete: bool) -> MediaModel {
    MediaModel {
        complete,
        provider: candidate.provider.clone(),
        model: candidate.model.clone(),
        notice: candidate.is_offline().then_some(OFFLINE_NOTICE),
    }
}

/// Tokens that the ledger believes.
fn counted(usage: Usage) -> Usage {
    Usage {
        input_tokens: usage.input_tokens.min(MAX_CALL_TOKENS),
        output_tokens: usage.output_tokens.min(MAX_CALL_TOKENS),
        cached_tokens: usage.cached_tokens.min(MAX_CALL_TOKENS),
        cache_write_tokens: usage.cache_write_tokens.min(MAX_CALL_TOKENS),
        reasoning_tokens: usage.reasoning_tokens.min(MAX_CALL_TOKENS),
    }
}

fn other(by: &MediaModel) -> ToolError {
    let message = format!("`{}` answered something else than was asked", by.provider);
    ToolError::new(ToolErrorKind::Failed, message)
}

/// The failure of a model as a tool tells it.
fn failed(error: &ModelError, unknown: bool) -> ToolError {
    let kind = match error.kind {
        ModelErrorKind::InvalidRequest | ModelErrorKind::ContextOverflow => {
            ToolErrorKind::InvalidInput
        }
        ModelErrorKind::Malformed | ModelErrorKind::Truncated => ToolErrorKind::Failed,
        ModelErrorKind::Timeout => ToolErrorKind::Timeout,
        ModelErrorKind::Unauthenticated
        | ModelErrorKind::QuotaExhausted
        | ModelErrorKind::ModelNotFound
        | ModelErrorKind::RateLimited
        | ModelErrorKind::Overloaded
        | ModelErrorKind::Transport
        | ModelErrorKind::CircuitOpen => ToolErrorKind::Unavailable,
    };
    let mut message = error.to_string();
    if unknown {
        message.push_str(
            "; whether it was done, and is charged, is not known, so it was not tried again",
        );
    }
    ToolError::new(kind, message)
}

/// A budget's refusal as a tool tells it.
fn refused(failure: &Failure) -> ToolError {
    let kind = match failure.code {
        ErrorCode::LimitExceeded => ToolErrorKind::LimitExceeded,
        _ => ToolErrorKind::Unavailable,
    };
    ToolError::new(kind, failure.message.as_str())
}

/// The failures of all that were asked, as one.
fn joined(failures: &[ToolError]) -> ToolError {
    let Some(last) = failures.last() else {
        return ToolError::new(ToolErrorKind::Unavailable, "no model was asked");
    };
    let messages: Vec<&str> = failures.iter().map(|one| one.message.as_str()).collect();
    ToolError::new(last.kind, messages.join("; then "))
}
