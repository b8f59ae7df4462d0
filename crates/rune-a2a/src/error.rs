//! The error table: one list for JSON-RPC, HTTP and gRPC (1.0.1 §5.4).

use std::borrow::Cow;
use std::collections::BTreeMap;

use rune_store_runtime::ErrorCode;
use serde_json::{Value, json};

use crate::ProtocolVersion;

const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";
const BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";
const DOMAIN: &str = "a2a-protocol.org";

/// What went wrong, in the protocol's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such task, or it is not the caller's.
    TaskNotFound,
    /// The task has ended.
    TaskNotCancelable,
    /// The card says that there are no webhooks.
    PushNotificationNotSupported,
    /// The operation is not there, or not for a task in this state.
    UnsupportedOperation,
    /// A media type that the agent does not take.
    ContentTypeNotSupported,
    /// The agent answered what the protocol cannot say.
    InvalidAgentResponse,
    /// There could be an extended card, and there is none.
    ExtendedAgentCardNotConfigured,
    /// The client does not know an extension that it has to.
    ExtensionSupportRequired,
    /// The version is not spoken.
    VersionNotSupported,
    /// The body is not JSON.
    Parse,
    /// The body is not a JSON-RPC request.
    InvalidRequest,
    /// There is no such method.
    MethodNotFound,
    /// A parameter is wrong.
    InvalidParams,
    /// Something that the protocol has no word for.
    Other(ErrorCode),
}

impl ErrorKind {
    /// Those that the protocol has a word for.
    pub const NAMED: [Self; 13] = [
        Self::TaskNotFound,
        Self::TaskNotCancelable,
        Self::PushNotificationNotSupported,
        Self::UnsupportedOperation,
        Self::ContentTypeNotSupported,
        Self::InvalidAgentResponse,
        Self::ExtendedAgentCardNotConfigured,
        Self::ExtensionSupportRequired,
        Self::VersionNotSupported,
        Self::Parse,
        Self::InvalidRequest,
        Self::MethodNotFound,
        Self::InvalidParams,
    ];

    /// The kind with a number of JSON-RPC, where that says which.
    #[must_use]
    pub fn of_code(code: i64) -> Option<Self> {
        let code = i32::try_from(code).ok()?;
        let mut named = Self::NAMED.into_iter();
        named.find(|kind| kind.code(ProtocolVersion::V1) == code)
    }

    /// The kind with a `reason` of `google.rpc.ErrorInfo`.
    #[must_use]
    pub fn of_reason(reason: &str) -> Option<Self> {
        let others = ErrorCode::ALL.into_iter().map(Self::Other);
        let mut all = Self::NAMED.into_iter().chain(others);
        all.find(|kind| kind.reason() == reason)
    }

    /// The code of Rune for it.
    #[must_use]
    pub const fn meaning(self) -> ErrorCode {
        match self {
            Self::TaskNotFound | Self::MethodNotFound => ErrorCode::NotFound,
            Self::TaskNotCancelable => ErrorCode::Conflict,
            Self::InvalidAgentResponse => ErrorCode::Internal,
            Self::PushNotificationNotSupported
            | Self::UnsupportedOperation
            | Self::ContentTypeNotSupported
            | Self::ExtendedAgentCardNotConfigured
            | Self::ExtensionSupportRequired
            | Self::VersionNotSupported
            | Self::Parse
            | Self::InvalidRequest
            | Self::InvalidParams => ErrorCode::InvalidInput,
            Self::Other(code) => code,
        }
    }

    /// The number in JSON-RPC. 0.3 does not know the two youngest.
    #[must_use]
    pub const fn code(self, version: ProtocolVersion) -> i32 {
        match (self, version) {
            (Self::TaskNotFound, _) => -32001,
            (Self::TaskNotCancelable, _) => -32002,
            (Self::PushNotificationNotSupported, _) => -32003,
            (Self::UnsupportedOperation, _)
            | (Self::ExtensionSupportRequired | Self::VersionNotSupported, ProtocolVersion::V03) => {
                -32004
            }
            (Self::ContentTypeNotSupported, _) => -32005,
            (Self::InvalidAgentResponse, _) => -32006,
            (Self::ExtendedAgentCardNotConfigured, _) => -32007,
            (Self::ExtensionSupportRequired, ProtocolVersion::V1) => -32008,
            (Self::VersionNotSupported, ProtocolVersion::V1) => -32009,
            (Self::Parse, _) => -32700,
            (Self::InvalidRequest, _) => -32600,
            (Self::MethodNotFound, _) => -32601,
            (Self::InvalidParams, _) => -32602,
            (Self::Other(_), _) => -32603,
        }
    }

