//! The workflow executor: runs the steps of `workflow.yaml`, each as a request to its agent.
//!
//! A step starts as soon as everything it depends on has ended, side by side with whatever
//! else may run. Its start, with the id of the agent's request, is committed before the
//! request is made, and its end before anything that depends on it starts: a workflow that
//! is taken up again repeats no step that ended and goes on waiting for those that run.

mod template;

pub(crate) use template::render_event;

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt};
use rune_spec::{AgentRef, OutputStep, Step, Workflow};
use rune_store_runtime::limits::{MAX_ENTRY_BYTES, MAX_JSON_DEPTH, json_depth};
use rune_store_runtime::{
    AuditVerdict, DeploymentId, EntryBody, ErrorCode, Failure, Reject, ReplicaId, RequestId,
    RequestStatus, SessionId, StepOutcome, StepStatus, StoreError,
};
use rune_tools::EgressGate;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::dispatch::PolicyGate;
use crate::engine::{AgentCall, Before, RemoteCall, SubAgents, Telling};
use crate::journal::JournalWriter;
use crate::planner::{Ended, RunState, StepProgress};
use template::Templates;

/// Steps of one workflow that run at the same time at the most.
const MAX_PARALLEL_STEPS: usize = 16;
/// Pause before the second attempt of a step; doubles for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Bytes and levels that a journal entry adds to the output in it.
const ENTRY_OVERHEAD: usize = 1024;
const ENTRY_DEPTH: usize = 4;

/// One run of one request to an agent with a workflow.
pub(crate) struct WorkflowExecutor {
    pub(crate) deployment_id: DeploymentId,
    pub(crate) replica_id: ReplicaId,
    pub(crate) agent: Arc<Agent>,
    pub(crate) agents: SubAgents,
    pub(crate) journal: JournalWriter,
    pub(crate) state: RunState,
    /// Fires when somebody cancels the request.
    pub(crate) cancel: CancellationToken,
    /// When the request is out of time.
    pub(crate) deadline: Instant,
    /// Fires for `cancel` and at `deadline`.
    pub(crate) stop: CancellationToken,
}

/// An attempt that has ended.
struct Attempted {
    step: usize,
    attempt: u32,
    started: Instant,
    /// What policy said of its connections.
    verdicts: Vec<EntryBody>,
    output: Result<Value, Failure>,
}

/// The call that an attempt makes.
enum StepCall {
    /// Of an agent of this installation.
    Local(AgentCall),
    /// Of one elsewhere, and what decides about its connections.
    Remote(Box<RemoteCall>, Option<Arc<PolicyGate>>),
}

/// What is to be done about a step now.
enum Decision {
    /// It has ended, runs, or waits for others.
    Nothing,
    End(StepOutcome),
    /// Call its agent; `known` is the request of an attempt from before a restart.
    Call {
        attempt: u32,
        known: Option<RequestId>,
        input: String,
    },
}

