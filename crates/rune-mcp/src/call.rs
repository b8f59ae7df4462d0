//! Calling a tool of a server.

use std::collections::BTreeMap;
use std::sync::Arc;

use rmcp::model::{
    CallToolRequest, CallToolRequestParams, CallToolResult, ClientRequest, ElicitResult,
    ElicitationAction, ErrorCode, InputRequest, InputRequiredResult, RequestMetaObject,
    ServerResult,
};
use rmcp::service::{PeerRequestOptions, ServiceError};
use rune_tools::{CallChain, EngineAccess, ToolContext, ToolError, ToolErrorKind, destination};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::config::Transport;
use crate::connect::describe;
use crate::handler::ProgressSink;
use crate::http::is_unsent;
use crate::limits;
use crate::listing::clean;
use crate::result::read_result;
use crate::server::{Link, ServerHandle};

/// Where `_meta` says on which level below an outermost request an agent stands that the call makes.
pub(crate) const DEPTH_META: &str = "rune/depth";

/// Where `_meta` says which trace a call belongs to, as SEP-414 has it.
pub(crate) const TRACE_META: &str = "traceparent";
/// And what the systems of the trace say of it.
pub(crate) const TRACE_STATE_META: &str = "tracestate";

/// What a server is told of the request that makes a call.
fn call_meta(engine: &dyn EngineAccess) -> RequestMetaObject {
    let mut meta = RequestMetaObject::new();
    let mut say = |name: &str, value: Value| {
        meta.0.0.insert(name.to_owned(), value);
    };
    // Where the server is a daemon of agents, they may call each other in a circle.
    say(DEPTH_META, engine.depth().into());
    if let Ok(CallChain { trace, .. }) = engine.call_chain() {
        say(TRACE_META, trace.traceparent().into());
        if let Some(state) = trace.tracestate() {
            say(TRACE_STATE_META, state.into());
        }
    }
    meta
}

/// How one attempt to call a tool ended without a result.
enum Ended {
    /// For good.
    Failed(ToolError),
    /// The server has heard nothing of it.
    Unsent(String),
}

