//! One model turn: the call, its live deltas, and what happens when it fails.

use futures_util::StreamExt;
use rune_store_runtime::{
    Block, EntryBody, ErrorCode, Failure, Message, ModelReply, PromptParts, StopReason,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Ended, Planner};
use crate::history::History;
use crate::journal::FLUSH_DELAY;
use crate::model::{
    CallStep, Candidate, LlmClient, ModelError, ModelErrorKind, ModelEvent, ModelOutput,
    ModelRequest, Providers, ToolDefinition, metrics,
};
use crate::replay::Recorded;

/// Output tokens of one call where the Runefile does not say.
const DEFAULT_MAX_OUTPUT_TOKENS: u64 = 16_384;
/// How often one model is asked again after its reply broke off in the middle. What
/// fails before the reply begins is the client's to retry, and is not retried here.
const BROKEN_REPLY_RETRIES: u32 = 1;

/// Code of the notice that the provider makes the request wait.
pub(crate) const PROVIDER_WAIT: &str = "provider_wait";

/// A call of the models.
pub(super) struct Call {
    /// What is asked; the model is the candidate's, and no more is answered than the budgets
    /// allow.
    pub(super) request: ModelRequest,
    /// Tokens of the prompt.
    pub(super) prompt_tokens: u64,
    /// Whether whoever follows the request reads along.
    pub(super) is_shown: bool,
    /// Who is asked; the agent's default model where there is nothing.
    pub(super) models: Option<Providers>,
}

/// What came of it.
pub(super) enum Asked {
    /// A model has answered.
    Answered(Box<Answer>),
    /// The prompt is too long for the model. Nothing is noted of it.
    TooLong(TooLong),
}

/// A whole answer.
pub(super) struct Answer {
    pub(super) provider: String,
    pub(super) model: String,
    pub(super) output: ModelOutput,
    pub(super) cost_micro_usd: Option<u64>,
    pub(super) duration_ms: u64,
}

/// A model refused a prompt for its length.
pub(super) struct TooLong {
    provider: String,
    model: String,
    pub(super) failure: Failure,
}

impl TooLong {
    /// The entry for it; `next` is the provider that is asked after it.
    pub(super) fn entry(self, step: u32, next: Option<String>) -> EntryBody {
        EntryBody::ModelFailed {
            step,
            provider: self.provider,
            model: self.model,
            failure: self.failure,
            next_provider: next,
        }
    }
}

/// What came of asking one model once.
enum One {
    Answered(ModelOutput),
    Failed {
        error: ModelError,
        /// Whether the reply had begun, which is when the client hands it over.
        begun: bool,
    },
}

impl Planner {
    /// The next turn of the conversation. Where the prompt is too long for the model, the
    /// conversation is compacted and the model asked again, once.
    pub(super) async fn reply(&mut self, earlier: &mut History) -> Result<ModelReply, Ended> {
        self.check_steps()?;
        self.make_room(earlier).await?;
        let mut is_again = false;
        loop {
            let prompt = self.prompt_parts(earlier);
            let call = Call {
                request: self.model_request(earlier),
                prompt_tokens: self.prompt_tokens(earlier),
                is_shown: true,
                models: None,
            };
            self.check_tokens(call.prompt_tokens)?;
            // Less than the model has refused, and half of what is left to be sure.
            let room = self.prompt_room().min(call.prompt_tokens / 2);
            let failed = match self.ask(call).await? {
                Asked::Answered(answer) => return Ok(self.model_reply(*answer, prompt)),
                Asked::TooLong(failed) => failed,
            };
            let step = self.state.steps + 1;
            match self.plan_compaction(earlier, room) {
                Some(plan) if !is_again => {
                    is_again = true;
                    let next = Some(failed.provider.clone());
                    self.commit(vec![failed.entry(step, next)]).await?;
                    self.compact(earlier, &plan).await?;
                }
                _ => {
                    let failure = failed.failure.clone();
                    self.note(failed.entry(step, None));
                    return Err(failure.into());
                }
            }
        }
    }

    pub(super) fn model_reply(&self, answer: Answer, prompt: PromptParts) -> ModelReply {
        ModelReply {
            step: self.state.steps + 1,
            provider: answer.provider,
            model: answer.model,
            blocks: answer.output.blocks,
            stop: answer.output.stop,
            usage: answer.output.usage,
            prompt,
            cost_micro_usd: answer.cost_micro_usd,
            duration_ms: answer.duration_ms,
        }
    }

