//! Running one case.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rune_runtime::{Agent, Cassette, RequestEvent};
use rune_spec::{AgentPackage, CheckpointPolicy, EvalModel, EvalSubject};
use rune_store_runtime::{
    ApprovalDecision, ApprovalFilter, ApprovalState, Block, DecideApproval, Entry, EntryBody,
    PageRequest, RequestId, RequestRow, RequestStatus, StoreError, ToolOutcome,
};
use serde_json::Value;

use super::files::{self, Case};
use crate::commands::embedded::{self, Embedded, store_failure};
use crate::commands::run::invocation;
use crate::context::Context;
use crate::failure::{Failure, Outcome, chain};
use crate::interrupt::Interrupt;

/// Entries read from a journal at a time.
const PAGE: u32 = 256;

/// What all cases of a command run with.
pub(super) struct Trial<'a> {
    pub(super) context: &'a Context,
    /// The agent, as messages call it.
    pub(super) dir: &'a Path,
    pub(super) package: &'a AgentPackage,
    /// Whether the offline model answers everywhere.
    pub(super) offline: bool,
    /// Agents that can be called, and what messages call them.
    pub(super) others: &'a [(PathBuf, AgentPackage)],
    pub(super) env: &'a BTreeMap<String, String>,
}

/// What came of a case.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// `completed`, `failed`, `cancelled` or `input-required`.
    pub(super) status: &'static str,
    pub(super) output: Value,
    /// Why it failed, or what it waits for where that is not its own question.
    pub(super) error: Option<String>,
    /// The calls of tools, in their order, those that were refused included.
    pub(super) calls: Vec<Call>,
    /// Model turns.
    pub(super) steps: u32,
    /// Tokens, input and output.
    pub(super) tokens: u64,
    pub(super) duration_ms: u64,
}

/// A call of a tool.
#[derive(Debug)]
pub(super) struct Call {
    id: String,
    /// The name in the toolset.
    pub(super) tool: String,
    pub(super) input: Value,
    /// Why it failed.
    pub(super) error: Option<String>,
}

/// How a request was left.
enum Asked {
    /// It has ended, or waits for a decision about a call of its own.
    Left(RequestId),
    /// An agent that it calls waits for one; this says which.
    CalleeWaits(RequestId, String),
    /// It was not taken; this says why.
    Refused(String),
}

impl Trial<'_> {
    /// Runs a case in an engine of its own; `None` where it was interrupted.
    pub(super) async fn run(&self, case: &Case, interrupt: &mut Interrupt) -> Outcome<Option<Run>> {
        let begun = Instant::now();
        // What the tools do is not the agent's own.
        let mut embedded = Embedded::apart(self.context)?;
        let ran = tokio::select! {
            ran = self.tried(&mut embedded, case) => ran.map(Some),
            () = interrupt.next() => Ok(None),
        };
        embedded.close().await;
        let mut ran = ran?;
        if let Some(run) = &mut ran {
            run.duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        }
        Ok(ran)
    }

    async fn tried(&self, embedded: &mut Embedded<'_>, case: &Case) -> Outcome<Run> {
        let is_offline = self.offline || case.case.model == EvalModel::Offline;
        let models = |package: &AgentPackage| match is_offline {
            true => embedded::offline(package.clone()),
            false => package.clone(),
        };
        let mut package = models(self.package);
        // The journal says what came of it.
        package.runefile.runtime.checkpoint_policy = CheckpointPolicy::EachStep;
        let target = embedded::target();
        if let EvalSubject::Cassette(path) = &case.case.subject {
            return self.played(embedded, package, path).await;
        }
        for (dir, other) in self.others {
            let deployed = embedded.deploy(dir, models(other), &target, self.env);
            deployed.await?;
        }
        let (agent, input, is_tool) = match &case.case.subject {
            EvalSubject::Tool { tool, input } => {
                let package = embedded::caller(package, tool);
                let deployed = embedded.deploy_caller(self.dir, package, &target, self.env);
                let agent = deployed.await?;
                let tool = embedded::tool_named(&agent.now(), tool)?;
                (agent, embedded::call(&tool, input), true)
            }
            EvalSubject::Agent(input) => {
                let deployed = embedded.deploy(self.dir, package, &target, self.env);
                (deployed.await?, input.clone(), false)
            }
            EvalSubject::Cassette(_) => return Ok(Run::default()),
        };
        let asked = asked(embedded, &agent, input, case.case.approve).await?;
        let (id, waits) = match asked {
            Asked::Left(id) => (id, None),
            Asked::CalleeWaits(id, message) => (id, Some(message)),
            Asked::Refused(message) => return Ok(Run::failed(message)),
        };
        let journal = journal(embedded, id).await?;
        let mut run = match is_tool {
            true => of_tool(embedded, &journal).await?,
            false => Run::of(&journal),
        };
        run.error = run.error.or(waits);
        Ok(run)
    }

    /// Plays a cassette: models and tools answer what they answered then.
    async fn played(
        &self,
        embedded: &mut Embedded<'_>,
        package: AgentPackage,
        path: &Path,
    ) -> Outcome<Run> {
        let relative = Path::new("evals").join(path);
        let text = self.package.text(&relative);
        let text = text.map_err(|error| Failure::usage(error.to_string()))?;
        let cassette = Cassette::parse(&relative, &text)
            .map_err(|errors| files::invalid(self.context, &errors))?
            .expecting_nothing();
        embedded.forgive_missing_variables();
        let namespace = &cassette.file().namespace;
        let agent = embedded.make(package, namespace, self.env)?;
        let played = embedded.node.engine.play(&cassette, agent, false).await;
        let played = played.map_err(|error| {
            Failure::because(format!("{} cannot be played", relative.display()), &error)
        })?;
        Ok(Run::of(&played.journal))
    }
}

