//! The loop of a programmable agent: a component decides, and has everything done here.
//!
//! The component runs from its start whenever the request is taken up. What it had done is in the journal, and is
//! answered from there in the same order; from the end of the journal on it is done. So it has to do the same again:
//! where it does something else the request fails, and the failure names the entry.
//!
//! Invariants:
//! * what has an effect is committed before it is done, and what a component was told before anything that may follow
//!   from it is done;
//! * its calls are those of the planner: policy, approvals, budgets and intents are the same code;
//! * a request that is parked holds no component.

mod ask;
mod host;
mod log;

use std::sync::Arc;
use std::time::Duration;

use rune_store_runtime::limits::MAX_ENTRY_BYTES;
use rune_store_runtime::{
    Block, ComponentTurn, EntryBody, ErrorCode, Failure, Message, RequestId, Role, ToolOutcome,
};
use rune_wasm::{
    AgentAnswer, AgentFailure, AgentRequest, AgentRunError, Fixed, LogLevel, Speaker, ToolCall,
    ToolDefinition, ToolResult, Utterance, WasmAgent,
};
use serde_json::{Value, json};

use super::{Ended, Planner, limit, output};
use crate::history::History;
use crate::journal::FLUSH_DELAY;
use ask::{failure, invalid, visible};
use host::{HostCall, PlannerHost};
use log::{Script, same_calls};

pub(crate) use log::{ComponentLog, Did};

/// Code of the notice that is a line of a component's log.
pub(crate) const COMPONENT_LOG: &str = "component_log";
/// Code of the notice that holds the tools that a component was told of, where MCP servers decide about them.
pub(crate) const TOOLS_LISTED: &str = "tools_listed";

/// Calls that a component makes at the same time at the most.
const MAX_CALLS_AT_ONCE: usize = 64;
/// Lines of a component's log that become notices; all are in the daemon's log.
const MAX_LOGGED: u32 = 200;
/// Bytes of a line that are kept.
const MAX_LINE_BYTES: usize = 4096;
/// Bytes that a component may show, with what each part of them takes.
const MAX_EMITTED: usize = 16 * 1024 * 1024;
const EMIT_OVERHEAD: usize = 64;

/// One run of a component.
struct Run {
    script: Script,
    history: History,
    /// Questions to models.
    asked: u32,
    /// Lines of the log.
    logged: u32,
    /// Bytes of text that were shown.
    emitted: usize,
}