impl WorkflowExecutor {
    /// Runs the request to its end; `taken_up` says that an earlier process ran it already.
    ///
    /// # Errors
    /// A [`StoreError`] where the end could not be committed; the request is then
    /// unfinished and is taken up again later.
    pub(crate) async fn run(
        mut self,
        workflow: &Workflow,
        taken_up: bool,
    ) -> Result<(), StoreError> {
        self.note(EntryBody::Started {
            replica_id: self.replica_id,
            deployment_id: self.deployment_id,
            attempt: self.state.attempts + 1,
        });
        if taken_up {
            // As with the planner: what ends the daemon must not do so for ever.
            self.journal.flush().await?;
        }
        let (deadline, stop) = (self.deadline, self.stop.clone());
        let mut timed_out = false;
        let ended = {
            let work = self.work(workflow);
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
        self.finish(ended, timed_out).await
    }

    async fn work(&mut self, workflow: &Workflow) -> Result<Value, Ended> {
        if self.state.cancel_requested {
            self.agents.cancel_open(&self.state).await;
            return Err(Ended::Stopped);
        }
        let mut templates = Templates::new(&self.state.input);
        for step in &workflow.steps {
            if let Some(StepProgress::Ended(outcome)) = self.state.workflow.get(&step.id) {
                templates.add(outcome);
                if let Some(failure) = &outcome.failure {
                    // It failed before a crash, and that ends the workflow now.
                    return Err(failure_of(step, failure.code, &failure.message).into());
                }
            }
        }
        // Fires for `stop` and when a step has failed.
        let halt = self.stop.child_token();
        let agents = self.agents.clone();
        let mut begun = vec![false; workflow.steps.len()];
        let mut running = FuturesUnordered::new();
        // What attempts have committed while they run.
        let (sender, mut told) = mpsc::unbounded_channel();
        let telling: Telling = Arc::new(move |entry| {
            // The receiver lives as long as the attempts.
            let _ = sender.send(entry);
        });
        let mut failed = None;
        loop {
            let mut calls = Vec::new();
            if !halt.is_cancelled() {
                let room = MAX_PARALLEL_STEPS - running.len();
                calls = self
                    .decide(workflow, &mut templates, &mut begun, room, &mut failed)
                    .await?;
                if failed.is_some() {
                    halt.cancel();
                }
            }
            for (index, attempt, call) in calls {
                let pause = Duration::ZERO;
                let telling = Arc::clone(&telling);
                running.push(attempted(
                    &agents, workflow, index, attempt, call, telling, pause, &halt,
                ));
            }
            let done = tokio::select! {
                biased;
                Some(entry) = told.recv() => {
                    self.commit(vec![entry]).await?;
                    continue;
                }
                done = running.next() => done,
            };
            let Some(done) = done else {
                break;
            };
            if !done.verdicts.is_empty() {
                self.commit(done.verdicts).await?;
            }
            let Some(step) = workflow.steps.get(done.step) else {
                continue;
            };
            let output = match done.output {
                Err(failure)
                    if done.attempt < step.max_attempts
                        && is_passing(&failure)
                        && !halt.is_cancelled() =>
                {
                    tracing::debug!(step = step.id, attempt = done.attempt, %failure, "step failed");
                    match self.call_again(step, &templates).await {
                        Ok(call) => {
                            let attempt = done.attempt + 1;
                            self.commit(self.begun(step, attempt, &call)).await?;
                            let pause = FIRST_PAUSE.saturating_mul(1 << (done.attempt - 1).min(6));
                            running.push(attempted(
                                &agents,
                                workflow,
                                done.step,
                                attempt,
                                call,
                                Arc::clone(&telling),
                                pause,
                                &halt,
                            ));
                            continue;
                        }
                        Err(failure) => Err(failure),
                    }
                }
                output => output,
            };
            let millis = u64::try_from(done.started.elapsed().as_millis());
            let outcome = ended(step, output, millis.unwrap_or(u64::MAX));
            if let Some(failure) = outcome
                .failure
                .as_ref()
                .filter(|_| failed.is_none() && !halt.is_cancelled())
            {
                failed = Some(failure_of(step, failure.code, &failure.message));
                halt.cancel();
            }
            templates.add(&outcome);
            self.commit(vec![EntryBody::StepFinished(outcome)]).await?;
        }
        if self.stop.is_cancelled() {
            return Err(Ended::Stopped);
        }
        match failed {
            Some(failure) => Err(failure.into()),
            None => self.output(workflow, &templates),
        }
    }

    /// Commits what has become of the steps that wait for nothing any more, and answers the
    /// calls that may be made now, at the most `room`.
    async fn decide(
        &mut self,
        workflow: &Workflow,
        templates: &mut Templates,
        begun: &mut [bool],
        room: usize,
        failed: &mut Option<Failure>,
    ) -> Result<Vec<(usize, u32, StepCall)>, Ended> {
        let mut calls = Vec::new();
        let mut entries = Vec::new();
        // A step that is skipped may be what others waited for.
        let mut changed = true;
        while std::mem::take(&mut changed) && failed.is_none() {
            for (index, step) in workflow.steps.iter().enumerate() {
                let Some(begun) = begun.get_mut(index).filter(|begun| !**begun) else {
                    continue;
                };
                match self.decision(step, templates) {
                    Decision::Nothing => {}
                    Decision::End(outcome) => {
                        *begun = true;
                        changed = true;
                        if let Some(failure) = &outcome.failure {
                            *failed = Some(failure_of(step, failure.code, &failure.message));
                        }
                        templates.add(&outcome);
                        let body = EntryBody::StepFinished(outcome);
                        self.state.apply(&body);
                        entries.push(body);
                    }
                    Decision::Call { .. } if calls.len() >= room => {}
                    Decision::Call {
                        attempt,
                        known,
                        input,
                    } => {
                        let request_id = known.unwrap_or_else(RequestId::generate);
                        let mut call = self.call(step, request_id, input, known.is_some()).await;
                        if let Err(failure) = &call
                            && failure.code == ErrorCode::Denied
                        {
                            let verdict = self.agents.network_verdict(
                                0,
                                &step.id,
                                &step.agent_ref,
                                &failure.message,
                            );
                            entries.push(EntryBody::PolicyVerdict(verdict));
                        }
                        call = match call {
                            Ok(asked) if known.is_none() => {
                                self.permitted(asked, &mut entries).await
                            }
                            call => call,
                        };
                        match call {
                            Ok(call) => {
                                *begun = true;
                                if known.is_none() {
                                    entries.extend(self.begun(step, attempt, &call));
                                }
                                calls.push((index, attempt, call));
                            }
                            Err(failure) => {
                                *begun = true;
                                *failed = Some(failure_of(step, failure.code, &failure.message));
                                entries.push(EntryBody::StepFinished(ended(step, Err(failure), 0)));
                            }
                        }
                    }
                }
            }
        }
        if !entries.is_empty() {
            self.commit(entries).await?;
        }
        Ok(calls)
    }

    fn decision(&self, step: &Step, templates: &Templates) -> Decision {
        let (attempt, known) = match self.state.workflow.get(&step.id) {
            Some(StepProgress::Ended(_)) => return Decision::Nothing,
            Some(StepProgress::Running {
                attempt,
                request_id,
                ..
            }) => (*attempt, Some(*request_id)),
            None => (1, None),
        };
        let mut skipped = 0;
        for id in &step.depends_on {
            match self.state.workflow.get(id) {
                Some(StepProgress::Ended(outcome)) => {
                    skipped += usize::from(outcome.status == StepStatus::Skipped);
                }
                Some(StepProgress::Running { .. }) | None => return Decision::Nothing,
            }
        }
        if known.is_none() {
            if skipped > 0 && skipped == step.depends_on.len() {
                return Decision::End(skip(step));
            }
            match step
                .condition
                .as_ref()
                .map(|condition| templates.holds(condition))
            {
                None | Some(Ok(true)) => {}
                Some(Ok(false)) => return Decision::End(skip(step)),
                Some(Err(message)) => {
                    let message = format!("its `condition` cannot be evaluated: {message}");
                    return Decision::End(ended(step, Err(invalid(message)), 0));
                }
            }
        }
        match templates.render(&step.input_template) {
            Ok(input) => Decision::Call {
                attempt,
                known,
                input,
            },
            Err(message) => {
                let message = format!("its `input_template` cannot be rendered: {message}");
                Decision::End(ended(step, Err(invalid(message)), 0))
            }
        }
    }

    async fn call(
        &self,
        step: &Step,
        request_id: RequestId,
        input: String,
        taken_up: bool,
    ) -> Result<StepCall, Failure> {
        let input = Value::String(input);
        match &step.agent_ref {
            AgentRef::Local(local) => Ok(StepCall::Local(AgentCall {
                request_id,
                call_id: step.id.clone(),
                address: self.agents.admit(local, None).await?,
                // What a step knows is what its template says.
                session_id: SessionId::generate(),
                input,
            })),
            AgentRef::Url(url) => {
                self.agents.admit_remote(url, None)?;
                let gate = self.agents.gate(self.agent.policy(), &step.id);
                let known = self.state.workflow.get(&step.id).filter(|_| taken_up);
                let call = RemoteCall {
                    call_id: step.id.clone(),
                    url: url.clone(),
                    message_id: request_id.to_string(),
                    context: None,
                    input,
                    before: known.map_or(Before::Nothing, StepProgress::before),
                    repeatable: false,
                    gate: gate.clone().map(|gate| gate as Arc<dyn EgressGate>),
                };
                Ok(StepCall::Remote(Box::new(call), gate))
            }
        }
    }

    /// The entries with which an attempt begins.
    fn begun(&self, step: &Step, attempt: u32, call: &StepCall) -> Vec<EntryBody> {
        let started = |request_id| EntryBody::StepStarted {
            step: step.id.clone(),
            attempt,
            request_id,
        };
        match call {
            StepCall::Local(call) => vec![started(call.request_id)],
            StepCall::Remote(call, _) => {
                let id = call.message_id.parse();
                let started = started(id.unwrap_or_else(|_| RequestId::generate()));
                let called = self.agents.called_remote(&step.id, &call.url);
                [started].into_iter().chain(called).collect()
            }
        }
    }

    /// The call of a further attempt, where it can still be made.
    async fn call_again(&self, step: &Step, templates: &Templates) -> Result<StepCall, Failure> {
        let input = templates.render(&step.input_template).map_err(invalid)?;
        self.call(step, RequestId::generate(), input, false).await
    }

    /// The call of a step that begins, where policy lets it through. What policy said is committed with the start or
    /// the end of the step.
    async fn permitted(
        &self,
        call: StepCall,
        entries: &mut Vec<EntryBody>,
    ) -> Result<StepCall, Failure> {
        let StepCall::Local(call) = call else {
            // Policies see the hosts that it connects to.
            return Ok(call);
        };
        let policy = self.agent.policy();
        let asked = self.agents.verdict(policy, &call.call_id, &call.address);
        let Some(verdict) = asked.await? else {
            return Ok(StepCall::Local(call));
        };
        let denied = (verdict.verdict == AuditVerdict::Denied).then(|| {
            let message = format!("policy denies this call: {}", verdict.reason);
            Failure::new(ErrorCode::Denied, message)
        });
        entries.push(EntryBody::PolicyVerdict(verdict));
        denied.map_or(Ok(StepCall::Local(call)), Err)
    }

    fn output(&self, workflow: &Workflow, templates: &Templates) -> Result<Value, Ended> {
        match &workflow.output_step {
            OutputStep::Step(id) => Ok(match self.state.workflow.get(id) {
                Some(StepProgress::Ended(outcome)) => outcome.output.clone().unwrap_or_default(),
                _ => Value::Null,
            }),
            OutputStep::Template(text) => match templates.render(text) {
                Ok(text) => Ok(Value::String(text)),
                Err(message) => {
                    let message =
                        format!("the workflow's `output_step` cannot be rendered: {message}");
                    Err(invalid(message).into())
                }
            },
        }
    }

    /// Commits the end of the request.
    async fn finish(
        &mut self,
        ended: Result<Value, Ended>,
        timed_out: bool,
    ) -> Result<(), StoreError> {
        let ended = match ended {
            Err(Ended::Store(StoreError::Rejected(reject))) => Err(self.refused(reject).await?),
            ended => ended,
        };
        if matches!(ended, Err(Ended::Failed(_) | Ended::Stopped)) {
            self.agents.cancel_open(&self.state).await;
        }
        let (status, output, failure) = match ended {
            Ok(output) => (RequestStatus::Completed, Some(output), None),
            Err(Ended::Store(error)) => return Err(error),
            Err(Ended::Failed(failure)) => (RequestStatus::Failed, None, Some(failure)),
            // A workflow asks nobody itself; its steps' requests do.
            Err(Ended::Parked) => return Ok(()),
            Err(Ended::Stopped) if timed_out && !self.cancel.is_cancelled() => {
                let failure = self.agent.out_of_time("workflow");
                (RequestStatus::Failed, None, Some(failure))
            }
            Err(Ended::Stopped) => {
                let failure = Failure::new(ErrorCode::Cancelled, "the request was cancelled");
                (RequestStatus::Cancelled, None, Some(failure))
            }
        };
        let reason = failure
            .as_ref()
            .map_or("", |failure| failure.message.as_str());
        let mut entries = self.state.close_calls(reason, |name| name);
        entries.push(EntryBody::Finished {
            status,
            output,
            failure,
            usage: self.state.usage,
            cost: self.state.cost,
        });
        match self.journal.finish(entries).await {
            // Such as an output that is too large: it would be refused again for ever.
            Err(StoreError::Rejected(
                reject @ (Reject::Invalid { .. } | Reject::Conflict { .. }),
            )) => {
                let message = format!("the end of the workflow was refused: {reject}");
                let mut entries = self.state.close_calls(&message, |name| name);
                entries.push(EntryBody::Finished {
                    status: RequestStatus::Failed,
                    output: None,
                    failure: Some(Failure::new(ErrorCode::Internal, message)),
                    usage: self.state.usage,
                    cost: self.state.cost,
                });
                self.journal.finish(entries).await
            }
            other => other,
        }
    }

    /// The end of a request of which the store refuses an entry: it would be refused again
    /// by every later attempt. What is stored counts.
    async fn refused(&mut self, reject: Reject) -> Result<Ended, StoreError> {
        if matches!(
            reject,
            Reject::RequestEnded { .. } | Reject::NotFound { .. }
        ) {
            return Err(reject.into());
        }
        self.state = self.agents.stored_state().await?;
        let message = format!("an entry of the request's journal was refused: {reject}");
        Ok(Failure::new(ErrorCode::Internal, message).into())
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

/// One attempt of a step, within its `timeout_ms`.
#[expect(
    clippy::too_many_arguments,
    reason = "they are what a step, its workflow and its call are"
)]
async fn attempted(
    agents: &SubAgents,
    workflow: &Workflow,
    index: usize,
    attempt: u32,
    call: StepCall,
    telling: Telling,
    pause: Duration,
    halt: &CancellationToken,
) -> Attempted {
    let stop = halt.child_token();
    let timeout = workflow.steps.get(index).and_then(|step| step.timeout);
    let timeout = timeout.unwrap_or(workflow.timeout);
    let started = Instant::now();
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = stop.cancelled() => {}
    }
    let (called, gate) = match call {
        StepCall::Local(call) => (agents.call(call, &stop).boxed(), None),
        StepCall::Remote(call, gate) => (agents.call_remote(*call, telling, &stop).boxed(), gate),
    };
    tokio::pin!(called);
    let output = tokio::select! {
        biased;
        output = &mut called => output,
        () = tokio::time::sleep(timeout) => {
            stop.cancel();
            // An answer that comes at the last moment does not count any more.
            let _ = called.await;
            let message = format!("it did not end within {} ms (`timeout_ms`)", timeout.as_millis());
            Err(Failure::new(ErrorCode::Timeout, message))
        }
    };
    Attempted {
        step: index,
        attempt,
        started,
        verdicts: gate.map_or_else(Vec::new, |gate| gate.entries()),
        output,
    }
}

