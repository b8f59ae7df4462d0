//! A component asks a model.

use std::collections::BTreeMap;
use std::sync::Arc;

use rune_spec::ToolRef;
use rune_store_runtime::{
    Block, EntryBody, ErrorCode, Failure, Message, ModelAsk, ModelReply, PromptParts, Role,
    StopReason,
};
use rune_wasm::{AgentFailure, Ask, Reply, ToolCall, ToolChoice, ToolResult, Usage};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::log::Did;
use super::{Run, check_size};
use crate::model::{ModelRequest, Providers, ToolDefinition};
use crate::planner::ask::{Asked, Call, DEFAULT_MAX_OUTPUT_TOKENS};
use crate::planner::{Ended, Planner};
use crate::tokens;

/// Bytes of a question to a model, without what Rune adds to it.
const MAX_QUESTION_BYTES: usize = 16 * 1024 * 1024;
/// Longest name of a tool that providers take.
const MAX_NAME: usize = 64;

/// What was asked, checked.
struct Checked {
    messages: Vec<Part>,
    tools: Vec<ToolDefinition>,
    models: Option<Providers>,
    output_schema: Option<Arc<Value>>,
}

/// A part of the prompt.
enum Part {
    Input,
    History,
    Message(Message),
}

impl Planner {
    /// Asks a model for the component. What is not a question that can be asked is told to the component, and the same
    /// whenever it is run; what a model says becomes an entry.
    pub(super) async fn ask_for_component(
        &mut self,
        run: &mut Run,
        ask: Ask,
    ) -> Result<Result<Reply, AgentFailure>, Ended> {
        check_size("a question", size(&ask), MAX_QUESTION_BYTES)?;
        let checked = match self.check(&ask) {
            Ok(checked) => checked,
            Err(problem) => return Ok(Err(invalid(problem))),
        };
        run.asked += 1;
        let step = run.asked;
        let asked = ModelAsk {
            step,
            request: digest(&ask),
            reply: None,
            failure: None,
        };
        let does = Did::Asked(Box::new(asked.clone()));
        let is_same =
            |did: &Did| matches!(did, Did::Asked(known) if known.request == asked.request);
        if let Some(Did::Asked(known)) = run.script.next(&does, is_same)? {
            return Ok(told(&known));
        }
        self.check_steps()?;
        if run.asked > 1 {
            // What was paid for is stored before more is. The first question may overlap with the acceptance.
            self.journal.commit(Vec::new()).await?;
        }
        self.load_images(&mut run.history).await?;
        let (request, prompt) = self.prompt_of(run, ask.system, &checked, ask.max_output_tokens);
        let prompt_tokens = self.scale(&run.history).apply(prompt.total());
        self.check_tokens(prompt_tokens)?;
        let call = Call {
            request,
            prompt_tokens,
            is_shown: ask.stream,
            models: checked.models,
        };
        self.state.unanswered = None;
        let answered = match self.ask(call).await {
            Ok(Asked::Answered(answer)) => Ok(self.model_reply(*answer, prompt)),
            Ok(Asked::TooLong(failed)) => {
                let failure = failed.failure.clone();
                self.note(failed.entry(step, None));
                Err(failure)
            }
            Err(Ended::Failed(failure)) if self.state.unanswered.as_ref() == Some(&failure) => {
                Err(failure)
            }
            Err(ended) => return Err(ended),
        };
        let asked = match answered {
            Ok(reply) => ModelAsk {
                reply: Some(reply),
                ..asked
            },
            Err(failure) => ModelAsk {
                failure: Some(failure),
                ..asked
            },
        };
        let told = told(&asked);
        // Nothing leaves the component's hands before the next commit, which has it.
        self.note(EntryBody::ModelAsked(Box::new(asked)));
        Ok(told)
    }

    fn check(&self, ask: &Ask) -> Result<Checked, String> {
        let models = ask
            .model
            .as_deref()
            .map(|alias| self.agent.models_of(alias));
        let schema = ask.output_schema.as_deref().map(|schema| {
            let schema = serde_json::from_str(schema);
            schema.map_err(|error| format!("`output-schema` is not JSON: {error}"))
        });
        Ok(Checked {
            messages: self.messages(&ask.messages)?,
            tools: self.offered(ask)?,
            models: models.transpose()?,
            output_schema: schema.transpose()?.map(Arc::new),
        })
    }

