//! A tool call: a request of an agent, followed to its end.

use std::collections::BTreeMap;
use std::future::pending;
use std::pin::Pin;

use futures_util::StreamExt;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ClientResult, ContentBlock,
    ElicitRequest, ElicitResult, ErrorData, InputRequest, InputRequiredResult, JsonObject,
    MetaObject, ProtocolVersion, ServerRequest,
};
use rmcp::service::{Peer, RequestContext, RoleServer};
use rune_store_runtime::{
    ApprovalDecision, ErrorCode, Failure, RequestId, SessionId, TraceContext,
};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, interval_at};
use tokio_util::sync::CancellationToken;

use crate::call::{DEPTH_META, TRACE_META, TRACE_STATE_META};

use super::approval;
use super::handler::{AgentsHandler, refusal};
use super::progress::{HEARTBEAT, Reports, describe, reporting};
use super::schema::{INPUT, SESSION, answers_object, takes_nothing};
use super::source::{
    AgentCall, AgentRun, AgentSource, Answer, Asking, OfferedAgent, Question, RunEvent,
};

/// Where `_meta` names the request of a call, and the conversation.
const REQUEST_META: &str = "rune/request_id";
const SESSION_META: &str = "rune/session_id";
/// Where it says how a call that has no answer yet, or none at all, stands.
const STATUS_META: &str = "rune/status";
const CODE_META: &str = "rune/code";
/// Where a client makes its call one that can be sent again.
const KEY_META: &str = "rune/idempotency_key";

/// Between the parts of what a client is given to come back with.
const STATE_SEPARATOR: char = '@';

/// A call that is being answered.
struct Call<'a> {
    source: &'a dyn AgentSource,
    asking: Asking<'a>,
    agent: &'a OfferedAgent,
    peer: &'a Peer<RoleServer>,
    /// Whether the client speaks the stateless era of the protocol.
    stateless: bool,
    /// Whether the client can ask a person.
    asks_people: bool,
    cancelled: CancellationToken,
    request_id: RequestId,
    session_id: SessionId,
}

type Asked = Pin<Box<dyn Future<Output = (Question, Option<ElicitResult>)> + Send>>;

impl AgentsHandler {
    /// Answers `tools/call`.
    pub(crate) async fn call(
        &self,
        params: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let asking: Asking<'_> = context.extensions.get();
        let agent = match self.source.agent(asking, &params.name).await {
            Ok(Some(agent)) => agent,
            Ok(None) => {
                let name = &params.name;
                let message = format!(
                    "no agent is deployed as the tool `{name}`; `tools/list` lists those that are"
                );
                return Err(ErrorData::invalid_params(message, None));
            }
            // What the client has sent, and not what it has called.
            Err(failure) if failure.code == ErrorCode::InvalidInput => {
                return Err(refusal(failure));
            }
            Err(failure) => return Ok(failed(&failure, Map::new()).into()),
        };
        let stateless = context
            .protocol_version()
            .is_some_and(|version| version >= ProtocolVersion::V_2026_07_28);
        let key = key(&context.meta.0.0);
        // The end of the connection means that nobody wants the answer any more only where the protocol says so, and not
        // of a call with a key: that can be sent again, and others may follow its request.
        let watched = (!stateless || key.is_some())
            .then(|| self.cancelled_by_message(&context.id, &context.ct));
        let cancelled = watched
            .as_ref()
            .map_or_else(|| context.ct.clone(), |watched| watched.token.clone());
        let (begun, after) = match params.request_state.as_deref() {
            Some(state) => {
                let Some((request_id, after)) = read_state(state) else {
                    let message = "`requestState` is not one that this server has given";
                    return Err(ErrorData::invalid_params(message, None));
                };
                let source = self.source.as_ref();
                let answers = params.input_responses.unwrap_or_default();
                let resumed = resume(source, asking, &agent.name, request_id, after, &answers);
                (resumed.await, after)
            }
            None => match arguments(
                &agent,
                params.arguments.unwrap_or_default(),
                &context.meta.0.0,
            ) {
                Ok(call) => (self.source.begin(asking, call).await, 0),
                Err(message) => (Err(Failure::new(ErrorCode::InvalidInput, message)), 0),
            },
        };
        let run = match begun {
            Ok(run) => run,
            Err(failure) => return Ok(failed(&failure, Map::new()).into()),
        };
        let call = Call {
            source: self.source.as_ref(),
            asking,
            agent: &agent,
            peer: &context.peer,
            stateless,
            asks_people: approval::asks_people(context.client_capabilities().as_ref()),
            cancelled,
            request_id: run.request_id,
            session_id: run.session_id.clone(),
        };
        let token = context.meta.get_progress_token();
        let follow = async |reports| call.follow(run, after, reports).await;
        reporting(context.peer.clone(), token, follow).await
    }
}

