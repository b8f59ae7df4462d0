//! A GitHub token for a Copilot token.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::tokens::ApiToken;
use super::{COPILOT_PROVIDER, editor_headers};
use crate::model::wire::{body_text, failed_response};
use crate::model::{HttpClient, ModelError, ModelErrorKind};

const PATH: &str = "/copilot_internal/v2/token";
/// The whole exchange.
const LIMIT: Duration = Duration::from_secs(30);
/// Bytes of the answer that are read.
const MAX_BYTES: usize = 64 * 1024;
/// A token is renewed so long before it ends, so that a call does not meet its end.
const MARGIN: Duration = Duration::from_secs(60);
/// Hosts that may be given the token, with everything below them.
const HOSTS: [&str; 2] = ["githubcopilot.com", "ghe.com"];

#[derive(Deserialize)]
struct Answer {
    token: String,
    /// Unix seconds.
    expires_at: i64,
    /// Seconds; not spoilt by a clock that is wrong.
    refresh_in: Option<u64>,
    endpoints: Option<Endpoints>,
}

#[derive(Deserialize)]
struct Endpoints {
    api: Option<String>,
}

/// Asks GitHub.
pub(super) async fn exchange(
    github_api: &str,
    github_token: Option<&SecretString>,
    http: &HttpClient,
) -> Result<ApiToken, ModelError> {
    let secret = github_token.map_or("", |token| token.expose_secret());
    if secret.is_empty() {
        let message = "no GitHub token is configured; set COPILOT_TOKEN or GITHUB_TOKEN";
        return Err(error(ModelErrorKind::Unauthenticated, message));
    }
    let mut value = HeaderValue::try_from(format!("token {secret}")).map_err(|_| {
        let message = "the GitHub token has characters that a header cannot hold";
        error(ModelErrorKind::Unauthenticated, message)
    })?;
    value.set_sensitive(true);
    let url = format!("{github_api}{PATH}");
    let call = http
        .for_url(&url)
        .map_err(|message| error(ModelErrorKind::Transport, message))?
        .get(&url)
        .headers(editor_headers())
        .header(AUTHORIZATION, value);
    let until = Instant::now() + LIMIT;
    let asked = Instant::now();
    let response = timeout_at(until, call.send()).await.map_err(|_| {
        let message = "GitHub did not answer the token exchange in time";
        error(ModelErrorKind::Timeout, message)
    })?;
    let response = response.map_err(|failed| {
        let message = format!(
            "cannot reach GitHub for the token exchange: {}",
            failed.without_url()
        );
        error(ModelErrorKind::Transport, message)
    })?;
    let status = response.status();
    if !status.is_success() {
        let failed = failed_response(COPILOT_PROVIDER, response, MAX_BYTES, until).await;
        return Err(refused(failed, secret));
    }
    let text = body_text(response, MAX_BYTES, until).await;
    let answer: Answer = serde_json::from_str(&text).map_err(|_| {
        // What it says may hold the token.
        let message =
            "GitHub's answer to the token exchange has no token; check GITHUB_API_BASE_URL";
        error(ModelErrorKind::Malformed, message)
    })?;
    Ok(ApiToken {
        stale_at: asked + lifetime(&answer),
        base_url: answer
            .endpoints
            .and_then(|it| it.api)
            .filter(|api| is_trusted(api, github_api)),
        secret: answer.token.into(),
    })
}

/// How long the token is used.
fn lifetime(answer: &Answer) -> Duration {
    let left = answer.expires_at - jiff::Timestamp::now().as_second();
    let left = Duration::from_secs(u64::try_from(left).unwrap_or(0)).saturating_sub(MARGIN);
    let asked = answer.refresh_in.map(Duration::from_secs);
    asked.map_or(left, |asked| asked.min(left))
}

/// Whether the token may be sent there: to GitHub's own hosts over TLS, or to the host
/// that the user has named for GitHub.
fn is_trusted(api: &str, github_api: &str) -> bool {
    let (Ok(api), Ok(github)) = (reqwest::Url::parse(api), reqwest::Url::parse(github_api)) else {
        return false;
    };
    let host = api.host_str().unwrap_or_default();
    let below = |domain: &&str| {
        host.strip_suffix(*domain)
            .is_some_and(|it| it.ends_with('.'))
    };
    let vendor = api.scheme() == "https" && HOSTS.iter().any(below);
    vendor || api.origin() == github.origin()
}

/// What a refusal means, and what to do.
fn refused(mut failed: ModelError, secret: &str) -> ModelError {
    let help = match failed.status {
        Some(401) => {
            "GitHub does not accept the token; set COPILOT_TOKEN or GITHUB_TOKEN to a valid one"
        }
        Some(403) => {
            "the token may not use Copilot: a personal access token cannot, use an OAuth token \
             of an account with Copilot (COPILOT_TOKEN)"
        }
        Some(404) => {
            "no Copilot for this account, or GITHUB_API_BASE_URL is not GitHub's API; check \
             both, or leave copilot out of models.providers"
        }
        _ => "GitHub refused the token exchange",
    };
    if matches!(failed.status, Some(401 | 403 | 404)) {
        failed.kind = ModelErrorKind::Unauthenticated;
    }
    let said = failed.message.replace(secret, "[key]");
    failed.message = format!("{help} (token exchange: {said})");
    failed
}

fn error(kind: ModelErrorKind, message: impl Into<String>) -> ModelError {
    ModelError::new(kind, COPILOT_PROVIDER, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_goes_to_github_only() {
        let github = "https://api.github.com";
        for (api, github, trusted) in [
            ("https://api.individual.githubcopilot.com", github, true),
            ("https://copilot-api.tenant.ghe.com", github, true),
            ("http://api.githubcopilot.com", github, false),
            ("https://evilgithubcopilot.com", github, false),
            ("https://githubcopilot.com.evil.org", github, false),
            ("http://127.0.0.1:1", github, false),
            ("http://127.0.0.1:1/x", "http://127.0.0.1:1", true),
            ("nonsense", github, false),
        ] {
            assert_eq!(is_trusted(api, github), trusted, "{api}");
        }
    }

    #[test]
    fn a_token_is_renewed_before_it_ends() {
        let answer = |left, refresh_in| Answer {
            token: "t".into(),
            expires_at: jiff::Timestamp::now().as_second() + left,
            refresh_in,
            endpoints: None,
        };
        assert_eq!(lifetime(&answer(30, None)), Duration::ZERO);
        assert_eq!(lifetime(&answer(-30, Some(900))), Duration::ZERO);
        assert_eq!(lifetime(&answer(9000, Some(900))).as_secs(), 900);
        assert!(lifetime(&answer(1800, None)).as_secs() >= 1738);
    }
}
