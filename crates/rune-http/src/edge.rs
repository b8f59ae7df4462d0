//! The one layer around every route.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use http::header::ALLOW;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use rune_store_runtime::ErrorCode;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tracing::Instrument as _;
use tracing::field::Empty;
use uuid::Uuid;

use crate::ahead::{Admitted, Ahead};
use crate::metrics::{method_label, record};
use crate::openai::ErrorShape;
use crate::{ApiError, Auth, Caller, TokenScope, origin};

/// The header that names an HTTP request in every answer and in the log.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest path and query in bytes.
pub const MAX_URI_BYTES: usize = 8 * 1024;

/// Headers of answers that a page of another origin may read.
const SHOWN_TO_PAGES: [&str; 7] = [
    "x-request-id",
    "x-rune-request-id",
    "x-rune-session-id",
    "x-should-retry",
    "retry-after",
    "mcp-session-id",
    "www-authenticate",
];
/// How long a browser remembers that it may call.
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);

/// Names and values of all headers together in bytes.
pub const MAX_HEADER_BYTES: usize = 32 * 1024;

/// What happens to every request before and after its handler. Cheap to clone.
#[derive(Clone)]
pub struct Edge {
    inner: Arc<Inner>,
}

/// The value of [`REQUEST_ID`] for a request, as an extension of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpRequestId([u8; uuid::fmt::Simple::LENGTH]);

impl HttpRequestId {
    pub(crate) fn generate() -> Self {
        let mut text = [0; uuid::fmt::Simple::LENGTH];
        Uuid::now_v7().as_simple().encode_lower(&mut text);
        Self(text)
    }

    /// The id that another process of this Rune gave to a request.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let id = Uuid::try_parse(text).ok()?;
        let mut text = [0; uuid::fmt::Simple::LENGTH];
        id.as_simple().encode_lower(&mut text);
        Some(Self(text))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Hexadecimal digits are text.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// What a token has to be for: one of these scopes.
type Opening = &'static [TokenScope];

#[derive(Clone)]
struct Inner {
    listener: &'static str,
    auth: Auth,
    /// Whether who mounts the routes has said who calls.
    knows_callers: bool,
    /// For looking, and for everything else.
    scopes: (Opening, Opening),
    public: &'static [&'static str],
    guarded: Vec<&'static str>,
    absent: &'static [&'static str],
    openai: &'static [&'static str],
    pages: Vec<HeaderValue>,
}

impl Edge {
    /// An edge for the listener of this name. The routes in `public` need no credentials.
    #[must_use]
    pub fn new(listener: &'static str, auth: Auth, public: &'static [&'static str]) -> Self {
        Self {
            inner: Arc::new(Inner {
                listener,
                auth,
                knows_callers: false,
                scopes: (&[TokenScope::Read, TokenScope::Admin], &[TokenScope::Admin]),
                public,
                guarded: Vec::new(),
                absent: &[],
                openai: &[],
                pages: Vec::new(),
            }),
        }
    }

    /// The same edge that leaves it to these routes to say who may call them, wherever from: they ask for credentials of
    /// their own, which no page of a browser has, and those of every other route do not open them.
    #[must_use]
    pub fn guarded_within(mut self, guarded: &'static [&'static str]) -> Self {
        Arc::make_mut(&mut self.inner).guarded.extend(guarded);
        self
    }

    /// The same edge that tokens with one of these scopes open: for looking (`GET`), and for everything else. Without a word
    /// these are `read` and `admin`, and `admin`.
    #[must_use]
    pub fn opened_by(mut self, looking: Opening, acting: Opening) -> Self {
        Arc::make_mut(&mut self.inner).scopes = (looking, acting);
        self
    }

    /// The same edge within another process's: whoever mounts it has authenticated that process, and has set the [`Caller`]
    /// that it names, and its [`HttpRequestId`], on every request.
    #[must_use]
    pub fn knowing_callers(mut self) -> Self {
        Arc::make_mut(&mut self.inner).knows_callers = true;
        self
    }

