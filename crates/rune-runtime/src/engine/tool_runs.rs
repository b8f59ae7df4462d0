//! Tools that the daemon runs for a request in a replica outside it: those that work with
//! containers of Docker Engine, which a replica does not reach.
//!
//! Only the running is here. The replica's planner decides whether a tool runs, commits the
//! intent before and the result after it, tries again and keeps the time. It names each run, so
//! that one that is asked for again is the same one, and the start of the daemon that it asks:
//! the next one does not know what has become of it, and says so.
//!
//! A run ends with its request, with the replica that has it, and when nobody asks for it any more.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rune_store_runtime::{RequestId, StoreError, ToolIntent};
use rune_tools::{Outputs, ShownImages, ToolContext, ToolError, ToolErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Engine;
use super::child::SubAgents;
use super::link::{CALL_LOOK, EngineAnswer, EngineLink, EngineOp, unexpected};
use crate::agent::{Agent, Tool, ToolRunner};
use crate::dispatch::{cancelled, memory_scope, output_limit, until_stopped};
use crate::planner::UNKNOWN_OUTCOME;
use crate::spill::SHOWN_LIMIT;

/// Runs that are known at a time at the most, with those whose answer is not in the journal yet: of all requests, and of one.
const MAX_RUNS: usize = 1024;
const MAX_OF_REQUEST: usize = 256;
/// How long a run goes on that nobody asks for: longer than it takes to ask again after a connection broke off.
const SILENCE: Duration = Duration::from_secs(30);
/// How long the answer of a run is kept that nobody has committed: longer than a replica tries to get it.
const KEPT: Duration = Duration::from_secs(300);
/// Two clocks that were started by the same call are as far apart at the most.
const SAME_TIME: Duration = Duration::from_millis(50);

/// Something that is done about the run of a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "tool_op", rename_all = "snake_case")]
pub enum ToolOp {
    /// Asks which start of the daemon this is.
    BootId,
    /// Begins a run, or goes on waiting for one; [`ToolAnswer::Pending`] where it has not ended yet.
    Run(ToolRun),
    /// Stops a run, also one that has not begun.
    Stop {
        /// The run.
        run_id: Uuid,
        /// The call of the model.
        call_id: String,
    },
}

/// One run of a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolRun {
    /// Its own; every attempt of a call is another run.
    run_id: Uuid,
    /// The start of the daemon that was asked to begin it.
    boot_id: Uuid,
    /// The call of the model.
    call_id: String,
    /// The same for every run of the call.
    idempotency_key: String,
    /// The tool, by its name in the package.
    tool: String,
    input: Value,
}

/// What came of a [`ToolOp`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "tool_answer", content = "ended", rename_all = "snake_case")]
pub enum ToolAnswer {
    /// Which start of the daemon this is.
    BootId(Uuid),
    /// The run has not ended yet.
    Pending,
    /// What the tool has answered.
    Ended(Result<Value, ToolError>),
    /// It may have begun, and how it ended is not known.
    Unknown,
    /// It is stopped.
    Stopped,
}

/// The runs of a daemon.
pub(super) struct ToolRuns {
    boot_id: Uuid,
    runs: Mutex<HashMap<Uuid, Arc<Run>>>,
}

/// The run that is asked for.
enum Joined {
    Known(Arc<Run>),
    New {
        run: Arc<Run>,
        /// Those before it that its call still has.
        earlier: Vec<Arc<Run>>,
    },
}

struct Run {
    request_id: RequestId,
    call_id: String,
    /// Fires when it is to end.
    stop: CancellationToken,
    /// Whether the replica has said so.
    is_stopped: AtomicBool,
    /// When somebody asked for it last.
    heard: Mutex<Instant>,
    answer: watch::Sender<Option<ToolAnswer>>,
}

impl Default for ToolRuns {
    fn default() -> Self {
        Self {
            boot_id: Uuid::new_v4(),
            runs: Mutex::default(),
        }
    }
}

impl ToolRuns {
    /// Stops what still runs for a request.
    pub(super) fn end(&self, request_id: RequestId) {
        let runs = self.lock();
        for run in runs.values().filter(|run| run.request_id == request_id) {
            run.stop.cancel();
        }
    }

