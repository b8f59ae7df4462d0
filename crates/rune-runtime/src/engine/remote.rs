//! Calls of agents that other installations serve.
//!
//! The calling request's journal says that the call is made before anything is sent, and which task has become of it as soon
//! as that is known. A caller that is taken up again follows that task; where it does not know one it says the same again
//! only where the callee takes that for the same. The caller's end is the task's end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rune_a2a::client::{ClientError, Outcome, RemoteAgent, TaskSink, Wakeup};
use rune_a2a::{Message, Part, Role, SendMessage, Task, TaskState};
use rune_store_runtime::{EntryBody, ErrorCode, Failure, RequestRow, SessionId};
use rune_tools::{EgressGate, call_off, message_parts, parts_text, parts_value};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Engine, QUEUE_DEADLINE, SubAgents};
use crate::dispatch::PolicyGate;
use crate::planner::RunState;
use crate::policy::PolicyEngine;

/// Code of the notice that a call is counted against no budget, although there are some.
pub(crate) const REMOTE_COST: &str = "remote_cost_unknown";
/// How long a task that is called off may take to be, behind the end of its caller.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);

/// One call of an agent of another installation.
pub(crate) struct RemoteCall {
    /// The id of the call, or of the step, in the calling request.
    pub(crate) call_id: String,
    /// The callee.
    pub(crate) url: String,
    /// The same for the same call, however often it is made.
    pub(crate) message_id: String,
    /// The callee's conversation, where it is one that may go on.
    pub(crate) context: Option<SessionId>,
    /// What it is told.
    pub(crate) input: Value,
    /// What came of it before a restart.
    pub(crate) before: Before,
    /// Whether its owner says that it may be made twice.
    pub(crate) repeatable: bool,
    /// Asked before every connection, where a policy speaks about them.
    pub(crate) gate: Option<Arc<dyn EgressGate>>,
}

/// What is known of a call when it is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Before {
    /// It is made for the first time.
    #[default]
    Nothing,
    /// It was being made when the runtime was interrupted.
    Interrupted,
    /// The callee has taken it up as this task.
    Task(String),
}

/// Has something committed while a call is under way.
pub(crate) type Telling = Arc<dyn Fn(EntryBody) + Send + Sync>;

impl SubAgents {
    /// Whether the agent at a URL may be called from here.
    ///
    /// # Errors
    /// A failure that says which rule is in the way.
    pub(crate) fn admit_remote(&self, url: &str, max_depth: Option<u32>) -> Result<(), Failure> {
        self.check_depth(&url, max_depth)?;
        let admitted = self.remotes.admit(url);
        admitted.map_err(|error| {
            let message = format!("agent `{url}` was not called: {}", error.message);
            Failure::new(error.code(), message)
        })
    }

    /// What decides about the connections of a step's call, where a policy speaks about them.
    pub(crate) fn gate(&self, policy: &Arc<PolicyEngine>, step: &str) -> Option<Arc<PolicyGate>> {
        PolicyGate::new(policy, &self.caller, 0, step)
    }

    /// The entries that say that an agent of another installation is called.
    pub(crate) fn called_remote(&self, call_id: &str, url: &str) -> Vec<EntryBody> {
        let called = EntryBody::AgentCalled {
            call_id: call_id.to_owned(),
            agent: url.to_owned(),
            request_id: None,
            depth: self.depth(),
        };
        let notice = (!self.budgets.is_empty()).then(|| EntryBody::Notice {
            code: REMOTE_COST.to_owned(),
            message: format!(
                "what agent `{url}` uses is not known here, and counts against no budget of this request"
            ),
        });
        [called].into_iter().chain(notice).collect()
    }