    /// Asks the models in order of preference until one has answered.
    pub(super) async fn ask(&mut self, call: Call) -> Result<Asked, Ended> {
        let agent = std::sync::Arc::clone(&self.agent);
        let recorded = self.recorded.clone();
        let Call {
            mut request,
            prompt_tokens,
            is_shown,
            models,
        } = call;
        let others = models.map(|models| match &recorded {
            Some(recorded) => recorded.answering_for(&models),
            None => models,
        });
        let own = || recorded.as_ref().map_or(agent.models(), Recorded::models);
        let models = others.as_ref().unwrap_or_else(own);
        let candidates: Vec<&Candidate> = models.candidates().collect();
        let wanted = request.max_output_tokens.map_or(u64::MAX, u64::from);
        let mut position = 0;
        let mut retries = 0;
        loop {
            let Some(candidate) = candidates.get(position).copied() else {
                let message = "no model provider is configured for this agent";
                return Err(Failure::new(ErrorCode::ModelUnavailable, message).into());
            };
            let next = candidates.get(position + 1).copied();
            if self.is_denied(candidate, next.filter(|_| models.falls_back()))? {
                position += 1;
                retries = 0;
                continue;
            }
            let used = self.state.usage.total().saturating_add(prompt_tokens);
            let output = wanted
                .min(self.agent.token_budget().saturating_sub(used))
                .max(1);
            request.max_output_tokens = Some(u32::try_from(output).unwrap_or(u32::MAX));
            request.model.clone_from(&candidate.model);
            self.allow(candidate, prompt_tokens, &mut request).await?;
            self.warn_unpriced(candidate);
            let started = Instant::now();
            let (error, begun) = match self.ask_one(candidate, &request, is_shown).await? {
                One::Failed { error, begun } => {
                    if recorded.is_none() {
                        let provider = candidate.client.provider();
                        metrics::failed(provider, &candidate.model, error.kind);
                    }
                    let charged = begun || error.outcome_is_unknown();
                    if let Some(unknown) = self.meter.failed(charged).await? {
                        self.note(unknown);
                    }
                    (error, begun)
                }
                One::Answered(output) => {
                    if recorded.is_none() {
                        let provider = candidate.client.provider();
                        metrics::answered(provider, &candidate.model, &output.usage);
                    }
                    self.meter.answered(candidate, &request, &output).await?;
                    let duration = started.elapsed().as_millis();
                    return Ok(Asked::Answered(Box::new(Answer {
                        provider: candidate.client.provider().to_owned(),
                        model: candidate.model.clone(),
                        cost_micro_usd: candidate.price.map(|price| price.cost(&output.usage)),
                        output,
                        duration_ms: u64::try_from(duration).unwrap_or(u64::MAX),
                    })));
                }
            };
            let failure = failure(&error);
            tracing::warn!(request = %self.request_id, %error, "model call failed");
            if error.kind == ModelErrorKind::ContextOverflow {
                return Ok(Asked::TooLong(TooLong {
                    provider: candidate.client.provider().to_owned(),
                    model: candidate.model.clone(),
                    failure,
                }));
            }
            let again = if begun {
                is_broken_reply(&error)
            } else {
                // The client did not try again, because that is another call to pay for.
                self.meter.is_shared() && error.outcome_is_unknown()
            };
            let again = again && retries < BROKEN_REPLY_RETRIES;
            if again {
                retries += 1;
            } else {
                position += 1;
                retries = 0;
            }
            let next = candidates
                .get(position)
                .filter(|_| again || models.goes_on(&error));
            let failed = EntryBody::ModelFailed {
                step: self.state.steps + 1,
                provider: candidate.client.provider().to_owned(),
                model: candidate.model.clone(),
                failure: failure.clone(),
                next_provider: next.map(|next| next.client.provider().to_owned()),
            };
            if next.is_none() {
                self.note(failed);
                return Err(failure.into());
            }
            // Readers learn that the text so far does not count before they see more.
            self.commit(vec![failed]).await?;
        }
    }

