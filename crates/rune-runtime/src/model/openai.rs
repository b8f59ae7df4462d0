//! OpenAI Chat Completions, and the many servers that copy it.

mod calls;
mod decode;
mod details;
mod encode;

use async_trait::async_trait;

use super::wire::{ClientConfig, Protocol, WireClient};
use super::{HttpClient, LlmClient, ModelError, ModelRequest, ModelStream};

pub(super) use decode::Decoder;
pub(super) use encode::{encode, image_url, output_format, result_text};

pub(super) const DEFAULT_BASE_URL: &str = "https://api.openai.com/v1";

/// A provider that speaks OpenAI Chat Completions.
#[derive(Debug, Clone)]
pub struct OpenAiClient(WireClient);

impl OpenAiClient {
    /// A client; no connection is made before the first call.
    #[must_use]
    pub fn new(config: ClientConfig, http: HttpClient) -> Self {
        Self(WireClient::new(Protocol::OpenAi, config, http))
    }
}

#[async_trait]
impl LlmClient for OpenAiClient {
    fn provider(&self) -> &str {
        self.0.provider()
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        self.0.stream(request).await
    }
}