/// Decides what a client has asked about, and follows the request on.
async fn resume(
    source: &dyn AgentSource,
    asking: Asking<'_>,
    agent: &str,
    request_id: RequestId,
    after: u64,
    answers: &BTreeMap<String, Value>,
) -> Result<AgentRun, Failure> {
    let run = source.follow(asking, agent, request_id, after).await?;
    for question in source.questions(request_id).await? {
        let answer = answers.get(&question.approval_id.to_string());
        if let Some((decision, note)) = answer.and_then(approval::decision_of) {
            decide(source, asking, request_id, &question, decision, note).await?;
        }
    }
    Ok(run)
}

/// Decides a question; where somebody was faster, that counts.
async fn decide(
    source: &dyn AgentSource,
    asking: Asking<'_>,
    request_id: RequestId,
    question: &Question,
    decision: ApprovalDecision,
    note: Option<String>,
) -> Result<(), Failure> {
    let answer = Answer {
        request_id,
        approval_id: question.approval_id,
        decision,
        note,
    };
    match source.decide(asking, answer).await {
        Err(failure) if failure.code != ErrorCode::Conflict => Err(failure),
        _ => Ok(()),
    }
}

impl Call<'_> {
    async fn follow(
        &self,
        mut run: AgentRun,
        mut seen: u64,
        reports: Reports,
    ) -> Result<CallToolResponse, ErrorData> {
        let mut asked: Option<Asked> = None;
        let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        // What is left of what was asked before.
        let mut look = seen > 0;
        loop {
            if std::mem::take(&mut look) && asked.is_none() {
                match self.ask(seen).await {
                    Ok(Step::GoesOn) => {}
                    Ok(Step::Asks(asking)) => asked = Some(asking),
                    Ok(Step::Answer(answer)) => return Ok(*answer),
                    Err(failure) => return Ok(failed(&failure, self.meta()).into()),
                }
            }
            tokio::select! {
                biased;
                () = self.cancelled.cancelled() => return self.cancel().await,
                event = run.events.next() => {
                    let event = match event {
                        Some(Ok(event)) => event,
                        Some(Err(failure)) => return Ok(failed(&failure, self.meta()).into()),
                        None => return Ok(self.interrupted().into()),
                    };
                    seen = event.seq.unwrap_or(seen);
                    match event.name.as_str() {
                        "done" => return Ok(self.done(event).into()),
                        "error" => return Ok(self.error(&event).into()),
                        "approval_required" => look = true,
                        // Somebody may have decided what the client still shows.
                        "approval_given" => {
                            asked = None;
                            look = true;
                        }
                        _ => {}
                    }
                    if let Some(message) = describe(&event) {
                        heartbeat.reset();
                        reports.tell(message);
                    }
                }
                (question, answer) = answer(&mut asked) => {
                    asked = None;
                    let Some((decision, note)) = answer.as_ref().and_then(approval::decision) else {
                        return Ok(self.waits(&[question]).into());
                    };
                    let decided = decide(self.source, self.asking, self.request_id, &question, decision, note);
                    if let Err(failure) = decided.await {
                        return Ok(failed(&failure, self.meta()).into());
                    }
                    look = true;
                }
                _ = heartbeat.tick() => reports.tell("still at work".to_owned()),
            }
        }
    }

    /// Has a person asked what the request waits for.
    async fn ask(&self, seen: u64) -> Result<Step, Failure> {
        let questions = self.source.questions(self.request_id).await?;
        let Some(first) = questions.first() else {
            return Ok(Step::GoesOn);
        };
        if !self.asks_people {
            let answer = self.waits(&questions).into();
            return Ok(Step::Answer(Box::new(answer)));
        }
        let form = |question: &Question| {
            approval::form(&self.agent.name, question)
                .map(ElicitRequest::new)
                .map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))
        };
        if self.stateless {
            let mut requests = BTreeMap::new();
            for question in &questions {
                requests.insert(
                    question.approval_id.to_string(),
                    InputRequest::Elicitation(form(question)?),
                );
            }
            let state = format!("{}{STATE_SEPARATOR}{seen}", self.request_id);
            let answer = InputRequiredResult::new(Some(requests), Some(state));
            let answer = answer.with_meta(MetaObject(self.meta())).into();
            return Ok(Step::Answer(Box::new(answer)));
        }
        let (peer, question, request) = (self.peer.clone(), first.clone(), form(first)?);
        Ok(Step::Asks(Box::pin(async move {
            let answered = peer
                .send_request(ServerRequest::ElicitRequest(request))
                .await;
            match answered {
                Ok(ClientResult::ElicitResult(answer)) => (question, Some(answer)),
                _ => (question, None),
            }
        })))
    }

    /// The end of a call that nobody waits for.
    async fn cancel(&self) -> Result<CallToolResponse, ErrorData> {
        if self.source.is_ending() {
            return Ok(self.interrupted().into());
        }
        self.source.cancel(self.request_id).await;
        Err(ErrorData::internal_error("the call was cancelled", None))
    }

    fn done(&self, mut event: RunEvent) -> CallToolResult {
        let output = event.data["output"].take();
        let text = match &output {
            Value::String(text) => text.clone(),
            output => output.to_string(),
        };
        let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
        if answers_object(self.agent).is_some() {
            result.structured_content = Some(output);
        }
        result.meta = Some(MetaObject(self.meta()));
        result
    }

    fn error(&self, event: &RunEvent) -> CallToolResult {
        let mut meta = self.meta();
        meta.insert(CODE_META.to_owned(), event.data["code"].clone());
        error_result(event.text("message").to_owned(), meta)
    }

    fn interrupted(&self) -> CallToolResult {
        let message = format!(
            "the daemon ends before the request does; the request goes on with its next start, see `rune requests show {}`",
            self.request_id
        );
        failed(&Failure::new(ErrorCode::Unavailable, message), self.meta())
    }

    /// What a client is answered that cannot ask a person: who else can, and how.
    fn waits(&self, questions: &[Question]) -> CallToolResult {
        let mut lines = vec![format!(
            "The agent has no answer yet: it waits for a person to decide. Its request is {} in the conversation {}.",
            self.request_id, self.session_id
        )];
        for question in questions {
            lines.push(approval::message(&self.agent.name, question));
        }
        lines.push(format!(
            "To decide: `rune requests approve {id}`, with `--deny` for no. The agent then goes on by itself; `rune requests show {id}` has \
             what it answers. Do not call it again for this.",
            id = self.request_id
        ));
        let mut result = CallToolResult::success(vec![ContentBlock::text(lines.join("\n"))]);
        let mut meta = self.meta();
        meta.insert(STATUS_META.to_owned(), json!("input-required"));
        result.meta = Some(MetaObject(meta));
        // A tool with a schema for what it answers has to be seen to have failed to.
        result.is_error = Some(answers_object(self.agent).is_some());
        result
    }

    fn meta(&self) -> JsonObject {
        let mut meta = Map::new();
        meta.insert(REQUEST_META.to_owned(), json!(self.request_id));
        meta.insert(SESSION_META.to_owned(), json!(self.session_id));
        meta
    }
}