impl Planner {
    /// Runs the component to its end. `last` gets the entries that belong into the commit of the end.
    pub(super) async fn run_component(
        &mut self,
        component: &Arc<WasmAgent>,
        history: History,
        last: &mut Vec<EntryBody>,
    ) -> Result<Value, Ended> {
        // What was under way is brought to its end first, so that the component finds a result of every call.
        self.end_calls().await?;
        let mut run = Run {
            script: self.state.component.begin(),
            history,
            asked: 0,
            logged: 0,
            emitted: 0,
        };
        let id = self.identity();
        let seed = id.to_string();
        let fixed = Fixed {
            seed: &seed,
            now: made_at(id),
        };
        let request = AgentRequest {
            id: seed.clone(),
            session_id: self.session_id.to_string(),
            input: self.state.input.to_string(),
            text: Message::from_input(&self.state.input).text(),
        };
        let (host, mut calls) = PlannerHost::new();
        let mut guest = Box::pin(component.run(request, fixed, Arc::new(host)));
        let stop = self.stop.clone();
        let ended = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Ended::Stopped),
                Some(call) = calls.recv() => Box::pin(self.serve(&mut run, call)).await?,
                ended = &mut guest => break ended,
                () = tokio::time::sleep(FLUSH_DELAY), if self.journal.has_pending() => {
                    self.journal.flush().await?;
                }
            }
        };
        let answer = match ended {
            Ok(answer) => answer,
            Err(error) => return Err(gone(&error).into()),
        };
        run.script.check_end()?;
        let answer = answer.map_err(|own| own_failure(&own))?;
        let (value, text) = self.answer(answer)?;
        last.push(EntryBody::ComponentTurn(ComponentTurn {
            turn: run.script.next_turn(),
            blocks: vec![Block::text(text)],
        }));
        Ok(value)
    }

    /// The request as the component knows it. A fork goes on as the request that it comes from.
    fn identity(&self) -> RequestId {
        let origin = self.state.origin.as_ref();
        origin.map_or(self.request_id, |origin| origin.request_id)
    }

    async fn serve(&mut self, run: &mut Run, call: HostCall) -> Result<(), Ended> {
        // Whether the component still waits for an answer shows when it is asked for more.
        match call {
            HostCall::Ask(ask, answer) => {
                let _ = answer.send(self.ask_for_component(run, *ask).await?);
            }
            HostCall::Tools(answer) => {
                let _ = answer.send(self.list_tools(run).await?);
            }
            HostCall::Call(calls, answer) => {
                let _ = answer.send(self.call_tools(run, calls).await?);
            }
            HostCall::Memory(key, answer) => {
                let found = self.remembered(run, "memory-recall", json!({ "key": key }));
                let value = found.await?.map(|found| {
                    let value = &found["memories"][0]["value"];
                    let is_there = found["memories"].get(0).is_some();
                    is_there.then(|| value.to_string())
                });
                let _ = answer.send(value);
            }
            HostCall::Remember(key, value, answer) => {
                check_size("a value to remember", value.len(), MAX_ENTRY_BYTES)?;
                let stored = match serde_json::from_str::<Value>(&value) {
                    Ok(value) => {
                        let input = json!({ "key": key, "value": value });
                        let stored = self.remembered(run, "memory-store", input).await?;
                        stored.map(|_| ())
                    }
                    Err(error) => Err(invalid(format!("the value is not JSON: {error}"))),
                };
                let _ = answer.send(stored);
            }
            HostCall::Memories(prefix, answer) => {
                let input = json!({ "prefix": prefix, "limit": 1000 });
                let found = self.remembered(run, "memory-list", input).await?;
                let _ = answer.send(found.map(|found| keys(&found)));
            }
            HostCall::History(answer) => {
                let _ = answer.send(said(&run.history));
            }
            HostCall::Emit(text, answer) => {
                self.emit(run, &text)?;
                let _ = answer.send(());
            }
            HostCall::Log(level, message, answer) => {
                self.log(run, level, &message)?;
                let _ = answer.send(());
            }
        }
        Ok(())
    }

    /// The tools. Those of MCP servers may be others when the component is run again, so that they are kept.
    async fn list_tools(&mut self, run: &mut Run) -> Result<Vec<ToolDefinition>, Ended> {
        let tools = self.agent.definitions().iter().map(|tool| ToolDefinition {
            name: tool.name.clone(),
            description: tool.description.clone(),
            input_schema: tool.input_schema.to_string(),
        });
        let tools: Vec<ToolDefinition> = tools.collect();
        if !self.agent.has_mcp_servers() {
            return Ok(tools);
        }
        let text = json!(tools).to_string();
        let does = Did::Listed(text.clone());
        let known = run
            .script
            .next(&does, |did| matches!(did, Did::Listed(_)))?;
        if let Some(Did::Listed(known)) = known {
            let tools = serde_json::from_str::<Vec<Value>>(&known).unwrap_or_default();
            return Ok(tools.iter().map(definition).collect());
        }
        self.note(EntryBody::Notice {
            code: TOOLS_LISTED.to_owned(),
            message: text,
        });
        Ok(tools)
    }

    /// Has tools called, as the planner has those that a model calls.
    async fn call_tools(
        &mut self,
        run: &mut Run,
        calls: Vec<ToolCall>,
    ) -> Result<Vec<ToolResult>, Ended> {
        if calls.len() > MAX_CALLS_AT_ONCE {
            let message = format!(
                "the component makes {} calls at once; {MAX_CALLS_AT_ONCE} are possible",
                calls.len()
            );
            return Err(limit(message).into());
        }
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = calls.iter().map(|call| call.name.len() + call.input.len());
        check_size("calls of tools", bytes.sum(), MAX_ENTRY_BYTES)?;
        let turn = run.script.next_turn();
        let id = |at: usize| format!("c{turn}-{}", at + 1);
        let blocks = calls.iter().enumerate().map(|(at, call)| Block::ToolCall {
            id: id(at),
            name: visible(&call.name),
            // What is no JSON is refused with the other faults of an input.
            input: serde_json::from_str(&call.input)
                .unwrap_or_else(|_| Value::String(call.input.clone())),
            native: None,
        });
        let does = ComponentTurn {
            turn,
            blocks: blocks.collect(),
        };
        let is_same = |did: &Did| match did {
            Did::Turn(known) => same_calls(&known.blocks, &does.blocks),
            _ => false,
        };
        let known = run.script.next(&Did::Turn(does.clone()), is_same)?;
        if known.is_none() {
            let body = EntryBody::ComponentTurn(does);
            self.state.apply(&body);
            let mut entries = vec![body];
            self.plan_calls(&mut entries).await?;
            self.journal.commit(entries).await?;
            self.tell_deadlines();
            self.end_calls().await?;
        }
        let results = calls.iter().enumerate().map(|(at, call)| {
            let outcome = self.state.component.outcome(&id(at));
            outcome.map(|outcome| result(&call.id, outcome))
        });
        let results: Option<Vec<ToolResult>> = results.collect();
        let missing = || Failure::new(ErrorCode::Internal, "a call of the component has no result");
        results.ok_or_else(|| missing().into())
    }

    /// What a tool of the memory answers.
    async fn remembered(
        &mut self,
        run: &mut Run,
        tool: &str,
        input: Value,
    ) -> Result<Result<Value, AgentFailure>, Ended> {
        let call = ToolCall {
            id: String::new(),
            name: format!("rune@{tool}"),
            input: input.to_string(),
        };
        let turn = run.script.turns() + 1;
        self.call_tools(run, vec![call]).await?;
        let outcome = self.state.component.outcome(&format!("c{turn}-1"));
        Ok(match outcome {
            Some(ToolOutcome {
                failure: Some(why), ..
            }) => Err(failure(why)),
            Some(ToolOutcome {
                output: Some(output),
                ..
            }) => Ok(output.clone()),
            _ => {
                let message = format!("what `rune@{tool}` found is too large");
                Err(failure(&Failure::new(ErrorCode::TooLarge, message)))
            }
        })
    }

    /// Shows text. What was shown before the component was interrupted is not shown again.
    fn emit(&self, run: &mut Run, text: &str) -> Result<(), Failure> {
        run.emitted = run.emitted.saturating_add(text.len() + EMIT_OVERHEAD);
        if run.emitted > MAX_EMITTED {
            return Err(limit(format!(
                "the component shows more than {MAX_EMITTED} bytes of text"
            )));
        }
        if run.script.is_over() && !text.is_empty() {
            self.feed.text(text);
        }
        Ok(())
    }

    fn log(&mut self, run: &mut Run, level: LogLevel, message: &str) -> Result<(), Failure> {
        let end = message.floor_char_boundary(MAX_LINE_BYTES);
        let message = message.get(..end).unwrap_or_default();
        let level_name = match level {
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
        };
        let is_new = run.script.is_over();
        run.logged = run.logged.saturating_add(1);
        if run.logged <= MAX_LOGGED {
            let line = format!("{level_name}: {message}");
            let does = Did::Logged(line.clone());
            let known = run.script.next(&does, |did| *did == does)?;
            if known.is_none() {
                self.note(EntryBody::Notice {
                    code: COMPONENT_LOG.to_owned(),
                    message: line,
                });
            }
        }
        if is_new {
            let agent = self.agent.name();
            match level {
                LogLevel::Debug => tracing::debug!(agent, "component: {message}"),
                LogLevel::Info => tracing::info!(agent, "component: {message}"),
                LogLevel::Warn => tracing::warn!(agent, "component: {message}"),
                LogLevel::Error => tracing::error!(agent, "component: {message}"),
            }
        }
        Ok(())
    }

    /// The output of the request, and the text by which the conversation remembers it.
    fn answer(&self, answer: AgentAnswer) -> Result<(Value, String), Failure> {
        let wrong = |message: String| {
            Failure::new(ErrorCode::Internal, format!("the component's {message}"))
        };
        let (value, text) = match answer {
            AgentAnswer::Text(text) => {
                let read = output::read(&self.agent, text.clone());
                let value = read.map_err(|problem| {
                    wrong(format!("answer does not match `output_schema`: {problem}"))
                })?;
                return Ok((value, text));
            }
            AgentAnswer::Json(text) => {
                check_size("an answer", text.len(), MAX_ENTRY_BYTES)?;
                let value = serde_json::from_str::<Value>(&text);
                let value = value
                    .map_err(|error| wrong(format!("answer is not one JSON value: {error}")))?;
                (value, text)
            }
        };
        let mismatches = self.agent.output_mismatches(&value);
        if let Some(mismatch) = mismatches.first() {
            return Err(wrong(format!(
                "answer does not match `output_schema`: {mismatch}"
            )));
        }
        Ok((value, text))
    }
}