impl ServerHandle {
    /// Calls a tool. Reports of progress go to `progress`; where the context is cancelled, so is the call on the server.
    ///
    /// Where the server has heard nothing of the call because the connection was gone, it is called once more through the
    /// next one.
    ///
    /// # Errors
    /// [`ToolErrorKind::Failed`] and `InvalidInput` where the server says so, `Unavailable` where it cannot be reached or is
    /// lost meanwhile, `OutputTooLarge`, `Denied` and `Cancelled`. No message holds a secret of the server.
    pub async fn call(
        &self,
        tool: &str,
        context: &ToolContext,
        input: Value,
        progress: ProgressSink,
    ) -> Result<Value, ToolError> {
        let Value::Object(arguments) = input else {
            let message = "the arguments of an MCP tool are an object";
            return Err(ToolError::new(ToolErrorKind::InvalidInput, message));
        };
        let _asked = match (&self.config().transport, &context.egress) {
            (Transport::Http { url, .. }, Some(gate)) => {
                if let Some((host, port)) = destination(url) {
                    gate.connect(&host, port)?;
                }
                None
            }
            (Transport::Stdio { .. }, Some(gate)) => {
                let gates = self.shared.gates.as_ref();
                gates.map(|gates| gates.during(Arc::clone(gate)))
            }
            (_, None) => None,
        };
        let params = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments);
        let meta = context.engine.as_deref().map(call_meta);
        let mut broken = None;
        loop {
            let link = tokio::select! {
                link = self.link(broken) => link.map_err(|error| self.unavailable(&error))?,
                () = context.cancel.cancelled() => return Err(cancelled()),
            };
            let result = self
                .rounds(
                    &link,
                    params.clone(),
                    meta.as_ref(),
                    &context.cancel,
                    &progress,
                )
                .await;
            match result {
                Ok(result) => {
                    let secrets = &link.handler.secrets;
                    let read = read_result(result, context.output_limit);
                    return read
                        .map(|output| secrets.redact_value(output))
                        .map_err(|error| {
                            ToolError::new(error.kind, secrets.redact(error.message))
                        });
                }
                Err(Ended::Failed(error)) => return Err(error),
                Err(Ended::Unsent(error)) if broken.is_some() => {
                    return Err(self.unavailable(&link.handler.secrets.redact(error)));
                }
                Err(Ended::Unsent(_)) => {
                    broken = Some(link.number);
                    self.suspect();
                }
            }
        }
    }

    /// Calls until the server answers with a result: it may ask to be called again with what it said.
    async fn rounds(
        &self,
        link: &Link,
        mut params: CallToolRequestParams,
        meta: Option<&RequestMetaObject>,
        cancel: &CancellationToken,
        progress: &ProgressSink,
    ) -> Result<CallToolResult, Ended> {
        for round in 0..limits::ROUNDS {
            let asked = match self
                .once(link, params.clone(), meta, cancel, progress)
                .await
            {
                // What came before was heard.
                Err(Ended::Unsent(error)) if round > 0 => {
                    return Err(Ended::Failed(self.lost(link, error)));
                }
                other => other?,
            };
            match asked {
                Answer::Result(result) => return Ok(*result),
                Answer::Asks(asked) => {
                    params.input_responses = responses(&asked).map_err(Ended::Failed)?;
                    params.request_state = asked.request_state;
                }
            }
        }
        let message = format!(
            "the server asked for something {} times and did not answer",
            limits::ROUNDS
        );
        Err(Ended::Failed(failed(message)))
    }

    async fn once(
        &self,
        link: &Link,
        params: CallToolRequestParams,
        meta: Option<&RequestMetaObject>,
        cancel: &CancellationToken,
        progress: &ProgressSink,
    ) -> Result<Answer, Ended> {
        let request = ClientRequest::CallToolRequest(CallToolRequest::new(params));
        let mut options = PeerRequestOptions::no_options();
        options.meta = meta.cloned();
        let sent = link.peer.send_cancellable_request(request, options).await;
        // The connection had ended before.
        let mut sent = sent.map_err(|error| Ended::Unsent(error.to_string()))?;
        let _watch = link
            .handler
            .watch(sent.progress_token.clone(), progress.clone());
        let answer = tokio::select! {
            answer = &mut sent.rx => answer.unwrap_or(Err(ServiceError::TransportClosed)),
            () = cancel.cancelled() => {
                let reason = "the request was stopped".to_owned();
                if let Err(error) = sent.cancel(Some(reason)).await {
                    tracing::debug!(mcp_server = self.config().name, %error, "the server was not told that a call is cancelled");
                }
                return Err(Ended::Failed(cancelled()));
            }
        };
        match answer {
            Ok(ServerResult::CallToolResult(result)) => Ok(Answer::Result(Box::new(result))),
            Ok(ServerResult::InputRequiredResult(asked)) => Ok(Answer::Asks(Box::new(asked))),
            // A result without any content.
            Ok(ServerResult::EmptyResult(_)) => Ok(Answer::Result(Box::default())),
            Ok(_) => Err(Ended::Failed(failed(
                "the server answered something else than the result of a tool".to_owned(),
            ))),
            Err(ServiceError::McpError(error)) => {
                let message = link.handler.secrets.redact(error.message.into_owned());
                let message = clean(&message, limits::ERROR_CHARS);
                let kind = match error.code {
                    ErrorCode::INVALID_PARAMS => ToolErrorKind::InvalidInput,
                    _ => ToolErrorKind::Failed,
                };
                let message = format!("the server refused the call: {message}");
                Err(Ended::Failed(ToolError::new(kind, message)))
            }
            Err(ServiceError::TransportSend(error)) if is_unsent(error.error.as_ref()) => {
                Err(Ended::Unsent(describe(error.error.as_ref())))
            }
            Err(error) => {
                self.suspect();
                let why = match &error {
                    ServiceError::TransportSend(error) => describe(error.error.as_ref()),
                    error => error.to_string(),
                };
                Err(Ended::Failed(self.lost(link, why)))
            }
        }
    }

    fn unavailable(&self, why: &str) -> ToolError {
        let name = &self.config().name;
        ToolError::new(
            ToolErrorKind::Unavailable,
            format!("MCP server `{name}` is unavailable: {why}"),
        )
    }

    fn lost(&self, link: &Link, why: String) -> ToolError {
        let (name, why) = (&self.config().name, link.handler.secrets.redact(why));
        ToolError::new(
            ToolErrorKind::Unavailable,
            format!(
                "MCP server `{name}` was lost while it was called ({why}); whether the call had its effect is not known"
            ),
        )
    }
}

/// What a server answers to a call.
enum Answer {
    Result(Box<CallToolResult>),
    /// It wants to be called again.
    Asks(Box<InputRequiredResult>),
}

/// What is answered to what a server asks for: a question for a person is declined, since nobody offered to take one.
fn responses(asked: &InputRequiredResult) -> Result<Option<BTreeMap<String, Value>>, ToolError> {
    let Some(requests) = &asked.input_requests else {
        return Ok(None);
    };
    let responses = requests.iter().map(|(key, request)| match request {
        InputRequest::Elicitation(_) => {
            let declined = ElicitResult::new(ElicitationAction::Decline);
            let declined = serde_json::to_value(declined);
            declined
                .map(|declined| (key.clone(), declined))
                .map_err(|error| failed(error.to_string()))
        }
        _ => Err(failed(
            "the server asks for something that it was not offered (sampling or roots)".to_owned(),
        )),
    });
    responses.collect::<Result<_, _>>().map(Some)
}

fn failed(message: String) -> ToolError {
    ToolError::new(ToolErrorKind::Failed, message)
}

fn cancelled() -> ToolError {
    ToolError::new(
        ToolErrorKind::Cancelled,
        "the request was stopped while the tool ran",
    )
}
