//! What a request that runs in a replica outside this process has the daemon's engine do:
//! calls of other agents, and whatever its tools want of the engine.
//!
//! Everything is done in the name of the request and under the rules that hold for it
//! where it was accepted; the replica names the request and decides nothing.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rune_network::AgentAddress;
use rune_store_runtime::{
    DeploymentId, ErrorCode, Failure, ReplicaId, RequestId, RequestRow, RequestStatus, ScheduleRow,
    StoreError, VersionId,
};
use rune_tools::{
    CallChain, EngineAccess, KnownAgent, NewEvent, NewSchedule, NewSpawn, Spawned, ToolError,
    ToolErrorKind,
};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::access::failed;
use super::child::{AgentCall, SubAgents};
use super::tool_runs::{ToolAnswer, ToolOp};
use super::{Engine, EngineError, Origin, store_code};
use crate::agent::Agent;
use crate::policy::PolicyCallee;
use crate::secrets::SecretError;

/// How long the answer to a call of another agent is waited for at a time: no longer than
/// what is between the two processes leaves a quiet connection open.
pub(super) const CALL_LOOK: Duration = Duration::from_secs(10);

/// Something that is done for a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum EngineOp {
    /// Whether an agent may be called from here.
    Admit {
        /// The agent.
        address: AgentAddress,
        /// How deep below the outermost request its request may be.
        max_depth: Option<u32>,
    },
    /// An agent as far as policies can see it.
    Callee {
        /// The agent.
        address: AgentAddress,
    },
    /// Calls an agent, or goes on waiting for one that was called; [`EngineAnswer::Pending`]
    /// where it has not ended yet.
    Call(AgentCall),
    /// Cancels a request that this one has made, with all that it has made itself.
    CancelCall {
        /// The request.
        request_id: RequestId,
    },
    /// [`EngineAccess::publish`].
    Publish(NewEvent),
    /// [`EngineAccess::put_schedule`].
    PutSchedule(NewSchedule),
    /// [`EngineAccess::agents`].
    Agents,
    /// [`EngineAccess::spawn`].
    Spawn(NewSpawn),
    /// [`EngineAccess::cancel_spawned`].
    CancelSpawned {
        /// The request.
        request_id: RequestId,
    },
    /// Has a tool run that works with containers.
    Tool(ToolOp),
}

/// What came of an [`EngineOp`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "value", rename_all = "snake_case")]
pub enum EngineAnswer {
    /// The agent that may be called.
    Address(AgentAddress),
    /// The agent that was asked about.
    Callee(PolicyCallee),
    /// What a called agent has answered.
    Ended(Result<Value, Failure>),
    /// A called agent has not ended yet.
    Pending,
    /// It is cancelled.
    Cancelled,
    /// How many requests an event makes.
    Published(u64),
    /// The schedule as it is.
    Schedule(Box<ScheduleRow>),
    /// The agents that can be called.
    Agents(Vec<KnownAgent>),
    /// A request that goes on by itself.
    Spawned(Spawned),
    /// How a request stands.
    Status(RequestStatus),
    /// How the run of a tool stands.
    Tool(ToolAnswer),
    /// It was not done.
    Failed(Failure),
    /// It was not done, as the model is told.
    Refused(ToolError),
}

/// The way from an engine in a replica to the engine of the daemon. An implementation tries
/// again while nobody answers; whoever does not want to wait drops the future.
#[async_trait]
pub trait EngineLink: Send + Sync {
    /// Does something in the name of a request.
    ///
    /// # Errors
    /// A [`StoreError`] where the daemon does not take the question.
    async fn act(&self, request_id: RequestId, op: EngineOp) -> Result<EngineAnswer, StoreError>;

    /// A secret that the agent of this replica is granted.
    ///
    /// # Errors
    /// A [`SecretError`] that does not hold the value.
    async fn secret(&self, namespace: &str, name: &str) -> Result<SecretString, SecretError>;
}

/// The replica that has something done.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// The replica.
    pub replica_id: ReplicaId,
    /// Its deployment.
    pub deployment_id: DeploymentId,
    /// The version that it runs.
    pub version_id: VersionId,
}

