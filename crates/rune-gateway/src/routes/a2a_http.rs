//! Agents over A2A: the HTTP binding of 1.0, a path for each operation, with and without a tenant.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::Method;
use rune_a2a::{A2aError, Call, ErrorKind, ProtocolVersion};
use rune_http::{ApiError, Caller, MAX_BODY_BYTES, Path, read_body};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::a2a::{addressed, version};
use super::invoke::KeyHeader;
use crate::a2a::answer::{http, http_error, is_json, media_type};
use crate::a2a::operations::{Asking, perform};
use crate::a2a::stream::Envelope;
use crate::a2a::target::A2aTarget;
use crate::gateway::Shared;
use crate::trace::Trace;

/// The parameters of a path; those that it does not have are absent.
#[derive(Debug, Deserialize)]
pub(crate) struct CallPath {
    agent: String,
    tenant: Option<String>,
    operation: Option<String>,
    task: Option<String>,
    config: Option<String>,
}

/// A handler with a path and a body, documented.
macro_rules! operations {
    ($(
        $(#[$doc:meta])*
        $verb:ident $path:tt $name:ident = $what:ident ($($param:tt),*) $([$body:ident])?;
    )+) => {$(
        $(#[$doc])*
        #[utoipa::path(
            $verb, path = $path, tag = "a2a",
            params(
                ("agent" = String, Path, description = "`AGENT[:ALIAS]`"),
                $($param,)*
                ("A2A-Version" = Option<String>, Header, description = "1.0, which is also the default"),
            ),
            $(request_body(content = $body, content_type = "application/json", description = "As the specification has it"),)?
            responses(
                (status = 200, content((Object = "application/json"), (Object = "application/a2a+json"), (String = "text/event-stream")), description = "The answer, or a stream"),
                (status = 400, content((Object = "application/json"), (Object = "application/a2a+json")), description = "An error of the protocol"),
                (status = 404, content((Object = "application/json"), (Object = "application/a2a+json")), description = "There is no such task, agent or operation"),
                (status = 415, content((Object = "application/json"), (Object = "application/a2a+json")), description = "Not JSON"),
                (status = 429, content((Object = "application/json"), (Object = "application/a2a+json")), description = "Too many requests wait, or a budget is used up"),
                (status = 503, content((Object = "application/json"), (Object = "application/a2a+json")), description = "The agent is not ready, or the daemon ends"),
            )
        )]
        pub(crate) async fn $name(
            State(shared): State<Arc<Shared>>,
            Path(path): Path<CallPath>,
            caller: Caller,
            key: KeyHeader,
            request: Request,
        ) -> Result<Response, ApiError> {
            answer(&shared, (path, What::$what), caller, key, request).await
        }
    )+};
}