    /// Calls an agent of another installation, or goes on waiting for a call that was made before a restart, and answers
    /// its output. Once `stop` fires its task is called off.
    ///
    /// # Errors
    /// What the callee, or the way to it, says.
    pub(crate) async fn call_remote(
        &self,
        call: RemoteCall,
        telling: Telling,
        stop: &CancellationToken,
    ) -> Result<Value, Failure> {
        let url = call.url.clone();
        let client = self.remotes.client(call.gate.clone(), Some(self.trace()));
        let found = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(cancelled()),
            found = client.agent(&url) => found,
        };
        let agent = found.map_err(|error| failure(&url, &error))?;
        let is_safe = call.repeatable || agent.card().keeps_keys();
        if call.before == Before::Interrupted && !is_safe {
            let message = format!(
                "whether agent `{url}` has taken the message is not known: the runtime was interrupted while it was \
                 sent. It was not sent again"
            );
            return Err(Failure::new(ErrorCode::Unavailable, message));
        }
        let known = match &call.before {
            Before::Task(id) => Some(id.clone()),
            Before::Nothing | Before::Interrupted => None,
        };
        let (known, task) = watch::channel(known);
        let mut work = self.work(&agent, call, telling, known);
        tokio::select! {
            biased;
            outcome = &mut work => {
                let outcome = outcome.map_err(|error| failure(&url, &error))?;
                return output(&url, outcome);
            }
            () = stop.cancelled() => {}
        }
        let cancelling = async move {
            let off = call_off(&agent, work, task);
            let _ = tokio::time::timeout(CANCEL_PATIENCE, off).await;
        };
        self.engine.inner.tasks.spawn("a2a_cancel", cancelling);
        Err(cancelled())
    }

    fn work(
        &self,
        agent: &RemoteAgent,
        call: RemoteCall,
        telling: Telling,
        known: watch::Sender<Option<String>>,
    ) -> BoxFuture<'static, Result<Outcome, ClientError>> {
        let (agent, wakeup) = (agent.clone(), Wakeup::default());
        // One that streams is heard anyway.
        let is_told = agent.card().push_notifications && !agent.card().streaming;
        let webhook = is_told.then(|| self.engine.webhook(&wakeup)).flatten();
        let RemoteCall { call_id, url, .. } = call;
        let told: TaskSink = Arc::new(move |task: &str, context: &str| {
            let task_id = task.to_owned();
            known.send_replace(Some(task_id.clone()));
            telling(EntryBody::RemoteTask {
                call_id: call_id.clone(),
                agent: url.clone(),
                task_id,
                context_id: context.to_owned(),
            });
        });
        if let Before::Task(id) = call.before {
            return async move {
                // It keeps the sender.
                let _told = told;
                let task = agent.resume(&id, &wakeup).await?;
                Ok(Outcome::Task(Box::new(task)))
            }
            .boxed();
        }
        let message = Message::new(call.message_id, Role::User, message_parts(&call.input));
        let mut message = message.at_depth(self.depth());
        message.context_id = call.context.map(|context| context.to_string());
        let send = SendMessage {
            push: webhook.as_ref().map(|webhook| webhook.config.clone()),
            ..SendMessage::new(message)
        };
        async move {
            // It is there as long as the call waits.
            let _webhook = webhook;
            agent.run(send, &told, &wakeup).await
        }
        .boxed()
    }

    /// Calls off the tasks of other installations that the request has called and not heard from.
    pub(super) fn cancel_remotes(&self, state: &RunState) {
        self.call_off(tasks_of(state));
    }

    /// Calls off tasks, each with the URL of its agent.
    fn call_off(&self, tasks: Vec<(String, String)>) {
        for (url, task) in tasks {
            let client = self.remotes.client(None, Some(self.trace()));
            let cancelling = async move {
                let off = async {
                    let agent = client.agent(&url).await?;
                    agent.cancel(&task).await
                };
                match tokio::time::timeout(CANCEL_PATIENCE, off).await {
                    Ok(Ok(_)) => {}
                    // It may have ended by itself.
                    Ok(Err(error)) => {
                        tracing::debug!(url, task, %error, "a task was not called off");
                    }
                    Err(_) => tracing::warn!(url, task, "a task was not called off in time"),
                }
            };
            self.engine.inner.tasks.spawn("a2a_cancel", cancelling);
        }
    }
}

impl Engine {
    /// Calls off the tasks of other installations that a request has called which ends without running: as its agent would
    /// have, as soon as there is a replica that knows how it is allowed to.
    pub(super) fn cancel_remotes_of(&self, row: &RequestRow, state: &RunState) {
        let tasks = tasks_of(state);
        if tasks.is_empty() {
            return;
        }
        let (engine, row) = (self.clone(), row.clone());
        self.inner.tasks.spawn("a2a_cancel", async move {
            let router = &engine.inner.router;
            match router.ready(row.deployment_id, QUEUE_DEADLINE).await {
                Ok(replica) => engine.agents_of(row, replica.agent()).call_off(tasks),
                Err(error) => {
                    tracing::warn!(request = %row.id, %error, "tasks of other installations go on");
                }
            }
        });
    }
}

fn tasks_of(state: &RunState) -> Vec<(String, String)> {
    let tasks = state.remote_tasks();
    tasks
        .map(|(url, task)| (url.to_owned(), task.to_owned()))
        .collect()
}

fn failure(url: &str, error: &ClientError) -> Failure {
    Failure::new(error.code(), format!("agent `{url}`: {error}"))
}

fn cancelled() -> Failure {
    let message = "the called agent was cancelled, because the request that called it ended";
    Failure::new(ErrorCode::Cancelled, message)
}

/// The output of a callee.
fn output(url: &str, outcome: Outcome) -> Result<Value, Failure> {
    let task = match outcome {
        Outcome::Message(message) => {
            return Ok(parts_value(&message.parts.iter().collect::<Vec<_>>()));
        }
        Outcome::Task(task) => task,
    };
    let says = task.status.message.as_ref();
    let says = says.map_or(&[][..], |message| message.parts.as_slice());
    let (code, what) = match task.status.state {
        TaskState::Completed => {
            let made: Vec<&Part> = made(&task).collect();
            return Ok(match made.is_empty() {
                true => parts_value(&says.iter().collect::<Vec<_>>()),
                false => parts_value(&made),
            });
        }
        TaskState::Failed => (ErrorCode::Internal, "failed"),
        TaskState::Rejected => (ErrorCode::Denied, "does not do it"),
        TaskState::Canceled => (ErrorCode::Cancelled, "was cancelled"),
        TaskState::InputRequired => (ErrorCode::Conflict, "waits for input"),
        TaskState::AuthRequired => (ErrorCode::Unauthenticated, "waits for credentials"),
        TaskState::Submitted | TaskState::Working => (ErrorCode::Internal, "has not ended"),
    };
    let says: String = parts_text(says).chars().take(2000).collect();
    let says = if says.is_empty() {
        says
    } else {
        format!(": {says}")
    };
    let go_on = match task.status.state.is_interrupted() {
        true => format!(
            " (task `{}`, context `{}`; `rune@a2a-send` can answer it)",
            task.id, task.context_id
        ),
        false => String::new(),
    };
    Err(Failure::new(
        code,
        format!("agent `{url}` {what}{says}{go_on}"),
    ))
}

fn made(task: &Task) -> impl Iterator<Item = &Part> {
    task.artifacts.iter().flat_map(|artifact| &artifact.parts)
}
