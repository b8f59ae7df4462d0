//! Accepting a request and having it run.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};

use futures_util::future::BoxFuture;
use rune_network::{Member, may_call};
use rune_store_runtime::{
    AcceptRequest, Accepted, BudgetCap, CheckpointPolicy, Cost, DeploymentId, Entry, EntryBody,
    IdempotencyKey, PageRequest, ParentCall, RecordAudit, RequestFilter, RequestId, RequestRow,
    RequestStatus, SessionId, StoreError, Timestamp, Usage, VersionId,
};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::active::{ActiveRequest, Inserted};
use super::child::MAX_AGENT_DEPTH;
use super::run::Start;
use super::{Engine, EngineError, Origin, QUEUE_DEADLINE, RequestEvents, input};
use crate::agent::Agent;
use crate::budget::Payer;
use crate::feed::Feed;
use crate::planner::{Outcome, RunState};
use crate::router::ReadyAgent;

/// What a caller asks for.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// Namespace of the agent.
    pub namespace: String,
    /// Name of the agent.
    pub agent: String,
    /// Alias of the deployment.
    pub alias: String,
    /// The input; a string or what the agent's `input_schema` asks for.
    pub input: Value,
    /// The conversation; a new one where absent.
    pub session_id: Option<SessionId>,
    /// The request that has to be the newest one of the session; whichever it is where absent.
    pub follows: Option<RequestId>,
    /// The caller's own notes.
    pub metadata: BTreeMap<String, Value>,
    /// Who asks.
    pub caller: String,
    /// Makes the invocation idempotent.
    pub idempotency: Option<IdempotencyKey>,
}

/// An accepted request.
pub struct Invoked {
    /// The request.
    pub request_id: RequestId,
    /// Its session.
    pub session_id: SessionId,
    /// What happens to it, from the beginning.
    pub events: RequestEvents,
}

impl Engine {
    /// Accepts a request and starts it. Returns once the acceptance is durable; the
    /// request then runs to its end whether or not the caller follows it.
    ///
    /// # Errors
    /// Any [`EngineError`]; nothing was accepted then.
    pub async fn invoke(&self, invocation: Invocation) -> Result<Invoked, EngineError> {
        self.invoke_as(RequestId::generate(), invocation).await
    }

    /// [`Engine::invoke`] under an id that the caller recorded before: a request that
    /// exists already is refused as a conflict.
    ///
    /// # Errors
    /// Any [`EngineError`]; nothing was accepted then.
    pub async fn invoke_as(
        &self,
        request_id: RequestId,
        invocation: Invocation,
    ) -> Result<Invoked, EngineError> {
        self.admit(request_id, invocation, None, &[]).await
    }

