//! What goes wrong with a call.

use std::fmt;

use rune_store_runtime::ErrorCode;
use serde_json::Value;

use super::TransportError;
use super::limits::MAX_ERROR_CHARS;
use crate::ErrorKind;

/// A call that did not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// There was no answer.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The agent refused it: nothing was begun.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The answer is not of the protocol.
    #[error("the agent's {what} is not of the protocol: {why}")]
    Malformed {
        /// Such as `card`.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// The answer is too large.
    #[error("the agent's {what} has more than {limit} bytes")]
    TooLarge {
        /// Such as `card`.
        what: &'static str,
        /// The most.
        limit: usize,
    },
    /// There is no card.
    #[error("there is no agent card: {0}")]
    NoCard(String),
    /// The card has no interface that is spoken here.
    #[error(
        "the agent has no interface that is spoken here (JSON-RPC and HTTP+JSON of A2A 1.0, JSON-RPC of 0.3); its card \
         names {0}"
    )]
    NoInterface(String),
    /// The agent wants its clients to know an extension that is not known here.
    #[error("the agent takes only clients that know its extension `{0}`, which is not spoken here")]
    Extension(String),
    /// It was sent, and nobody knows what came of it.
    #[error("it is not known whether the agent has taken the message: {0}")]
    Lost(String),
}

impl ClientError {
    /// The code under which a caller is told.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Transport(error) => error.code,
            Self::Remote(error) => error.code,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::NoCard(_) => ErrorCode::NotFound,
            Self::Malformed { .. } | Self::NoInterface(_) | Self::Extension(_) | Self::Lost(_) => {
                ErrorCode::Unavailable
            }
        }
    }

    /// What the agent says it is, where it refused.
    #[must_use]
    pub const fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Remote(error) => error.kind,
            _ => None,
        }
    }

    /// Whether the operation is not there.
    pub(super) const fn is_unsupported(&self) -> bool {
        matches!(
            self.kind(),
            Some(ErrorKind::UnsupportedOperation | ErrorKind::MethodNotFound)
        )
    }

    /// Whether the same may work later.
    pub(super) const fn is_passing(&self) -> bool {
        matches!(
            self.code(),
            ErrorCode::Unavailable
                | ErrorCode::Timeout
                | ErrorCode::LimitExceeded
                | ErrorCode::Internal
        ) && !matches!(
            self,
            Self::Malformed { .. } | Self::NoInterface(_) | Self::Extension(_)
        )
    }

    /// Whether the agent has not seen anything of it.
    pub(super) fn is_unsent(&self) -> bool {
        matches!(self, Self::Transport(error) if error.is_unsent)
    }
}

/// What an agent says of a call that it refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteError {
    /// In the protocol's words, where it has one.
    pub kind: Option<ErrorKind>,
    /// In Rune's.
    pub code: ErrorCode,
    /// What it says.
    pub message: String,
}

impl std::error::Error for RemoteError {}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the agent answers: ")?;
        match self.message.is_empty() {
            true => f.write_str(self.code.as_str()),
            false => f.write_str(&self.message),
        }
    }
}

impl RemoteError {
    /// The `error` of a JSON-RPC answer.
    pub(super) fn of_rpc(error: &Value) -> Self {
        let code = error["code"].as_i64();
        let by_code = code.and_then(ErrorKind::of_code);
        Self::of(by_code, None, error, &error["data"])
    }

    /// The body of an answer of the HTTP binding, or of a server in front of the agent, with this status.
    pub(super) fn of_http(status: u16, body: &Value) -> Self {
        let error = match &body["error"] {
            Value::Null => body,
            error => error,
        };
        Self::of(None, Some(status), error, &error["details"])
    }

    fn of(by_code: Option<ErrorKind>, status: Option<u16>, error: &Value, details: &Value) -> Self {
        let reasons = details.as_array().into_iter().flatten();
        let reasons = reasons.filter_map(|detail| detail["reason"].as_str());
        let by_reason = reasons.filter_map(ErrorKind::of_reason).next();
        let kind = by_reason.or(by_code);
        let texts = ["message", "detail", "title"];
        let text = texts.iter().find_map(|name| error[*name].as_str());
        let text = text.or(error.as_str()).unwrap_or_default();
        let code = match (kind, status) {
            (Some(kind), _) => kind.meaning(),
            (None, Some(status)) => of_status(status),
            (None, None) => ErrorCode::Internal,
        };
        Self {
            kind,
            code,
            message: match (text, status) {
                ("", Some(status)) => format!("HTTP status {status}"),
                (text, _) => text.chars().take(MAX_ERROR_CHARS).collect(),
            },
        }
    }
}

const fn of_status(status: u16) -> ErrorCode {
    match status {
        401 => ErrorCode::Unauthenticated,
        403 => ErrorCode::Denied,
        404 | 410 => ErrorCode::NotFound,
        408 | 504 => ErrorCode::Timeout,
        409 => ErrorCode::Conflict,
        413 => ErrorCode::TooLarge,
        429 => ErrorCode::LimitExceeded,
        500..=599 => ErrorCode::Unavailable,
        _ => ErrorCode::InvalidInput,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{A2aError, ProtocolVersion};

    #[test]
    fn an_error_is_read_as_it_was_written_over_either_binding() {
        for kind in ErrorKind::NAMED {
            let error = A2aError::new(kind, "no");
            for version in ProtocolVersion::ALL {
                let read = RemoteError::of_rpc(&error.to_rpc(version));
                assert_eq!((read.kind, read.message.as_str()), (Some(kind), "no"));
            }
            let status = kind.http_status();
            let read = RemoteError::of_http(status, &error.to_http(status));
            assert_eq!(read.kind, Some(kind));
        }
        let ours = A2aError::new(ErrorKind::Other(ErrorCode::LimitExceeded), "too deep");
        let read = RemoteError::of_rpc(&ours.to_rpc(ProtocolVersion::V1));
        assert_eq!(read.code, ErrorCode::LimitExceeded);
    }

    #[test]
    fn errors_of_others_say_something_too() {
        let bare = RemoteError::of_rpc(&json!({"code": -32001}));
        assert_eq!(bare.kind, Some(ErrorKind::TaskNotFound));
        let problem = json!({"type": "about:blank", "title": "Nope", "status": 404});
        let problem = RemoteError::of_http(404, &problem);
        assert_eq!(problem.code, ErrorCode::NotFound);
        assert_eq!(problem.to_string(), "the agent answers: Nope");
        let gateway = RemoteError::of_http(502, &Value::Null);
        assert_eq!(gateway.to_string(), "the agent answers: HTTP status 502");
        assert_eq!(gateway.code, ErrorCode::Unavailable);
        let own = json!({"error": {"code": "unauthenticated", "message": "who?"}});
        let own = RemoteError::of_http(401, &own);
        assert_eq!(own.code, ErrorCode::Unauthenticated);
    }
}
