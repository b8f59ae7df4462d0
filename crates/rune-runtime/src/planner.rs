//! The planner: the loop that runs an agent: the built-in one, or that of a component ([`component`]).
//!
//! Ask the model, commit its reply and the intents of its calls, run the tools,
//! commit their results, repeat. It ends with an answer, a hard cap, a failure or
//! because it was told to stop; in every case each call in the journal has a result
//! and the last entry is `finished`.

mod ask;
mod budget;
mod compact;
mod component;
mod found;
mod images;
mod output;
mod permit;
mod prompt;
mod state;
mod summary;

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rune_store_runtime::{
    BlobStore, DeploymentId, EntryBody, ErrorCode, Failure, Reject, ReplicaId, RequestId,
    RequestStatus, SessionId, Store, StoreError,
};
use rune_tools::Outputs;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::budget::{Booking, Meter, OwnBudget, Spent, ToolMeter};
use crate::dispatch::{ToolDispatcher, refusal};
use crate::engine::SubAgents;
use crate::feed::Feed;
use crate::journal::JournalWriter;
use crate::replay::Recorded;
use crate::router::Place;

pub(crate) use ask::PROVIDER_WAIT;
pub(crate) use component::COMPONENT_WAIT;
pub(crate) use permit::MODEL_DENIED;
pub(crate) use state::{
    Approval, BACKED_OFF, INTERRUPTED, LOOP_DETECTED, OpenCall, RunState, StepProgress,
    UNKNOWN_OUTCOME,
};
use state::{IDENTICAL_CALLS, Repetition};

/// One run of one request.
pub(crate) struct Planner {
    pub(crate) request_id: RequestId,
    pub(crate) session_id: SessionId,
    pub(crate) namespace: String,
    /// Who made the request.
    pub(crate) caller: String,
    pub(crate) deployment_id: DeploymentId,
    pub(crate) replica_id: ReplicaId,
    pub(crate) agent: Arc<Agent>,
    /// Calls other agents for it.
    pub(crate) agents: SubAgents,
    /// Its place on the replica.
    pub(crate) place: Place,
    pub(crate) store: Store,
    /// Has the images and the outputs that are too large for the journal.
    pub(crate) blobs: Option<Arc<dyn BlobStore>>,
    pub(crate) feed: Arc<Feed>,
    pub(crate) journal: JournalWriter,
    /// Counts its model calls against the budgets that it shares.
    pub(crate) meter: Meter,
    pub(crate) state: RunState,
    /// Whether it can wait for a person.
    pub(crate) can_park: bool,
    /// Told when a person is asked.
    pub(crate) asked: Arc<Notify>,
    /// Fires when somebody cancels the request.
    pub(crate) cancel: CancellationToken,
    /// When the request is out of time.
    pub(crate) deadline: Instant,
    /// Fires for `cancel` and at `deadline`; what the model and the tools watch.
    pub(crate) stop: CancellationToken,
    /// What answers instead of the models and the tools, where the run is a replay.
    pub(crate) recorded: Option<Recorded>,
}

/// How the loop ended.
pub(crate) enum Ended {
    /// `stop` has fired.
    Stopped,
    /// It cannot go on.
    Failed(Failure),
    /// It goes on once a person has decided.
    Parked,
    /// The store did not take an entry.
    Store(StoreError),
}

/// What became of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The request has ended.
    Ended,
    /// It waits for a person.
    Parked,
    /// The replica outside this process that ran it was lost, with all that it had done.
    Lost,
}

impl From<StoreError> for Ended {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Planner {
    /// Runs the request to its end, or until it waits for a person. `taken_up` says that an
    /// earlier process ran it already.
    ///
    /// # Errors
    /// A [`StoreError`] where the end could not be committed; the request is then
    /// unfinished and is taken up again later.
    pub(crate) async fn run(
        mut self,
        new_session: bool,
        taken_up: bool,
    ) -> Result<Outcome, StoreError> {
        self.note(EntryBody::Started {
            replica_id: self.replica_id,
            deployment_id: self.deployment_id,
            attempt: self.state.attempts + 1,
        });
        if taken_up {
            // That it was taken up counts from now on, whatever its checkpoint policy, so
            // that what ends the daemon does not do so for ever.
            self.journal.flush().await?;
        }
        let deadline = self.deadline;
        let stop = self.stop.clone();
        let mut timed_out = false;
        let mut last = Vec::new();
        let ended = {
            let work = self.work(new_session, &mut last);
            tokio::pin!(work);
            tokio::select! {
                biased;
                ended = &mut work => ended,
                () = tokio::time::sleep_until(deadline) => {
                    timed_out = true;
                    stop.cancel();
                    work.await
                }
            }
        };
        if matches!(ended, Err(Ended::Parked)) {
            self.journal.flush().await?;
            self.tell_deadlines();
            return Ok(Outcome::Parked);
        }
        self.finish(ended, timed_out, last).await?;
        Ok(Outcome::Ended)
    }