/// What follows from what a request waits for.
enum Step {
    /// It waits for nothing.
    GoesOn,
    /// The client asks a person meanwhile.
    Asks(Asked),
    /// The client is told.
    Answer(Box<CallToolResponse>),
}

/// The answer of a person who is being asked.
async fn answer(asked: &mut Option<Asked>) -> (Question, Option<ElicitResult>) {
    match asked {
        Some(asked) => asked.await,
        None => pending().await,
    }
}

/// A failure as a result, so that whoever has called the tool can read it.
fn failed(failure: &Failure, mut meta: JsonObject) -> CallToolResult {
    meta.insert(CODE_META.to_owned(), json!(failure.code));
    error_result(failure.message.clone(), meta)
}

fn error_result(message: String, meta: JsonObject) -> CallToolResult {
    let mut result = CallToolResult::error(vec![ContentBlock::text(message)]);
    result.meta = Some(MetaObject(meta));
    result
}

/// What the arguments of a tool ask an agent.
fn arguments(
    agent: &OfferedAgent,
    mut arguments: JsonObject,
    meta: &JsonObject,
) -> Result<AgentCall, String> {
    let input = match arguments.remove(INPUT) {
        Some(input) => input,
        None if takes_nothing(agent) => json!({}),
        None => return Err("`input` is missing: what the agent is asked".to_owned()),
    };
    let session_id = match arguments.remove(SESSION) {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) => Some(
            id.parse()
                .map_err(|error| format!("`session_id`: {error}"))?,
        ),
        Some(_) => return Err("`session_id` must be a text".to_owned()),
    };
    if let Some(unknown) = arguments.keys().next() {
        return Err(format!(
            "unknown argument `{unknown}`; an agent takes `input` and `session_id`"
        ));
    }
    let idempotency_key = match key(meta) {
        None => None,
        Some(Value::String(key)) => Some(key.clone()),
        Some(_) => return Err(format!("`_meta.{KEY_META}` must be a text")),
    };
    let depth = match meta.get(DEPTH_META) {
        None | Some(Value::Null) => 0,
        Some(depth) => depth
            .as_u64()
            .and_then(|depth| u32::try_from(depth).ok())
            .ok_or_else(|| format!("`_meta.{DEPTH_META}` must be a small number"))?,
    };
    let text = |name: &str| meta.get(name).and_then(Value::as_str);
    let trace = text(TRACE_META);
    Ok(AgentCall {
        trace: trace.and_then(|trace| TraceContext::parse(trace, text(TRACE_STATE_META))),
        agent: agent.name.clone(),
        input,
        session_id,
        idempotency_key,
        depth,
    })
}

