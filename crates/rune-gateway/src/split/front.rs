//! The gateway of a split Rune: it authenticates its callers and has the control plane answer them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::response::Response;
use axum::routing::any;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use rune_http::{
    ApiError, Auth, Caller, HttpRequestId, MAX_BODY_BYTES, Metrics, Readiness, ReadyPart, read_body,
};
use rune_mcp::McpAccess;
use rune_runtime::Tasks;
use rune_store_runtime::ErrorCode;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::control_plane::{ControlPlane, SplitError, TOKEN_REFUSED, is_refusal, passed_on, told};
use crate::gateway::{edge, paths};
use crate::own::{OWN_ROUTES, own_routes};

/// How often it is looked whether the control plane is ready.
const LOOK: Duration = Duration::from_secs(1);

/// The public API, answered by a control plane elsewhere.
pub struct SplitGateway {
    /// Who may call.
    pub auth: Auth,
    /// Which web pages may call.
    pub mcp: McpAccess,
    /// Whether the cards of agents are shown to everybody.
    pub public_cards: bool,
    /// What `/ready` reports; the control plane is a part of it.
    pub readiness: Readiness,
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// Base URL of the control plane.
    pub control_plane: String,
    /// What it knows this gateway by.
    pub token: SecretString,
    /// Where tasks start.
    pub tasks: Tasks,
}

impl SplitGateway {
    /// Every route of the public API, protected.
    ///
    /// # Errors
    /// A [`SplitError`].
    pub fn router(self) -> Result<Router, SplitError> {
        let front = Arc::new(Front {
            control_plane: ControlPlane::new(&self.control_plane, &self.token)?,
            is_ready: self.readiness.part("control-plane"),
            shutdown: self.tasks.shutdown(),
        });
        let watching = Arc::clone(&front).watch();
        self.tasks.spawn("control-plane", watching);
        let own = own_routes(self.readiness, self.metrics);
        let mut router = Router::new();
        for path in paths() {
            if !OWN_ROUTES.contains(&path.as_str()) {
                router = router.route(&path, any(send_on));
            }
        }
        let edge = edge(self.auth, &self.mcp, self.public_cards);
        Ok(edge.protect(router.with_state(front).merge(own)))
    }
}

struct Front {
    control_plane: ControlPlane,
    is_ready: ReadyPart,
    shutdown: CancellationToken,
}

impl Front {
    /// Says whether the control plane answers, until the shutdown.
    async fn watch(self: Arc<Self>) {
        let looking = async {
            let mut before = None;
            loop {
                let now = self.control_plane.look().await;
                self.is_ready.set(now.is_ok());
                if before.as_ref() != Some(&now) {
                    match &now {
                        Ok(()) => tracing::info!("the control plane is ready"),
                        Err(why) => tracing::warn!(why, "the control plane is not ready"),
                    }
                }
                before = Some(now);
                tokio::time::sleep(LOOK).await;
            }
        };
        self.shutdown.run_until_cancelled(looking).await;
        self.is_ready.set(false);
    }
}

/// Has the control plane answer a request.
async fn send_on(
    State(front): State<Arc<Front>>,
    Extension(id): Extension<HttpRequestId>,
    caller: Caller,
    request: Request,
) -> Result<Response, ApiError> {
    let control_plane = &front.control_plane;
    let url = control_plane.url_of(request.uri())?;
    let method = request.method().clone();
    let headers = control_plane.headers(&request, &caller, id)?;
    // Whole, so that who sends slowly holds up nobody but this process.
    let body = read_body(request, MAX_BODY_BYTES).await?;
    let answer = control_plane.send(method, url, headers, body).await;
    let answer = answer.map_err(|error| {
        front.is_ready.set(false);
        lost(error)
    })?;
    if is_refusal(&answer) {
        tracing::error!(why = TOKEN_REFUSED, "the control plane answers nothing");
        return Err(ApiError::new(ErrorCode::Unavailable, NOT_THERE));
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = passed_on(answer.headers());
    let content_type = response
        .headers()
        .get(CONTENT_TYPE)
        .map(HeaderValue::as_bytes);
    let is_stream = content_type == Some(b"text/event-stream");
    // What breaks off here breaks off for the client, which comes back for the rest.
    let body = answer.bytes_stream().inspect_err(|error| {
        tracing::warn!(%error, "an answer of the control plane broke off");
    });
    *response.body_mut() = match is_stream {
        true => Body::from_stream(body.take_until(front.shutdown.clone().cancelled_owned())),
        false => Body::from_stream(body),
    };
    Ok(response)
}

const NOT_THERE: &str =
    "the control plane does not answer now, try again; requests that it has accepted go on";
const WAS_LOST: &str = "the control plane was lost before it answered and may have done what was asked; requests that it has \
                        accepted go on, and with an `Idempotency-Key` asking again is safe";

fn lost(error: reqwest::Error) -> ApiError {
    let message = match error.is_connect() {
        true => NOT_THERE,
        false => WAS_LOST,
    };
    tracing::warn!(why = told(error), "the control plane does not answer");
    ApiError::new(ErrorCode::Unavailable, message)
}