impl Engine {
    /// Does what a request of a deployment asks for that runs in a replica.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] where the deployment has no such request that runs,
    /// [`EngineError::Unadopted`] where it is not known yet what runs it, and
    /// [`EngineError::Store`]. What the request may not do is an answer.
    pub async fn act(
        &self,
        asker: Asker,
        id: RequestId,
        op: EngineOp,
    ) -> Result<EngineAnswer, EngineError> {
        let row = self.request(id).await?;
        if row.deployment_id != asker.deployment_id || row.status.is_terminal() {
            return Err(EngineError::NotFound(id));
        }
        let is_tool = matches!(op, EngineOp::Tool(_));
        // Nothing is begun that this process does not see the end of.
        if is_tool && self.inner.interrupted.is_cancelled() {
            return Err(EngineError::ShuttingDown);
        }
        // Also one of a deployment that is deleted, which finishes what it has.
        let itself = self.inner.router.replica(asker.replica_id);
        let replica = itself.or_else(|| {
            let replicas = self.inner.router.replicas(asker.deployment_id);
            let mut of_version = replicas.iter();
            let of_version = of_version.find(|it| it.version_id() == asker.version_id);
            // A tool is what it is in that version; whom an agent may call is a matter of its name.
            let any = || replicas.first().filter(|_| !is_tool);
            of_version.or_else(any).cloned()
        });
        let replica = replica.ok_or(EngineError::Unadopted(id))?;
        let agent = replica.agent();
        let agents = self.agents_of(row, agent);
        match op {
            EngineOp::Tool(op) => Ok(EngineAnswer::Tool(
                agents.act_on_tool(agent, asker.replica_id, op).await,
            )),
            op => Ok(agents.act(op).await),
        }
    }

    /// What calls other agents for a request of this agent that no planner of this process runs.
    pub(super) fn agents_of(&self, row: RequestRow, agent: &Agent) -> SubAgents {
        SubAgents {
            engine: self.clone(),
            request_id: row.id,
            session_id: row.session_id,
            namespace: row.namespace,
            agent: row.agent,
            networks: agent.spec().networks.clone(),
            remotes: agent.remotes().clone(),
            origin: Origin::of(&row.metadata),
            caller: row.caller,
            parent: row.parent,
            budgets: row.budgets,
        }
    }
}

impl SubAgents {
    async fn act(&self, op: EngineOp) -> EngineAnswer {
        let refused = EngineAnswer::Refused;
        match op {
            EngineOp::Admit { address, max_depth } => self
                .admit_here(address, max_depth)
                .map_or_else(EngineAnswer::Failed, EngineAnswer::Address),
            EngineOp::Callee { address } => EngineAnswer::Callee(self.callee_here(&address)),
            EngineOp::Call(call) if !self.may_know(call.request_id).await => {
                let message = format!("request `{}` does not exist", call.request_id);
                EngineAnswer::Failed(Failure::new(ErrorCode::NotFound, message))
            }
            EngineOp::Call(call) => {
                let nobody = CancellationToken::new();
                // What is dropped goes on, and the next question finds it.
                let called = tokio::time::timeout(CALL_LOOK, self.call(call, &nobody)).await;
                called.map_or(EngineAnswer::Pending, EngineAnswer::Ended)
            }
            EngineOp::CancelCall { request_id } => {
                if self.may_know(request_id).await {
                    self.engine.cancel_child(self.request_id, request_id).await;
                }
                EngineAnswer::Cancelled
            }
            EngineOp::Publish(event) => self
                .publish(event)
                .await
                .map_or_else(refused, EngineAnswer::Published),
            EngineOp::PutSchedule(schedule) => {
                let put = self.put_schedule(schedule).await;
                put.map_or_else(refused, |row| EngineAnswer::Schedule(Box::new(row)))
            }
            EngineOp::Agents => self
                .agents()
                .await
                .map_or_else(refused, EngineAnswer::Agents),
            EngineOp::Spawn(spawn) => self
                .spawn(spawn)
                .await
                .map_or_else(refused, EngineAnswer::Spawned),
            EngineOp::CancelSpawned { request_id } => self
                .cancel_spawned(request_id)
                .await
                .map_or_else(refused, EngineAnswer::Status),
            EngineOp::Tool(_) => EngineAnswer::Failed(unexpected()),
        }
    }

