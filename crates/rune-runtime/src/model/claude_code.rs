//! Claude Code: the `claude` program where it can do the work, else Anthropic's API with a
//! key.
//!
//! The program runs a loop of its own and takes its tools from itself or from MCP servers
//! that it calls; there is no supported way to be told of a call and to answer it in
//! another process later, which is what a journaled tool call is. So the program, with its
//! tools switched off, answers for agents without tools, and the key is used for the
//! others.

mod cli;
mod lines;
mod prompt;
mod turn;

use std::sync::Arc;

use async_trait::async_trait;
use secrecy::SecretString;

use super::wire::{ClientConfig, Timeouts};
use super::{
    AnthropicClient, HttpClient, LlmClient, ModelError, ModelErrorKind, ModelRequest, ModelStream,
};

pub use cli::ClaudeCli;

/// The name in a Runefile.
pub const CLAUDE_CODE_PROVIDER: &str = "claude-code";

/// What the client has to work with.
#[derive(Debug, Clone, Default)]
pub struct ClaudeCodeConfig {
    /// The program, where it is installed.
    pub cli: Option<Arc<ClaudeCli>>,
    /// `CLAUDE_API_KEY`: used by the program, instead of its own login, and by the API.
    pub api_key: Option<SecretString>,
    /// Used by the API where there is no `api_key`. The program never gets it: who has
    /// logged in there wants that account to pay.
    pub fallback_key: Option<SecretString>,
    /// Instead of the vendor's own address.
    pub base_url: Option<String>,
    /// How long an answer may take.
    pub timeouts: Timeouts,
}

/// Claude Code as a provider.
#[derive(Debug, Clone)]
pub struct ClaudeCodeClient {
    config: ClaudeCodeConfig,
    api: Option<AnthropicClient>,
}

impl ClaudeCodeClient {
    /// A client; nothing is started before the first call.
    #[must_use]
    pub fn new(config: ClaudeCodeConfig, http: HttpClient) -> Self {
        let key = config.api_key.clone().or(config.fallback_key.clone());
        let api = key.map(|key| {
            let mut api = ClientConfig::new(CLAUDE_CODE_PROVIDER).api_key(key);
            api.base_url.clone_from(&config.base_url);
            api.timeouts = config.timeouts;
            AnthropicClient::new(api, http)
        });
        Self { config, api }
    }
}

#[async_trait]
impl LlmClient for ClaudeCodeClient {
    fn provider(&self) -> &str {
        CLAUDE_CODE_PROVIDER
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        let obstacle = match &self.config.cli {
            None => "the `claude` program is not installed (not found in PATH)".to_owned(),
            Some(cli) => match prompt::obstacle(request) {
                Some(obstacle) => obstacle.to_owned(),
                None => match cli.check().await {
                    Ok(()) => return turn::start(cli, &self.config, request).await,
                    Err(obstacle) => obstacle,
                },
            },
        };
        match &self.api {
            Some(api) => api.stream(request).await,
            None => Err(ModelError::new(
                ModelErrorKind::Unauthenticated,
                CLAUDE_CODE_PROVIDER,
                format!("{obstacle}, and there is no key; set CLAUDE_API_KEY or ANTHROPIC_API_KEY"),
            )),
        }
    }
}
