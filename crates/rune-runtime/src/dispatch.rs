//! The tool dispatcher: from a model's call to an outcome the model is told.
//!
//! It resolves the name, validates the input, asks the policy, runs the tool under its
//! limits and retry policy, validates the output. It writes nothing: the planner commits the
//! intent before [`ToolDispatcher::run`] and the outcome after it.

mod gate;
mod plan;

use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use rune_mcp::ProgressSink;
use rune_network::AgentAddress;
use rune_spec::{AgentRef, ToolDescriptor};
use rune_store_runtime::{
    EntryBody, ErrorCode, Failure, MemoryScope, RequestId, SessionId, Store, ToolIntent,
    ToolOutcome,
};
use rune_tools::{
    EgressGate, EngineAccess, MediaAccess, Outputs, Secrets, ShownImages, ToolContext, ToolError,
    ToolErrorKind, message_id,
};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::{Agent, AgentTarget, AgentTool, Tool, ToolRunner};
use crate::budget::ToolMeter;
use crate::engine::{AgentCall, Before, LinkedTools, RemoteCall, SubAgents, Telling};
use crate::feed::{CallProgress, Feed};
use crate::journal::unstorable;
use crate::media::MediaCalls;
use crate::replay::Tape;
use crate::spill::{self, SHOWN_LIMIT, ShownOutput};
pub(crate) use gate::PolicyGate;

/// Largest output of a tool whose descriptor does not say, in bytes.
const DEFAULT_OUTPUT_LIMIT: usize = 1024 * 1024;
/// How long a tool may take to end after it was told to.
const STOP_GRACE: Duration = Duration::from_millis(800);

/// Runs the tools of one request.
pub(crate) struct ToolDispatcher<'a> {
    pub(crate) agent: &'a Arc<Agent>,
    pub(crate) agents: &'a SubAgents,
    pub(crate) request_id: RequestId,
    pub(crate) session_id: &'a SessionId,
    pub(crate) namespace: &'a str,
    /// Who made the request.
    pub(crate) caller: &'a str,
    pub(crate) store: &'a Store,
    /// The outputs of the session that are too large to be shown.
    pub(crate) outputs: Outputs,
    /// Whether the request can wait for a person.
    pub(crate) can_park: bool,
    /// Fires when the request is cancelled or out of time.
    pub(crate) stop: &'a CancellationToken,
    /// What answers instead of the tools, where the run is a replay.
    pub(crate) tape: Option<&'a Tape>,
    /// Where it is told how far a call is.
    pub(crate) feed: Option<&'a Arc<Feed>>,
    /// Counts the calls of models that tools make.
    pub(crate) meter: Option<&'a Arc<ToolMeter>>,
}

/// What a call has beside its input, and what is committed with its result.
struct Around {
    /// Decides about its connections, where a policy speaks about them.
    gate: Option<Arc<PolicyGate>>,
    /// Images that the model is shown.
    images: ShownImages,
    /// The models that it asks.
    media: Arc<MediaCalls>,
}

impl Around {
    fn egress(&self) -> Option<Arc<dyn EgressGate>> {
        let gate = self.gate.as_ref();
        gate.map(|gate| Arc::clone(gate) as Arc<dyn EgressGate>)
    }
}

/// The request of the agent that a call makes, where it is of this installation, and what is known of the call of another one.
pub(crate) type Called = (Option<RequestId>, Before);