    /// The same edge that says without credentials that there is nothing at these paths: programs look there for how to get
    /// some.
    #[must_use]
    pub fn without(mut self, absent: &'static [&'static str]) -> Self {
        Arc::make_mut(&mut self.inner).absent = absent;
        self
    }

    /// The same edge that answers errors of these routes as OpenAI's API does.
    #[must_use]
    pub fn speaking_openai(mut self, routes: &'static [&'static str]) -> Self {
        Arc::make_mut(&mut self.inner).openai = routes;
        self
    }

    /// The same edge whose routes pages of these origins may call from a browser, with the credentials that every
    /// other caller has.
    #[must_use]
    pub fn open_to(mut self, pages: Vec<HeaderValue>) -> Self {
        Arc::make_mut(&mut self.inner).pages = pages;
        self
    }

    fn shape(&self, route: &str) -> ErrorShape {
        match self.inner.openai.contains(&route) {
            true => ErrorShape::OpenAi,
            false => ErrorShape::Rune,
        }
    }

    /// Puts the edge around every route and the answers to paths and methods without one.
    /// Nothing can be added to the router afterwards that would not be protected.
    pub fn protect(self, router: Router) -> Router {
        let cors = cors(&self.inner.pages);
        let router = router
            .fallback(|| async { no_such_path() })
            .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
            .layer(from_fn_with_state(self, handle));
        match cors {
            Some(cors) => router.layer(cors),
            None => router,
        }
    }

    fn admit(&self, request: &Request, route: &str) -> Result<Caller, ApiError> {
        let inner = &*self.inner;
        let length = request
            .uri()
            .path_and_query()
            .map_or(0, |uri| uri.as_str().len());
        if length > MAX_URI_BYTES {
            let message = format!("path and query are longer than {MAX_URI_BYTES} bytes");
            return Err(ApiError::new(ErrorCode::TooLarge, message));
        }
        let headers = request.headers().iter();
        let length: usize = headers
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        if length > MAX_HEADER_BYTES {
            let message = format!("the headers are longer than {MAX_HEADER_BYTES} bytes");
            return Err(ApiError::new(ErrorCode::TooLarge, message));
        }
        if inner.guarded.contains(&route) {
            return Ok(Caller::new("anonymous"));
        }
        if inner.knows_callers {
            let caller = request.extensions().get::<Caller>().cloned();
            return caller.ok_or_else(|| ApiError::internal("nobody has said who calls"));
        }
        if inner.auth.is_anonymous() {
            origin::check(request, &inner.pages)?;
        } else if inner.public.contains(&route) {
            return Ok(Caller::new("anonymous"));
        } else if inner.absent.contains(&request.uri().path()) {
            return Err(no_such_path());
        }
        let caller = inner.auth.authenticate(request.headers())?;
        let (looking, acting) = inner.scopes;
        let scopes = if request.method().is_safe() {
            looking
        } else {
            acting
        };
        if caller.has_any(scopes) {
            return Ok(caller);
        }
        let scopes: Vec<String> = scopes.iter().map(|scope| format!("`{scope}`")).collect();
        let message = format!(
            "the token's `scope` does not cover this: {} is needed",
            scopes.join(" or ")
        );
        Err(ApiError::new(ErrorCode::Denied, message))
    }

    /// What [`Edge::admit`] says to whoever asks ahead.
    fn admitted(&self, caller: &Caller) -> Admitted {
        let is_known = self.inner.auth.is_anonymous() || *caller != Caller::new("anonymous");
        Admitted { is_known }
    }
}

/// What tells a browser that pages of other origins may call; nothing where none may. A browser asks without credentials
/// first, so that this stands before them.
fn cors(pages: &[HeaderValue]) -> Option<CorsLayer> {
    let methods = [Method::GET, Method::POST, Method::DELETE];
    let shown = SHOWN_TO_PAGES.map(HeaderName::from_static);
    (!pages.is_empty()).then(|| {
        CorsLayer::new()
            .allow_origin(AllowOrigin::list(pages.iter().cloned()))
            .allow_methods(methods)
            .allow_headers(AllowHeaders::mirror_request())
            .allow_private_network(true)
            .expose_headers(shown)
            .max_age(PREFLIGHT_AGE)
    })
}

fn no_such_path() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "there is no such path")
}

async fn handle(State(edge): State<Edge>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let ahead = request.extensions_mut().remove::<Ahead>();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("unmatched", MatchedPath::as_str);
    let admitted = match (edge.admit(&request, route), ahead) {
        (Ok(caller), Some(Ahead::Admission)) => return edge.admitted(&caller).into_response(),
        (Ok(_), Some(Ahead::Refusal(error))) => Err(error),
        (admitted, _) => admitted,
    };
    let known = request.extensions().get().copied();
    let known = known.filter(|_| edge.inner.knows_callers);
    let id: HttpRequestId = known.unwrap_or_else(HttpRequestId::generate);
    request.extensions_mut().insert(id);
    let id = id.as_str();
    let method = method_label(request.method());
    let listener = edge.inner.listener;
    let span = tracing::info_span!(
        "http",
        listener,
        method,
        route,
        id,
        status = Empty,
        latency_ms = Empty
    );

    let response = match admitted {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            let answer = next.run(request).instrument(span.clone());
            AssertUnwindSafe(answer)
                .catch_unwind()
                .await
                .unwrap_or_else(|panic| {
                    let text = panic_message(&*panic);
                    ApiError::internal(format!("handler panicked: {text}")).into_response()
                })
        }
        Err(error) => {
            if error.status().is_server_error() {
                let (code, why) = (error.code().as_str(), error.message());
                span.in_scope(|| tracing::warn!(code, why, "a request is not answered"));
            }
            error.into_response()
        }
    };

    let _entered = span.enter();
    let mut response = finish(response, edge.shape(route), id);
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let (status, latency) = (response.status(), started.elapsed());
    span.record("status", status.as_u16());
    span.record("latency_ms", latency.as_secs_f64() * 1000.0);
    tracing::debug!("answered");
    record(listener, route, method, status, latency);
    response
}

/// Gives an error its body, and logs what the caller does not see.
fn finish(mut response: Response, shape: ErrorShape, id: &str) -> Response {
    let Some(error) = response.extensions_mut().remove::<ApiError>() else {
        return response;
    };
    match error.detail() {
        Some(detail) => tracing::error!(code = error.code().as_str(), detail, "request failed"),
        None if response.status() == StatusCode::INTERNAL_SERVER_ERROR => {
            tracing::error!(
                code = error.code().as_str(),
                message = error.message(),
                "request failed"
            );
        }
        None => {}
    }
    error.render(shape, id, response.headers_mut().remove(ALLOW))
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
