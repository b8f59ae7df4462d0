//! Who sent a request.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;

/// Who sent a request, as authenticated. A handler takes it as an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// `anonymous`, `api-key`, or `jwt:` and the token's subject.
    pub id: Arc<str>,
}

/// What stands before the subject of a token.
const JWT: &str = "jwt:";

impl Caller {
    /// The caller with this id.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self { id: id.into() }
    }

    /// The subject of a token.
    pub(crate) fn of_subject(subject: &str) -> Self {
        Self::new(format!("{JWT}{subject}"))
    }

    /// Who a token speaks for, which has no control characters; nothing where no token came.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.id.strip_prefix(JWT)
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // The edge sets it on every request that it lets through.
        let caller = parts.extensions.get::<Self>().cloned();
        Ok(caller.unwrap_or_else(|| Self::new("anonymous")))
    }
}
