//! GitHub Copilot: the OpenAI wire behind a token that GitHub hands out for a while.

mod exchange;
mod tokens;

use std::sync::Arc;

use async_trait::async_trait;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use rune_store_runtime::{Block, Message, Role};

use super::wire::{ClientConfig, Protocol, Timeouts, WireClient};
use super::{HttpClient, LlmClient, ModelError, ModelErrorKind, ModelRequest, ModelStream};
use tokens::ApiToken;

pub use tokens::CopilotTokens;

/// The name in a Runefile.
pub const COPILOT_PROVIDER: &str = "copilot";
/// Where the API is where neither the user nor GitHub says so.
const DEFAULT_BASE_URL: &str = "https://api.githubcopilot.com";
/// By these the service recognises an editor; without them it refuses the call.
const EDITOR: [(&str, &str); 5] = [
    ("copilot-integration-id", "vscode-chat"),
    ("editor-version", "vscode/1.95.0"),
    ("editor-plugin-version", "copilot-chat/0.26.7"),
    ("user-agent", "GitHubCopilotChat/0.26.7"),
    ("x-github-api-version", "2025-04-01"),
];

/// GitHub Copilot as a provider.
#[derive(Debug, Clone)]
pub struct CopilotClient {
    tokens: Arc<CopilotTokens>,
    /// `COPILOT_BASE_URL`; the exchange says it where absent.
    base_url: Option<String>,
    /// Set up anew for every call.
    wire: WireClient,
    http: HttpClient,
}

impl CopilotClient {
    /// A client; no connection is made before the first call. `tokens` is shared by every
    /// client of the account.
    #[must_use]
    pub fn new(
        tokens: Arc<CopilotTokens>,
        base_url: Option<String>,
        timeouts: Timeouts,
        http: HttpClient,
    ) -> Self {
        let mut config = ClientConfig::new(COPILOT_PROVIDER);
        config.timeouts = timeouts;
        Self {
            tokens,
            base_url,
            wire: WireClient::new(Protocol::OpenAi, config, http.clone()),
            http,
        }
    }

    async fn send(
        &self,
        token: &ApiToken,
        request: &ModelRequest,
    ) -> Result<ModelStream, ModelError> {
        let base = self.base_url.as_ref().or(token.base_url.as_ref());
        let base = base.map_or(DEFAULT_BASE_URL, String::as_str);
        let wire = self.wire.with(|config| {
            config.base_url = Some(base.to_owned());
            config.api_key = Some(token.secret.clone());
            config.headers = headers(request);
        });
        wire.stream(request).await
    }
}

#[async_trait]
impl LlmClient for CopilotClient {
    fn provider(&self) -> &str {
        COPILOT_PROVIDER
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        let token = self.tokens.get(&self.http).await?;
        match self.send(&token, request).await {
            Err(error) if is_expired(&error) => {
                // Revoked before its time: one new one, and no more.
                let fresh = self.tokens.replace(&token, &self.http).await?;
                if fresh.is(&token) {
                    return Err(error);
                }
                self.send(&fresh, request).await
            }
            sent => sent,
        }
    }
}

/// Whether a new token may help. A 403 says that the account may not.
fn is_expired(error: &ModelError) -> bool {
    error.kind == ModelErrorKind::Unauthenticated && error.status == Some(401)
}

/// What an editor sends.
fn editor_headers() -> HeaderMap {
    let headers = EDITOR.iter().map(|(name, value)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    });
    headers.collect()
}

fn headers(request: &ModelRequest) -> HeaderMap {
    let mut headers = editor_headers();
    let mut set = |name, value| headers.insert(HeaderName::from_static(name), value);
    // The service counts what a person asked against the account's quota.
    let by_agent = request.messages.iter().any(|it| it.role != Role::User);
    let initiator = if by_agent { "agent" } else { "user" };
    set("x-initiator", HeaderValue::from_static(initiator));
    set(
        "openai-intent",
        HeaderValue::from_static("conversation-panel"),
    );
    if request.messages.iter().any(has_image) {
        set("copilot-vision-request", HeaderValue::from_static("true"));
    }
    if let Ok(id) = HeaderValue::try_from(uuid::Uuid::now_v7().to_string()) {
        set("x-request-id", id);
    }
    headers
}

fn has_image(message: &Message) -> bool {
    let mut blocks = message.blocks.iter();
    blocks.any(|block| match block {
        Block::Image { .. } => true,
        Block::ToolResult { images, .. } => !images.is_empty(),
        _ => false,
    })
}