    async fn ask_one(
        &mut self,
        candidate: &Candidate,
        request: &ModelRequest,
        is_shown: bool,
    ) -> Result<One, Ended> {
        let stop = self.stop.clone();
        let (told, mut steps) = mpsc::unbounded_channel();
        // Nobody listens any more once the call has been let through.
        let on_step = move |step: CallStep| {
            let _ = told.send(step);
        };
        let client = if self.meter.is_shared() {
            candidate.client.clone().paid_once()
        } else {
            candidate.client.clone()
        };
        let mut call = Box::pin(client.call(request, &on_step));
        let flush = tokio::time::sleep(FLUSH_DELAY);
        tokio::pin!(flush);
        let mut stream = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    while let Ok(step) = steps.try_recv() {
                        self.call_step(candidate, step);
                    }
                    return Err(Ended::Stopped);
                }
                stream = &mut call => match stream {
                    Ok(stream) => {
                        self.meter.sent(true);
                        break stream;
                    }
                    Err(error) => return Ok(One::Failed { error, begun: false }),
                },
                Some(step) = steps.recv() => self.call_step(candidate, step),
                () = &mut flush, if self.journal.has_pending() => self.journal.flush().await?,
            }
        };
        loop {
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Ended::Stopped),
                event = stream.next() => event,
                () = &mut flush, if self.journal.has_pending() => {
                    self.journal.flush().await?;
                    continue;
                }
            };
            match event {
                Some(Ok(ModelEvent::Text(_) | ModelEvent::Reasoning(_))) if !is_shown => {}
                Some(Ok(ModelEvent::Text(text))) => self.feed.text(&text),
                Some(Ok(ModelEvent::Reasoning(text))) => self.feed.reasoning(&text),
                Some(Ok(ModelEvent::Done(output))) => return Ok(One::Answered(output)),
                Some(Err(error)) => return Ok(One::Failed { error, begun: true }),
                None => {
                    let provider = candidate.client.provider();
                    let message = "the reply ended before it was complete";
                    let error = ModelError::new(ModelErrorKind::Truncated, provider, message);
                    return Ok(One::Failed { error, begun: true });
                }
            }
        }
    }

    fn call_step(&mut self, candidate: &Candidate, step: CallStep) {
        match step {
            CallStep::Sent => self.meter.sent(true),
            CallStep::Waits(wait) => {
                self.meter.sent(false);
                self.note(EntryBody::Notice {
                    code: PROVIDER_WAIT.to_owned(),
                    message: format!("{}: {wait}", candidate.client.provider()),
                });
            }
        }
    }

    fn model_request(&self, earlier: &History) -> ModelRequest {
        let messages = earlier.messages().chain(&self.state.messages);
        ModelRequest {
            output_schema: self.agent.output_schema().cloned(),
            ..self.request_of(
                self.agent.system().to_owned(),
                messages.cloned().collect(),
                self.tools(earlier),
            )
        }
    }

    /// A request with what the Runefile says of every one; the model is the candidate's.
    pub(super) fn request_of(
        &self,
        system: String,
        messages: Vec<Message>,
        tools: Vec<ToolDefinition>,
    ) -> ModelRequest {
        let spec = &self.agent.spec().models;
        let output = spec.max_output_tokens.unwrap_or(DEFAULT_MAX_OUTPUT_TOKENS);
        ModelRequest {
            model: String::new(),
            system,
            messages,
            tools,
            max_output_tokens: Some(u32::try_from(output).unwrap_or(u32::MAX)),
            temperature: spec.temperature,
            reasoning_effort: spec.reasoning_effort.map(|e| e.as_str().to_owned()),
            output_schema: None,
        }
    }

    /// Tells the reader of the journal about an answer that is not whole.
    pub(super) fn report_stop(&mut self, reply: &ModelReply) {
        let has_calls = reply
            .blocks
            .iter()
            .any(|b| matches!(b, Block::ToolCall { .. }));
        let (code, message) = match reply.stop {
            StopReason::MaxTokens => (
                EntryBody::OUTPUT_TRUNCATED,
                "the model reached its output limit",
            ),
            StopReason::Refusal => (
                EntryBody::REFUSED,
                "the model or its provider declined to answer",
            ),
            StopReason::EndTurn | StopReason::ToolUse | StopReason::Pause => return,
        };
        if !has_calls {
            self.note(EntryBody::Notice {
                code: code.to_owned(),
                message: message.to_owned(),
            });
        }
    }
}

/// Whether a reply that had begun is worth asking for again.
const fn is_broken_reply(error: &ModelError) -> bool {
    matches!(
        error.kind,
        ModelErrorKind::Truncated | ModelErrorKind::Malformed
    )
}

fn failure(error: &ModelError) -> Failure {
    let code = match error.kind {
        ModelErrorKind::InvalidRequest => ErrorCode::InvalidInput,
        ModelErrorKind::ContextOverflow => ErrorCode::TooLarge,
        ModelErrorKind::Timeout => ErrorCode::Timeout,
        _ => ErrorCode::ModelUnavailable,
    };
    Failure::new(code, error.to_string())
}