    /// The status of an answer of the HTTP binding.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::TaskNotFound | Self::MethodNotFound => 404,
            Self::InvalidAgentResponse => 500,
            Self::Other(code) => code.http_status(),
            _ => 400,
        }
    }

    /// The word of `google.rpc.Code`.
    #[must_use]
    pub const fn grpc_status(self) -> &'static str {
        match self {
            Self::TaskNotFound => "NOT_FOUND",
            Self::TaskNotCancelable
            | Self::PushNotificationNotSupported
            | Self::UnsupportedOperation
            | Self::ExtendedAgentCardNotConfigured
            | Self::ExtensionSupportRequired
            | Self::VersionNotSupported => "FAILED_PRECONDITION",
            Self::ContentTypeNotSupported
            | Self::Parse
            | Self::InvalidRequest
            | Self::InvalidParams => "INVALID_ARGUMENT",
            Self::MethodNotFound => "UNIMPLEMENTED",
            Self::InvalidAgentResponse => "INTERNAL",
            Self::Other(code) => grpc_of(code),
        }
    }

    /// The `reason` of `google.rpc.ErrorInfo`.
    #[must_use]
    pub fn reason(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::TaskNotFound => "TASK_NOT_FOUND",
            Self::TaskNotCancelable => "TASK_NOT_CANCELABLE",
            Self::PushNotificationNotSupported => "PUSH_NOTIFICATION_NOT_SUPPORTED",
            Self::UnsupportedOperation => "UNSUPPORTED_OPERATION",
            Self::ContentTypeNotSupported => "CONTENT_TYPE_NOT_SUPPORTED",
            Self::InvalidAgentResponse => "INVALID_AGENT_RESPONSE",
            Self::ExtendedAgentCardNotConfigured => "EXTENDED_AGENT_CARD_NOT_CONFIGURED",
            Self::ExtensionSupportRequired => "EXTENSION_SUPPORT_REQUIRED",
            Self::VersionNotSupported => "VERSION_NOT_SUPPORTED",
            Self::Parse => "PARSE_ERROR",
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::MethodNotFound => "METHOD_NOT_FOUND",
            Self::InvalidParams => "INVALID_PARAMS",
            Self::Other(code) => return Cow::Owned(code.as_str().to_ascii_uppercase()),
        })
    }
}

const fn grpc_of(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::InvalidInput | ErrorCode::TooLarge => "INVALID_ARGUMENT",
        ErrorCode::Unauthenticated => "UNAUTHENTICATED",
        ErrorCode::Denied => "PERMISSION_DENIED",
        ErrorCode::NotFound => "NOT_FOUND",
        ErrorCode::Conflict => "ABORTED",
        ErrorCode::LimitExceeded => "RESOURCE_EXHAUSTED",
        ErrorCode::Cancelled => "CANCELLED",
        ErrorCode::ModelUnavailable | ErrorCode::Unavailable => "UNAVAILABLE",
        ErrorCode::Timeout => "DEADLINE_EXCEEDED",
        ErrorCode::Internal => "INTERNAL",
    }
}

/// A parameter that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Where, such as `message.parts[0].url`.
    pub field: String,
    /// Why, for a person.
    pub description: String,
}

/// An error as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct A2aError {
    kind: ErrorKind,
    message: String,
    metadata: BTreeMap<&'static str, String>,
    violation: Option<FieldViolation>,
}