    /// Forgets what the journal of a request knows.
    pub(super) fn committed(&self, request_id: RequestId, call_id: &str) {
        self.lock().retain(|_, run| {
            // What begins one that was stopped may still be on its way.
            let is_known = run.has_ended() && !run.is_stopped.load(Ordering::Relaxed);
            !(is_known && run.is_of(request_id, call_id))
        });
    }

    /// The run that is asked for.
    fn join(
        &self,
        request_id: RequestId,
        wanted: &ToolRun,
        shutdown: &CancellationToken,
    ) -> Result<Joined, ToolError> {
        let mut runs = self.lock();
        match runs.get(&wanted.run_id) {
            Some(run) if run.is_of(request_id, &wanted.call_id) => {
                run.hear();
                return Ok(Joined::Known(Arc::clone(run)));
            }
            Some(_) => {
                let message = "the run of a tool is that of another call";
                return Err(ToolError::new(ToolErrorKind::Denied, message));
            }
            None => {}
        }
        if !has_room(&mut runs, request_id) {
            let message = "too many tools in containers run at the same time";
            return Err(ToolError::new(ToolErrorKind::Unavailable, message));
        }
        let earlier = runs
            .values()
            .filter(|run| run.is_of(request_id, &wanted.call_id) && !run.has_ended());
        let earlier = earlier.cloned().collect();
        let run = Arc::new(Run::new(request_id, &wanted.call_id, shutdown));
        runs.insert(wanted.run_id, Arc::clone(&run));
        Ok(Joined::New { run, earlier })
    }