    /// The loop. `last` gets the entries that belong into the commit of the end.
    async fn work(&mut self, new_session: bool, last: &mut Vec<EntryBody>) -> Result<Value, Ended> {
        if self.state.cancel_requested {
            self.agents.cancel_open(&self.state).await;
            return Err(Ended::Stopped);
        }
        let mut earlier = self.history(new_session).await?;
        self.settle_interrupted_calls().await?;
        if let Some(component) = self.agent.component().cloned() {
            return Box::pin(self.run_component(&component, earlier, last)).await;
        }
        loop {
            self.end_calls().await?;
            if let Some(answer) = self.state.answer.take() {
                match output::read(&self.agent, answer) {
                    Ok(output) => return Ok(output),
                    Err(problem) => self.repair_output(&problem, last).await?,
                }
            }
            self.load_images(&mut earlier).await?;
            let reply = self.reply(&mut earlier).await?;
            self.report_stop(&reply);
            let body = EntryBody::ModelReply(reply);
            self.state.apply(&body);
            if self.state.answer.is_some() {
                last.push(body);
                continue;
            }
            let mut entries = vec![body];
            self.plan_calls(&mut entries).await?;
            self.journal.commit(entries).await?;
            self.tell_deadlines();
        }
    }

    /// Runs the calls that are open. Where a person has to decide about one the request parks.
    async fn end_calls(&mut self) -> Result<(), Ended> {
        if !self.state.open.is_empty() {
            self.run_tools().await?;
        }
        if self.state.waits_for_approval() {
            return Err(Ended::Parked);
        }
        Ok(())
    }

    /// Calls with an intent from before a crash: the tool may have run. One that is
    /// idempotent runs again under the same key, any other is not repeated.
    async fn settle_interrupted_calls(&mut self) -> Result<(), Ended> {
        let unknown = self.state.open.iter().filter_map(|call| {
            let intent = call.intent.as_ref().filter(|intent| !intent.idempotent)?;
            Some(call.unknown_outcome(intent))
        });
        let entries: Vec<EntryBody> = unknown.collect();
        if !entries.is_empty() {
            self.commit(entries).await?;
        }
        for call in &mut self.state.open {
            call.interrupted = call.intent.is_some();
        }
        let fresh = self.state.open.iter().any(|call| call.intent.is_none());
        if fresh {
            let mut entries = Vec::new();
            self.plan_calls(&mut entries).await?;
            self.journal.commit(entries).await?;
            self.tell_deadlines();
        }
        Ok(())
    }

    /// Adds, for every open call without an intent, its intent or its refusal.
    async fn plan_calls(&mut self, entries: &mut Vec<EntryBody>) -> Result<(), Ended> {
        let cap = self.agent.spec().budget.tool_calls;
        if let Some(cap) = cap.filter(|cap| self.state.tool_calls > *cap) {
            // The reply is kept, its calls are answered by `finish`.
            for body in std::mem::take(entries) {
                self.journal.note(body);
            }
            return Err(limit(format!(
                "the request reached its limit of {cap} tool calls (`budget.tool_calls`)"
            ))
            .into());
        }
        if let Some(failure) = self.loop_failure() {
            for body in std::mem::take(entries) {
                self.journal.note(body);
            }
            self.note(loop_notice(&failure.message));
            return Err(failure.into());
        }
        let dispatcher = self.dispatcher();
        let mut plans = Vec::new();
        let open = self.state.open.iter();
        for call in open.filter(|call| call.intent.is_none() && !call.waits()) {
            if call.repetition == Repetition::TooOften {
                plans.extend(self.refuse_repetition(call));
            } else {
                plans.extend(dispatcher.plan(call).await?);
            }
        }
        for body in &plans {
            self.state.apply(body);
        }
        entries.extend(plans);
        Ok(())
    }

