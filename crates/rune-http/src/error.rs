//! The one way to answer an error.

use std::borrow::Cow;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use rune_runtime::{EngineError, ScheduleError, store_code};
use rune_store_runtime::{ErrorCode, Failure, IdError, RequestId, StoreError};

use crate::openai::{ErrorShape, OpenAiErrorBody};
use crate::openapi::{ErrorBody, ErrorDetail};

/// Seconds after which a caller that met a limit may try again.
const LIMIT_RETRY_SECS: u32 = 1;
/// Seconds after which a caller that met a part that is down may try again.
const UNAVAILABLE_RETRY_SECS: u32 = 2;
/// The header that names the agent request in answers whose body has no place for it.
pub const AGENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-rune-request-id");
/// Tells the clients of OpenAI whether to send a call again, whatever its status.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// An error as the caller sees it, with what only the log may see beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    code: ErrorCode,
    /// A status that the code alone does not give.
    status: Option<StatusCode>,
    message: Cow<'static, str>,
    detail: Option<String>,
    request_id: Option<RequestId>,
    /// The parameter that is wrong, where the route speaks OpenAI's API.
    param: Option<&'static str>,
    /// OpenAI's word for the error, where it is not that of the code.
    label: Option<&'static str>,
    /// Whether asking again may do what was asked twice.
    is_unsure: bool,
}

impl ApiError {
    /// An error with a message for the caller.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            status: None,
            message: message.into(),
            detail: None,
            request_id: None,
            param: None,
            label: None,
            is_unsure: false,
        }
    }

    /// The caller sent something wrong.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidInput, message)
    }

    /// Something does not exist.
    #[must_use]
    pub fn not_found(kind: &str, id: &impl std::fmt::Display) -> Self {
        Self::new(ErrorCode::NotFound, format!("{kind} `{id}` does not exist"))
    }

    /// A fault of Rune: the detail is logged, the caller learns nothing of it.
    pub fn internal(detail: impl Into<String>) -> Self {
        let mut error = Self::new(
            ErrorCode::Internal,
            "internal error; the log has the details",
        );
        error.detail = Some(detail.into());
        error
    }

    /// Part of Rune does not answer: the detail is logged, the caller may try again.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        let message = "a part of Rune is not available now, try again";
        let mut error = Self::new(ErrorCode::Unavailable, message);
        error.detail = Some(detail.into());
        error
    }

    /// The path exists, but not for this method. The router adds the `Allow` header.
    pub(crate) fn method_not_allowed() -> Self {
        let mut error =
            Self::invalid("this path does not support the method, see the `allow` header");
        error.status = Some(StatusCode::METHOD_NOT_ALLOWED);
        error
    }

    /// Names the agent request that the error belongs to; the body carries its id.
    #[must_use]
    pub const fn of_request(mut self, id: RequestId) -> Self {
        self.request_id = Some(id);
        self
    }

    /// Names the parameter that is wrong, for routes that speak OpenAI's API.
    #[must_use]
    pub const fn of_param(mut self, param: &'static str) -> Self {
        self.param = Some(param);
        self
    }

    /// Gives the error OpenAI's own word, for routes that speak its API.
    #[must_use]
    pub const fn labelled(mut self, label: &'static str) -> Self {
        self.label = Some(label);
        self
    }

    /// Says that what was asked may have been done, and would be done twice by whoever asks again: clients are not told to.
    #[must_use]
    pub const fn unsure(mut self) -> Self {
        self.is_unsure = true;
        self
    }

    /// The parameter that is wrong.
    pub(crate) const fn param(&self) -> Option<&'static str> {
        self.param
    }

    /// OpenAI's own word for the error.
    pub(crate) const fn label(&self) -> Option<&'static str> {
        self.label
    }

    /// The code.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        self.code
    }

    /// What the caller reads.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Writes to the log what the caller does not see, for a route that answers it in another form.
    pub fn log(&self) {
        let (code, detail) = (self.code.as_str(), self.detail().unwrap_or(&self.message));
        tracing::error!(code, detail, "request failed");
    }

    /// What only the log may say.
    pub(crate) fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    pub(crate) fn status(&self) -> StatusCode {
        let by_code = || StatusCode::from_u16(self.code.http_status());
        self.status
            .or_else(|| by_code().ok())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Seconds to wait before trying again, for codes that have a `Retry-After`.
    const fn retry_after(&self) -> Option<u32> {
        match self.code {
            _ if self.is_unsure => None,
            ErrorCode::LimitExceeded => Some(LIMIT_RETRY_SECS),
            ErrorCode::Unavailable => Some(UNAVAILABLE_RETRY_SECS),
            _ => None,
        }
    }

    /// The finished answer. `http_id` fills in where no agent request is known; `allow` is
    /// the header the router set.
    pub(crate) fn render(
        self,
        shape: ErrorShape,
        http_id: &str,
        allow: Option<HeaderValue>,
    ) -> Response {
        let (status, retry_after) = (self.status(), self.retry_after());
        let is_unsure = self.is_unsure;
        let accepted = self.request_id.map(|id| id.to_string());
        let body = match shape {
            ErrorShape::OpenAi => serde_json::to_vec(&OpenAiErrorBody::from(&self)),
            ErrorShape::Rune => serde_json::to_vec(&ErrorBody {
                error: ErrorDetail {
                    code: self.code.as_str().to_owned(),
                    request_id: match self.request_id {
                        Some(id) => id.to_string(),
                        None => http_id.to_owned(),
                    },
                    message: self.message.into_owned(),
                },
            }),
        };
        // Strings always serialise.
        let mut response = Response::new(Body::from(body.unwrap_or_default()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let has_run = shape == ErrorShape::OpenAi && accepted.is_some();
        if is_unsure || has_run {
            // Sent again it would be another request of the agent.
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if let Some(Ok(id)) = accepted.map(HeaderValue::try_from)
            && shape == ErrorShape::OpenAi
        {
            headers.insert(AGENT_REQUEST_ID, id);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(allow) = allow {
            headers.insert(ALLOW, allow);
        }
        response
    }
}

/// Carries the error to [`crate::Edge`], which knows the id of the HTTP request and writes
/// the body.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Store(error) => error.into(),
            error => Self::new(error.code(), error.to_string()),
        }
    }
}

impl From<ScheduleError> for ApiError {
    fn from(error: ScheduleError) -> Self {
        match error {
            ScheduleError::Store(error) => error.into(),
            error => Self::new(error.code(), error.to_string()),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match store_code(&error) {
            ErrorCode::Internal => Self::internal(error.to_string()),
            ErrorCode::Unavailable => Self::unavailable(error.to_string()),
            code => Self::new(code, error.to_string()),
        }
    }
}

/// How a request of an agent failed; its message is for the caller already.
impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let mut error = Self::new(failure.code, failure.message);
        if failure.code == ErrorCode::Unauthenticated {
            // It ran: what was refused are credentials that this Rune has for others, not the caller's.
            error.status = Some(StatusCode::BAD_GATEWAY);
            error.label = Some(failure.code.as_str());
        }
        error
    }
}

impl From<IdError> for ApiError {
    fn from(error: IdError) -> Self {
        Self::invalid(error.to_string())
    }
}