/// Checks that what a component hands over can be read and kept.
///
/// # Errors
/// The failure of a component that hands over too much.
fn check_size(what: &str, bytes: usize, most: usize) -> Result<(), Failure> {
    if bytes <= most {
        return Ok(());
    }
    let message = format!("the component makes {what} of {bytes} bytes; {most} are possible");
    Err(Failure::new(ErrorCode::TooLarge, message))
}

/// When a request was made, as its id says, which is a UUID of version 7.
fn made_at(id: RequestId) -> Duration {
    let bytes = id.as_bytes().iter().take(6);
    Duration::from_millis(bytes.fold(0, |millis, byte| (millis << 8) | u64::from(*byte)))
}

/// How a call ended, as a component is told.
fn result(call_id: &str, outcome: &ToolOutcome) -> ToolResult {
    let output = outcome
        .output
        .as_ref()
        .filter(|_| outcome.failure.is_none());
    ToolResult {
        call_id: call_id.to_owned(),
        content: outcome.content.clone(),
        is_error: outcome.failure.is_some(),
        output: output.map(ToString::to_string),
    }
}

fn definition(tool: &Value) -> ToolDefinition {
    let text = |name: &str| tool[name].as_str().unwrap_or_default().to_owned();
    ToolDefinition {
        name: text("name"),
        description: text("description"),
        input_schema: text("input_schema"),
    }
}