    /// Why the request ends, where the model repeats a call that it was told is not run.
    fn loop_failure(&self) -> Option<Failure> {
        let mut open = self.state.open.iter();
        let call = open.find(|call| call.repetition == Repetition::AfterWarning)?;
        Some(limit(format!(
            "the model calls `{}` with the same input again, after it was told that the call is not run any more",
            self.package_name(call.visible_name())
        )))
    }

    fn refuse_repetition(&self, call: &OpenCall) -> [EntryBody; 2] {
        let tool = self.package_name(call.visible_name());
        let message = format!(
            "`{tool}` was called with the same input {IDENTICAL_CALLS} times in this request; the call was not run, \
             and the request ends where it is repeated"
        );
        let failure = Failure::new(ErrorCode::LimitExceeded, message.as_str());
        [
            loop_notice(&message),
            EntryBody::ToolResult(refusal(call.step, call.id(), tool, failure)),
        ]
    }

    /// The name in the package of the tool with this model-visible name.
    fn package_name<'a>(&'a self, visible: &'a str) -> &'a str {
        let tool = self.agent.tool(visible);
        tool.map_or(visible, |tool| tool.name.as_str())
    }

    /// Runs every open call at the same time and commits what they do, and each result, as it comes.
    async fn run_tools(&mut self) -> Result<(), Ended> {
        let store = self.store.clone();
        let agent = Arc::clone(&self.agent);
        let (session_id, namespace) = (self.session_id.clone(), self.namespace.clone());
        let caller = self.caller.clone();
        let stop = self.stop.clone();
        let agents = self.agents.clone();
        let recorded = self.recorded.clone();
        let feed = Arc::clone(&self.feed);
        let (meter, mut bookings) = self.tool_meter();
        let dispatcher = ToolDispatcher {
            agent: &agent,
            agents: &agents,
            request_id: self.request_id,
            session_id: &session_id,
            namespace: &namespace,
            caller: &caller,
            store: &store,
            outputs: self.outputs(),
            can_park: self.can_park,
            stop: &stop,
            tape: recorded.as_ref().map(Recorded::tape),
            feed: Some(&feed),
            meter: Some(&meter),
        };
        let calls = self.state.open.iter().filter_map(|call| {
            let name = call.visible_name().to_owned();
            Some((name, call.intent.clone()?, (call.child, call.before())))
        });
        let mut running: FuturesUnordered<_> = calls
            .map(|(name, intent, called)| {
                let dispatcher = &dispatcher;
                async move { dispatcher.run(&name, intent, called).await }
            })
            .collect();
        if self.state.waits_for_others() {
            self.place.give_back();
        }
        loop {
            tokio::select! {
                biased;
                Some(booking) = bookings.recv() => self.book(booking).await?,
                ended = running.next() => match ended {
                    Some(entries) => self.commit(entries).await?,
                    None => break,
                },
            }
        }
        drop(running);
        while let Ok(booking) = bookings.try_recv() {
            self.book(booking).await?;
        }
        if let Some(unknown) = meter.close().await? {
            self.note(unknown);
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(Ended::Stopped),
            () = self.place.take_again() => Ok(()),
        }
    }

    /// Commits what a tool does while it runs.
    async fn book(&mut self, mut booking: Booking) -> Result<(), StoreError> {
        self.commit(std::mem::take(&mut booking.entries)).await?;
        booking.committed().await
    }

    fn check_steps(&self) -> Result<(), Failure> {
        let cap = self.agent.spec().max_steps;
        if self.state.steps >= cap {
            return Err(limit(format!(
                "the request reached its limit of {cap} model turns (`max_steps`) without an answer"
            )));
        }
        Ok(())
    }

    /// The cap of this request, before a call whose prompt has so many tokens. What it shares
    /// with others is reserved by the call.
    fn check_tokens(&self, next: u64) -> Result<(), Failure> {
        let budget = self.agent.token_budget();
        if self.state.usage.total().saturating_add(next) >= budget {
            return Err(limit(format!(
                "the next model call would exceed the budget of {budget} tokens (`{}`): \
                 {} are used and the prompt has about {next}",
                self.agent.token_budget_name(),
                self.state.usage.total()
            )));
        }
        Ok(())
    }