/// Asks the agent and waits until the request has ended, or until it, or an agent that it calls, waits for a person. Only the
/// agent's own calls are decided about.
async fn asked(
    embedded: &Embedded<'_>,
    agent: &Agent,
    input: Value,
    approve: Option<bool>,
) -> Outcome<Asked> {
    let engine = &embedded.node.engine;
    let invocation = invocation(agent.name(), &embedded::target(), input);
    let invoked = match engine.invoke(invocation).await {
        Ok(invoked) => invoked,
        Err(error) => return Ok(Asked::Refused(chain(&error))),
    };
    let id = invoked.request_id;
    let mut events = invoked.events;
    let callee = engine.parked_below(id);
    tokio::pin!(callee);
    loop {
        let next = tokio::select! {
            biased;
            next = events.next() => next.map_err(|error| store_failure(&error))?,
            row = &mut callee => {
                let row = row.map_err(|error| store_failure(&error))?;
                let message = waits(embedded, &row).await;
                let message = message.map_err(|error| store_failure(&error))?;
                return Ok(Asked::CalleeWaits(id, message));
            }
        };
        let Some(sequenced) = next else {
            return Ok(Asked::Left(id));
        };
        let RequestEvent::ApprovalRequired { approval_id, .. } = sequenced.event else {
            continue;
        };
        let Some(approve) = approve else {
            return Ok(Asked::Left(id));
        };
        let decision = DecideApproval {
            approval_id,
            decision: if approve {
                ApprovalDecision::Approve
            } else {
                ApprovalDecision::Deny
            },
            by: "eval".to_owned(),
            remember: None,
            note: None,
        };
        let decided = engine.decide(decision).await;
        decided.map_err(|error| Failure::because("cannot decide the approval", &error))?;
    }
}

/// What the request of a called agent waits for.
async fn waits(embedded: &Embedded<'_>, row: &RequestRow) -> Result<String, StoreError> {
    let filter = ApprovalFilter {
        request_id: Some(row.id),
        state: Some(ApprovalState::Waiting),
        ..ApprovalFilter::default()
    };
    let first = PageRequest::first(1);
    let mut asked = embedded.node.store.approvals(&filter, &first).await?;
    let tool = asked.items.pop().map(|row| row.question.tool);
    let (agent, tool) = (&row.agent, tool.unwrap_or_default());
    Ok(format!(
        "the called agent `{agent}` waits for a person to approve its call of `{tool}`; a case decides only about the calls of \
         its own agent"
    ))
}

