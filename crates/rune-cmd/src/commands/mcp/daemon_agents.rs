//! The agents of a daemon, over its HTTP API, as the tools of an MCP server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use reqwest::{Method, header};
use rune_mcp::{
    AgentCall, AgentRun, AgentSource, Answer, Asking, OfferedAgent, Question, RunEvent,
};
use rune_runtime::Origin;
use rune_store_runtime::{ErrorCode, Failure as CallFailure, RequestId, SessionId};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::cli::Target;
use crate::client::{Api, Client, Event, Follow, part};
use crate::failure::{Exit, Failure, Outcome};

/// Agents that are offered at the most.
const MAX_AGENTS: usize = 1000;
/// Approvals of a request that are asked about at the most.
const MAX_APPROVALS: usize = 1000;
/// How long a call waits for its agent to be started.
const CALL_PATIENCE: Duration = Duration::from_secs(60);
/// How often the daemon is asked whether it has been.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long a daemon that breaks a connection is left alone before the call is sent again.
const RESEND_PAUSE: Duration = Duration::from_millis(500);

/// The agents of a daemon.
pub(super) struct DaemonAgents {
    client: Client,
    target: Target,
    /// Only these; empty: all.
    names: Vec<String>,
    /// What the daemon had when it was asked last.
    known: Mutex<Vec<OfferedAgent>>,
    changes: watch::Sender<()>,
    running: Arc<Mutex<BTreeSet<RequestId>>>,
}

impl DaemonAgents {
    pub(super) fn new(client: Client, target: Target, names: Vec<String>) -> Self {
        Self {
            client,
            target,
            names,
            known: Mutex::default(),
            changes: watch::Sender::new(()),
            running: Arc::default(),
        }
    }

    /// The names that were asked for.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Asks the daemon for its agents, and tells of it where they are others.
    pub(super) async fn look(&self) -> Outcome<Vec<OfferedAgent>> {
        let query = [
            ("ns", self.target.namespace.as_str()),
            ("alias", self.target.alias.as_str()),
        ];
        let rows = self
            .client
            .list(Api::Gateway, "/v1/agents", &query, MAX_AGENTS)
            .await?;
        let called = rows.iter().filter(|row| is_ready(row));
        let agents: Vec<OfferedAgent> = called
            .map(offered)
            .filter(|agent| self.names.is_empty() || self.names.contains(&agent.name))
            .collect();
        let before = std::mem::replace(&mut *lock(&self.known), agents.clone());
        if before != agents {
            self.changes.send_replace(());
        }
        Ok(agents)
    }

    /// The requests that somebody waits for.
    pub(super) fn running(&self) -> Vec<RequestId> {
        lock(&self.running).iter().copied().collect()
    }

