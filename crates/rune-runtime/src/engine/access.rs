//! What the tools of a request can have the engine do.

use async_trait::async_trait;
use rune_network::{AgentAddress, may_call};
use rune_spec::{AgentName, LocalAgent};
use rune_store_runtime::{
    BudgetScope, CatchUp, Failure, PageRequest, ParentCall, PutSchedule, RequestId, RequestStatus,
    ScheduleFilter, ScheduleRow, ScheduleSpec,
};
use rune_tools::{
    CallChain, EngineAccess, KnownAgent, NewEvent, NewSchedule, NewSpawn, Spawned, ToolError,
    ToolErrorKind, code_kind,
};
use serde_json::Value;

use super::child::SubAgents;
use super::publish::next_depth;
use super::{EngineError, Invocation, Publication};
use crate::schedule::{ScheduleError, first_planned};

/// Schedules that one agent may have made at a time.
const MAX_SCHEDULES: usize = 20;
/// Requests that were spawned below one outermost request and have not ended, at the most.
const MAX_SPAWNED: usize = 16;
/// Names the conversation that spawned a request in its metadata.
pub(super) const SPAWNED_BY: &str = "spawned_by";

#[async_trait]
impl EngineAccess for SubAgents {
    async fn publish(&self, event: NewEvent) -> Result<u64, ToolError> {
        let root = self.engine.request(self.root()).await.map_err(refused)?;
        let publication = Publication {
            event_id: event.event_id,
            namespace: self.namespace.clone(),
            topic: event.topic,
            payload: event.payload,
            publisher: self.agent.clone(),
            request_id: Some(self.request_id),
            depth: next_depth(&root.metadata),
        };
        self.engine.publish(publication).await.map_err(refused)
    }

    async fn put_schedule(&self, new: NewSchedule) -> Result<ScheduleRow, ToolError> {
        if let Err(error) = new.name.parse::<AgentName>() {
            return Err(invalid(format!("`name`: {error}")));
        }
        let own = self.own_address().await?;
        let target = match &new.agent {
            None => own.clone(),
            Some(name) => {
                let admitted = self.admit(&parsed(name)?, None).await;
                admitted.map_err(|failure| failed(&failure))?
            }
        };
        if new.same_session && target != own {
            return Err(invalid(
                "only a schedule of this agent itself can go on with this conversation",
            ));
        }
        let store = self.engine.store();
        let now = store.now();
        let next_fire_at = first_planned(&new.kind, now).map_err(|error| not_scheduled(&error))?;
        let filter = ScheduleFilter {
            created_by: Some(self.maker()),
            ..ScheduleFilter::default()
        };
        let page = PageRequest::first(PageRequest::MAX_LIMIT);
        let known = store.schedules(&filter, &page).await?.items;
        let others = known.iter().filter(|row| row.id != new.schedule_id);
        if others.count() >= MAX_SCHEDULES {
            return Err(invalid(format!(
                "this agent has made {MAX_SCHEDULES} schedules, which is the most; delete one first"
            )));
        }
        let put = PutSchedule {
            schedule_id: new.schedule_id,
            spec: ScheduleSpec {
                namespace: target.namespace,
                name: new.name,
                agent: target.name,
                alias: target.alias,
                input: new.input,
                session_id: new.same_session.then(|| self.session_id.clone()),
                kind: new.kind,
                catch_up: CatchUp::One,
                overlap: new.overlap,
                jitter_ms: 0,
                created_by: Some(self.maker()),
            },
            paused: false,
            next_fire_at,
        };
        store.write(put).await?;
        self.engine.schedules_changed().notify_one();
        let row = store.schedule(new.schedule_id).await?;
        row.ok_or_else(|| invalid("the schedule was deleted again"))
    }

    fn maker(&self) -> String {
        self.name()
    }

    async fn agents(&self) -> Result<Vec<KnownAgent>, ToolError> {
        let router = &self.engine.inner.router;
        let own = self.name();
        let mut known = Vec::new();
        for deployment in router.deployments() {
            let Some(agent) = router.agent(deployment.id) else {
                continue;
            };
            let agent = agent.now();
            let spec = agent.spec();
            let address = AgentAddress {
                namespace: deployment.namespace.clone(),
                name: deployment.agent.clone(),
                alias: deployment.alias.clone(),
            };
            let name = address.to_string();
            let callee = rune_network::Member {
                agent: &name,
                networks: &spec.networks,
            };
            if may_call(self.member(&own), callee).is_err() {
                continue;
            }
            let skills = agent.tools().map(|(_, tool)| {
                let described = tool.descriptor.description.clone();
                (tool.name.clone(), described)
            });
            known.push(KnownAgent {
                address: callable(&address),
                version: spec.version.to_string(),
                description: spec.description.clone().unwrap_or_default(),
                skills: skills.collect(),
            });
        }
        known.sort_by(|a, b| a.address.cmp(&b.address));
        Ok(known)
    }