fn skip(step: &Step) -> StepOutcome {
    StepOutcome {
        step: step.id.clone(),
        status: StepStatus::Skipped,
        output: None,
        failure: None,
        duration_ms: 0,
    }
}

/// The end of a step, or a failure that says so where the journal cannot hold its output.
fn ended(step: &Step, output: Result<Value, Failure>, duration_ms: u64) -> StepOutcome {
    let output = output.and_then(|output| {
        let text = output.to_string();
        if text.len() > MAX_ENTRY_BYTES - ENTRY_OVERHEAD {
            let message = format!(
                "its output has {} bytes, more than the journal can hold",
                text.len()
            );
            return Err(Failure::new(ErrorCode::TooLarge, message));
        }
        if json_depth(&text) > MAX_JSON_DEPTH - ENTRY_DEPTH {
            let message = format!("its output nests deeper than {MAX_JSON_DEPTH} levels");
            return Err(Failure::new(ErrorCode::TooLarge, message));
        }
        Ok(output)
    });
    let status = if output.is_ok() {
        StepStatus::Completed
    } else {
        StepStatus::Failed
    };
    let (output, failure) = match output {
        Ok(output) => (Some(output), None),
        Err(failure) => (None, Some(failure)),
    };
    StepOutcome {
        step: step.id.clone(),
        status,
        output,
        failure,
        duration_ms,
    }
}

fn failure_of(step: &Step, code: ErrorCode, message: &str) -> Failure {
    Failure::new(code, format!("step `{}` failed: {message}", step.id))
}

fn invalid(message: String) -> Failure {
    Failure::new(ErrorCode::InvalidInput, message)
}

/// Whether the same call may well succeed when it is made again.
const fn is_passing(failure: &Failure) -> bool {
    matches!(
        failure.code,
        ErrorCode::Timeout
            | ErrorCode::Internal
            | ErrorCode::ModelUnavailable
            | ErrorCode::Unavailable
            | ErrorCode::LimitExceeded
    )
}