/// What makes a call one that can be sent again.
fn key(meta: &JsonObject) -> Option<&Value> {
    meta.get(KEY_META).filter(|key| !key.is_null())
}

/// Where a client goes on that has asked a person. It may have been made up: whoever reads it looks whose request it is.
fn read_state(state: &str) -> Option<(RequestId, u64)> {
    let (request_id, after) = state.split_once(STATE_SEPARATOR)?;
    Some((
        request_id.parse().ok()?,
        after.parse().ok().filter(|after| *after > 0)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(input_schema: Option<Value>) -> OfferedAgent {
        OfferedAgent {
            name: "a".to_owned(),
            description: String::new(),
            input_schema,
            output_schema: None,
        }
    }

    fn read(agent: &OfferedAgent, given: Value) -> Result<AgentCall, String> {
        let Value::Object(given) = given else {
            unreachable!("an object")
        };
        arguments(agent, given, &Map::new())
    }

    #[test]
    fn arguments_are_the_input_and_the_session() {
        let call = read(&agent(None), json!({"input": "hi", "session_id": "s-1"})).unwrap();
        assert_eq!(call.input, "hi");
        assert_eq!(call.session_id.unwrap().as_str(), "s-1");
        let call = read(
            &agent(None),
            json!({"input": {"a": [1]}, "session_id": null}),
        )
        .unwrap();
        assert_eq!((call.input, call.session_id), (json!({"a": [1]}), None));
    }

    #[test]
    fn arguments_that_are_none_are_named() {
        for (given, part) in [
            (json!({}), "`input` is missing"),
            (json!({"input": "a", "session_id": 7}), "`session_id`"),
            (json!({"input": "a", "session_id": "a b"}), "`session_id`"),
            (json!({"input": "a", "sesion": "s"}), "`sesion`"),
        ] {
            let error = read(&agent(None), given.clone()).unwrap_err();
            assert!(error.contains(part), "{given}: {error}");
        }
        let optional = agent(Some(json!({"type": "object"})));
        assert_eq!(read(&optional, json!({})).unwrap().input, json!({}));
        for name in [KEY_META, DEPTH_META] {
            let meta = Map::from_iter([(name.to_owned(), json!(-1))]);
            let error = arguments(&optional, Map::new(), &meta).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
        let meta = Map::from_iter([(DEPTH_META.to_owned(), json!(3))]);
        assert_eq!(arguments(&optional, Map::new(), &meta).unwrap().depth, 3);
    }

    #[test]
    fn a_state_that_was_made_up_is_none() {
        let id = RequestId::generate();
        assert_eq!(read_state(&format!("{id}@7")), Some((id, 7)));
        for state in [
            "",
            "@7",
            "req_1@7",
            &format!("{id}"),
            &format!("{id}@x"),
            &format!("{id}@0"),
            &format!("{id}@-1"),
        ] {
            assert_eq!(read_state(state), None, "{state}");
        }
    }
}
