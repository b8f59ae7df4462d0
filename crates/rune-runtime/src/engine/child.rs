//! Requests that a request makes: calls of other agents.
//!
//! The calling request's journal names the request of the callee before that is accepted,
//! so a caller that is taken up again finds the same one, whether it still runs, has ended
//! or was never accepted. The caller's end is the callee's end.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rune_network::{AgentAddress, Member, NotConnected, may_call};
use rune_spec::{AgentRef, LocalAgent};
use rune_store_runtime::{
    AuditId, AuditVerdict, BudgetCap, EntryBody, ErrorCode, Failure, PageRequest, ParentCall,
    PolicyVerdict, RequestFilter, RequestId, RequestRow, RequestStatus, SessionId, StoreError,
    TraceContext,
};
use rune_tools::RemoteAgents;
use rune_wasm::AGENT_LEVELS;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::access::SPAWNED_BY;
use super::link::{EngineAnswer, EngineOp, unexpected};
use super::{Engine, EngineError, Invocation, Origin, RequestEvents};
use crate::event::RequestEvent;
use crate::planner::RunState;
use crate::policy::{self, PolicyCallee, PolicyEngine, PolicyResource};

/// Deepest level below the outermost request on which an agent may be called, whatever its
/// tools allow: what ends agents that call each other in a circle.
pub(super) const MAX_AGENT_DEPTH: u32 = 8;
// Components wait for those on deeper levels, and for no others.
const _: () = assert!(MAX_AGENT_DEPTH as usize + 1 == AGENT_LEVELS);
/// How often a callee that stopped without an end is looked at.
const STOPPED_LOOK: Duration = Duration::from_secs(1);

/// What calls other agents in the name of one running request. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SubAgents {
    pub(super) engine: Engine,
    pub(super) request_id: RequestId,
    pub(super) session_id: SessionId,
    /// The calling agent.
    pub(super) namespace: String,
    pub(super) agent: String,
    pub(super) networks: Vec<String>,
    /// Who asked for the outermost request.
    pub(super) caller: String,
    /// The call that made the calling request.
    pub(super) parent: Option<ParentCall>,
    /// What led to the calling request.
    pub(super) origin: Origin,
    /// Reaches agents of other installations.
    pub(super) remotes: RemoteAgents,
    /// The budgets that the calling request is counted against.
    pub(super) budgets: Vec<BudgetCap>,
}

/// One call of another agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentCall {
    /// The callee's request, as the caller's journal names it.
    pub(crate) request_id: RequestId,
    /// The id of the call, or of the step, in the calling request.
    pub(crate) call_id: String,
    /// The callee.
    pub(crate) address: AgentAddress,
    /// The callee's conversation.
    pub(crate) session_id: SessionId,
    /// What it is told.
    pub(crate) input: Value,
}

impl SubAgents {
    /// Whether the callee of a reference may be called from here, and its address.
    ///
    /// # Errors
    /// A failure that says which rule is in the way.
    pub(crate) async fn admit(
        &self,
        reference: &LocalAgent,
        max_depth: Option<u32>,
    ) -> Result<AgentAddress, Failure> {
        let address = AgentAddress::resolve(reference, &self.namespace);
        let Some(link) = self.engine.link() else {
            return self.admit_here(address, max_depth);
        };
        let op = EngineOp::Admit { address, max_depth };
        match self.asked(&**link, op).await? {
            EngineAnswer::Address(address) => Ok(address),
            _ => Err(unexpected()),
        }
    }

    /// [`SubAgents::admit`] where the router knows every agent.
    pub(super) fn admit_here(
        &self,
        address: AgentAddress,
        max_depth: Option<u32>,
    ) -> Result<AgentAddress, Failure> {
        self.check_depth(&address, max_depth)?;
        let router = &self.engine.inner.router;
        let route = router.route(&address.namespace, &address.name, &address.alias);
        if let Err(error) = route {
            return Err(Failure::new(ErrorCode::NotFound, error.to_string()));
        }
        // One that has not run yet is checked once it does.
        if let Some(peer) = router.peers().find(&address) {
            let refused = |error: NotConnected| Failure::new(ErrorCode::Denied, error.to_string());
            let own = self.name();
            may_call(self.member(&own), peer.member(&address.to_string())).map_err(refused)?;
        }
        Ok(address)
    }

