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
    /// What the token allows; empty where credentials carry no scopes, which then allow
    /// everything.
    pub scopes: Arc<[String]>,
}

impl Caller {
    /// A caller without scopes.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self {
            id: id.into(),
            scopes: Arc::default(),
        }
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
