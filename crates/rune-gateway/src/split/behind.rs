//! What split gateways send on, answered where the engine is.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use http::uri::PathAndQuery;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use rune_http::{ApiError, Caller, HttpRequestId, REQUEST_ID};
use rune_remote_store::{InternalApi, InternalTokens};

use super::{ANSWERED, CALLER, PREFIX, read};

struct Behind {
    tokens: Arc<InternalTokens>,
    /// Believes what a request says of its caller.
    api: TowerToHyperService<Router>,
}

/// The route at which this API answers gateways with a token, and nobody else.
pub(crate) fn forwarded(api: Router, tokens: Arc<InternalTokens>) -> Router {
    let behind = Behind {
        tokens,
        api: TowerToHyperService::new(api),
    };
    Router::new()
        .route(InternalApi::FORWARDED, any(answer))
        .with_state(Arc::new(behind))
}

async fn answer(State(behind): State<Arc<Behind>>, request: Request) -> Response {
    let known = behind.tokens.authenticate_gateway(request.headers()).await;
    match known.and_then(|()| original(request)) {
        Ok(request) => match behind.api.call(request).await {
            Ok(mut response) => {
                let mark = HeaderValue::from_static("gateway");
                response.headers_mut().insert(ANSWERED, mark);
                response
            }
            Err(never) => match never {},
        },
        Err(error) => error.into_response(),
    }
}

/// The request as the gateway got it, but for what proved who its caller is.
fn original(request: Request) -> Result<Request, ApiError> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map(PathAndQuery::as_str);
    let path = path.and_then(|path| path.strip_prefix(PREFIX)?.parse().ok());
    let caller = parts.headers.remove(CALLER);
    let caller = caller.and_then(|caller| read(caller.as_bytes()));
    let (Some(path), Some(caller)) = (path, caller) else {
        let message =
            "a gateway says where a request goes and who makes it; it may have another version";
        return Err(ApiError::invalid(message));
    };
    let id = parts.headers.remove(REQUEST_ID);
    parts.headers.remove(AUTHORIZATION);
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = path;
    *request.headers_mut() = parts.headers;
    let extensions = request.extensions_mut();
    extensions.insert(Caller::new(caller));
    if let Some(id) = id.and_then(|id| HttpRequestId::parse(id.to_str().ok()?)) {
        extensions.insert(id);
    }
    Ok(request)
}
