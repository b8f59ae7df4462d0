//! A question of a component: what it has to be, and the prompt that is made of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rune_store_runtime::{Block, Message, ModelReply, PromptParts, Role};
use rune_wasm::{Ask, ToolChoice, ToolResult};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Run;
use super::tools::{is_name, visible};
use crate::model::{Providers, ToolDefinition};
use crate::planner::Planner;
use crate::planner::ask::Call;
use crate::tokens;

/// Bytes of a question to a model, without what Rune adds to it.
pub(super) const MAX_QUESTION_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of the schemas of a question together: read, they take many times as much.
const MAX_SCHEMA_BYTES: usize = 1024 * 1024;

/// What was asked, checked.
pub(super) struct Checked {
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
    /// What was asked, checked.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn check(&self, ask: &Ask) -> Result<Checked, String> {
        let own = ask.own_tools.iter().map(|tool| &tool.input_schema);
        let schemas = own.chain(&ask.output_schema).map(String::len);
        let bytes: usize = schemas.sum();
        if bytes > MAX_SCHEMA_BYTES {
            return Err(format!(
                "its schemas have {bytes} bytes; {MAX_SCHEMA_BYTES} are possible"
            ));
        }
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
        // Each is there once: a list of a few bytes could else stand for more than fits into memory.
        let (mut has_input, mut has_history) = (false, false);
        let mut replies: BTreeSet<u32> = BTreeSet::new();
        for (at, message) in messages.iter().enumerate() {
            let is_again = match message {
                Given::Input => std::mem::replace(&mut has_input, true),
                Given::History => std::mem::replace(&mut has_history, true),
                Given::Reply(step) => !replies.insert(*step),
                Given::User(_) | Given::Assistant(_) | Given::Results(_) => false,
            };
            if is_again {
                return Err(format!("message {at}: it is there already"));
            }
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
            let name = &tool.name;
            if !is_name(name) {
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

    /// The call of a model that is made of a question, and what fills its prompt.
    pub(super) fn call_of(&self, run: &Run, ask: Ask, checked: Checked) -> (Call, PromptParts) {
        let Checked {
            messages: parts,
            tools,
            models,
            output_schema,
        } = checked;
        let system = ask.system;
        let system = system.unwrap_or_else(|| self.agent.system().to_owned());
        let schema = output_schema.as_ref();
        let schema_bytes = schema.map_or(0, |schema| schema.to_string().len());
        let mut prompt = PromptParts {
            instructions: tokens::tokens_of(system.len() + schema_bytes),
            tools: tokens::of_tools(&tools),
            ..PromptParts::default()
        };
        let mut messages = Vec::new();
        for part in parts {
            match part {
                Part::History => {
                    let turns = run.history.turns.len();
                    prompt.earlier += tokens::of_messages(run.history.messages());
                    prompt.earlier_requests = u32::try_from(turns).unwrap_or(u32::MAX);
                    messages.extend(run.history.messages().cloned());
                    continue;
                }
                Part::Input => messages.extend(self.state.messages.first().cloned()),
                Part::Message(message) => messages.push(message),
            }
            prompt.own += messages.last().map_or(0, tokens::of_message);
        }
        let mut request = self.request_of(system, messages, tools);
        request.output_schema = output_schema;
        if let (Some(fewer), Some(most)) = (ask.max_output_tokens, request.max_output_tokens) {
            request.max_output_tokens = Some(fewer.clamp(1, most));
        }
        let call = Call {
            request,
            prompt_tokens: self.scale(&run.history).apply(prompt.total()),
            is_shown: ask.stream,
            models,
        };
        (call, prompt)
    }
}

/// Bytes of a question in memory.
pub(super) fn size(ask: &Ask) -> usize {
    use rune_wasm::Message as Given;

    let result = |result: &ToolResult| {
        let output = result.output.as_ref().map_or(0, String::len);
        size_of::<ToolResult>() + result.call_id.len() + result.content.len() + output
    };
    let messages = ask.messages.iter().map(|message| {
        let more = match message {
            Given::Input | Given::History | Given::Reply(_) => 0,
            Given::User(text) | Given::Assistant(text) => text.len(),
            Given::Results(results) => results.iter().map(result).sum(),
        };
        size_of::<Given>() + more
    });
    let own = ask.own_tools.iter().map(|tool| {
        let texts = tool.name.len() + tool.description.len() + tool.input_schema.len();
        size_of_val(tool) + texts
    });
    let names: &[String] = match &ask.tools {
        ToolChoice::All => &[],
        ToolChoice::Only(names) => names,
    };
    let names = names.iter().map(|name| size_of::<String>() + name.len());
    let texts = [&ask.system, &ask.model, &ask.output_schema];
    let texts = texts.into_iter().flatten().map(String::len);
    messages.chain(own).chain(names).chain(texts).sum()
}

/// The same for the same question.
pub(super) fn digest(ask: &Ask) -> String {
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