impl ToolDispatcher<'_> {
    /// Runs a tool whose intent is committed. Always ends within the tool's timeouts
    /// and, once `stop` has fired, within a second. `called` is the request of the agent it
    /// calls, where it calls one, and what is known of the call of one elsewhere. Answers what is committed then: what policy said of its connections, and the result.
    pub(crate) async fn run(
        &self,
        visible_name: &str,
        intent: ToolIntent,
        called: Called,
    ) -> Vec<EntryBody> {
        let policy = self.agent.policy();
        let around = Around {
            gate: PolicyGate::new(policy, self.caller, intent.step, &intent.call_id),
            images: ShownImages::new(self.outputs.blobs.clone()),
            media: Arc::new(self.media(&intent)),
        };
        let outcome = self.outcome(visible_name, intent, called, &around).await;
        let gate = around.gate.as_ref();
        let mut entries = gate.map_or_else(Vec::new, |gate| gate.entries());
        entries.extend(around.media.entries());
        entries.push(EntryBody::ToolResult(outcome));
        entries
    }

    /// The models that a call can ask.
    fn media(&self, intent: &ToolIntent) -> MediaCalls {
        MediaCalls {
            agent: Arc::clone(self.agent),
            meter: self.meter.filter(|_| self.tape.is_none()).cloned(),
            caller: self.caller.to_owned(),
            step: intent.step,
            call_id: intent.call_id.clone(),
            verdicts: Mutex::default(),
            is_under_way: AtomicBool::new(false),
        }
    }

    async fn outcome(
        &self,
        visible_name: &str,
        intent: ToolIntent,
        called: Called,
        around: &Around,
    ) -> ToolOutcome {
        let started = Instant::now();
        let mut attempts = 0;
        let result = match self.tape {
            Some(tape) => {
                self.replayed(tape, visible_name, &intent, around, &mut attempts)
                    .await
            }
            None => {
                let ran = self
                    .run_tool(visible_name, &intent, called, around, &mut attempts)
                    .await;
                self.settle(ran, &around.images).await
            }
        };
        let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (shown, failure) = match result {
            Ok(shown) => (shown, None),
            Err(failure) => {
                let shown = ShownOutput {
                    output: None,
                    content: format!("error: {}", failure.message),
                    spilled: None,
                    images: Vec::new(),
                };
                (shown, Some(failure))
            }
        };
        storable(ToolOutcome {
            step: intent.step,
            call_id: intent.call_id,
            tool: intent.tool,
            output: shown.output,
            failure,
            content: shown.content,
            spilled: shown.spilled,
            images: shown.images,
            duration_ms,
            attempts,
        })
    }

    /// What a tool answers in a replay.
    async fn replayed(
        &self,
        tape: &Tape,
        visible_name: &str,
        intent: &ToolIntent,
        around: &Around,
        attempts: &mut u32,
    ) -> Result<ShownOutput, Failure> {
        let is_agent = |tool: &Tool| matches!(tool.runner, ToolRunner::Agent(_));
        let live = match self.agent.tool(visible_name) {
            Some(tool) if tape.has_live_tools() && !is_agent(tool) => {
                let ran = self.run_with_retries(tool, intent, around, attempts).await;
                let ran = ran.map_err(|error| Failure::new(error.code(), error.message));
                Some(self.settle(ran, &around.images).await)
            }
            _ => None,
        };
        let ran = live.is_some();
        for (turn, called) in tape.model_calls(intent) {
            if let (true, Some(meter)) = (tape.comes(turn, self.stop).await, self.meter) {
                // What the run comes to is found out when its entries are compared.
                let _ = meter.tell(EntryBody::ModelCalled(called)).await;
                tape.goes_on_from(turn);
            }
        }
        let result = tape.tool(intent, live, self.stop, attempts).await;
        if !ran {
            for (provider, model) in tape.asked_models(intent) {
                // The result says what came of it.
                let _ = around.media.decide(&provider, &model);
            }
        }
        if let (false, Some(gate)) = (ran, &around.gate) {
            for (host, port) in tape.connections(intent) {
                // The result says what came of it.
                let _ = gate.connect(&host, port);
            }
        }
        result
    }

    async fn run_tool(
        &self,
        visible_name: &str,
        intent: &ToolIntent,
        called: Called,
        around: &Around,
        attempts: &mut u32,
    ) -> Result<Value, Failure> {
        match self.agent.tool(visible_name) {
            Some(tool) => match (&tool.runner, called) {
                (ToolRunner::Agent(agent), called) if self.leads_on(agent, intent, &called) => {
                    *attempts = 1;
                    self.call_agent(tool, agent, intent, called, around).await
                }
                _ => {
                    let ran = self.run_with_retries(tool, intent, around, attempts).await;
                    ran.map_err(|error| Failure::new(error.code(), error.message))
                }
            },
            None => Err(Failure::new(
                ErrorCode::NotFound,
                format!("tool `{}` is no longer part of the agent", intent.tool),
            )),
        }
    }

    async fn settle(
        &self,
        ran: Result<Value, Failure>,
        images: &ShownImages,
    ) -> Result<ShownOutput, Failure> {
        let blobs = self.outputs.blobs.as_deref();
        Ok(spill::settle(blobs, ran?, images.take()).await)
    }

    /// Whether an agent is there to be called: the journal names its request, or it is elsewhere.
    fn leads_on(&self, agent: &AgentTool, intent: &ToolIntent, (child, _): &Called) -> bool {
        let target = agent.target(&intent.input);
        child.is_some() || matches!(target, Ok(AgentRef::Url(_)))
    }

    async fn call_agent(
        &self,
        tool: &Tool,
        agent: &AgentTool,
        intent: &ToolIntent,
        called: Called,
        around: &Around,
    ) -> Result<Value, Failure> {
        let stop = self.stop.child_token();
        let input = told(agent, &intent.input);
        let (name, call) = match (agent.target(&intent.input)?, called) {
            (AgentRef::Local(local), (Some(request_id), _)) => {
                let address = AgentAddress::resolve(&local, self.namespace);
                let name = address.to_string();
                let call = self.agents.call(
                    AgentCall {
                        request_id,
                        call_id: intent.call_id.clone(),
                        session_id: self.agents.conversation(&address, &tool.name),
                        input,
                        address,
                    },
                    &stop,
                );
                (name, call.boxed())
            }
            (AgentRef::Url(url), (_, before)) => {
                let call = RemoteCall {
                    call_id: intent.call_id.clone(),
                    message_id: message_id(&intent.idempotency_key),
                    context: Some(self.agents.conversation(&url, &tool.name)),
                    input,
                    before,
                    repeatable: tool.descriptor.idempotent || tool.descriptor.read_only,
                    gate: around.egress(),
                    url: url.clone(),
                };
                let call = self.agents.call_remote(call, self.telling(), &stop);
                (url, call.boxed())
            }
            (AgentRef::Local(local), (None, _)) => {
                let message = format!("`{local}` was called before the tool led to it");
                return Err(Failure::new(ErrorCode::Unavailable, message));
            }
        };
        let timeout = tool.descriptor.timeout;
        tokio::pin!(call);
        let output = tokio::select! {
            output = &mut call => output?,
            () = tokio::time::sleep(timeout) => {
                stop.cancel();
                // It ends soon; if it does not, it is cancelled all the same.
                let _ = tokio::time::timeout(STOP_GRACE, call).await;
                let millis = timeout.as_millis();
                let message = format!("agent `{name}` did not answer within {millis} ms (`timeout_ms` of the tool)");
                return Err(Failure::new(ErrorCode::Timeout, message));
            }
        };
        check_output(tool, Ok(output)).map_err(|error| Failure::new(error.code(), error.message))
    }

    /// Has what a call does committed while it is under way.
    fn telling(&self) -> Telling {
        let meter = self.meter.cloned();
        Arc::new(move |entry| {
            if let Some(meter) = &meter {
                meter.note(entry);
            }
        })
    }

    async fn run_with_retries(
        &self,
        tool: &Tool,
        intent: &ToolIntent,
        around: &Around,
        attempts: &mut u32,
    ) -> Result<Value, ToolError> {
        let policy = &tool.descriptor.retry_policy;
        loop {
            *attempts += 1;
            let result = self.attempt(tool, intent, around).await;
            match result {
                Err(error) if error.is_retryable() && *attempts < policy.max_attempts => {
                    tracing::debug!(tool = %tool.name, attempt = *attempts, %error, "tool failed");
                }
                result => return result,
            }
            tokio::select! {
                () = tokio::time::sleep(policy.wait(*attempts)) => {}
                () = self.stop.cancelled() => return Err(cancelled()),
            }
        }
    }

    /// Takes reports of how far a call is.
    fn progress(&self, tool: &str, call_id: &str) -> ProgressSink {
        let feed = self.feed.cloned();
        let (tool, call_id) = (tool.to_owned(), call_id.to_owned());
        Arc::new(move |progress| {
            if let Some(feed) = &feed {
                feed.progress(CallProgress {
                    call_id: call_id.clone(),
                    tool: tool.clone(),
                    progress: progress.progress,
                    total: progress.total,
                    message: progress.message,
                });
            }
        })
    }

    /// The engine as the tools see it; what is played again has no effect.
    fn engine(&self) -> Option<Arc<dyn EngineAccess>> {
        let live = self.tape.is_none();
        live.then(|| self.agents.access())
    }

    /// Runs a tool once. What it answers, or fails with, holds no secret that it is granted: here is the one place where
    /// that is seen to, before anything else sees it.
    async fn attempt(
        &self,
        tool: &Tool,
        intent: &ToolIntent,
        around: &Around,
    ) -> Result<Value, ToolError> {
        // What an attempt before has shown is not part of this one.
        around.images.take();
        let vault = self.agent.secrets();
        let secrets = vault
            .granted(self.namespace, &tool.descriptor.capabilities)
            .await?;
        if let Some(gate) = &around.gate {
            gate.hide(&secrets);
        }
        let ran = self.call(tool, intent, around, &secrets).await;
        let hidden = ran.map(|output| secrets.redact_value(output));
        let hidden = hidden.map_err(|error| ToolError {
            message: secrets.redact(error.message),
            ..error
        });
        check_output(tool, hidden)
    }

    async fn call(
        &self,
        tool: &Tool,
        intent: &ToolIntent,
        around: &Around,
        secrets: &Secrets,
    ) -> Result<Value, ToolError> {
        let cancel = self.stop.child_token();
        let timeout = tool.descriptor.timeout;
        let context = ToolContext {
            request_id: self.request_id,
            session_id: self.session_id.clone(),
            scope: memory_scope(self.namespace, self.agent),
            idempotency_key: intent.idempotency_key.clone(),
            workspace: self.agent.workspace().to_owned(),
            store: self.store.clone(),
            cancel: cancel.clone(),
            timeout,
            output_limit: output_limit(&tool.descriptor),
            secrets: secrets.clone(),
            egress: around.egress(),
            shown_limit: SHOWN_LIMIT,
            outputs: self.outputs.clone(),
            images: around.images.clone(),
            engine: self.engine(),
            media: self
                .tape
                .is_none()
                .then(|| Arc::clone(&around.media) as Arc<dyn MediaAccess>),
            deferred: Arc::clone(self.agent.searched()),
            diagnostics: self.agent.diagnostics().clone(),
        };
        let input = intent.input.clone();
        let daemon = self.agents.daemon().filter(|_| tool.needs_docker());
        let call = async {
            if let Some(daemon) = daemon {
                let tools = LinkedTools {
                    link: &**daemon,
                    request_id: self.request_id,
                };
                return Box::pin(tools.run(intent, timeout, &cancel)).await;
            }
            match &tool.runner {
                ToolRunner::Builtin(builtin) => builtin.call(&context, input).await,
                ToolRunner::Process(process) => {
                    self.agent.runner().run(process, &context, &input).await
                }
                ToolRunner::Wasm(tool) => tool.run(&context, &input).await,
                ToolRunner::Container(tool) => tool.run(&context, &input).await,
                ToolRunner::Mcp(remote) => {
                    let progress = self.progress(&tool.name, &intent.call_id);
                    remote.call(&context, input, progress).await
                }
                ToolRunner::Agent(_) => Err(ToolError::new(
                    ToolErrorKind::Unavailable,
                    "the call began before the tool led to an agent, and was not made again",
                )),
            }
        };
        tokio::pin!(call);
        until_stopped(call, timeout, &cancel, self.stop).await
    }
}

