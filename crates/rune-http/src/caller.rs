//! Who sent a request.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;

use crate::auth::TokenScope;

/// Who sent a request, as authenticated. A handler takes it as an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// `anonymous`, `api-key`, or `jwt:` and the token's subject.
    pub id: Arc<str>,
    /// What its token is for; nothing where it is for everything.
    scopes: Option<Vec<TokenScope>>,
}

/// What stands before the subject of a token.
const JWT: &str = "jwt:";

impl Caller {
    /// The caller with this id.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self {
            id: id.into(),
            scopes: None,
        }
    }

    /// The subject of a token, which is for these scopes alone where it names some.
    pub(crate) fn of_subject(subject: &str, scopes: Option<Vec<TokenScope>>) -> Self {
        Self {
            scopes,
            ..Self::new(format!("{JWT}{subject}"))
        }
    }

    /// Whether it may do what any of these scopes is for.
    pub(crate) fn has_any(&self, scopes: &[TokenScope]) -> bool {
        let own = self.scopes.as_ref();
        own.is_none_or(|own| own.iter().any(|scope| scopes.contains(scope)))
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