    async fn spawn(&self, spawn: NewSpawn) -> Result<Spawned, ToolError> {
        let id = spawn.request_id;
        match self.engine.request(id).await {
            // By an earlier run of the same call.
            Ok(row) => {
                return Ok(Spawned {
                    request_id: id,
                    session_id: row.session_id,
                });
            }
            Err(EngineError::NotFound(_)) => {}
            Err(error) => return Err(refused(error)),
        }
        let address = self.admit(&parsed(&spawn.agent)?, None).await;
        let address = address.map_err(|failure| failed(&failure))?;
        self.check_spawned().await?;
        let parent = ParentCall {
            request_id: self.request_id,
            call_id: spawn.call_id,
            root_id: self.root(),
            depth: self.depth(),
        };
        let session = Value::from(self.session_id.to_string());
        let mut metadata = self.passed_on();
        metadata.insert(SPAWNED_BY.to_owned(), session);
        let invocation = Invocation {
            namespace: address.namespace,
            agent: address.name,
            alias: address.alias,
            input: spawn.input,
            session_id: None,
            follows: None,
            metadata,
            caller: self.caller.clone(),
            idempotency: None,
        };
        // It outlives the request that spawns it, and so do the other budgets.
        let outlives = |scope: &BudgetScope| !matches!(scope, BudgetScope::Request(_));
        let budgets = self.budgets.iter().filter(|cap| outlives(&cap.scope));
        let budgets: Vec<_> = budgets.cloned().collect();
        let own = self.name();
        let parent = Some((parent, self.member(&own)));
        let admitted = self.engine.admit_boxed(id, invocation, parent, &budgets);
        let invoked = admitted.await.map_err(refused)?;
        Ok(Spawned {
            request_id: id,
            session_id: invoked.session_id,
        })
    }

    fn depth(&self) -> u32 {
        Self::depth(self)
    }

    fn call_chain(&self) -> Result<CallChain, ToolError> {
        let checked = self.check_depth(&"of another installation", None);
        checked.map_err(|failure| failed(&failure))?;
        Ok(CallChain {
            depth: self.depth(),
            trace: self.trace(),
        })
    }

    async fn cancel_spawned(&self, id: RequestId) -> Result<RequestStatus, ToolError> {
        let row = self.engine.request(id).await.map_err(refused)?;
        let by = row.metadata.get(SPAWNED_BY).and_then(Value::as_str);
        let theirs = row.parent.is_some() && by == Some(self.session_id.as_str());
        if !theirs {
            let message = format!("request `{id}` was not spawned by this conversation");
            return Err(ToolError::new(ToolErrorKind::NotFound, message));
        }
        let why = "the conversation that spawned it cancelled it";
        let row = self.engine.cancel(id, why).await.map_err(refused)?;
        Ok(row.status)
    }
}

impl SubAgents {
    /// Where the calling agent is deployed.
    async fn own_address(&self) -> Result<AgentAddress, ToolError> {
        let row = self.engine.request(self.request_id).await;
        let deployment = row.map_err(refused)?.deployment_id;
        let deployment = self.engine.inner.router.deployment(deployment);
        let alias = deployment.map_or_else(|| "stable".to_owned(), |row| row.alias.clone());
        Ok(AgentAddress {
            namespace: self.namespace.clone(),
            name: self.agent.clone(),
            alias,
        })
    }

    /// Whether one more may be spawned below the outermost request.
    async fn check_spawned(&self) -> Result<(), ToolError> {
        let tree = self.engine.tree(self.root()).await?;
        let running = tree
            .iter()
            .filter(|row| row.metadata.contains_key(SPAWNED_BY) && !row.status.is_terminal());
        if running.count() >= MAX_SPAWNED {
            let message = format!(
                "{MAX_SPAWNED} spawned requests have not ended, which is the most; wait for one or end one with \
                 agent-kill"
            );
            return Err(ToolError::new(ToolErrorKind::Failed, message));
        }
        Ok(())
    }
}

/// The agent that a model names.
fn parsed(name: &str) -> Result<LocalAgent, ToolError> {
    let name = name.strip_prefix("local://").unwrap_or(name);
    name.parse()
        .map_err(|error| invalid(format!("`agent`: {error}")))
}

/// An address in the form in which an agent is named.
fn callable(address: &AgentAddress) -> String {
    let name = format!("{}/{}", address.namespace, address.name);
    match address.alias.as_str() {
        "stable" => name,
        alias => format!("{name}?alias={alias}"),
    }
}

fn invalid(message: impl Into<String>) -> ToolError {
    ToolError::new(ToolErrorKind::InvalidInput, message)
}

fn not_scheduled(error: &ScheduleError) -> ToolError {
    failed(&Failure::new(error.code(), error.to_string()))
}

/// An error of the engine as a tool tells it.
fn refused(error: EngineError) -> ToolError {
    match error {
        EngineError::Store(error) => error.into(),
        error => failed(&Failure::new(error.code(), error.to_string())),
    }
}

/// A failure as a tool tells it.
pub(super) fn failed(failure: &Failure) -> ToolError {
    ToolError::new(code_kind(failure.code), failure.message.clone())
}
