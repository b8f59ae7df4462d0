//! Errors as clients of OpenAI's API expect them.

use http::StatusCode;
use rune_store_runtime::ErrorCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::ApiError;

/// In which form a route answers errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorShape {
    /// [`crate::ErrorBody`].
    Rune,
    /// [`OpenAiErrorBody`].
    OpenAi,
}

/// The body of every error of the routes that speak OpenAI's API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct OpenAiErrorBody {
    /// The error.
    pub error: OpenAiError,
}

/// What went wrong, in OpenAI's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct OpenAiError {
    /// For a person.
    pub message: String,
    /// `invalid_request_error`, `permission_error`, `rate_limit_error` or `server_error`.
    pub r#type: &'static str,
    /// The parameter that is wrong.
    pub param: Option<String>,
    /// OpenAI's word where it has one (`model_not_found`, `invalid_api_key`, `unsupported_parameter`,
    /// `rate_limit_exceeded`), else Rune's, as in `ErrorDetail`.
    pub code: &'static str,
}

impl From<&ApiError> for OpenAiErrorBody {
    fn from(error: &ApiError) -> Self {
        Self {
            error: OpenAiError {
                message: error.message().to_owned(),
                r#type: kind(error.status()),
                param: error.param().map(str::to_owned),
                code: error.label().unwrap_or_else(|| label(error.code())),
            },
        }
    }
}

const fn kind(status: StatusCode) -> &'static str {
    match status.as_u16() {
        403 => "permission_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}

const fn label(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Unauthenticated => "invalid_api_key",
        ErrorCode::LimitExceeded => "rate_limit_exceeded",
        code => code.as_str(),
    }
}
