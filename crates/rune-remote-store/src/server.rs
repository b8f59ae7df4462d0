//! The side that is called.

mod denials;

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use axum::{Extension, Router};
use bytes::Bytes;
use futures_util::future::{MaybeDone, maybe_done};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use rune_http::{ApiError, Json, Path, read_body};
use rune_runtime::{Engine, EngineError, Hold};
use rune_store_runtime::limits::MAX_OBJECT_BYTES;
use rune_store_runtime::{
    BlobStore, Command, ErrorCode, Reject, Reply, RuntimeStore, Store, StoreError,
};
use serde_json::value::RawValue;

use crate::Scope;
use crate::call::{
    BLOB, BLOBS, COMMANDS, MAX_BATCH, MAX_BATCH_BYTES, MAX_COMMAND_BYTES, MAX_READ_BYTES, READ,
    Read,
};
use crate::scope::{Checked, DeploymentScope, Refusal, Rows, request_of};
use denials::Denials;

/// The largest body of commands: a batch, or one that exceeds it.
const MAX_COMMANDS_BYTES: usize = MAX_BATCH_BYTES + MAX_COMMAND_BYTES;

/// What serves a store to those who have none. It authenticates nobody: it asks for a [`Scope`]
/// that the layer around it has set on the request, and refuses what has none.
pub struct StoreServer {
    store: Store,
    blobs: Arc<dyn BlobStore>,
    /// Knows which replica runs which request.
    engine: Option<Engine>,
    denials: Denials,
}

impl StoreServer {
    /// The paths.
    pub const ROUTES: [&str; 4] = [COMMANDS, READ, BLOBS, BLOB];

    /// A server of these rows and these bytes.
    #[must_use]
    pub fn new(store: Store, blobs: Arc<dyn BlobStore>) -> Self {
        Self {
            store,
            blobs,
            engine: None,
            denials: Denials::default(),
        }
    }

    /// The same server that takes what is written for a request only from the replica that the
    /// engine has given it to: one that was given up and is still there writes no more.
    #[must_use]
    pub fn guarded_by(self, engine: Engine) -> Self {
        Self {
            engine: Some(engine),
            ..self
        }
    }

    fn rows(&self) -> Rows<'_> {
        Rows {
            store: &*self.store,
            engine: self.engine.as_ref(),
        }
    }

    /// Whether a replica may make a change now.
    async fn check(&self, scope: &DeploymentScope, command: &Command) -> Checked {
        scope.check_command(self.rows(), command).await?;
        let (Some(engine), Some(id)) = (&self.engine, request_of(&command.op)) else {
            return Ok(());
        };
        match engine.hold(id, scope.replica_id).await {
            Ok(Hold::Its) => Ok(()),
            Ok(Hold::NotIts) => Err(Refusal::Denied(format!(
                "request `{id}` was taken from this replica"
            ))),
            // The daemon has just begun, and finds out whose it is.
            Ok(Hold::Unknown) => Err(Refusal::Store(StoreError::Unavailable(format!(
                "it is not known yet which replica runs request `{id}`"
            )))),
            Err(EngineError::Store(error)) => Err(Refusal::Store(error)),
            Err(error) => Err(Refusal::Denied(error.to_string())),
        }
    }

    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route(COMMANDS, post(commands))
            .route(READ, post(read))
            .route(BLOBS, put(put_blob))
            .route(BLOB, get(get_blob))
            .with_state(Arc::new(self))
    }

    /// The command where it may be made. One of which that cannot be said now is answered so, and the others are made.
    async fn admitted(
        &self,
        scope: &Scope,
        command: Command,
    ) -> Result<Result<Command, StoreError>, ApiError> {
        let Scope::Deployment(scope) = scope else {
            return Ok(Ok(command));
        };
        match self.check(scope, &command).await {
            Err(Refusal::Store(error @ StoreError::Unavailable(_))) => Ok(Err(error)),
            checked => {
                self.admit(scope, command.op.name(), checked).await?;
                Ok(Ok(command))
            }
        }
    }

    /// What came of looking at a call before it is made.
    async fn admit(
        &self,
        scope: &DeploymentScope,
        call: &'static str,
        checked: Checked,
    ) -> Result<(), ApiError> {
        match checked {
            Ok(()) => Ok(()),
            Err(Refusal::Store(error)) => Err(error.into()),
            Err(Refusal::Denied(reason)) => {
                self.denials.record(&self.store, scope, call, &reason).await;
                let message = format!("`{call}` is denied: {reason}");
                Err(ApiError::new(ErrorCode::Denied, message))
            }
        }
    }
}

/// The scope of a request, where somebody has set one.
type Scoped = Option<Extension<Scope>>;

fn scope(scoped: Scoped) -> Result<Scope, ApiError> {
    let denied = || ApiError::new(ErrorCode::Denied, "the request has no scope");
    scoped.map(|Extension(scope)| scope).ok_or_else(denied)
}

