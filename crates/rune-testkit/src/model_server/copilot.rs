//! GitHub's token exchange, and the checks of Copilot's own OpenAI endpoint. Written from second-hand descriptions of a
//! private API; no live service was asked.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{check::Rejection, issuer::Issuer};

/// The path of the exchange, below the base URL of GitHub's API.
pub(crate) const EXCHANGE: &str = "/copilot_internal/v2/token";
/// The path of Copilot's Chat Completions, below its base URL.
pub(crate) const COMPLETIONS: &str = "/chat/completions";
/// Headers by which the service knows an editor.
const EDITOR: [&str; 3] = ["editor-version", "editor-plugin-version", "user-agent"];
const INTEGRATION: &str = "copilot-integration-id";

/// A GitHub account with Copilot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CopilotAccount {
    /// The only GitHub token that is exchanged; without it any that is not empty.
    pub github_token: Option<String>,
    /// The token that is handed out; without it a new one every time.
    pub token: Option<String>,
    /// How long a token lasts, in seconds; may be negative.
    pub lasts: i64,
    /// Calls that a token is good for before the service refuses it as expired.
    pub calls_per_token: Option<u32>,
    /// The status with which every exchange is refused.
    pub refuse: Option<u16>,
    /// Milliseconds that an exchange takes.
    pub exchange_ms: u64,
}

impl Default for CopilotAccount {
    fn default() -> Self {
        Self {
            github_token: None,
            token: None,
            lasts: 1800,
            calls_per_token: None,
            refuse: None,
            exchange_ms: 0,
        }
    }
}

/// The tokens that were handed out, with the calls each has made.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Mutex<HashMap<String, u32>>);

impl Tokens {
    /// Answers an exchange.
    pub(crate) fn exchange(
        &self,
        account: &CopilotAccount,
        headers: &HeaderMap,
        issuer: &Issuer,
    ) -> Result<Value, Rejection> {
        require(headers, &EDITOR)?;
        let given = header(headers, "authorization").strip_prefix("token ");
        let wanted = account.github_token.as_deref();
        let known =
            given.is_some_and(|given| !given.is_empty() && wanted.is_none_or(|it| it == given));
        if !known {
            return Err(Rejection::new(401, "Bad credentials"));
        }
        if let Some(status) = account.refuse {
            return Err(Rejection::new(status, format!("scripted refusal {status}")));
        }
        let token = account.token.clone();
        let token = token.unwrap_or_else(|| issuer.id("tid=", 24));
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(token.clone(), 0);
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        Ok(json!({"token": token, "expires_at": now.saturating_add(account.lasts)}))
    }

    /// Checks a call of the API.
    pub(crate) fn check(
        &self,
        account: &CopilotAccount,
        headers: &HeaderMap,
    ) -> Result<(), Rejection> {
        require(headers, &EDITOR)?;
        require(headers, &[INTEGRATION])?;
        if !matches!(header(headers, "x-initiator"), "user" | "agent") {
            return Err(Rejection::bad("x-initiator must be user or agent"));
        }
        let token = header(headers, "authorization")
            .strip_prefix("Bearer ")
            .unwrap_or_default();
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(calls) = tokens.get_mut(token) else {
            return Err(Rejection::new(401, "unauthorized: not a Copilot token"));
        };
        if account.calls_per_token.is_some_and(|limit| *calls >= limit) {
            return Err(Rejection::new(401, "unauthorized: token expired"));
        }
        *calls += 1;
        Ok(())
    }
}

fn require(headers: &HeaderMap, names: &[&str]) -> Result<(), Rejection> {
    match names.iter().find(|name| header(headers, name).is_empty()) {
        Some(name) => Err(Rejection::bad(format!("missing required {name} header"))),
        None => Ok(()),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}