fn keys(found: &Value) -> Vec<String> {
    let rows = found["memories"].as_array().into_iter().flatten();
    let keys = rows.filter_map(|row| row["key"].as_str());
    keys.map(str::to_owned).collect()
}

/// What was said in a conversation.
fn said(history: &History) -> Vec<Utterance> {
    let said = history.messages().filter_map(|message| {
        let speaker = match message.role {
            Role::User => Speaker::User,
            Role::Assistant => Speaker::Assistant,
            Role::Tool => return None,
        };
        let text = message.text();
        (!text.is_empty()).then_some(Utterance { speaker, text })
    });
    said.collect()
}

/// The failure of a request whose component did not come to an answer.
fn gone(error: &AgentRunError) -> Failure {
    let code = match error {
        AgentRunError::Memory { .. } | AgentRunError::Output => ErrorCode::LimitExceeded,
        AgentRunError::Busy(_) => ErrorCode::Unavailable,
        AgentRunError::Ended(_) | AgentRunError::Failed { .. } => ErrorCode::Internal,
    };
    Failure::new(code, error.to_string())
}

/// The failure that a component answers. A code that is none is a fault of the component.
fn own_failure(own: &AgentFailure) -> Failure {
    let code = serde_json::from_value(Value::String(own.code.clone()));
    Failure::new(code.unwrap_or(ErrorCode::Internal), own.message.as_str())
}