async fn commands(
    State(server): State<Arc<StoreServer>>,
    scoped: Scoped,
    request: Request,
) -> Result<Json<Vec<Result<Reply, StoreError>>>, ApiError> {
    let scope = scope(scoped)?;
    let body = read_body(request, MAX_COMMANDS_BYTES).await?;
    let decoded = decode_commands(&body).map_err(ApiError::invalid)?;
    drop(body);
    let mut commands = Vec::with_capacity(decoded.len());
    for command in decoded {
        let command = match command {
            Ok(command) => server.admitted(&scope, command).await?,
            Err(reject) => Err(reject.into()),
        };
        commands.push(command);
    }
    Ok(Json(submit(&*server.store, commands).await))
}

async fn read(
    State(server): State<Arc<StoreServer>>,
    scoped: Scoped,
    request: Request,
) -> Result<Response, ApiError> {
    let scope = scope(scoped)?;
    let body = read_body(request, MAX_READ_BYTES).await?;
    let read = decode_read(&body).map_err(ApiError::invalid)?;
    if let Scope::Deployment(scope) = scope {
        let checked = scope.check_read(server.rows(), &read).await;
        server.admit(&scope, read.name(), checked).await?;
    }
    let answer = read.answer(&*server.store).await;
    let answer = answer.map_err(|error| ApiError::internal(format!("answer: {error}")))?;
    Ok(of_type("application/json", answer.into()))
}

async fn put_blob(
    State(server): State<Arc<StoreServer>>,
    scoped: Scoped,
    request: Request,
) -> Result<Json<Result<String, StoreError>>, ApiError> {
    scope(scoped)?;
    let body = read_body(request, MAX_OBJECT_BYTES).await?;
    Ok(Json(server.blobs.put(body).await))
}

/// Bytes; an error of the store is told from them by its type. Nobody can name bytes that no row
/// has shown them: a digest of 256 bits cannot be guessed, and who can compute it has them.
async fn get_blob(
    State(server): State<Arc<StoreServer>>,
    scoped: Scoped,
    Path(digest): Path<String>,
) -> Result<Response, ApiError> {
    scope(scoped)?;
    Ok(match server.blobs.get(&digest).await {
        Ok(bytes) => of_type("application/octet-stream", bytes),
        Err(error) => Json(error).into_response(),
    })
}

fn of_type(content_type: &'static str, body: Bytes) -> Response {
    let mut response = Response::new(body.into());
    let value = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, value);
    response
}

/// The read of a body.
///
/// # Errors
/// Why there is none in it.
pub fn decode_read(body: &[u8]) -> Result<Read, String> {
    serde_json::from_slice(body).map_err(|error| format!("the read is not valid: {error}"))
}

/// The commands of a body. One that cannot be read is rejected alone, as the store rejects what
/// it cannot keep.
///
/// # Errors
/// Why there are no commands in it.
pub fn decode_commands(body: &[u8]) -> Result<Vec<Result<Command, Reject>>, String> {
    let texts: Vec<&RawValue> = serde_json::from_slice(body)
        .map_err(|error| format!("the commands are no array of JSON: {error}"))?;
    if texts.len() > MAX_BATCH {
        let count = texts.len();
        return Err(format!("{count} commands came, the limit is {MAX_BATCH}"));
    }
    let commands = texts.into_iter().map(|text| {
        let bytes = text.get().len();
        if bytes > MAX_COMMAND_BYTES {
            return Err(Reject::invalid(format!(
                "a command has {bytes} bytes of JSON, the limit is {MAX_COMMAND_BYTES}"
            )));
        }
        serde_json::from_str(text.get())
            .map_err(|error| Reject::invalid(format!("the command cannot be read: {error}")))
    });
    Ok(commands.collect())
}

/// Submits commands in their order, and waits for all of them.
async fn submit(
    store: &dyn RuntimeStore,
    commands: Vec<Result<Command, StoreError>>,
) -> Vec<Result<Reply, StoreError>> {
    let submitted = commands.into_iter().map(|command| match command {
        Ok(command) => maybe_done(store.submit(command)),
        Err(error) => MaybeDone::Done(Err(error)),
    });
    let mut submitted: Vec<_> = submitted.collect();
    // A command counts as submitted when its future is polled first, so the first round is what
    // gives them their order.
    std::future::poll_fn(|context| {
        let mut is_ready = true;
        for future in &mut submitted {
            is_ready &= Pin::new(future).poll(context).is_ready();
        }
        if is_ready {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    let outcomes = submitted.iter_mut().map(|future| {
        let outcome = Pin::new(future).take_output();
        outcome.unwrap_or_else(|| Err(StoreError::Unavailable("no answer".to_owned())))
    });
    outcomes.collect()
}
