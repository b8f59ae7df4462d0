//! W3C Trace Context: the trace that a client says its call belongs to.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::HeaderMap;
use http::request::Parts;
use rune_runtime::Origin;
use rune_store_runtime::TraceContext;

/// What the trace headers of a call say. Those that are not valid are passed over, as the specification has it.
#[derive(Debug, Clone)]
pub(crate) struct Trace(Option<TraceContext>);

impl Trace {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        // More than one trace is none.
        let mut parents = headers.get_all("traceparent").iter();
        let (Some(parent), None) = (parents.next(), parents.next()) else {
            return Self(None);
        };
        let states = headers.get_all("tracestate").iter();
        let states: Result<Vec<&str>, _> = states.map(|value| value.to_str()).collect();
        let states = states.unwrap_or_default().join(",");
        let parent = parent.to_str().ok();
        Self(parent.and_then(|parent| TraceContext::parse(parent, Some(&states))))
    }

    /// Where there are no headers.
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    /// What led to a request of this call; `depth` agents of other installations stand above it.
    pub(crate) fn origin(self, depth: u32) -> Origin {
        Origin {
            depth,
            trace: self.0,
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Trace {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers))
    }
}