    /// Posts a call, and answers its request with the events behind the first one, which says that it is accepted.
    async fn post(&self, call: &AgentCall, key: Option<&str>) -> Outcome<Accepted> {
        let path = format!("/v1/agents/{}/invoke", part(&call.agent));
        let origin = Origin {
            depth: call.depth,
            trace: None,
        };
        let mut metadata = BTreeMap::new();
        origin.keep(&mut metadata);
        let mut body = json!({"input": call.input, "stream": true, "metadata": metadata});
        if let Some(session_id) = &call.session_id {
            body["session_id"] = json!(session_id);
        }
        let mut request = self
            .client
            .request(Api::Gateway, Method::POST, &self.target.query(&path))
            .header(header::ACCEPT, "text/event-stream")
            .json(&body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let response = self.client.send(Api::Gateway, request).await?;
        let mut follow = Follow::response(self.client.clone(), response);
        let first = follow.next().await?;
        let accepted = first.as_ref().filter(|event| event.name == "accepted");
        let ids = accepted.and_then(|event| {
            let request_id = event.text("request_id").parse().ok()?;
            Some((request_id, event.text("session_id").parse().ok()?))
        });
        match ids {
            Some((request_id, session_id)) => Ok((request_id, session_id, follow)),
            None => {
                let message = "the daemon did not say which request it has accepted";
                Err(Failure::new(Exit::Failed, message))
            }
        }
    }

    /// The run of a request. One that a client can come back to is not cancelled when that goes away.
    fn run(&self, (request_id, session_id, follow): Accepted, is_left: bool) -> AgentRun {
        let running = (!is_left).then(|| {
            lock(&self.running).insert(request_id);
            Running {
                request_id,
                all: Arc::clone(&self.running),
            }
        });
        AgentRun {
            request_id,
            session_id,
            events: run_events(follow, running),
        }
    }
}

/// A request that was accepted, its session, and its events.
type Accepted = (RequestId, SessionId, Follow);

/// Whether the daemon runs a replica of the agent: one without tools has none that could be asked.
fn is_ready(row: &Value) -> bool {
    row["tools"].is_array()
}

fn offered(row: &Value) -> OfferedAgent {
    let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let schema = |field: &str| row.get(field).filter(|schema| !schema.is_null()).cloned();
    OfferedAgent {
        name: text("name"),
        description: text("description"),
        input_schema: schema("input_schema"),
        output_schema: schema("output_schema"),
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every value is a valid one.
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request that somebody waits for, until this is dropped.
struct Running {
    request_id: RequestId,
    all: Arc<Mutex<BTreeSet<RequestId>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.all).remove(&self.request_id);
    }
}

#[async_trait]
impl AgentSource for DaemonAgents {
    async fn agents(&self, _: Asking<'_>) -> Result<Vec<OfferedAgent>, CallFailure> {
        self.look().await.map_err(|failure| call_failure(&failure))
    }