/// What a call of a tool answers that takes `timeout` at the longest and ends once `stop` fires. The call heeds `cancel`.
pub(crate) async fn until_stopped(
    mut call: Pin<&mut impl Future<Output = Result<Value, ToolError>>>,
    timeout: Duration,
    cancel: &CancellationToken,
    stop: &CancellationToken,
) -> Result<Value, ToolError> {
    let timed_out = tokio::select! {
        result = &mut call => return result,
        () = tokio::time::sleep(timeout) => true,
        () = stop.cancelled() => false,
    };
    cancel.cancel();
    // The tool cleans up; if it does not, dropping the call ends it.
    let late = tokio::time::timeout(STOP_GRACE, call).await;
    match late {
        Ok(Ok(output)) => Ok(output),
        // It may know more about it.
        Ok(Err(error)) if timed_out && error.kind == ToolErrorKind::Timeout => Err(error),
        _ if timed_out => Err(ToolError::new(
            ToolErrorKind::Timeout,
            format!("the tool did not end within {} ms", timeout.as_millis()),
        )),
        _ => Err(cancelled()),
    }
}

/// The largest output of a tool, in bytes.
pub(crate) fn output_limit(descriptor: &ToolDescriptor) -> usize {
    let limit = descriptor.limits.output_bytes;
    limit
        .and_then(|bytes| usize::try_from(bytes).ok())
        .unwrap_or(DEFAULT_OUTPUT_LIMIT)
}