async fn journal(embedded: &Embedded<'_>, id: RequestId) -> Outcome<Vec<Entry>> {
    let mut journal: Vec<Entry> = Vec::new();
    loop {
        let after = journal.last().map_or(0, |entry| entry.seq);
        let page = embedded.node.store.journal(id, after, PAGE).await;
        let page = page.map_err(|error| store_failure(&error))?;
        if page.is_empty() {
            return Ok(journal);
        }
        journal.extend(page);
    }
}

/// What came of the only call of a request.
async fn of_tool(embedded: &Embedded<'_>, journal: &[Entry]) -> Outcome<Run> {
    let mut run = Run::of(journal);
    // No model was asked.
    (run.steps, run.tokens) = (0, 0);
    let outcome = journal.iter().find_map(|entry| match &entry.body {
        EntryBody::ToolResult(outcome) => Some(outcome),
        _ => None,
    });
    let Some(outcome) = outcome else {
        // It waits, or was stopped before; where it has answered all the same, it is about something else than the tool.
        return Ok(match run.status {
            "completed" => Run::failed(format!("the tool was not called: {}", run.output)),
            _ => run,
        });
    };
    run.error = outcome
        .failure
        .as_ref()
        .map(|failure| failure.message.clone());
    run.status = match run.error {
        Some(_) => "failed",
        None => "completed",
    };
    run.output = whole(embedded, outcome).await?;
    Ok(run)
}

/// The output of a tool, also where a model would be shown a part of it.
async fn whole(embedded: &Embedded<'_>, outcome: &ToolOutcome) -> Outcome<Value> {
    let Some(spilled) = &outcome.spilled else {
        return Ok(outcome.output.clone().unwrap_or_default());
    };
    embedded.spilled(spilled).await
}

impl Run {
    /// What a journal says.
    fn of(journal: &[Entry]) -> Self {
        let mut run = Self {
            status: "input-required",
            ..Self::default()
        };
        let mut inputs: BTreeMap<&str, &Value> = BTreeMap::new();
        for entry in journal {
            for block in entry.body.said().unwrap_or_default() {
                if let Block::ToolCall { id, input, .. } = block {
                    inputs.insert(id, input);
                }
            }
            match &entry.body {
                EntryBody::ModelReply(reply) => run.steps = reply.step,
                EntryBody::ModelAsked(ask) => run.steps = ask.step,
                EntryBody::ToolIntent(intent) => {
                    run.called(&intent.call_id, &intent.tool, &inputs);
                }
                EntryBody::ApprovalAsked(question) => {
                    run.called(&question.call_id, &question.tool, &inputs);
                }
                EntryBody::ToolResult(outcome) => {
                    let call = run.called(&outcome.call_id, &outcome.tool, &inputs);
                    let failure = outcome.failure.as_ref();
                    call.error = failure.map(|failure| failure.message.clone());
                }
                EntryBody::Finished {
                    status,
                    output,
                    failure,
                    usage,
                    ..
                } => {
                    run.status = match status {
                        RequestStatus::Completed => "completed",
                        RequestStatus::Cancelled => "cancelled",
                        _ => "failed",
                    };
                    run.output = output.clone().unwrap_or_default();
                    run.error = failure.as_ref().map(|failure| failure.message.clone());
                    run.tokens = usage.total();
                }
                _ => {}
            }
        }
        run
    }

    /// One of which nothing came.
    fn failed(message: String) -> Self {
        Self {
            status: "failed",
            error: Some(message),
            ..Self::default()
        }
    }

    fn called(&mut self, id: &str, tool: &str, inputs: &BTreeMap<&str, &Value>) -> &mut Call {
        let known = self.calls.iter().position(|call| call.id == id);
        let index = known.unwrap_or(self.calls.len());
        if known.is_none() {
            self.calls.push(Call {
                id: id.to_owned(),
                tool: tool.to_owned(),
                input: inputs
                    .get(id)
                    .map(|input| (*input).clone())
                    .unwrap_or_default(),
                error: None,
            });
        }
        &mut self.calls[index]
    }
}
