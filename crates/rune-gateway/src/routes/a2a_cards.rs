//! The cards of agents.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LAST_MODIFIED, VARY};
use http::{HeaderMap, HeaderValue, StatusCode};
use rune_http::{ApiError, ErrorBody, Json, Path, Query};
use rune_store_runtime::{ErrorCode, Timestamp};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use utoipa::IntoParams;

use super::{DEFAULT_ALIAS, DEFAULT_NAMESPACE};
use crate::a2a::card::{KEYS, card, sign};
use crate::a2a::target::A2aTarget;
use crate::gateway::Shared;

/// The routes of cards, which answer without credentials unless the operator says otherwise.
pub(crate) const ROUTES: [&str; 5] = [
    KEYS,
    "/.well-known/agent-card.json",
    "/.well-known/agent.json",
    "/a2a/{agent}/.well-known/agent-card.json",
    "/a2a/{agent}/agent-card",
];
/// How long a client may go on with a card that it has.
const FRESH: &str = "public, max-age=60";

/// Which card.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct CardQuery {
    /// Namespace of the agent, `dev` by default; in the card it is the tenant.
    ns: Option<String>,
}

/// A handler of one path, documented.
macro_rules! cards {
    ($(
        $(#[$doc:meta])*
        get $path:tt $name:ident ($($param:tt)*) ($($agent:ident)?);
    )+) => {$(
        $(#[$doc])*
        #[utoipa::path(
            get, path = $path, tag = "a2a",
            params(
                $($param)*
                CardQuery,
                ("If-None-Match" = Option<String>, Header, description = "The `ETag` of the card that the client has"),
            ),
            responses(
                (status = 200, body = Object, description = "The card"),
                (status = 304, description = "The client has it"),
                (status = 404, body = ErrorBody, description = "There is no such agent, or none that stands for all"),
                (status = 503, body = ErrorBody, description = "The agent is not ready"),
            )
        )]
        pub(crate) async fn $name(
            State(shared): State<Arc<Shared>>,
            $(Path($agent): Path<String>,)?
            Query(query): Query<CardQuery>,
            headers: HeaderMap,
        ) -> Result<Response, ApiError> {
            let named: Option<String> = None$(.or(Some($agent)))?;
            show(&shared, named, query, &headers).await
        }
    )+};
}

cards! {
    /// The card of the agent that `a2a.default_agent` names, or of the only one.
    get "/.well-known/agent-card.json" root () ();
    /// The same, where clients of older versions look for it.
    get "/.well-known/agent.json" old_root () ();
    /// The card of an agent.
    get "/a2a/{agent}/.well-known/agent-card.json" of_agent (("agent" = String, Path, description = "`AGENT[:ALIAS]`"),) (agent);
    /// The same.
    get "/a2a/{agent}/agent-card" short (("agent" = String, Path, description = "`AGENT[:ALIAS]`"),) (agent);
}

/// The public keys that signatures of cards are checked with (RFC 7517).
#[utoipa::path(
    get, path = "/.well-known/jwks.json", tag = "a2a",
    responses(
        (status = 200, body = Object, description = "A JSON Web Key Set"),
        (status = 404, body = ErrorBody, description = "Cards are not signed"),
    )
)]
pub(crate) async fn keys(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, ApiError> {
    match &shared.a2a.signer {
        Some(signer) => Ok(Json(signer.key_set())),
        None => Err(ApiError::new(
            ErrorCode::NotFound,
            "cards are not signed, so there are no keys",
        )),
    }
}

async fn show(
    shared: &Shared,
    named: Option<String>,
    query: CardQuery,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let name = match named {
        Some(name) => name,
        None => standing_for_all(shared, query.ns.as_deref())?,
    };
    let target = A2aTarget::new(&name, query.ns.as_deref());
    let (deployment, agent) = target.agent(&shared.engine).await?;
    let base = shared.a2a.base(headers);
    let mut card = card(&target, &agent, shared, &base);
    let form = shared.a2a.form();
    // No two signatures are the same, so they do not count.
    let digest = Sha256::digest(card.encode(form).to_string());
    let hex: String = digest.iter().take(16).map(|b| format!("{b:02x}")).collect();
    let tag = match &shared.a2a.signer {
        Some(signer) => format!("W/\"{hex}-{}\"", signer.key_id()),
        None => format!("\"{hex}\""),
    };
    sign(&mut card, shared, &base)?;
    let body = Bytes::from(card.encode(form).to_string());
    let mut response = respond(body, &tag, deployment.updated_at, headers)?;
    if shared.a2a.base_url.is_none() {
        // Its URLs are those that the client has used.
        let vary = HeaderValue::from_static("host");
        response.headers_mut().insert(VARY, vary);
    }
    Ok(response)
}

/// The agent whose card stands at the root.
fn standing_for_all(shared: &Shared, namespace: Option<&str>) -> Result<String, ApiError> {
    if let Some(name) = &shared.a2a.default_agent {
        return Ok(name.clone());
    }
    let namespace = namespace.unwrap_or(DEFAULT_NAMESPACE);
    let deployments = shared.engine.router().deployments().into_iter();
    let mut usual = deployments.filter(|it| it.namespace == namespace && it.alias == DEFAULT_ALIAS);
    match (usual.next(), usual.next()) {
        (Some(only), None) => Ok(only.agent.clone()),
        (None, _) => Err(ApiError::new(
            ErrorCode::NotFound,
            "no agent is deployed, so there is no card",
        )),
        // Their names are not told to everybody.
        (Some(_), Some(_)) => Err(ApiError::new(
            ErrorCode::NotFound,
            "there are several agents: the card of one is at \
             /a2a/{agent}/.well-known/agent-card.json, and `a2a.default_agent` names the one here",
        )),
    }
}

fn respond(
    body: Bytes,
    tag: &str,
    changed: Timestamp,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let plain = tag.trim_start_matches("W/");
    let is_known = headers.get_all(IF_NONE_MATCH).iter().any(|known| {
        let known = known.to_str().unwrap_or_default();
        let mut tags = known.split(',').map(str::trim);
        tags.any(|known| known == "*" || known.trim_start_matches("W/") == plain)
    });
    let mut response = match is_known {
        true => Response::new(Body::empty()),
        false => Response::new(Body::from(body)),
    };
    let internal = |error: http::header::InvalidHeaderValue| ApiError::internal(error.to_string());
    let out = response.headers_mut();
    out.insert(ETAG, HeaderValue::try_from(tag).map_err(internal)?);
    out.insert(CACHE_CONTROL, HeaderValue::from_static(FRESH));
    if let Some(date) = http_date(changed) {
        out.insert(
            LAST_MODIFIED,
            HeaderValue::try_from(date).map_err(internal)?,
        );
    }
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        out.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    Ok(response)
}

/// A time as HTTP has it.
fn http_date(at: Timestamp) -> Option<String> {
    let at = jiff::Timestamp::from_millisecond(at.as_millis()).ok()?;
    Some(at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_as_http_has_it() {
        let date = http_date(Timestamp::from_millis(784_111_777_000));
        assert_eq!(date.as_deref(), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    }
}