/// Whose memory the tools of an agent see.
pub(crate) fn memory_scope(namespace: &str, agent: &Agent) -> MemoryScope {
    MemoryScope {
        namespace: namespace.to_owned(),
        agent: agent.name().to_owned(),
    }
}

/// What a called agent is told: the message where the input names the agent, the tool's `input` where that is all there
/// is, else the whole input.
fn told(agent: &AgentTool, input: &Value) -> Value {
    if matches!(agent.target, AgentTarget::Named) {
        return input["message"].clone();
    }
    match input.as_object() {
        Some(map) if map.len() == 1 => map.get("input").unwrap_or(input).clone(),
        _ => input.clone(),
    }
}

pub(crate) fn cancelled() -> ToolError {
    ToolError::new(
        ToolErrorKind::Cancelled,
        "the request was stopped while the tool ran",
    )
}

fn check_output(tool: &Tool, result: Result<Value, ToolError>) -> Result<Value, ToolError> {
    let output = result?;
    match tool.check_output(&output) {
        Ok(()) => Ok(output),
        Err(mismatch) => Err(ToolError::new(
            ToolErrorKind::Failed,
            format!("the tool's output does not match its schema: {mismatch}"),
        )),
    }
}

/// The outcome, or a failure that says so where the journal cannot hold it.
fn storable(outcome: ToolOutcome) -> ToolOutcome {
    let Some(problem) = unstorable(&outcome) else {
        return outcome;
    };
    let message = format!("the tool ran, but its output {problem}; the output was dropped");
    ToolOutcome {
        output: None,
        content: format!("error: {message}"),
        images: Vec::new(),
        failure: Some(Failure::new(ErrorCode::TooLarge, message)),
        ..outcome
    }
}

/// The outcome of a call that was not run.
pub(crate) fn refusal(step: u32, call_id: &str, tool: &str, failure: Failure) -> ToolOutcome {
    ToolOutcome {
        step,
        call_id: call_id.to_owned(),
        tool: tool.to_owned(),
        output: None,
        content: format!("error: {}", failure.message),
        spilled: None,
        images: Vec::new(),
        failure: Some(failure),
        duration_ms: 0,
        attempts: 0,
    }
}