    /// Whether an agent may be called as far below the outermost request.
    pub(super) fn check_depth(
        &self,
        callee: &dyn std::fmt::Display,
        max_depth: Option<u32>,
    ) -> Result<(), Failure> {
        let (depth, cap) = (
            self.depth(),
            max_depth.map_or(MAX_AGENT_DEPTH, |cap| cap.min(MAX_AGENT_DEPTH)),
        );
        if depth <= cap {
            return Ok(());
        }
        let message = format!(
            "agent `{callee}` was not called: it would stand {depth} levels below the outermost request, and {cap} are \
             allowed (`max_depth`, at most {MAX_AGENT_DEPTH})"
        );
        Err(Failure::new(ErrorCode::LimitExceeded, message))
    }

    /// The agent with this address, as far as policies can see it.
    ///
    /// # Errors
    /// A failure where nobody can say.
    pub(crate) async fn callee(&self, address: &AgentAddress) -> Result<PolicyCallee, Failure> {
        let Some(link) = self.engine.link() else {
            return Ok(self.callee_here(address));
        };
        let address = address.clone();
        match self.asked(&**link, EngineOp::Callee { address }).await? {
            EngineAnswer::Callee(callee) => Ok(callee),
            _ => Err(unexpected()),
        }
    }

    pub(super) fn callee_here(&self, address: &AgentAddress) -> PolicyCallee {
        let router = &self.engine.inner.router;
        let route = router.route(&address.namespace, &address.name, &address.alias);
        let agent = route.ok().and_then(|route| {
            let wanted = &route.deployment;
            router.agent_of(wanted.id, wanted.version_id)
        });
        let version = agent.map(|agent| agent.spec().version.to_string());
        let peer = router.peers().find(address);
        PolicyCallee {
            namespace: address.namespace.clone(),
            name: address.name.clone(),
            version,
            networks: peer.map(|peer| peer.networks.clone()),
        }
    }

    /// What the policy of `agent`, which makes the call, says of calling another one, where it says anything.
    ///
    /// # Errors
    /// A failure where nobody can say what the other one is.
    pub(crate) async fn verdict(
        &self,
        policy: &PolicyEngine,
        call_id: &str,
        address: &AgentAddress,
    ) -> Result<Option<PolicyVerdict>, Failure> {
        let callee = self.callee(address).await?;
        let resource = PolicyResource::Agent(&callee);
        if !policy.asks(&resource) {
            return Ok(None);
        }
        let decision = policy.decide(&self.caller, resource);
        let verdict = policy::verdict(0, Some(call_id), &resource, &decision);
        let why = "a step of a workflow does not wait for a person";
        Ok(Some(policy::without_a_person(verdict, why)))
    }

    /// What the audit trail keeps of an agent that a rule of the network keeps from being called.
    pub(crate) fn network_verdict(
        &self,
        step: u32,
        call_id: &str,
        target: &AgentRef,
        reason: &str,
    ) -> PolicyVerdict {
        PolicyVerdict {
            audit_id: AuditId::generate(),
            step,
            call_id: Some(call_id.to_owned()),
            action: policy::NETWORK.to_owned(),
            resource: match target {
                AgentRef::Local(local) => AgentAddress::resolve(local, &self.namespace).to_string(),
                AgentRef::Url(url) => url.clone(),
            },
            attributes: Value::Null,
            verdict: AuditVerdict::Denied,
            by_policy: None,
            reason: reason.to_owned(),
            policies: Vec::new(),
        }
    }

    /// The entry that names the request of a call before it is made.
    pub(crate) fn called(&self, call_id: &str, address: &AgentAddress) -> EntryBody {
        EntryBody::AgentCalled {
            call_id: call_id.to_owned(),
            agent: address.to_string(),
            request_id: Some(RequestId::generate()),
            depth: self.depth(),
        }
    }

    /// The conversation that the calling session has with the callee through a tool: the
    /// same one for every call.
    pub(crate) fn conversation(&self, callee: &dyn std::fmt::Display, tool: &str) -> SessionId {
        let key = format!("{}\n{callee}\n{tool}", self.session_id);
        let digest = rune_spec::package::digest(key.as_bytes());
        let hex: String = digest.chars().rev().take(32).collect();
        format!("sub_{hex}")
            .parse()
            .unwrap_or_else(|_| SessionId::generate())
    }

