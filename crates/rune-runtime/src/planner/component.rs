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

mod answer;
mod ask;
mod host;
mod memory;
mod output;
mod question;
mod script;
mod tools;

use std::sync::Arc;
use std::time::Duration;

use rune_store_runtime::{
    Block, ComponentTurn, EntryBody, ErrorCode, Failure, Identity, ListedTool, Message, RequestId,
    Role,
};
use rune_wasm::{
    AgentFailure, AgentPlace, AgentRequest, AgentRun, Fixed, Speaker, Utterance, WasmAgent,
};
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior};

use super::{Ended, Planner};
use crate::history::History;
use crate::journal::FLUSH_DELAY;
use host::{HostCall, PlannerHost};
use script::Script;

pub(crate) use script::{ComponentLog, Did};

/// Code of the notice that is a line of a component's log.
pub(crate) const COMPONENT_LOG: &str = "component_log";

/// Code of the notice that a component waits until another one has ended.
pub(crate) const COMPONENT_WAIT: &str = "component_wait";

/// Bytes of what a component is told of a fault of its own, and of what it says of its failure.
const MAX_FAULT_BYTES: usize = 16 * 1024;

/// One run of a component.
struct Run {
    script: Script,
    history: History,
    /// The tools that the component was told of, where MCP servers decide about them.
    listed: Option<Vec<ListedTool>>,
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
            listed: None,
            asked: 0,
            logged: 0,
            emitted: 0,
        };
        let identity = self.identity();
        let seed = identity.request_id.to_string();
        let fixed = Fixed {
            seed: &seed,
            now: made_at(identity.request_id),
        };
        let request = AgentRequest {
            id: seed.clone(),
            session_id: identity.session_id.to_string(),
            input: self.state.input.to_string(),
            text: Message::from_input(&self.state.input).text(),
        };
        let (host, mut calls) = PlannerHost::new();
        let place = match component.free_place(self.agents.level()) {
            Some(place) => place,
            None => self.wait_for_place(component).await?,
        };
        let mut guest = Box::pin(component.run(place, request, fixed, Arc::new(host)));
        let stop = self.stop.clone();
        let mut flush = tokio::time::interval_at(Instant::now() + FLUSH_DELAY, FLUSH_DELAY);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Ended::Stopped),
                Some(call) = calls.recv() => Box::pin(self.serve(&mut run, call)).await?,
                ended = &mut guest => break ended,
                _ = flush.tick(), if self.journal.has_pending() => self.journal.flush().await?,
            }
        };
        let AgentRun {
            answer,
            diagnostics,
        } = ended.map_err(|error| answer::gone(&error))?;
        if self.recorded.is_none() {
            let name = self.agent.name();
            self.agent.diagnostics().take(&name, &diagnostics);
        }
        run.script.check_end()?;
        let answer = answer.map_err(|own| answer::own_failure(&own))?;
        let (value, text) = self.answer(answer)?;
        last.push(EntryBody::ComponentTurn(ComponentTurn {
            turn: run.script.next_turn(),
            blocks: vec![Block::text(text)],
        }));
        Ok(value)
    }

    /// Waits for others to end, and says so. Meanwhile it has no place on its replica, for which others may wait that
    /// have what it waits for.
    async fn wait_for_place<'a>(
        &mut self,
        component: &'a WasmAgent,
    ) -> Result<AgentPlace<'a>, Ended> {
        if self.recorded.is_none() {
            let notice = EntryBody::Notice {
                code: COMPONENT_WAIT.to_owned(),
                message: "as many components run as can; this one waits for its turn".to_owned(),
            };
            self.commit(vec![notice]).await?;
        }
        self.place.give_back();
        let stop = self.stop.clone();
        let level = self.agents.level();
        let placed = async {
            let place = component.place(level).await;
            self.place.take_again().await;
            place
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(Ended::Stopped),
            place = placed => Ok(place.map_err(|error| answer::gone(&error))?),
        }
    }

    /// The request as the component knows it.
    fn identity(&self) -> Identity {
        match &self.state.origin {
            Some(origin) => origin.identity.clone(),
            None => Identity {
                request_id: self.request_id,
                session_id: self.session_id.clone(),
            },
        }
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
                let _ = answer.send(self.recall(run, &key).await?);
            }
            HostCall::Remember(key, value, answer) => {
                let _ = answer.send(self.remember(run, &key, &value).await?);
            }
            HostCall::Memories(prefix, answer) => {
                let _ = answer.send(self.memories(run, &prefix).await?);
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
}

/// When a request was made, as its id says, which is a UUID of version 7.
fn made_at(id: RequestId) -> Duration {
    let bytes = id.as_bytes().iter().take(6);
    Duration::from_millis(bytes.fold(0, |millis, byte| (millis << 8) | u64::from(*byte)))
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

/// A failure as a component is told it.
fn failure(failure: &Failure) -> AgentFailure {
    AgentFailure {
        code: failure.code.as_str().to_owned(),
        message: failure.message.clone(),
    }
}

/// A fault of the component. What it names of that is cut, since the journal keeps it.
fn invalid(message: &str) -> Failure {
    let end = message.floor_char_boundary(MAX_FAULT_BYTES);
    Failure::new(ErrorCode::InvalidInput, &message[..end])
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
