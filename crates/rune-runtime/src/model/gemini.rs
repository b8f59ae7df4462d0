//! Gemini.

mod decode;
mod encode;

use async_trait::async_trait;

use super::wire::{ClientConfig, Protocol, WireClient};
use super::{HttpClient, LlmClient, ModelError, ModelRequest, ModelStream};

pub(super) use decode::{Decoder, counts};
pub(super) use encode::encode;

pub(super) const DEFAULT_BASE_URL: &str = "https://generativelanguage.googleapis.com";

/// A provider that speaks Gemini's `streamGenerateContent`.
#[derive(Debug, Clone)]
pub struct GeminiClient(WireClient);

impl GeminiClient {
    /// A client; no connection is made before the first call.
    #[must_use]
    pub fn new(config: ClientConfig, http: HttpClient) -> Self {
        Self(WireClient::new(Protocol::Gemini, config, http))
    }
}

#[async_trait]
impl LlmClient for GeminiClient {
    fn provider(&self) -> &str {
        self.0.provider()
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        self.0.stream(request).await
    }
}