    async fn agent(&self, _: Asking<'_>, name: &str) -> Result<Option<OfferedAgent>, CallFailure> {
        if !self.names.is_empty() && !self.names.iter().any(|known| known == name) {
            return Ok(None);
        }
        let path = self.target.query(&format!("/v1/agents/{}", part(name)));
        let patience = Instant::now() + CALL_PATIENCE;
        loop {
            let row = match self.client.get(Api::Gateway, &path).await {
                Ok(row) => row,
                Err(failure) if failure.code() == Some(ErrorCode::NotFound) => return Ok(None),
                Err(failure) => return Err(call_failure(&failure)),
            };
            if is_ready(&row) {
                return Ok(Some(offered(&row)));
            }
            // What one takes that is being started is not known yet.
            let (state, reason) = (&row["state"], &row["reason"]);
            if state == "stopped" || state == "failed" || Instant::now() > patience {
                let message = format!("agent `{name}` does not run: {state} {reason}");
                return Err(CallFailure::new(ErrorCode::Unavailable, message));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    async fn begin(&self, _: Asking<'_>, call: AgentCall) -> Result<AgentRun, CallFailure> {
        let is_own = call.idempotency_key.is_none();
        // Without a key a broken connection could leave a request behind that nobody knows of.
        let own = || RequestId::generate().to_string();
        let key = call.idempotency_key.clone().unwrap_or_else(own);
        let mut accepted = self.post(&call, Some(&key)).await;
        if accepted.as_ref().is_err_and(is_broken) {
            sleep(RESEND_PAUSE).await;
            accepted = self.post(&call, Some(&key)).await;
        }
        let is_refused =
            |failure: &Failure| is_own && failure.code() == Some(ErrorCode::InvalidInput);
        if accepted.as_ref().is_err_and(is_refused) {
            // Agents that keep nothing take no keys. Anything else is refused again.
            accepted = self.post(&call, None).await;
        }
        let accepted = accepted.map_err(|failure| call_failure(&failure))?;
        Ok(self.run(accepted, !is_own))
    }

    async fn follow(
        &self,
        _: Asking<'_>,
        agent: &str,
        request_id: RequestId,
        after: u64,
    ) -> Result<AgentRun, CallFailure> {
        let path = format!("/v1/requests/{request_id}");
        let row = self.client.get(Api::Gateway, &path).await;
        let row = row.map_err(|failure| call_failure(&failure))?;
        let session_id = row["session_id"].as_str().and_then(|id| id.parse().ok());
        let is_of = row["agent"] == agent && row["namespace"] == self.target.namespace.as_str();
        let Some(session_id) = session_id.filter(|_| is_of) else {
            let message = format!("request `{request_id}` does not exist");
            return Err(CallFailure::new(ErrorCode::NotFound, message));
        };
        let follow = Follow::request(self.client.clone(), Some(request_id.to_string()), after);
        Ok(self.run((request_id, session_id, follow), false))
    }

    async fn questions(&self, request_id: RequestId) -> Result<Vec<Question>, CallFailure> {
        let request = request_id.to_string();
        let query = [("request", request.as_str())];
        let waiting = self
            .client
            .list(Api::Gateway, "/v1/approvals", &query, MAX_APPROVALS)
            .await;
        let waiting = waiting.map_err(|failure| call_failure(&failure))?;
        let question = |row: &Value| {
            let text = |field: &str| row[field].as_str().unwrap_or_default();
            Some(Question {
                approval_id: text("approval_id").parse().ok()?,
                tool: text("tool").to_owned(),
                input: row["input"].clone(),
                reason: text("reason").to_owned(),
            })
        };
        Ok(waiting.iter().filter_map(question).collect())
    }

    async fn decide(&self, _: Asking<'_>, answer: Answer) -> Result<(), CallFailure> {
        let path = format!(
            "/v1/requests/{}/approvals/{}",
            answer.request_id, answer.approval_id
        );
        let mut body = json!({"decision": answer.decision});
        if let Some(note) = answer.note {
            body["note"] = json!(note);
        }
        let decided = self.client.post(Api::Gateway, &path, &body).await;
        decided.map(drop).map_err(|failure| call_failure(&failure))
    }

    async fn cancel(&self, request_id: RequestId) {
        let path = format!("/v1/requests/{request_id}/cancel");
        if let Err(failure) = self.client.post(Api::Gateway, &path, &json!({})).await {
            let why = failure.message();
            tracing::error!(%request_id, why, "the request of an MCP call was not cancelled");
        }
    }

    fn is_ending(&self) -> bool {
        false
    }
}

/// The events of a request, without what the model says as it says it.
fn run_events(
    follow: Follow,
    running: Option<Running>,
) -> BoxStream<'static, Result<RunEvent, CallFailure>> {
    let next = |state: Option<(Follow, Option<Running>)>| async move {
        let (mut follow, running) = state?;
        loop {
            let event = match follow.next().await {
                Ok(Some(event)) => event,
                Ok(None) => return None,
                Err(failure) => return Some((Err(call_failure(&failure)), None)),
            };
            if matches!(event.name.as_str(), "token" | "reasoning") {
                continue;
            }
            let last = event.is_last();
            let Event { seq, name, data } = event;
            return Some((
                Ok(RunEvent { seq, name, data }),
                (!last).then_some((follow, running)),
            ));
        }
    };
    stream::unfold(Some((follow, running)), next).boxed()
}

/// Whether nothing is known of what became of a call.
fn is_broken(failure: &Failure) -> bool {
    failure.exit == Exit::Unavailable && failure.code().is_none()
}

/// What a command would say, for a client.
fn call_failure(failure: &Failure) -> CallFailure {
    let code = failure.code().unwrap_or(match failure.exit {
        Exit::Unavailable => ErrorCode::Unavailable,
        Exit::Denied => ErrorCode::Denied,
        Exit::Usage => ErrorCode::InvalidInput,
        _ => ErrorCode::Internal,
    });
    let message = match (failure.message(), failure.hint()) {
        (message, Some(hint)) if code == ErrorCode::Unavailable => format!("{message} ({hint})"),
        (message, _) => message.to_owned(),
    };
    CallFailure::new(code, message)
}