    fn stop(&self, request_id: RequestId, run_id: Uuid, call_id: &str) {
        let mut runs = self.lock();
        if let Some(run) = runs.get(&run_id) {
            if run.request_id == request_id {
                run.is_stopped.store(true, Ordering::Relaxed);
                run.stop.cancel();
            }
            return;
        }
        // What begins it may still be on its way.
        if has_room(&mut runs, request_id) {
            let run = Run::new(request_id, call_id, &CancellationToken::new());
            run.is_stopped.store(true, Ordering::Relaxed);
            run.end(Err(cancelled()));
            runs.insert(run_id, Arc::new(run));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Run>>> {
        // Every entry is whole at any time.
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn has_room(runs: &mut HashMap<Uuid, Arc<Run>>, request_id: RequestId) -> bool {
    runs.retain(|_, run| !(run.has_ended() && run.silence() >= KEPT));
    let own = runs.values().filter(|run| run.request_id == request_id);
    own.count() < MAX_OF_REQUEST && runs.len() < MAX_RUNS
}

impl Run {
    fn new(request_id: RequestId, call_id: &str, shutdown: &CancellationToken) -> Self {
        Self {
            request_id,
            call_id: call_id.to_owned(),
            stop: shutdown.child_token(),
            is_stopped: AtomicBool::new(false),
            heard: Mutex::new(Instant::now()),
            answer: watch::Sender::new(None),
        }
    }

    fn is_of(&self, request_id: RequestId, call_id: &str) -> bool {
        self.request_id == request_id && self.call_id == call_id
    }

    fn has_ended(&self) -> bool {
        self.answer.borrow().is_some()
    }

    fn hear(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long nobody has asked for it.
    fn silence(&self) -> Duration {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.elapsed()
    }

    /// Returns once nobody has asked for it for too long.
    async fn abandoned(&self) {
        while let Some(left) = SILENCE.checked_sub(self.silence()) {
            // At its very end it is looked at once more.
            tokio::time::sleep(left + SAME_TIME).await;
        }
    }

    /// Keeps what came of it. One that was stopped here, and not by who asked for it, was cut off.
    fn end(&self, ran: Result<Value, ToolError>) {
        let is_stopped = self.is_stopped.load(Ordering::Relaxed);
        let answer = match ran {
            Err(error) if error.kind == ToolErrorKind::Cancelled && !is_stopped => {
                ToolAnswer::Unknown
            }
            ran => ToolAnswer::Ended(ran),
        };
        self.answer.send_replace(Some(answer));
    }

    async fn ended(&self) -> ToolAnswer {
        let mut answer = self.answer.subscribe();
        // The sender is as old as the run.
        let ended = answer.wait_for(Option::is_some).await;
        let ended = ended.ok().and_then(|answer| answer.clone());
        ended.unwrap_or(ToolAnswer::Unknown)
    }
}

impl Engine {
    /// Stops the tools that run here for a request in a replica.
    pub(super) fn end_tools(&self, id: RequestId) {
        self.inner.tool_runs.end(id);
    }
}

impl SubAgents {
    /// Does what the replica that runs the calling request asks for about a tool of this agent.
    pub(super) async fn act_on_tool(&self, agent: &Arc<Agent>, op: ToolOp) -> ToolAnswer {
        let runs = &self.engine.inner.tool_runs;
        match op {
            ToolOp::BootId => ToolAnswer::BootId(runs.boot_id),
            ToolOp::Run(run) if run.boot_id != runs.boot_id => ToolAnswer::Unknown,
            ToolOp::Run(run) => match self.join_run(agent, run) {
                Ok(run) => {
                    let ended = tokio::time::timeout(CALL_LOOK, run.ended()).await;
                    ended.unwrap_or(ToolAnswer::Pending)
                }
                Err(error) => ToolAnswer::Ended(Err(error)),
            },
            ToolOp::Stop { run_id, call_id } => {
                runs.stop(self.request_id, run_id, &call_id);
                ToolAnswer::Stopped
            }
        }
    }

    fn join_run(&self, agent: &Arc<Agent>, wanted: ToolRun) -> Result<Arc<Run>, ToolError> {
        let Some(tool) = agent.docker_tool(&wanted.tool).cloned() else {
            let message = format!("the agent has no tool `{}` in a container", wanted.tool);
            return Err(ToolError::new(ToolErrorKind::NotFound, message));
        };
        if let Err(mismatch) = tool.check_input(&wanted.input) {
            let message = format!("the input does not match the tool's schema: {mismatch}");
            return Err(ToolError::new(ToolErrorKind::InvalidInput, message));
        }
        let engine = &self.engine;
        let joined = engine
            .inner
            .tool_runs
            .join(self.request_id, &wanted, &engine.shutdown());
        let (run, earlier) = match joined? {
            Joined::Known(run) => return Ok(run),
            Joined::New { run, earlier } => (run, earlier),
        };
        let (agents, agent, begun) = (self.clone(), Arc::clone(agent), Arc::clone(&run));
        let running = async move {
            // A call has one container at a time.
            for run in earlier {
                run.stop.cancel();
                run.ended().await;
            }
            let ran = agents.run_tool(&agent, &tool, wanted, &begun).await;
            begun.end(ran);
        };
        engine.tasks().spawn("tool", running);
        Ok(run)
    }

    /// Runs a tool as the dispatcher does in a request of this process.
    async fn run_tool(
        &self,
        agent: &Agent,
        tool: &Tool,
        wanted: ToolRun,
        run: &Run,
    ) -> Result<Value, ToolError> {
        let descriptor = &tool.descriptor;
        let secrets = agent
            .secrets()
            .granted(&self.namespace, &descriptor.capabilities)
            .await?;
        let cancel = run.stop.child_token();
        let context = ToolContext {
            request_id: self.request_id,
            session_id: self.session_id.clone(),
            scope: memory_scope(&self.namespace, agent),
            idempotency_key: wanted.idempotency_key,
            workspace: agent.workspace().to_owned(),
            store: self.engine.store().clone(),
            cancel: cancel.clone(),
            timeout: descriptor.timeout,
            output_limit: output_limit(descriptor),
            secrets: secrets.clone(),
            egress: None,
            shown_limit: SHOWN_LIMIT,
            outputs: Outputs::default(),
            images: ShownImages::new(None),
            engine: None,
            media: None,
            deferred: Arc::default(),
            diagnostics: agent.diagnostics().clone(),
        };
        let mut call = Box::pin(async {
            match &tool.runner {
                ToolRunner::Container(container) => container.run(&context, &wanted.input).await,
                ToolRunner::Builtin(builtin) => builtin.call(&context, wanted.input).await,
                ToolRunner::Process(_)
                | ToolRunner::Wasm(_)
                | ToolRunner::Mcp(_)
                | ToolRunner::Agent(_) => Err(ToolError::new(
                    ToolErrorKind::Denied,
                    "the tool runs where its request does",
                )),
            }
        });
        let ran = {
            let call = until_stopped(call.as_mut(), descriptor.timeout, &cancel, &run.stop);
            tokio::pin!(call);
            tokio::select! {
                biased;
                ran = &mut call => ran,
                () = run.abandoned() => {
                    tracing::warn!(request = %self.request_id, tool = %tool.name, "nobody waits for a tool; it is stopped");
                    run.stop.cancel();
                    call.await
                }
            }
        };
        // Nothing that holds a secret leaves the daemon, whatever the replica does with it.
        let hidden = ran.map(|output| secrets.redact_value(output));
        hidden.map_err(|error| ToolError {
            message: secrets.redact(error.message),
            ..error
        })
    }

    /// Has the daemon run a tool for this request. What was cut off with the daemon runs again where the tool is idempotent.
    ///
    /// # Errors
    /// That of the tool; [`ToolErrorKind::UnknownOutcome`] where nobody knows what came of it, and it was not repeated.
    pub(crate) async fn run_linked(
        &self,
        link: &dyn EngineLink,
        intent: &ToolIntent,
        context: &ToolContext,
        input: &Value,
    ) -> Result<Value, ToolError> {
        let deadline = Instant::now() + context.timeout;
        loop {
            let run = ToolRun {
                run_id: Uuid::new_v4(),
                boot_id: self.boot_id(link).await?,
                call_id: intent.call_id.clone(),
                idempotency_key: context.idempotency_key.clone(),
                tool: intent.tool.clone(),
                input: input.clone(),
            };
            match self.run_there(link, run, context, deadline).await {
                Some(ended) => return ended,
                None if context.cancel.is_cancelled() => return Err(cancelled()),
                None if intent.idempotent => {}
                None => {
                    let kind = ToolErrorKind::UnknownOutcome;
                    return Err(ToolError::new(kind, UNKNOWN_OUTCOME));
                }
            }
        }
    }

    async fn boot_id(&self, link: &dyn EngineLink) -> Result<Uuid, ToolError> {
        match self.ask_about_tool(link, ToolOp::BootId).await? {
            ToolAnswer::BootId(id) => Ok(id),
            _ => Err(ToolError::new(ToolErrorKind::Failed, unexpected().message)),
        }
    }

    /// What comes of a run in the daemon; nothing where that is not known.
    async fn run_there(
        &self,
        link: &dyn EngineLink,
        run: ToolRun,
        context: &ToolContext,
        deadline: Instant,
    ) -> Option<Result<Value, ToolError>> {
        let stop = ToolOp::Stop {
            run_id: run.run_id,
            call_id: run.call_id.clone(),
        };
        let ended = async {
            loop {
                let op = ToolOp::Run(run.clone());
                match self.ask_about_tool(link, op).await {
                    Ok(ToolAnswer::Pending) => {}
                    Ok(ToolAnswer::Ended(ended)) => return Some(ended),
                    Ok(ToolAnswer::Unknown) | Err(StoreError::Unavailable(_)) => return None,
                    Ok(ToolAnswer::BootId(_) | ToolAnswer::Stopped) => {
                        let kind = ToolErrorKind::Failed;
                        return Some(Err(ToolError::new(kind, unexpected().message)));
                    }
                    Err(error) => return Some(Err(error.into())),
                }
            }
        };
        tokio::pin!(ended);
        tokio::select! {
            biased;
            ended = &mut ended => return ended,
            () = context.cancel.cancelled() => {}
        }
        // At the tool's timeout the daemon stops it by itself, and can say what it had written.
        if Instant::now() + SAME_TIME < deadline {
            tokio::select! {
                biased;
                ended = &mut ended => return ended,
                stopped = self.ask_about_tool(link, stop) => {
                    if let Err(error) = stopped {
                        // With the request what it runs ends, too.
                        tracing::debug!(request = %self.request_id, %error, "the daemon was not told to stop a tool");
                    }
                }
            }
        }
        ended.await
    }

    async fn ask_about_tool(
        &self,
        link: &dyn EngineLink,
        op: ToolOp,
    ) -> Result<ToolAnswer, StoreError> {
        match link.act(self.request_id, EngineOp::Tool(op)).await? {
            EngineAnswer::Tool(answer) => Ok(answer),
            _ => Err(StoreError::Unavailable(unexpected().message)),
        }
    }

    /// The daemon's engine, where this request runs in a replica outside it.
    pub(crate) fn daemon(&self) -> Option<&Arc<dyn EngineLink>> {
        self.engine.link()
    }
}