    /// Accepts a request under an id; `parent` is the call that makes it and who calls,
    /// `budgets` are those that the calling request is counted against.
    pub(super) async fn admit(
        &self,
        request_id: RequestId,
        mut invocation: Invocation,
        parent: Option<(ParentCall, Member<'_>)>,
        budgets: &[BudgetCap],
    ) -> Result<Invoked, EngineError> {
        let route =
            self.inner
                .router
                .route(&invocation.namespace, &invocation.agent, &invocation.alias)?;
        let new_session = invocation.session_id.is_none();
        let session_id = invocation.session_id.unwrap_or_else(SessionId::generate);
        let deployment_id = route.deployment.id;
        let pinned = match new_session {
            true => None,
            false => self.pinned(deployment_id, &session_id).await?,
        };
        let router = &self.inner.router;
        let ready = router
            .ready_for(deployment_id, &session_id, pinned, QUEUE_DEADLINE)
            .await?;
        let agent = ready.agent();
        let depth = Origin::of(&invocation.metadata).depth;
        if parent.is_none() && depth > MAX_AGENT_DEPTH {
            return Err(EngineError::TooDeep { depth });
        }
        let parent = match parent {
            Some((parent, caller)) => {
                let address = format!("{}/{}", invocation.namespace, invocation.agent);
                let callee = Member {
                    agent: &address,
                    networks: &agent.spec().networks,
                };
                may_call(caller, callee)?;
                invocation.input = agent.fit_input(invocation.input);
                Some(parent)
            }
            None => None,
        };
        agent
            .check_input(&invocation.input)
            .map_err(EngineError::Input)?;
        let checkpoint = checkpoint(agent);
        if checkpoint == CheckpointPolicy::Never && invocation.idempotency.is_some() {
            return Err(EngineError::Unkeepable);
        }

        let blobs = self.inner.blobs.get().map(AsRef::as_ref);
        let input = input::settle(blobs, invocation.input).await?;

        let budgets = self.inner.budgets.caps(&Payer {
            request_id,
            session_id: &session_id,
            namespace: &invocation.namespace,
            agent,
            alias: &invocation.alias,
            caller: &invocation.caller,
            inherited: budgets,
        });
        let accept = AcceptRequest {
            request_id,
            session_id,
            namespace: invocation.namespace,
            agent: invocation.agent,
            deployment_id,
            version_id: ready.version_id(),
            input,
            metadata: invocation.metadata,
            caller: invocation.caller,
            checkpoint,
            idempotency: invocation.idempotency,
            follows: invocation.follows,
            parent,
            budgets,
            fork: None,
        };
        self.accept(accept, Vec::new(), None, &ready, new_session)
            .await
    }

    /// The version that took the last request of a session, where more than one runs.
    pub(super) async fn pinned(
        &self,
        deployment_id: DeploymentId,
        session_id: &SessionId,
    ) -> Result<Option<VersionId>, StoreError> {
        if !self.inner.router.is_split(deployment_id) {
            return Ok(None);
        }
        let of_session = RequestFilter {
            session_id: Some(session_id.clone()),
            deployment_id: Some(deployment_id),
            ..RequestFilter::default()
        };
        let last = PageRequest::first(1);
        let found = self.inner.store.requests(&of_session, &last).await?;
        Ok(found.items.first().map(|row| row.version_id))
    }

    /// [`Engine::admit`] for what runs within a request: as far as the compiler knows, one within the other without an end.
    pub(super) fn admit_boxed<'a>(
        &'a self,
        request_id: RequestId,
        invocation: Invocation,
        parent: Option<(ParentCall, Member<'a>)>,
        budgets: &'a [BudgetCap],
    ) -> BoxFuture<'a, Result<Invoked, EngineError>> {
        Box::pin(self.admit(request_id, invocation, parent, budgets))
    }

    /// Accepts and starts a request. `inherited` are the entries that a fork takes over, behind the first; `audit`
    /// is told of with the acceptance.
    pub(super) async fn accept(
        &self,
        accept: AcceptRequest,
        inherited: Vec<Entry>,
        audit: Option<RecordAudit>,
        ready: &ReadyAgent,
        new_session: bool,
    ) -> Result<Invoked, EngineError> {
        let (request_id, session_id) = (accept.request_id, accept.session_id.clone());
        let at = self.inner.store.now();
        let body = EntryBody::Accepted {
            input: accept.input.clone(),
            forked_from: accept
                .fork
                .as_ref()
                .map(|fork| Box::new(fork.origin.clone())),
        };
        let accepted = Entry {
            request_id,
            seq: 1,
            at,
            body,
        };
        let inherited = inherited.into_iter().map(|entry| Entry {
            request_id,
            ..entry
        });
        let entries: Vec<Entry> = std::iter::once(accepted).chain(inherited).collect();
        let mut state = RunState::default();
        for entry in &entries {
            state.add(entry);
        }
        let last_seq = entries.len() as u64;
        let stored = accept.checkpoint != CheckpointPolicy::Never;
        let run = Arc::new(ActiveRequest {
            session_id: session_id.clone(),
            checkpoint: accept.checkpoint,
            feed: Feed::new(1),
            cancel: CancellationToken::new(),
            done: CancellationToken::new(),
            unstored: (!stored).then(|| Box::new(unstored_row(&accept, at))),
            waiting: Mutex::default(),
            is_away: AtomicBool::new(false),
        });
        if self.inner.active.insert(request_id, Arc::clone(&run)) != Inserted::New {
            return Err(EngineError::ShuttingDown);
        }
        let turn = self.inner.sessions.line_up(&session_id, request_id);
        let its_turn = turn.token();
        let turn = Arc::new(OnceLock::from(turn));
        let events =
            RequestEvents::live(request_id, &session_id, self.clone(), &run.feed).hiding(last_seq);
        let invoked = Invoked {
            request_id,
            session_id,
            events,
        };
        let start = Start {
            request_id,
            session_id: accept.session_id.clone(),
            namespace: accept.namespace.clone(),
            caller: accept.caller.clone(),
            deployment_id: accept.deployment_id,
            version_id: accept.version_id,
            parent: accept.parent.clone(),
            origin: Origin::of(&accept.metadata),
            budgets: accept.budgets.clone(),
            checkpoint: accept.checkpoint,
            state,
            next_seq: last_seq + 1,
            taken_up: false,
            new_session,
            timeout: ready.agent().timeout(),
            turn: its_turn,
            replica_id: None,
        };
        if !stored {
            run.feed.publish(entries);
            self.start(start, run, turn);
            return Ok(invoked);
        }
        // Accepting belongs to the request's own task: a caller that goes away in the
        // meantime must not leave an accepted request behind that nobody runs.
        let (sender, receiver) = oneshot::channel();
        let engine = self.clone();
        self.spawn(request_id, &Arc::clone(&run), turn, async move {
            let accepting = engine.accept_and_run((accept, audit), at, entries, start, run, sender);
            Box::pin(accepting).await
        });
        match receiver.await {
            Ok(Ok(accepted)) if accepted.duplicate => Ok(Invoked {
                events: self.events(accepted.request_id, 0).await?,
                request_id: accepted.request_id,
                session_id: accepted.session_id,
            }),
            Ok(Ok(_)) => Ok(invoked),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(EngineError::ShuttingDown),
        }
    }

