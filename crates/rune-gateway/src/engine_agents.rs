//! The agents of this process's engine, as the tools of its MCP server.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use axum::extract::Query;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::{self, BoxStream};
use rune_http::{ApiError, Caller};
use rune_mcp::{
    AgentCall, AgentRun, AgentSource, Answer, Asking, OfferedAgent, Question, RunEvent,
};
use rune_runtime::{
    Agent, Engine, EngineError, Invocation, Invoked, Origin, RequestEvent, RequestEvents,
    SequencedEvent, store_code,
};
use rune_store_runtime::{
    ApprovalFilter, ApprovalState, DecideApproval, ErrorCode, Failure, PageRequest, RequestId,
    StoreError,
};
use serde_json::json;
use tokio::sync::watch;

use crate::routes::Target;
use crate::routes::invoke::{KeyHeader, scope};
use crate::trace::Trace;

/// How long a list waits for agents that are being started.
const LIST_PATIENCE: Duration = Duration::from_secs(5);
/// How long a call waits for its agent to be started.
const CALL_PATIENCE: Duration = Duration::from_secs(60);

/// Agents that are deployed in a namespace under an alias: those that the URL names.
pub(crate) struct EngineAgents {
    engine: Engine,
}

impl EngineAgents {
    pub(crate) const fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

#[async_trait]
impl AgentSource for EngineAgents {
    async fn agents(&self, asking: Asking<'_>) -> Result<Vec<OfferedAgent>, Failure> {
        let target = target(asking)?;
        let router = self.engine.router();
        let deployments = router.deployments().into_iter().filter(|deployment| {
            deployment.namespace == target.ns && deployment.alias == target.alias
        });
        // After a start of the daemon they are on their way.
        let ready = deployments.map(|deployment| router.ready(deployment.id, LIST_PATIENCE));
        let ready = join_all(ready).await;
        let mut agents: Vec<OfferedAgent> = ready
            .into_iter()
            .flatten()
            .map(|ready| offered(ready.agent()))
            .collect();
        agents.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(agents)
    }

    async fn agent(&self, asking: Asking<'_>, name: &str) -> Result<Option<OfferedAgent>, Failure> {
        let target = target(asking)?;
        let router = self.engine.router();
        let Ok(route) = router.route(&target.ns, name, &target.alias) else {
            return Ok(None);
        };
        let ready = router.ready(route.deployment.id, CALL_PATIENCE).await;
        let ready = ready.map_err(|error| failure(error.into()))?;
        Ok(Some(offered(ready.agent())))
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.engine.router().changes()
    }

    async fn begin(&self, asking: Asking<'_>, call: AgentCall) -> Result<AgentRun, Failure> {
        let (target, caller) = (target(asking)?, caller(asking));
        // Apart from the keys of the HTTP API, whose requests have other bodies.
        let scope = scope(&caller, &target.ns, &call.agent, &target.alias);
        let scope = format!("mcp\n{scope}");
        let body = json!({"input": call.input, "session_id": call.session_id});
        let idempotency = KeyHeader::of(call.idempotency_key).with(&body, &scope);
        let named = asking.map_or(Trace::none(), |parts| Trace::of(&parts.headers));
        let Origin { depth, trace } = named.origin(call.depth);
        let origin = Origin {
            depth,
            // What a call says of itself is nearer than what its connection says.
            trace: call.trace.or(trace),
        };
        let mut metadata = BTreeMap::new();
        origin.keep(&mut metadata);
        let invocation = Invocation {
            namespace: target.ns,
            agent: call.agent,
            alias: target.alias,
            input: call.input,
            session_id: call.session_id,
            follows: None,
            metadata,
            caller: caller.id.as_ref().to_owned(),
            idempotency: idempotency.map_err(|error| refused(&error))?,
        };
        let Invoked {
            request_id,
            session_id,
            events,
        } = self.engine.invoke(invocation).await.map_err(failure)?;
        Ok(AgentRun {
            request_id,
            session_id,
            events: run_events(events),
        })
    }

    async fn follow(
        &self,
        asking: Asking<'_>,
        agent: &str,
        request_id: RequestId,
        after: u64,
    ) -> Result<AgentRun, Failure> {
        let target = target(asking)?;
        let row = self.engine.request(request_id).await.map_err(failure)?;
        let is_its = row.agent == agent && row.namespace == target.ns;
        // Whoever comes back is who began: what it was told may be made up.
        if !is_its || row.caller != *caller(asking).id {
            return Err(failure(EngineError::NotFound(request_id)));
        }
        let events = self.engine.events(request_id, after).await;
        Ok(AgentRun {
            request_id,
            session_id: row.session_id,
            events: run_events(events.map_err(failure)?),
        })
    }

