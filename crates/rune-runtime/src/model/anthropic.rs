//! Anthropic Messages.

mod decode;
mod encode;

use async_trait::async_trait;

use super::wire::{ClientConfig, Protocol, WireClient};
use super::{HttpClient, LlmClient, ModelError, ModelRequest, ModelStream};

pub(super) use decode::Decoder;
pub(super) use encode::encode;

pub(super) const DEFAULT_BASE_URL: &str = "https://api.anthropic.com";
/// The older of the two valid versions: the newer one refuses a temperature, and servers
/// that copy the protocol know this one.
pub(super) const VERSION: &str = "2023-06-01";

/// A provider that speaks Anthropic Messages.
#[derive(Debug, Clone)]
pub struct AnthropicClient(WireClient);

impl AnthropicClient {
    /// A client; no connection is made before the first call.
    #[must_use]
    pub fn new(config: ClientConfig, http: HttpClient) -> Self {
        Self(WireClient::new(Protocol::Anthropic, config, http))
    }
}

#[async_trait]
impl LlmClient for AnthropicClient {
    fn provider(&self) -> &str {
        self.0.provider()
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        self.0.stream(request).await
    }
}