    /// Whether a request is one that the calling one has made, or does not exist.
    async fn may_know(&self, id: RequestId) -> bool {
        match self.engine.request(id).await {
            Ok(row) => row
                .parent
                .is_some_and(|it| it.request_id == self.request_id),
            Err(EngineError::NotFound(_)) => true,
            Err(_) => false,
        }
    }

    /// Asks the daemon to do something for the calling request.
    pub(super) async fn asked(
        &self,
        link: &dyn EngineLink,
        op: EngineOp,
    ) -> Result<EngineAnswer, Failure> {
        match link.act(self.request_id, op).await {
            Ok(EngineAnswer::Failed(failure)) => Err(failure),
            Ok(EngineAnswer::Refused(error)) => Err(Failure::new(error.code(), error.message)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(Failure::new(store_code(&error), error.to_string())),
        }
    }

    /// What the tools of the calling request can have the engine do.
    pub(crate) fn access(&self) -> Arc<dyn EngineAccess> {
        match self.engine.link() {
            None => Arc::new(self.clone()),
            Some(link) => Arc::new(LinkedAccess {
                link: Arc::clone(link),
                request_id: self.request_id,
                maker: self.name(),
                depth: self.depth(),
                chain: self.call_chain(),
            }),
        }
    }
}

/// The answer to another question.
pub(super) fn unexpected() -> Failure {
    Failure::new(
        ErrorCode::Internal,
        "the daemon answered something that was not asked; it may have another version",
    )
}

/// The daemon's engine, as the tools of a request in a replica see it.
struct LinkedAccess {
    link: Arc<dyn EngineLink>,
    request_id: RequestId,
    maker: String,
    depth: u32,
    /// As the request itself says; nothing of it is asked.
    chain: Result<CallChain, ToolError>,
}

impl LinkedAccess {
    async fn ask(&self, op: EngineOp) -> Result<EngineAnswer, ToolError> {
        match self.link.act(self.request_id, op).await {
            Ok(EngineAnswer::Refused(error)) => Err(error),
            Ok(EngineAnswer::Failed(failure)) => Err(failed(&failure)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(error.into()),
        }
    }
}

fn surprising() -> ToolError {
    ToolError::new(ToolErrorKind::Failed, unexpected().message)
}

#[async_trait]
impl EngineAccess for LinkedAccess {
    async fn publish(&self, event: NewEvent) -> Result<u64, ToolError> {
        match self.ask(EngineOp::Publish(event)).await? {
            EngineAnswer::Published(requests) => Ok(requests),
            _ => Err(surprising()),
        }
    }

    async fn put_schedule(&self, schedule: NewSchedule) -> Result<ScheduleRow, ToolError> {
        match self.ask(EngineOp::PutSchedule(schedule)).await? {
            EngineAnswer::Schedule(row) => Ok(*row),
            _ => Err(surprising()),
        }
    }

    fn depth(&self) -> u32 {
        self.depth
    }

    fn maker(&self) -> String {
        self.maker.clone()
    }

    fn call_chain(&self) -> Result<CallChain, ToolError> {
        self.chain.clone()
    }

    async fn agents(&self) -> Result<Vec<KnownAgent>, ToolError> {
        match self.ask(EngineOp::Agents).await? {
            EngineAnswer::Agents(known) => Ok(known),
            _ => Err(surprising()),
        }
    }

    async fn spawn(&self, spawn: NewSpawn) -> Result<Spawned, ToolError> {
        match self.ask(EngineOp::Spawn(spawn)).await? {
            EngineAnswer::Spawned(spawned) => Ok(spawned),
            _ => Err(surprising()),
        }
    }

    async fn cancel_spawned(&self, id: RequestId) -> Result<RequestStatus, ToolError> {
        let op = EngineOp::CancelSpawned { request_id: id };
        match self.ask(op).await? {
            EngineAnswer::Status(status) => Ok(status),
            _ => Err(surprising()),
        }
    }
}
