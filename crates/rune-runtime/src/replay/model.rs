//! The model of a replay.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream;
use rune_store_runtime::{Block, EntryBody, ErrorCode, Failure, StopReason};

use super::Tape;
use crate::model::{
    LlmClient, ModelError, ModelErrorKind, ModelEvent, ModelOutput, ModelRequest, ModelStream,
};

/// Answers in the place of a provider.
pub(super) struct JournalModel {
    provider: String,
    tape: Arc<Tape>,
}

impl JournalModel {
    pub(super) fn new(provider: &str, tape: &Arc<Tape>) -> Self {
        Self {
            provider: provider.to_owned(),
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
        let said = self.tape.next_reply();
        if let Some(reply) = said.and_then(EntryBody::reply) {
            let whole = ModelEvent::Done(ModelOutput {
                blocks: reply.blocks.clone(),
                stop: reply.stop,
                usage: reply.usage,
            });
            return Ok(Box::pin(stream::once(std::future::ready(Ok(whole)))));
        }
        let event = match said {
            Some(EntryBody::Compacted(compaction)) => {
                let call = compaction.call.as_ref();
                Ok(ModelEvent::Done(ModelOutput {
                    blocks: vec![Block::text(compaction.summary.as_str())],
                    stop: StopReason::EndTurn,
                    usage: call.map(|call| call.usage).unwrap_or_default(),
                }))
            }
            Some(EntryBody::ModelFailed {
                provider,
                failure,
                next_provider,
                ..
            }) => {
                let kind = match failure.code {
                    ErrorCode::InvalidInput => ModelErrorKind::InvalidRequest,
                    ErrorCode::TooLarge => ModelErrorKind::ContextOverflow,
                    ErrorCode::Timeout => ModelErrorKind::Timeout,
                    _ => ModelErrorKind::Transport,
                };
                let is_asked_again = next_provider.as_ref() == Some(provider);
                if !is_asked_again || kind == ModelErrorKind::ContextOverflow {
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