operations! {
    /// Says something; answers with the task when it has ended or waits for the client.
    post "/a2a/{agent}/message:send" send = Send () [Object];
    /// Says something; answers with the stream of the task.
    post "/a2a/{agent}/message:stream" stream = Stream () [Object];
    /// Tasks of the caller, the one that changed last first.
    get "/a2a/{agent}/tasks" list = List ();
    /// A task; `TASK:subscribe` is its stream.
    get "/a2a/{agent}/tasks/{task}" look = Task (("task" = String, Path, description = "`TASK` or `TASK:subscribe`"));
    /// `TASK:cancel` calls a task off; `TASK:subscribe` is its stream.
    post "/a2a/{agent}/tasks/{task}" act = Act (("task" = String, Path, description = "`TASK:cancel` or `TASK:subscribe`")) [Object];
    /// Adds a webhook to a task.
    post "/a2a/{agent}/tasks/{task}/pushNotificationConfigs" push = Push (("task" = String, Path, description = "The task")) [Object];
    /// The webhooks of a task.
    get "/a2a/{agent}/tasks/{task}/pushNotificationConfigs" pushes = Pushes (("task" = String, Path, description = "The task"));
    /// A webhook of a task.
    get "/a2a/{agent}/tasks/{task}/pushNotificationConfigs/{config}" get_push = GetPush (("task" = String, Path, description = "The task"), ("config" = String, Path, description = "The webhook"));
    /// Removes a webhook of a task.
    delete "/a2a/{agent}/tasks/{task}/pushNotificationConfigs/{config}" delete_push = DeletePush (("task" = String, Path, description = "The task"), ("config" = String, Path, description = "The webhook"));
    /// What only clients with credentials may know of the agent.
    get "/a2a/{agent}/extendedAgentCard" extended = Extended ();

    /// `message:send` and `message:stream` in a tenant.
    post "/a2a/{agent}/{tenant}/{operation}" tenant_say = Named (("tenant" = String, Path, description = "The namespace"), ("operation" = String, Path, description = "`message:send` or `message:stream`")) [Object];
    /// `tasks` and `extendedAgentCard` in a tenant.
    get "/a2a/{agent}/{tenant}/{operation}" tenant_list = Named (("tenant" = String, Path, description = "The namespace"), ("operation" = String, Path, description = "`tasks` or `extendedAgentCard`; `v1/card` is the extended card of 0.3"));
    /// A task in a tenant; `TASK:subscribe` is its stream.
    get "/a2a/{agent}/{tenant}/tasks/{task}" tenant_look = Task (("tenant" = String, Path, description = "The namespace"), ("task" = String, Path, description = "`TASK` or `TASK:subscribe`"));
    /// `TASK:cancel` calls a task in a tenant off; `TASK:subscribe` is its stream.
    post "/a2a/{agent}/{tenant}/tasks/{task}" tenant_act = Act (("tenant" = String, Path, description = "The namespace"), ("task" = String, Path, description = "`TASK:cancel` or `TASK:subscribe`")) [Object];
    /// Adds a webhook to a task in a tenant.
    post "/a2a/{agent}/{tenant}/tasks/{task}/pushNotificationConfigs" tenant_push = Push (("tenant" = String, Path, description = "The namespace"), ("task" = String, Path, description = "The task")) [Object];
    /// The webhooks of a task in a tenant.
    get "/a2a/{agent}/{tenant}/tasks/{task}/pushNotificationConfigs" tenant_pushes = Pushes (("tenant" = String, Path, description = "The namespace"), ("task" = String, Path, description = "The task"));
    /// A webhook of a task in a tenant.
    get "/a2a/{agent}/{tenant}/tasks/{task}/pushNotificationConfigs/{config}" tenant_get_push = GetPush (("tenant" = String, Path, description = "The namespace"), ("task" = String, Path, description = "The task"), ("config" = String, Path, description = "The webhook"));
    /// Removes a webhook of a task in a tenant.
    delete "/a2a/{agent}/{tenant}/tasks/{task}/pushNotificationConfigs/{config}" tenant_delete_push = DeletePush (("tenant" = String, Path, description = "The namespace"), ("task" = String, Path, description = "The task"), ("config" = String, Path, description = "The webhook"));
}

/// What a path stands for.
#[derive(Debug, Clone, Copy)]
enum What {
    Send,
    Stream,
    List,
    Task,
    Act,
    Push,
    Pushes,
    GetPush,
    DeletePush,
    Extended,
    /// The last part says it.
    Named,
}

impl CallPath {
    /// The method of JSON-RPC that does the same, and the parameters that the path has.
    fn method(&self, what: What, verb: &Method) -> Option<(&'static str, Map<String, Value>)> {
        let is_post = *verb == Method::POST;
        // The extended card of 0.3 is where its clients look for it.
        if let (What::Named, Some("v1"), Some("card"), false) = (
            what,
            self.tenant.as_deref(),
            self.operation.as_deref(),
            is_post,
        ) {
            return Some(("agent/getAuthenticatedExtendedCard", Map::new()));
        }
        let task = self.task.as_deref().unwrap_or_default();
        let (id, action) = match task.rsplit_once(':') {
            Some((id, action)) => (id, Some(action)),
            None => (task, None),
        };
        let mut params = Map::new();
        let mut put = |name: &str, value: &str| {
            params.insert(name.to_owned(), Value::String(value.to_owned()));
        };
        let method = match (what, action, self.operation.as_deref()) {
            (What::Send, ..) => "SendMessage",
            (What::Stream, ..) => "SendStreamingMessage",
            (What::Named, _, Some("message:send")) if is_post => "SendMessage",
            (What::Named, _, Some("message:stream")) if is_post => "SendStreamingMessage",
            (What::List, ..) => "ListTasks",
            (What::Named, _, Some("tasks")) if !is_post => "ListTasks",
            (What::Extended, ..) => "GetExtendedAgentCard",
            (What::Named, _, Some("extendedAgentCard")) if !is_post => "GetExtendedAgentCard",
            (What::Task, None, _) => {
                put("id", id);
                "GetTask"
            }
            (What::Task | What::Act, Some("subscribe"), _) => {
                put("id", id);
                "SubscribeToTask"
            }
            (What::Act, Some("cancel"), _) => {
                put("id", id);
                "CancelTask"
            }
            (What::Push, ..) => {
                put("taskId", task);
                "CreateTaskPushNotificationConfig"
            }
            (What::Pushes, ..) => {
                put("taskId", task);
                "ListTaskPushNotificationConfigs"
            }
            (What::GetPush | What::DeletePush, ..) => {
                put("taskId", task);
                put("id", self.config.as_deref().unwrap_or_default());
                match what {
                    What::GetPush => "GetTaskPushNotificationConfig",
                    _ => "DeleteTaskPushNotificationConfig",
                }
            }
            _ => return None,
        };
        if let Some(tenant) = &self.tenant {
            put("tenant", tenant);
        }
        Some((method, params))
    }
}