    fn messages(&self, messages: &[rune_wasm::Message]) -> Result<Vec<Part>, String> {
        use rune_wasm::Message as Given;

        let mut parts = Vec::with_capacity(messages.len());
        // The calls of the reply before, by id.
        let mut open: BTreeMap<&str, &str> = BTreeMap::new();
        for (at, message) in messages.iter().enumerate() {
            if !open.is_empty() && !matches!(message, Given::Results(_)) {
                return Err(format!(
                    "message {at}: the calls of the reply before it have no results"
                ));
            }
            parts.push(match message {
                Given::Input => Part::Input,
                Given::History => Part::History,
                Given::User(text) => Part::Message(Message::user(text)),
                Given::Assistant(text) => Part::Message(Message {
                    role: Role::Assistant,
                    blocks: vec![Block::text(text)],
                }),
                Given::Reply(step) => {
                    let reply = self.state.component.reply(*step);
                    let reply =
                        reply.ok_or_else(|| format!("message {at}: there is no reply {step}"))?;
                    open = calls(reply).collect();
                    Part::Message(Message {
                        role: Role::Assistant,
                        blocks: reply.blocks.clone(),
                    })
                }
                Given::Results(results) => Part::Message(answered(at, results, &mut open)?),
            });
        }
        if !open.is_empty() {
            return Err("the calls of the last reply have no results".to_owned());
        }
        if parts.is_empty() {
            return Err("there is no message".to_owned());
        }
        Ok(parts)
    }

    /// The tools that the model is offered, sorted by name.
    fn offered(&self, ask: &Ask) -> Result<Vec<ToolDefinition>, String> {
        let mut tools: BTreeMap<String, ToolDefinition> = BTreeMap::new();
        match &ask.tools {
            ToolChoice::All => {
                let all = self.agent.definitions().iter();
                tools.extend(all.map(|tool| (tool.name.clone(), tool.clone())));
            }
            ToolChoice::Only(names) => {
                for name in names {
                    let visible = visible(name);
                    let found = self
                        .agent
                        .definitions()
                        .iter()
                        .find(|it| it.name == visible);
                    match found {
                        Some(tool) => {
                            tools.insert(visible, tool.clone());
                        }
                        // A server may have taken it away.
                        None if self.agent.has_mcp_servers() => {}
                        None => return Err(format!("there is no tool `{name}`")),
                    }
                }
            }
        }
        for tool in &ask.own_tools {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            let name = &tool.name;
            if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_plain) {
                return Err(format!("`{name}` cannot be the name of a tool"));
            }
            let input_schema = serde_json::from_str(&tool.input_schema);
            let definition = ToolDefinition {
                name: name.clone(),
                description: tool.description.clone(),
                input_schema: input_schema
                    .map_err(|error| format!("the schema of `{name}` is not JSON: {error}"))?,
            };
            if tools.insert(name.clone(), definition).is_some() {
                return Err(format!("there are two tools `{name}`"));
            }
        }
        Ok(tools.into_values().collect())
    }

    fn prompt_of(
        &self,
        run: &Run,
        system: Option<String>,
        checked: &Checked,
        max_output_tokens: Option<u32>,
    ) -> (ModelRequest, PromptParts) {
        let spec = &self.agent.spec().models;
        let system = system.unwrap_or_else(|| self.agent.system().to_owned());
        let schema = checked.output_schema.as_ref();
        let schema_bytes = schema.map_or(0, |schema| schema.to_string().len());
        let mut prompt = PromptParts {
            instructions: tokens::tokens_of(system.len() + schema_bytes),
            tools: tokens::of_tools(&checked.tools),
            ..PromptParts::default()
        };
        let mut messages = Vec::new();
        for part in &checked.messages {
            match part {
                Part::History => {
                    let turns = run.history.turns.len();
                    prompt.earlier += tokens::of_messages(run.history.messages());
                    prompt.earlier_requests = u32::try_from(turns).unwrap_or(u32::MAX);
                    messages.extend(run.history.messages().cloned());
                    continue;
                }
                Part::Input => messages.extend(self.state.messages.first().cloned()),
                Part::Message(message) => messages.push(message.clone()),
            }
            prompt.own += messages.last().map_or(0, tokens::of_message);
        }
        let most = spec.max_output_tokens.unwrap_or(DEFAULT_MAX_OUTPUT_TOKENS);
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let request = ModelRequest {
            model: String::new(),
            system,
            messages,
            tools: checked.tools.clone(),
            max_output_tokens: Some(max_output_tokens.map_or(most, |fewer| fewer.clamp(1, most))),
            temperature: spec.temperature,
            reasoning_effort: spec.reasoning_effort.map(|e| e.as_str().to_owned()),
            output_schema: checked.output_schema.clone(),
        };
        (request, prompt)
    }
}

