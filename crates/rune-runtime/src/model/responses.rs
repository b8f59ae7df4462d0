//! OpenAI Responses.

mod decode;
mod encode;

use async_trait::async_trait;

use super::wire::{ClientConfig, Protocol, WireClient};
use super::{HttpClient, LlmClient, ModelError, ModelRequest, ModelStream};

pub(super) use decode::Decoder;
pub(super) use encode::encode;

/// The vendor's own host; regions are in front of it.
const VENDOR_HOST: &str = "api.openai.com";
/// Parts of the ids of models that the vendor serves over this protocol alone.
const ONLY_HERE: [&str; 3] = ["-codex", "-deep-research", "computer-use"];

/// Whether a model of the built-in provider `openai` is asked over this protocol: at the
/// vendor's own address always, because only here does reasoning outlast a tool call;
/// elsewhere only a model that has no other, because most servers that copy the vendor
/// copy Chat Completions.
pub(super) fn preferred(base_url: Option<&str>, model: &str) -> bool {
    let vendor = base_url.filter(|url| !url.is_empty()).is_none_or(|url| {
        let host = url.split("//").nth(1).unwrap_or(url);
        let host = host.split(['/', ':']).next().unwrap_or_default();
        host.strip_suffix(VENDOR_HOST)
            .is_some_and(|region| region.is_empty() || region.ends_with('.'))
    });
    let pro = model.split('-').any(|word| word == "pro");
    vendor || pro || ONLY_HERE.iter().any(|part| model.contains(part))
}

/// A provider that speaks OpenAI Responses. Nothing is stored at the provider: the whole
/// conversation goes with every call, the reasoning encrypted.
#[derive(Debug, Clone)]
pub struct ResponsesClient(WireClient);

impl ResponsesClient {
    /// A client; no connection is made before the first call.
    #[must_use]
    pub fn new(config: ClientConfig, http: HttpClient) -> Self {
        Self(WireClient::new(Protocol::Responses, config, http))
    }
}

#[async_trait]
impl LlmClient for ResponsesClient {
    fn provider(&self) -> &str {
        self.0.provider()
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        self.0.stream(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_preferred_at_the_vendor_and_for_models_that_have_no_other() {
        let check =
            |url, model, expected| assert_eq!(preferred(url, model), expected, "{url:?} {model}");
        check(None, "gpt-5.4", true);
        check(Some("https://api.openai.com/v1"), "gpt-4.1", true);
        check(Some("https://eu.api.openai.com/v1/"), "gpt-5.4", true);
        check(Some("https://notapi.openai.com/v1"), "gpt-5.4", false);
        check(Some("http://127.0.0.1:4000/v1"), "gpt-5.4", false);
        check(Some("http://127.0.0.1:4000/v1"), "gpt-5.3-codex", true);
        check(Some("http://127.0.0.1:4000/v1"), "gpt-5.4-pro", true);
    }
}