    /// Commits the acceptance, answers it to `reply` and runs the request.
    ///
    /// The model is asked while the acceptance is being committed: the command is queued
    /// first, ahead of everything the run will commit, and nothing leaves the engine
    /// before it is durable. Three kinds of request wait: one with an idempotency key,
    /// because the key may have been used before, one with `on_finish`, because its
    /// tools wait for no commit of their own, and a fork, because its history is written by the commit.
    async fn accept_and_run(
        &self,
        (accept, audit): (AcceptRequest, Option<RecordAudit>),
        accepted_at: Timestamp,
        entries: Vec<Entry>,
        start: Start,
        run: Arc<ActiveRequest>,
        reply: oneshot::Sender<Result<Accepted, StoreError>>,
    ) -> Result<Outcome, EngineError> {
        let waits = accept.idempotency.is_some()
            || accept.fork.is_some()
            || accept.checkpoint == CheckpointPolicy::OnFinish;
        let audit = audit.into_iter().collect();
        let store = &self.inner.store;
        let accepting = store.write_as_of(accepted_at, accept, audit);
        let running = self.run(start, &run);
        tokio::pin!(accepting, running);
        let early = if waits {
            None
        } else {
            tokio::select! {
                biased;
                accepted = &mut accepting => Some((accepted, None)),
                ended = &mut running => Some(((&mut accepting).await, Some(ended))),
            }
        };
        let (accepted, ended) = match early {
            Some(early) => early,
            None => (accepting.await, None),
        };
        let goes_on = accepted.as_ref().is_ok_and(|accepted| !accepted.duplicate);
        if goes_on {
            run.feed.publish(entries);
        }
        // The caller may be gone; the request runs all the same.
        let _ = reply.send(accepted);
        match ended {
            Some(ended) if goes_on => ended,
            None if goes_on => running.await,
            _ => Ok(Outcome::Ended),
        }
    }
}

fn checkpoint(agent: &Agent) -> CheckpointPolicy {
    use rune_spec::CheckpointPolicy as Spec;
    match agent.spec().runtime.checkpoint_policy {
        Spec::EachStep => CheckpointPolicy::EachStep,
        Spec::OnFinish => CheckpointPolicy::OnFinish,
        Spec::Never => CheckpointPolicy::Never,
    }
}

fn unstored_row(accept: &AcceptRequest, at: Timestamp) -> RequestRow {
    RequestRow {
        id: accept.request_id,
        session_id: accept.session_id.clone(),
        namespace: accept.namespace.clone(),
        agent: accept.agent.clone(),
        deployment_id: accept.deployment_id,
        version_id: accept.version_id,
        replica_id: None,
        status: RequestStatus::Accepted,
        attempts: 0,
        cancel_requested: false,
        caller: accept.caller.clone(),
        metadata: accept.metadata.clone(),
        checkpoint: accept.checkpoint,
        parent: accept.parent.clone(),
        budgets: accept.budgets.clone(),
        last_seq: 1,
        output: None,
        failure: None,
        usage: Usage::default(),
        cost: Cost::default(),
        model_calls: 0,
        tool_calls: 0,
        created_at: at,
        updated_at: at,
    }
}