/// The name by which the model calls the tool that a component names.
pub(super) fn visible(name: &str) -> String {
    let reference = name.parse::<ToolRef>().ok();
    let visible = reference.and_then(|reference| reference.visible_name());
    visible.unwrap_or_else(|| name.to_owned())
}

/// Bytes of the texts of a question.
fn size(ask: &Ask) -> usize {
    use rune_wasm::Message as Given;

    let result = |result: &ToolResult| result.call_id.len() + result.content.len();
    let messages = ask.messages.iter().map(|message| match message {
        Given::Input | Given::History | Given::Reply(_) => size_of::<Given>(),
        Given::User(text) | Given::Assistant(text) => text.len(),
        Given::Results(results) => results.iter().map(result).sum(),
    });
    let tools = ask.own_tools.iter();
    let tools =
        tools.map(|tool| tool.name.len() + tool.description.len() + tool.input_schema.len());
    let texts = [&ask.system, &ask.model, &ask.output_schema];
    let texts = texts.into_iter().flatten().map(String::len);
    messages.chain(tools).chain(texts).sum()
}

/// The same for the same question.
fn digest(ask: &Ask) -> String {
    let text = serde_json::to_string(ask).unwrap_or_default();
    let digest = Sha256::digest(text);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Ids and names of the calls of a reply.
fn calls(reply: &ModelReply) -> impl Iterator<Item = (&str, &str)> {
    reply.blocks.iter().filter_map(|block| match block {
        Block::ToolCall { id, name, .. } => Some((id.as_str(), name.as_str())),
        _ => None,
    })
}

/// The message of results, which have to be those of the calls that are `open`.
fn answered(
    at: usize,
    results: &[ToolResult],
    open: &mut BTreeMap<&str, &str>,
) -> Result<Message, String> {
    let mut blocks = Vec::with_capacity(results.len());
    for result in results {
        let id = result.call_id.as_str();
        let name = open.remove(id);
        let name =
            name.ok_or_else(|| format!("message {at}: the reply before it has no call `{id}`"))?;
        blocks.push(Block::ToolResult {
            call_id: id.to_owned(),
            name: name.to_owned(),
            content: result.content.clone(),
            images: Vec::new(),
            is_error: result.is_error,
        });
    }
    if blocks.is_empty() {
        return Err(format!("message {at}: there are no results in it"));
    }
    if let Some(id) = open.keys().next() {
        return Err(format!("message {at}: the call `{id}` has no result"));
    }
    Ok(Message {
        role: Role::Tool,
        blocks,
    })
}

/// What a component is told of a model that was asked.
fn told(ask: &ModelAsk) -> Result<Reply, AgentFailure> {
    let Some(reply) = &ask.reply else {
        let unexplained = || Failure::new(ErrorCode::ModelUnavailable, "no model answered");
        return Err(failure(&ask.failure.clone().unwrap_or_else(unexplained)));
    };
    let message = Message {
        role: Role::Assistant,
        blocks: reply.blocks.clone(),
    };
    let tool_calls = reply.blocks.iter().filter_map(|block| match block {
        Block::ToolCall {
            id, name, input, ..
        } => Some(ToolCall {
            id: id.clone(),
            name: name.clone(),
            input: input.to_string(),
        }),
        _ => None,
    });
    Ok(Reply {
        step: reply.step,
        text: message.text(),
        tool_calls: tool_calls.collect(),
        stop: match reply.stop {
            StopReason::EndTurn => rune_wasm::StopReason::EndTurn,
            StopReason::ToolUse => rune_wasm::StopReason::ToolUse,
            StopReason::MaxTokens => rune_wasm::StopReason::MaxTokens,
            StopReason::Refusal => rune_wasm::StopReason::Refusal,
            StopReason::Pause => rune_wasm::StopReason::Pause,
        },
        usage: Usage {
            input_tokens: reply.usage.input_tokens,
            output_tokens: reply.usage.output_tokens,
        },
    })
}

/// A failure as a component is told it.
pub(super) fn failure(failure: &Failure) -> AgentFailure {
    AgentFailure {
        code: failure.code.as_str().to_owned(),
        message: failure.message.clone(),
    }
}

/// A fault of the component.
pub(super) fn invalid(message: String) -> AgentFailure {
    failure(&Failure::new(ErrorCode::InvalidInput, message))
}