    /// Calls an agent, or goes on waiting for a call that was made before a restart, and
    /// answers its output. Once `stop` fires the callee is cancelled, with all it calls.
    ///
    /// A callee that waits for a person is waited for.
    ///
    /// # Errors
    /// The callee's failure, with its code.
    pub(crate) async fn call(
        &self,
        call: AgentCall,
        stop: &CancellationToken,
    ) -> Result<Value, Failure> {
        let id = call.request_id;
        {
            let outcome = self.outcome(call);
            tokio::pin!(outcome);
            tokio::select! {
                biased;
                outcome = &mut outcome => return outcome,
                () = stop.cancelled() => {}
            }
        }
        self.engine.cancel_child(self.request_id, id).await;
        let message = "the called agent was cancelled, because the request that called it ended";
        Err(Failure::new(ErrorCode::Cancelled, message))
    }

    async fn outcome(&self, call: AgentCall) -> Result<Value, Failure> {
        if let Some(link) = self.engine.link() {
            loop {
                let op = EngineOp::Call(call.clone());
                match self.asked(&**link, op).await? {
                    EngineAnswer::Ended(outcome) => return outcome,
                    EngineAnswer::Pending => {}
                    _ => return Err(unexpected()),
                }
            }
        }
        let (id, address) = (call.request_id, call.address.to_string());
        let ended = match self.engine.request(id).await {
            Ok(_) => self.engine.child_outcome(id).await,
            Err(EngineError::NotFound(_)) => self.begin(call).await,
            Err(error) => Err(error),
        };
        match ended {
            Ok(outcome) => outcome.map_err(|failure| {
                let message = format!("agent `{address}`: {}", failure.message);
                Failure::new(failure.code, message)
            }),
            Err(error) => {
                let message = format!("agent `{address}` was not called: {error}");
                Err(Failure::new(error.code(), message))
            }
        }
    }

    // Boxed: a request is run within the one that makes it, as far as the compiler knows.
    fn begin(&self, call: AgentCall) -> BoxFuture<'_, Result<Result<Value, Failure>, EngineError>> {
        Box::pin(self.begin_now(call))
    }

    async fn begin_now(&self, call: AgentCall) -> Result<Result<Value, Failure>, EngineError> {
        let id = call.request_id;
        let parent = ParentCall {
            request_id: self.request_id,
            call_id: call.call_id,
            root_id: self.root(),
            depth: self.depth(),
        };
        let invocation = Invocation {
            namespace: call.address.namespace,
            agent: call.address.name,
            alias: call.address.alias,
            input: call.input,
            session_id: Some(call.session_id),
            follows: None,
            metadata: self.passed_on(),
            caller: self.caller.clone(),
            idempotency: None,
        };
        let own = self.name();
        let admitted = self.engine.admit(
            id,
            invocation,
            Some((parent, self.member(&own))),
            &self.budgets,
        );
        match last(admitted.await?.events).await? {
            Some(event) => Ok(of_event(event)),
            None => self.engine.child_outcome(id).await,
        }
    }

    /// Cancels whatever the request called and did not hear from.
    pub(crate) async fn cancel_open(&self, state: &RunState) {
        self.engine.cancel_children(self.request_id, state).await;
        self.cancel_remotes(state);
    }

    /// What the journal of the calling request holds.
    pub(crate) async fn stored_state(&self) -> Result<RunState, StoreError> {
        RunState::load(self.engine.store(), self.request_id).await
    }

    /// The trace of what the calling request makes others do; it begins here where the caller named none.
    pub(super) fn trace(&self) -> TraceContext {
        let named = self.origin.trace.clone();
        let trace = named.unwrap_or_else(|| TraceContext::begin(self.root()));
        trace.within(self.request_id)
    }

    /// Level of the request below the outermost one.
    pub(crate) fn level(&self) -> u32 {
        let parent = self.parent.as_ref();
        parent.map_or(self.origin.depth, |parent| parent.depth)
    }

    /// The metadata of a request that the calling one makes: the trace, where that has one.
    pub(super) fn passed_on(&self) -> BTreeMap<String, Value> {
        let trace = self.origin.trace.clone();
        let origin = Origin {
            depth: 0,
            trace: trace.map(|trace| trace.within(self.request_id)),
        };
        let mut metadata = BTreeMap::new();
        origin.keep(&mut metadata);
        metadata
    }

    /// Level of a callee below the outermost request.
    pub(super) fn depth(&self) -> u32 {
        1 + self.level()
    }

    pub(super) fn root(&self) -> RequestId {
        let parent = self.parent.as_ref();
        parent.map_or(self.request_id, |parent| parent.root_id)
    }

    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.agent)
    }

    pub(super) fn member<'a>(&'a self, name: &'a str) -> Member<'a> {
        Member {
            agent: name,
            networks: &self.networks,
        }
    }
}

