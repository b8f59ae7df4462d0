//! The model without a model.

mod command;
mod turn;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream;
use rune_spec::{Script, ScriptFault, ScriptFaultKind, ScriptReply, ScriptToolCall, ScriptTurn};
use rune_store_runtime::{Block, StopReason, Usage};

use super::wire::CallIds;
use super::{
    LlmClient, ModelError, ModelErrorKind, ModelEvent, ModelOutput, ModelRequest, ModelStream,
};
use crate::tokens::tokens_of;
use command::commands;
use turn::Turn;

/// What the user is told wherever this model answers. The engine journals it as a notice
/// of its own; the answers themselves stay clean.
pub const OFFLINE_NOTICE: &str = "offline model: no language model is configured";

/// The provider's name in the Runefile.
pub const OFFLINE_PROVIDER: &str = "offline";

/// Pieces in which a text is streamed.
const CHUNKS: usize = 4;
/// Of a transcript: how many lines of the user are repeated, and how much of each.
const SUMMARY_LINES: usize = 20;
const SUMMARY_LINE_CHARS: usize = 120;

/// A deterministic model in the binary, so that everything can be tried without a key.
///
/// It plays a script. Without one, or where no rule of it fits, it answers
/// `Echo: <input>`; an input of lines `/tool NAME {json}` makes it call those tools (named
/// as in the toolset or as the model sees them) and report what they answered.
#[derive(Debug, Clone, Default)]
pub struct OfflineClient {
    script: Option<Arc<Script>>,
}

impl OfflineClient {
    /// A model that plays `script`, or echoes.
    #[must_use]
    pub const fn new(script: Option<Arc<Script>>) -> Self {
        Self { script }
    }

    fn reply(&self, request: &ModelRequest, turn: &Turn<'_>) -> Result<ScriptReply, ModelError> {
        let results = turn.script_results();
        let scripted = self.script.as_ref().map_or(Ok(None), |script| {
            script.play(&ScriptTurn {
                input: &turn.input,
                step: turn.step,
                results: &results,
            })
        });
        match scripted {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Ok(unscripted(request, turn)),
            Err(error) => {
                let source = std::error::Error::source(&error);
                let detail = source
                    .map(|source| format!(": {source}"))
                    .unwrap_or_default();
                let message = format!("{error}{detail}");
                Err(failure(ModelErrorKind::InvalidRequest, message))
            }
        }
    }
}

#[async_trait]
impl LlmClient for OfflineClient {
    fn provider(&self) -> &str {
        OFFLINE_PROVIDER
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        let turn = Turn::of(&request.messages);
        let reply = if request.is_summary() {
            say(summary(&turn.input))
        } else {
            self.reply(request, &turn)?
        };
        if !reply.delay.is_zero() {
            tokio::time::sleep(reply.delay).await;
        }
        let mut events: Vec<_> = pieces(&reply.text)
            .map(|piece| Ok(ModelEvent::Text(piece)))
            .collect();
        match reply.error {
            Some(fault) if events.is_empty() => return Err(fault_error(fault)),
            Some(fault) => events.push(Err(fault_error(fault))),
            None => {
                let output = output(request, reply.text, reply.tool_calls);
                events.push(Ok(ModelEvent::Done(output)));
            }
        }
        Ok(stream::iter(events).boxed())
    }
}

fn say(text: String) -> ScriptReply {
    ScriptReply {
        delay: std::time::Duration::ZERO,
        text,
        tool_calls: Vec::new(),
        error: None,
    }
}

/// The summary of a transcript: what the user said in it, as far as it goes.
fn summary(transcript: &str) -> String {
    let lines = transcript.lines().count();
    let said = transcript
        .lines()
        .filter(|line| line.starts_with("User: ") || line.starts_with("- User: "));
    let said = said.map(|line| {
        let line = line.trim_start_matches("- ");
        let short: String = line.chars().take(SUMMARY_LINE_CHARS).collect();
        format!("- {short}")
    });
    let said: Vec<String> = said.take(SUMMARY_LINES).collect();
    format!(
        "The offline model cannot summarise. The transcript has {lines} lines; the user said in it:\n{}",
        said.join("\n")
    )
}

/// What is said where no script says it.
fn unscripted(request: &ModelRequest, turn: &Turn<'_>) -> ScriptReply {
    if !turn.results.is_empty() {
        return say(turn.report());
    }
    match commands(&turn.input, &request.tools) {
        None if turn.images > 0 => say(format!(
            "Echo: {} (images: {}; the offline model cannot see them)",
            turn.input, turn.images
        )),
        None => say(format!("Echo: {}", turn.input)),
        Some(Err(problem)) => say(problem),
        Some(Ok(tool_calls)) => ScriptReply {
            tool_calls,
            ..say(String::new())
        },
    }
}

fn output(request: &ModelRequest, text: String, calls: Vec<ScriptToolCall>) -> ModelOutput {
    let mut ids = CallIds::of(&request.messages);
    let said = calls.iter().fold(text.len(), |bytes, call| {
        bytes + call.name.len() + serde_json::to_string(&call.input).map_or(0, |json| json.len())
    });
    let usage = Usage {
        input_tokens: tokens_of(prompt_bytes(request)),
        output_tokens: tokens_of(said),
        ..Usage::default()
    };
    let stop = if calls.is_empty() {
        StopReason::EndTurn
    } else {
        StopReason::ToolUse
    };
    let text = (!text.is_empty()).then(|| Block::text(text));
    let calls = calls.into_iter().map(|call| Block::ToolCall {
        id: ids.assign(""),
        name: call.name,
        input: call.input.into(),
        native: None,
    });
    ModelOutput {
        blocks: text.into_iter().chain(calls).collect(),
        stop,
        usage,
    }
}

fn prompt_bytes(request: &ModelRequest) -> usize {
    let blocks = request.messages.iter().flat_map(|message| &message.blocks);
    let messages = blocks.fold(0, |bytes, block| {
        bytes
            + match block {
                Block::Text { text, .. } | Block::Reasoning { text, .. } => text.len(),
                Block::ToolCall { name, input, .. } => name.len() + input.to_string().len(),
                Block::ToolResult { content, .. } => content.len(),
                Block::Image { .. } | Block::Opaque { .. } => 0,
            }
    });
    request
        .tools
        .iter()
        .fold(request.system.len() + messages, |bytes, tool| {
            bytes + tool.name.len() + tool.description.len() + tool.input_schema.to_string().len()
        })
}

fn pieces(text: &str) -> impl Iterator<Item = String> {
    let chars: Vec<char> = text.chars().collect();
    let size = chars.len().div_ceil(CHUNKS).max(1);
    let pieces: Vec<String> = chars
        .chunks(size)
        .map(|piece| piece.iter().collect())
        .collect();
    pieces.into_iter()
}

fn fault_error(fault: ScriptFault) -> ModelError {
    let kind = match fault.kind {
        ScriptFaultKind::Unavailable => ModelErrorKind::Overloaded,
        ScriptFaultKind::RateLimited => ModelErrorKind::RateLimited,
        ScriptFaultKind::Refused => ModelErrorKind::InvalidRequest,
        ScriptFaultKind::Cut => ModelErrorKind::Truncated,
    };
    failure(kind, fault.message)
}

fn failure(kind: ModelErrorKind, message: impl Into<String>) -> ModelError {
    ModelError::new(kind, OFFLINE_PROVIDER, message)
}
