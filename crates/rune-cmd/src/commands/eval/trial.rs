//! Running one case.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rune_runtime::{Agent, AgentError, Cassette, RequestEvent};
use rune_spec::{AgentPackage, CheckpointPolicy, EvalModel, EvalSubject};
use rune_store_runtime::{
    ApprovalDecision, Block, DecideApproval, Entry, EntryBody, RequestId, RequestStatus,
    ToolOutcome,
};
use serde_json::Value;

use super::files::{self, Case};
use crate::cli::Target;
use crate::commands::embedded;
use crate::commands::run::{deploy_embedded, deploy_package, invocation};
use crate::commands::validate::invalid;
use crate::context::Context;
use crate::daemon::node::Node;
use crate::failure::{Exit, Failure, Outcome, chain};
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
    /// Agents that can be called.
    pub(super) others: Vec<PathBuf>,
    pub(super) env: BTreeMap<String, String>,
}

/// What came of a case.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// `completed`, `failed`, `cancelled` or `input-required`.
    pub(super) status: &'static str,
    pub(super) output: Value,
    /// Why it failed.
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

impl Trial<'_> {
    /// Runs a case in an engine of its own.
    pub(super) fn run(&self, case: &Case) -> Outcome<Run> {
        let temporary = embedded::temporary("rune-eval-")?;
        let mut config = self.context.config.clone();
        // What the tools do is not the agent's own.
        config.runtime.workspace_dir = temporary.path().join("workspaces");
        let begun = Instant::now();
        let mut run = self.context.block_on(async {
            let mut node = embedded::open(&config, temporary.path())?;
            let mut agent = None;
            let mut interrupt = Interrupt::listen()?;
            let ran = tokio::select! {
                ran = self.tried(&mut node, &mut agent, case) => ran,
                () = interrupt.next() => Err(Failure::silent(Exit::Interrupted)),
            };
            embedded::close(&node, agent.as_ref()).await;
            ran
        })?;
        run.duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(run)
    }

    async fn tried(
        &self,
        node: &mut Node,
        agent: &mut Option<Arc<Agent>>,
        case: &Case,
    ) -> Outcome<Run> {
        let mut package = self.package.clone();
        // The journal says what came of it.
        package.runefile.runtime.checkpoint_policy = CheckpointPolicy::EachStep;
        match &case.case.subject {
            EvalSubject::Cassette(path) => self.played(node, package, path).await,
            EvalSubject::Agent(input) => {
                let is_offline = self.offline || case.case.model == EvalModel::Offline;
                let package = if is_offline {
                    embedded::offline(package)
                } else {
                    package
                };
                let agent = agent.insert(self.deployed(node, package).await?);
                let approve = case.case.approve;
                match self.asked(node, agent, input.clone(), approve).await? {
                    Ok(id) => Ok(Run::of(&journal(node, id).await?)),
                    Err(message) => Ok(Run::refused(message)),
                }
            }
            EvalSubject::Tool { tool, input } => {
                let package = embedded::caller(package);
                let agent = agent.insert(self.deployed(node, package).await?);
                let tool = embedded::tool_named(&agent.now(), tool)?;
                let call = embedded::call(&tool, input);
                match self.asked(node, agent, call, case.case.approve).await? {
                    Ok(id) => of_tool(node, &journal(node, id).await?).await,
                    Err(message) => Ok(Run::refused(message)),
                }
            }
        }
    }

    async fn deployed(&self, node: &Node, package: AgentPackage) -> Outcome<Arc<Agent>> {
        let target = target();
        for other in &self.others {
            deploy_embedded(self.context, node, other, &target, &self.env).await?;
        }
        deploy_package(self.context, node, self.dir, package, &target, &self.env).await
    }

    /// Asks the agent and waits until the request has ended, or waits for a person. The inner error is why it was not taken.
    async fn asked(
        &self,
        node: &Node,
        agent: &Agent,
        input: Value,
        approve: Option<bool>,
    ) -> Outcome<Result<RequestId, String>> {
        let invoked = node
            .engine
            .invoke(invocation(agent.name(), &target(), input))
            .await;
        let invoked = match invoked {
            Ok(invoked) => invoked,
            Err(error) => return Ok(Err(chain(&error))),
        };
        let mut events = invoked.events;
        while let Some(sequenced) = events.next().await.map_err(|error| broken(&error))? {
            let RequestEvent::ApprovalRequired { approval_id, .. } = sequenced.event else {
                continue;
            };
            let Some(approve) = approve else { break };
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
            let decided = node.engine.decide(decision).await;
            decided.map_err(|error| Failure::because("cannot decide the approval", &error))?;
        }
        Ok(Ok(invoked.request_id))
    }

    /// Plays a cassette: models and tools answer what they answered then.
    async fn played(&self, node: &mut Node, package: AgentPackage, path: &Path) -> Outcome<Run> {
        let relative = Path::new("evals").join(path);
        let text = files::read(&self.package.dir.join(&relative));
        let text =
            text.map_err(|error| Failure::usage(format!("{}: {error}", relative.display())))?;
        let cassette = Cassette::parse(&relative, &text)
            .map_err(|errors| files::invalid(self.context, &errors))?
            .expecting_nothing();
        embedded::forgive_missing_variables(node, self.context);
        let namespace = &cassette.file().namespace;
        let agent = node.loader.make(package, namespace, &self.env);
        let agent = agent.map_err(|error| match &error {
            AgentError::Spec(errors) => invalid(self.context.output, errors),
            error => Failure::usage(format!("the agent cannot run: {}", chain(error))),
        })?;
        let played = node.engine.play(&cassette, Arc::new(agent), false).await;
        let played = played.map_err(|error| {
            Failure::because(format!("{} cannot be played", relative.display()), &error)
        })?;
        Ok(Run::of(&played.journal))
    }
}

fn target() -> Target {
    Target {
        namespace: "dev".to_owned(),
        alias: "stable".to_owned(),
    }
}

fn broken(error: &dyn std::error::Error) -> Failure {
    Failure::because("cannot use the temporary store", error)
}

async fn journal(node: &Node, id: RequestId) -> Outcome<Vec<Entry>> {
    let mut journal: Vec<Entry> = Vec::new();
    loop {
        let after = journal.last().map_or(0, |entry| entry.seq);
        let page = node.store.journal(id, after, PAGE).await;
        let page = page.map_err(|error| broken(&error))?;
        if page.is_empty() {
            return Ok(journal);
        }
        journal.extend(page);
    }
}

/// What came of the only call of a request.
async fn of_tool(node: &Node, journal: &[Entry]) -> Outcome<Run> {
    let mut run = Run::of(journal);
    // No model was asked.
    (run.steps, run.tokens) = (0, 0);
    let outcome = journal.iter().find_map(|entry| match &entry.body {
        EntryBody::ToolResult(outcome) => Some(outcome),
        _ => None,
    });
    let Some(outcome) = outcome else {
        return Ok(run);
    };
    run.error = outcome
        .failure
        .as_ref()
        .map(|failure| failure.message.clone());
    run.status = match run.error {
        Some(_) => "failed",
        None => "completed",
    };
    run.output = whole(node, outcome).await?;
    Ok(run)
}

/// The output of a tool, also where a model would be shown a part of it.
async fn whole(node: &Node, outcome: &ToolOutcome) -> Outcome<Value> {
    let Some(spilled) = &outcome.spilled else {
        return Ok(outcome.output.clone().unwrap_or_default());
    };
    embedded::spilled(node, spilled).await
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

    /// A request that was not taken.
    fn refused(message: String) -> Self {
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