    /// Commits the end of the request.
    async fn finish(
        &mut self,
        ended: Result<Value, Ended>,
        timed_out: bool,
        mut entries: Vec<EntryBody>,
    ) -> Result<(), StoreError> {
        let (status, output, failure) = match ended {
            Ok(output) => (RequestStatus::Completed, Some(output), None),
            Err(Ended::Failed(failure)) => (RequestStatus::Failed, None, Some(failure)),
            Err(Ended::Store(StoreError::Rejected(reject))) => return self.give_up(reject).await,
            Err(Ended::Store(error)) => return Err(error),
            Err(Ended::Stopped) if timed_out && !self.cancel.is_cancelled() => {
                let failure = self.agent.out_of_time("request");
                (RequestStatus::Failed, None, Some(failure))
            }
            Err(Ended::Stopped | Ended::Parked) => {
                let failure = Failure::new(ErrorCode::Cancelled, "the request was cancelled");
                (RequestStatus::Cancelled, None, Some(failure))
            }
        };
        let reason = failure
            .as_ref()
            .map_or("", |failure| failure.message.as_str());
        let agent = &self.agent;
        let tool = |name| agent.tool(name).map_or(name, |tool| tool.name.as_str());
        entries.extend(self.state.close_calls(reason, tool));
        let (usage, cost) = (self.state.usage, self.state.cost);
        entries.extend(self.meter.ends().await?);
        entries.push(EntryBody::Finished {
            status,
            output,
            failure,
            usage,
            cost,
        });
        match self.journal.finish(entries).await {
            Err(StoreError::Rejected(reject)) => self.give_up(reject).await,
            other => other,
        }
    }

    /// Ends a request of which the store refuses an entry, such as a reply that is too
    /// large: it would be refused again by every later attempt. What is stored counts.
    async fn give_up(&mut self, reject: Reject) -> Result<(), StoreError> {
        if matches!(
            reject,
            Reject::RequestEnded { .. } | Reject::NotFound { .. }
        ) {
            return Err(reject.into());
        }
        let state = RunState::load(&self.store, self.request_id).await?;
        let message = format!("an entry of the request's journal was refused: {reject}");
        let mut entries = state.close_calls(&message, |name| name);
        entries.push(EntryBody::Finished {
            status: RequestStatus::Failed,
            output: None,
            failure: Some(Failure::new(ErrorCode::Internal, message)),
            usage: self.state.usage,
            cost: self.state.cost,
        });
        self.journal.finish(entries).await
    }

    /// Lets the deadlines of questions be looked at, once the questions are stored.
    fn tell_deadlines(&self) {
        if self.state.waits_for_approval() {
            self.asked.notify_one();
        }
    }

    fn dispatcher(&self) -> ToolDispatcher<'_> {
        ToolDispatcher {
            agent: &self.agent,
            agents: &self.agents,
            request_id: self.request_id,
            session_id: &self.session_id,
            namespace: &self.namespace,
            caller: &self.caller,
            store: &self.store,
            outputs: self.outputs(),
            can_park: self.can_park,
            stop: &self.stop,
            tape: self.recorded.as_ref().map(Recorded::tape),
            feed: None,
            meter: None,
        }
    }

    /// Counts the calls of models that the tools of this turn make, and has them committed.
    fn tool_meter(&self) -> (Arc<ToolMeter>, mpsc::UnboundedReceiver<Booking>) {
        let own = OwnBudget {
            tokens: (self.agent.token_budget(), self.agent.token_budget_name()),
            micro_usd: self.agent.cost_budget(),
        };
        let spent = Spent {
            tokens: self.state.usage.total(),
            micro_usd: self.state.cost.micro_usd.unwrap_or_default(),
        };
        self.meter.for_tools(own, spent)
    }

    /// What its tools can read of the outputs that are too large to be shown.
    fn outputs(&self) -> Outputs {
        Outputs {
            blobs: self.blobs.clone(),
            own: self.state.spilled.clone(),
        }
    }

    async fn commit(&mut self, entries: Vec<EntryBody>) -> Result<(), StoreError> {
        for body in &entries {
            self.state.apply(body);
        }
        self.journal.commit(entries).await
    }

    fn note(&mut self, body: EntryBody) {
        self.state.apply(&body);
        self.journal.note(body);
    }
}

fn loop_notice(message: &str) -> EntryBody {
    EntryBody::Notice {
        code: LOOP_DETECTED.to_owned(),
        message: message.to_owned(),
    }
}

fn limit(message: String) -> Failure {
    Failure::new(ErrorCode::LimitExceeded, message)
}