async fn answer(
    shared: &Shared,
    (path, what): (CallPath, What),
    caller: Caller,
    key: KeyHeader,
    request: Request,
) -> Result<Response, ApiError> {
    let shutdown = shared.engine.shutdown();
    let (headers, query) = (request.headers().clone(), request.uri().query());
    let media_type = media_type(&headers);
    let refused = |error: A2aError| http(media_type, Err(error), shutdown.clone());
    let query = query.unwrap_or_default().to_owned();
    let asked = match version(&headers, &query) {
        Ok(Some(ProtocolVersion::V03)) => Err(A2aError::new(
            ErrorKind::VersionNotSupported,
            "these paths are those of version 1.0; 0.3 is spoken over JSON-RPC",
        )),
        asked => asked,
    };
    if let Err(error) = asked {
        return Ok(refused(error));
    }
    let Some((method, known)) = path.method(what, request.method()) else {
        let message = "there is no such operation";
        return Ok(refused(A2aError::new(ErrorKind::MethodNotFound, message)));
    };
    let is_get = request.method() == Method::GET || request.method() == Method::DELETE;
    let mut params = if is_get {
        match of_query(request.uri()) {
            Ok(params) => params,
            Err(error) => return Ok(refused(error)),
        }
    } else {
        let typed = is_json(&headers);
        let body = read_body(request, MAX_BODY_BYTES).await?;
        if !typed && !body.is_empty() {
            let message = "the body has to be `application/json` or `application/a2a+json`";
            let error = A2aError::new(ErrorKind::ContentTypeNotSupported, message);
            // The table's 400 is for the media type of a part.
            return Ok(http_error(media_type, 415, &error));
        }
        match of_body(&body) {
            Ok(params) => params,
            Err(error) => return Ok(refused(error)),
        }
    };
    params.extend(known);
    let call = match Call::decode(method, &Value::Object(params)) {
        Ok(call) => call,
        Err(error) => return Ok(refused(error)),
    };
    let target = A2aTarget::new(&path.agent, None);
    let target = match addressed(shared, target, call.tenant.as_deref())? {
        Ok(target) => target,
        Err(error) => return Ok(refused(error)),
    };
    let asking = Asking {
        base: shared.a2a.base(&headers),
        shared,
        target,
        caller,
        key,
        trace: Trace::of(&headers),
        envelope: Envelope::Http,
    };
    // On the heap: it is the largest of the futures here.
    let outcome = Box::pin(perform(asking, call)).await;
    Ok(http(media_type, outcome, shutdown))
}

/// The parameters of a query. Those that no operation has are passed over.
fn of_query(uri: &http::Uri) -> Result<Map<String, Value>, A2aError> {
    let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
    let pairs = pairs.map_err(|error| A2aError::invalid("", error.body_text()))?;
    let pairs = pairs.0.into_iter();
    Ok(pairs
        .map(|(name, value)| (name, Value::String(value)))
        .collect())
}

/// The parameters of a body; no body is none.
fn of_body(body: &[u8]) -> Result<Map<String, Value>, A2aError> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(params)) => Ok(params),
        Ok(_) => Err(A2aError::invalid("", "the body has to be an object")),
        Err(error) => {
            let message = format!("the body is not JSON: {error}");
            Err(A2aError::new(ErrorKind::Parse, message))
        }
    }
}