impl Engine {
    /// The requests below an outermost one, oldest first.
    ///
    /// # Errors
    /// A [`StoreError`].
    pub async fn tree(&self, root: RequestId) -> Result<Vec<RequestRow>, StoreError> {
        let filter = RequestFilter {
            root_id: Some(root),
            ..RequestFilter::default()
        };
        let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
        let mut rows = Vec::new();
        loop {
            let found = self.inner.store.requests(&filter, &page).await?;
            rows.extend(found.items);
            page.cursor = found.next;
            if page.cursor.is_none() {
                rows.reverse();
                return Ok(rows);
            }
        }
    }

    /// Waits until a request that an outermost one waits for, itself or through others, waits for a person, and answers it.
    /// Those that were only started, and whoever they call, do not count. Safe to drop and call again.
    ///
    /// # Errors
    /// A [`StoreError`].
    pub async fn parked_below(&self, root: RequestId) -> Result<RequestRow, StoreError> {
        let mut parked = self.inner.parked.subscribe();
        loop {
            parked.mark_unchanged();
            // A caller is older than whom it calls.
            let mut waited_for = HashSet::from([root]);
            for row in self.tree(root).await? {
                let called = row.parent.as_ref().map(|parent| parent.request_id);
                let is_called = called.is_some_and(|caller| waited_for.contains(&caller));
                if !is_called || row.metadata.contains_key(SPAWNED_BY) {
                    continue;
                }
                if row.status == RequestStatus::InputRequired {
                    return Ok(row);
                }
                waited_for.insert(row.id);
            }
            // The sender is as old as the engine.
            let _ = parked.changed().await;
        }
    }

    /// Cancels whatever a request that ends without running called and did not hear from, here and elsewhere.
    pub(super) async fn cancel_called(&self, row: &RequestRow, state: &RunState) {
        self.cancel_children(row.id, state).await;
        self.cancel_remotes_of(row, state);
    }

    /// Cancels whatever a request called here and did not hear from.
    async fn cancel_children(&self, of: RequestId, state: &RunState) {
        for id in state.children() {
            self.cancel_child(of, id).await;
        }
    }

    // Boxed: cancelling a request cancels those below it.
    pub(super) fn cancel_child(&self, of: RequestId, id: RequestId) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let cancelled = match self.link() {
                Some(link) => {
                    let op = EngineOp::CancelCall { request_id: id };
                    link.act(of, op).await.map(drop).map_err(EngineError::Store)
                }
                None => {
                    let why = "the request that called it ended";
                    self.cancel(id, why).await.map(drop)
                }
            };
            match cancelled {
                // It was named and never accepted.
                Ok(_) | Err(EngineError::NotFound(_)) => {}
                Err(error) => {
                    tracing::warn!(request = %id, %error, "a called agent was not cancelled");
                }
            }
        })
    }

    /// Waits for the end of a request that another one waits for.
    async fn child_outcome(&self, id: RequestId) -> Result<Result<Value, Failure>, EngineError> {
        loop {
            if let Some(event) = last(self.events(id, 0).await?).await? {
                return Ok(of_event(event));
            }
            // It stopped without an end: the daemon ends, or the store does not answer.
            let row = self.request(id).await?;
            match row.status {
                RequestStatus::Completed => return Ok(Ok(row.output.unwrap_or_default())),
                RequestStatus::Failed | RequestStatus::Cancelled => {
                    return Ok(Err(row.failure.unwrap_or_else(no_reason)));
                }
                RequestStatus::Accepted | RequestStatus::Running | RequestStatus::InputRequired => {
                }
            }
            tokio::time::sleep(STOPPED_LOOK).await;
        }
    }
}

/// Follows a request to its end, also while it waits for a person.
async fn last(mut events: RequestEvents) -> Result<Option<RequestEvent>, StoreError> {
    while let Some(event) = events.next().await? {
        if event.event.is_last() {
            return Ok(Some(event.event));
        }
    }
    Ok(None)
}

fn of_event(event: RequestEvent) -> Result<Value, Failure> {
    match event {
        RequestEvent::Done { output, .. } => Ok(output),
        RequestEvent::Error { code, message, .. } => Err(Failure::new(code, message)),
        _ => Err(no_reason()),
    }
}

fn no_reason() -> Failure {
    Failure::new(ErrorCode::Internal, "the request ended without a reason")
}