    async fn questions(&self, request_id: RequestId) -> Result<Vec<Question>, Failure> {
        let filter = ApprovalFilter {
            request_id: Some(request_id),
            state: Some(ApprovalState::Waiting),
            ..ApprovalFilter::default()
        };
        let page = PageRequest::first(PageRequest::MAX_LIMIT);
        let waiting = self.engine.store().approvals(&filter, &page).await;
        let waiting = waiting.map_err(store_failure)?;
        let question = |row: rune_store_runtime::ApprovalRow| Question {
            approval_id: row.question.approval_id,
            tool: row.question.tool,
            input: row.question.input,
            reason: row.question.reason,
        };
        Ok(waiting.items.into_iter().map(question).collect())
    }

    async fn decide(&self, asking: Asking<'_>, answer: Answer) -> Result<(), Failure> {
        let decision = DecideApproval {
            approval_id: answer.approval_id,
            decision: answer.decision,
            by: caller(asking).id.as_ref().to_owned(),
            remember: None,
            note: answer.note,
        };
        let decided = self.engine.decide(decision).await;
        decided.map(drop).map_err(failure)
    }

    async fn cancel(&self, request_id: RequestId) {
        let reason = "cancelled by the MCP client";
        if let Err(error) = self.engine.cancel(request_id, reason).await {
            tracing::warn!(%request_id, %error, "the request of an MCP call was not cancelled");
        }
    }

    fn is_ending(&self) -> bool {
        self.engine.shutdown().is_cancelled()
    }
}

fn offered(agent: &Agent) -> OfferedAgent {
    let spec = agent.spec();
    OfferedAgent {
        name: agent.name().to_owned(),
        description: spec.description.clone().unwrap_or_default(),
        input_schema: spec.input_schema.clone(),
        output_schema: spec.output_schema.clone(),
    }
}

/// Which deployments are asked for.
fn target(asking: Asking<'_>) -> Result<Target, Failure> {
    let uri = asking.map(|parts| &parts.uri).cloned().unwrap_or_default();
    match Query::try_from_uri(&uri) {
        Ok(Query(target)) => Ok(target),
        Err(rejection) => Err(Failure::new(ErrorCode::InvalidInput, rejection.body_text())),
    }
}

fn caller(asking: Asking<'_>) -> Caller {
    // The edge sets it on every request that it lets through.
    let known = asking.and_then(|parts| parts.extensions.get().cloned());
    known.unwrap_or_else(|| Caller::new("anonymous"))
}

/// The events of a request, without what the model says as it says it.
fn run_events(events: RequestEvents) -> BoxStream<'static, Result<RunEvent, Failure>> {
    let next = |events: Option<RequestEvents>| async move {
        let mut events = events?;
        loop {
            let event = match events.next().await {
                Ok(Some(event)) => event,
                Ok(None) => return None,
                Err(error) => return Some((Err(store_failure(error)), None)),
            };
            if matches!(
                event.event,
                RequestEvent::Token { .. } | RequestEvent::Reasoning { .. }
            ) {
                continue;
            }
            let last = event.event.is_last();
            return Some((run_event(&event), (!last).then_some(events)));
        }
    };
    stream::unfold(Some(events), next).boxed()
}

fn run_event(event: &SequencedEvent) -> Result<RunEvent, Failure> {
    let data = serde_json::to_value(&event.event);
    Ok(RunEvent {
        seq: event.seq,
        name: event.event.name().to_owned(),
        data: data.map_err(|error| hidden(ErrorCode::Internal, &error))?,
    })
}

/// Why the engine does not do it. What went wrong inside is logged.
fn failure(error: EngineError) -> Failure {
    match error {
        EngineError::Store(error) => store_failure(error),
        error => Failure::new(error.code(), error.to_string()),
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is the last that is done with it"
)]
fn store_failure(error: StoreError) -> Failure {
    match store_code(&error) {
        code @ (ErrorCode::Internal | ErrorCode::Unavailable) => hidden(code, &error),
        code => Failure::new(code, error.to_string()),
    }
}

fn hidden(code: ErrorCode, error: &dyn std::error::Error) -> Failure {
    tracing::error!(code = code.as_str(), %error, "MCP request failed");
    Failure::new(
        code,
        "a part of Rune did not do its work; the log has the details",
    )
}

fn refused(error: &ApiError) -> Failure {
    Failure::new(error.code(), error.message())
}
