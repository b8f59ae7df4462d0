//! The daemon's side: it runs the tools.

use std::sync::Arc;

use rune_store_runtime::limits::{MAX_JSON_DEPTH, json_depth};
use rune_store_runtime::{ReplicaId, RequestId, RequestStatus};
use rune_tools::{Outputs, Secrets, ShownImages, ToolContext, ToolError, ToolErrorKind};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{ToolAnswer, ToolOp, ToolRun};
use crate::agent::{Agent, Tool, ToolRunner};
use crate::dispatch::{cancelled, memory_scope, output_limit, until_stopped};
use crate::engine::child::SubAgents;
use crate::engine::{Engine, EngineError};
use crate::spill::SHOWN_LIMIT;

impl Engine {
    /// Stops the tools that run here for a request in a replica.
    pub(in crate::engine) fn end_tools(&self, id: RequestId) {
        self.inner.tool_runs.end(id);
    }

    /// The same for a request that this process does not run any more, of which nothing has to be known.
    pub(in crate::engine) fn forget_tools(&self, id: RequestId) {
        self.inner.tool_runs.left(id);
    }

    /// Whether a request still runs, and in this replica.
    async fn is_run_by(&self, id: RequestId, replica: ReplicaId) -> Result<bool, EngineError> {
        let run = self.inner.active.get(id);
        if run.is_some_and(|run| run.cancel.is_cancelled()) {
            return Ok(false);
        }
        if let Some(holder) = self.inner.holders.get(id) {
            return Ok(holder == Some(replica));
        }
        // After a restart nobody has it yet, and once it has left nobody has it any more.
        let row = self.request(id).await?;
        Ok(row.status == RequestStatus::Running && row.replica_id == Some(replica))
    }
}

impl SubAgents {
    /// Does what a replica that runs the calling request asks for about a tool of this agent.
    pub(in crate::engine) async fn act_on_tool(
        &self,
        agent: &Arc<Agent>,
        replica: ReplicaId,
        op: ToolOp,
    ) -> ToolAnswer {
        let runs = &self.engine.inner.tool_runs;
        let begin = |wanted, stop| self.begin_tool(agent, replica, wanted, stop);
        runs.act(self.request_id, op, begin).await
    }

    /// What runs a tool, where the agent has it and takes the input.
    fn begin_tool(
        &self,
        agent: &Arc<Agent>,
        replica: ReplicaId,
        wanted: ToolRun,
        stop: CancellationToken,
    ) -> Result<impl Future<Output = Result<Value, ToolError>> + Send + use<>, ToolError> {
        let Some(tool) = agent.docker_tool(&wanted.tool).cloned() else {
            let message = format!("the agent has no tool `{}` in a container", wanted.tool);
            return Err(ToolError::new(ToolErrorKind::NotFound, message));
        };
        if let Err(mismatch) = tool.check_input(&wanted.input) {
            let message = format!("the input does not match the tool's schema: {mismatch}");
            return Err(ToolError::new(ToolErrorKind::InvalidInput, message));
        }
        let (agents, agent) = (self.clone(), Arc::clone(agent));
        Ok(async move {
            let prepared = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(cancelled()),
                prepared = agents.prepare_run(&agent, &tool, replica) => prepared?,
            };
            agents
                .run_tool(&agent, &tool, wanted, prepared, &stop)
                .await
        })
    }

    /// The secrets of a run that may begin.
    async fn prepare_run(
        &self,
        agent: &Agent,
        tool: &Tool,
        replica: ReplicaId,
    ) -> Result<Secrets, ToolError> {
        // The request may have left since the replica was found to run it. From here on its end is the end of this run.
        let is_run = self.engine.is_run_by(self.request_id, replica).await;
        match is_run {
            Ok(true) => {}
            Ok(false) => {
                let message = "the request does not run in this replica any more";
                return Err(ToolError::new(ToolErrorKind::Denied, message));
            }
            Err(error) => {
                let message = format!("the tool was not run: {error}");
                return Err(ToolError::new(ToolErrorKind::Unavailable, message));
            }
        }
        let capabilities = &tool.descriptor.capabilities;
        let secrets = agent.secrets().granted(&self.namespace, capabilities);
        Ok(secrets.await?)
    }

    /// Runs a tool as the dispatcher does in a request of this process.
    async fn run_tool(
        &self,
        agent: &Agent,
        tool: &Tool,
        wanted: ToolRun,
        secrets: Secrets,
        stop: &CancellationToken,
    ) -> Result<Value, ToolError> {
        let descriptor = &tool.descriptor;
        let cancel = stop.child_token();
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
        let ran = until_stopped(call.as_mut(), descriptor.timeout, &cancel, stop).await;
        // Nothing that holds a secret leaves the daemon, whatever the replica does with it.
        let hidden = ran.map(|output| secrets.redact_value(output));
        let hidden = hidden.map_err(|error| ToolError {
            message: secrets.redact(error.message),
            ..error
        });
        hidden.and_then(readable)
    }
}

/// An output that a replica can read back from the answer that it is in.
pub(super) fn readable(output: Value) -> Result<Value, ToolError> {
    let text = serde_json::to_string(&output).unwrap_or_default();
    if json_depth(&text) <= MAX_JSON_DEPTH {
        return Ok(output);
    }
    let message = format!(
        "the tool ran, but its output nests deeper than {MAX_JSON_DEPTH} levels; the output was dropped"
    );
    Err(ToolError::new(ToolErrorKind::OutputTooLarge, message))
}