impl A2aError {
    /// An error with a message for a person.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            metadata: BTreeMap::new(),
            violation: None,
        }
    }

    /// A parameter is wrong.
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        let (field, description) = (field.into(), description.into());
        let message = match field.is_empty() {
            true => description.clone(),
            false => format!("`{field}`: {description}"),
        };
        Self {
            violation: Some(FieldViolation { field, description }),
            ..Self::new(ErrorKind::InvalidParams, message)
        }
    }

    /// There is no such task.
    #[must_use]
    pub fn task_not_found(id: &str) -> Self {
        let shown: String = id.chars().take(80).collect();
        Self::new(
            ErrorKind::TaskNotFound,
            format!("task `{shown}` was not found"),
        )
        .about("taskId", shown)
    }

    /// The same error with a fact for programs.
    #[must_use]
    pub fn about(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.metadata.insert(key, value.into());
        self
    }

    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What a person reads.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The parameter that is wrong.
    #[must_use]
    pub const fn violation(&self) -> Option<&FieldViolation> {
        self.violation.as_ref()
    }

    /// The `error` of a JSON-RPC answer.
    #[must_use]
    pub fn to_rpc(&self, version: ProtocolVersion) -> Value {
        json!({"code": self.kind.code(version), "message": self.message, "data": self.details()})
    }

    /// The body of an answer of the HTTP binding (§11.6).
    #[must_use]
    pub fn to_http(&self, status: u16) -> Value {
        json!({"error": {
            "code": status, "status": self.kind.grpc_status(), "message": self.message,
            "details": self.details(),
        }})
    }

    fn details(&self) -> Vec<Value> {
        let mut details = vec![json!({
            "@type": ERROR_INFO, "reason": self.kind.reason(), "domain": DOMAIN,
            "metadata": self.metadata,
        })];
        if let Some(violation) = &self.violation {
            details.push(json!({
                "@type": BAD_REQUEST,
                "fieldViolations": [
                    {"field": violation.field, "description": violation.description},
                ],
            }));
        }
        details
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_that_of_the_specification() {
        use ErrorKind::*;
        let table = [
            (TaskNotFound, -32001, 404, "NOT_FOUND"),
            (TaskNotCancelable, -32002, 400, "FAILED_PRECONDITION"),
            (
                PushNotificationNotSupported,
                -32003,
                400,
                "FAILED_PRECONDITION",
            ),
            (UnsupportedOperation, -32004, 400, "FAILED_PRECONDITION"),
            (ContentTypeNotSupported, -32005, 400, "INVALID_ARGUMENT"),
            (InvalidAgentResponse, -32006, 500, "INTERNAL"),
            (
                ExtendedAgentCardNotConfigured,
                -32007,
                400,
                "FAILED_PRECONDITION",
            ),
            (ExtensionSupportRequired, -32008, 400, "FAILED_PRECONDITION"),
            (VersionNotSupported, -32009, 400, "FAILED_PRECONDITION"),
            (Parse, -32700, 400, "INVALID_ARGUMENT"),
            (InvalidRequest, -32600, 400, "INVALID_ARGUMENT"),
            (MethodNotFound, -32601, 404, "UNIMPLEMENTED"),
            (InvalidParams, -32602, 400, "INVALID_ARGUMENT"),
            (Other(ErrorCode::Internal), -32603, 500, "INTERNAL"),
            (
                Other(ErrorCode::LimitExceeded),
                -32603,
                429,
                "RESOURCE_EXHAUSTED",
            ),
        ];
        for (kind, code, status, grpc) in table {
            let of = (
                kind.code(ProtocolVersion::V1),
                kind.http_status(),
                kind.grpc_status(),
            );
            assert_eq!(of, (code, status, grpc), "{kind:?}");
        }
    }

    #[test]
    fn clients_of_0_3_get_no_code_that_they_do_not_know() {
        for kind in [
            ErrorKind::VersionNotSupported,
            ErrorKind::ExtensionSupportRequired,
        ] {
            assert_eq!(kind.code(ProtocolVersion::V03), -32004);
        }
    }

    #[test]
    fn an_error_is_code_message_and_details() {
        let error = A2aError::task_not_found("t1");
        let expected = json!({
            "code": -32001, "message": "task `t1` was not found",
            "data": [{
                "@type": ERROR_INFO, "reason": "TASK_NOT_FOUND", "domain": DOMAIN,
                "metadata": {"taskId": "t1"},
            }],
        });
        assert_eq!(error.to_rpc(ProtocolVersion::V1), expected);
        let http = A2aError::invalid("message.parts", "is missing").to_http(400);
        assert_eq!(
            (&http["error"]["code"], &http["error"]["status"]),
            (&json!(400), &json!("INVALID_ARGUMENT"))
        );
        let violation = &http["error"]["details"][1]["fieldViolations"][0];
        assert_eq!(violation["field"], "message.parts");
    }
}
