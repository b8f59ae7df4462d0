//! The wire protocols.

use std::fmt;

use http_types::{HeaderMap, HeaderName, HeaderValue};
use reqwest::header as http_types;
use rune_store_runtime::NativeBlock;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::{CallIds, Decode};
use crate::model::{ModelRequest, anthropic, gemini, openai, responses};

/// How a provider is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Anthropic Messages.
    Anthropic,
    /// OpenAI Chat Completions.
    OpenAi,
    /// OpenAI Responses.
    Responses,
    /// Gemini `streamGenerateContent`.
    Gemini,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Anthropic, Self::OpenAi, Self::Responses, Self::Gemini];

    /// The name in `endpoints` and in [`NativeBlock::protocol`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::OpenAi => "openai",
            Self::Responses => "responses",
            Self::Gemini => "gemini",
        }
    }

    /// The vendor's own base URL, in the form its SDK takes.
    #[must_use]
    pub const fn default_base_url(self) -> &'static str {
        match self {
            Self::Anthropic => anthropic::DEFAULT_BASE_URL,
            Self::OpenAi | Self::Responses => openai::DEFAULT_BASE_URL,
            Self::Gemini => gemini::DEFAULT_BASE_URL,
        }
    }

    /// The JSON body of a streaming call of this protocol.
    #[must_use]
    pub fn request_body(self, request: &ModelRequest) -> Value {
        self.body(request, true)
    }

    /// As [`Protocol::request_body`]; without `native_schema` the model is told of the
    /// output schema in words.
    pub(super) fn body(self, request: &ModelRequest, native_schema: bool) -> Value {
        match self {
            Self::Anthropic => anthropic::encode(request, native_schema),
            Self::OpenAi => openai::encode(request, native_schema),
            Self::Responses => responses::encode(request, native_schema),
            Self::Gemini => gemini::encode(request, native_schema),
        }
    }

    /// Where a call goes. `base` and path are joined with exactly one `/`.
    pub(super) fn url(self, base: &str, model: &str) -> String {
        let base = base.trim_end_matches('/');
        match self {
            Self::Anthropic => format!("{base}/v1/messages"),
            Self::OpenAi => format!("{base}/chat/completions"),
            Self::Responses => format!("{base}/responses"),
            Self::Gemini => {
                let model = model.strip_prefix("models/").unwrap_or(model);
                format!("{base}/v1beta/models/{model}:streamGenerateContent?alt=sse")
            }
        }
    }

    /// The headers of a call; `None` where the key cannot be a header.
    pub(super) fn headers(self, key: Option<&SecretString>) -> Option<HeaderMap> {
        let mut headers = HeaderMap::new();
        if self == Self::Anthropic {
            let version = HeaderValue::from_static(anthropic::VERSION);
            headers.insert(HeaderName::from_static("anthropic-version"), version);
        }
        if let Some(key) = key {
            let key = key.expose_secret();
            let (name, value) = match self {
                Self::Anthropic => (HeaderName::from_static("x-api-key"), key.to_owned()),
                Self::OpenAi | Self::Responses => {
                    (http_types::AUTHORIZATION, format!("Bearer {key}"))
                }
                Self::Gemini => (HeaderName::from_static("x-goog-api-key"), key.to_owned()),
            };
            let mut value = HeaderValue::try_from(value).ok()?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Some(headers)
    }

    /// A decoder for one reply.
    pub(super) fn decoder(self, ids: CallIds) -> Box<dyn Decode> {
        match self {
            Self::Anthropic => Box::new(anthropic::Decoder::new(ids)),
            Self::OpenAi => Box::new(openai::Decoder::new(ids)),
            Self::Responses => Box::new(responses::Decoder::new(ids)),
            Self::Gemini => Box::new(gemini::Decoder::new(ids)),
        }
    }

    /// Marks `json` as this protocol's own.
    pub(in crate::model) fn native(self, json: Value) -> NativeBlock {
        NativeBlock {
            protocol: self.name().to_owned(),
            json,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_base_and_path_with_one_slash() {
        for base in ["http://h", "http://h/"] {
            let url = Protocol::Anthropic.url(base, "m");
            assert_eq!(url, "http://h/v1/messages");
        }
        for base in ["http://h/v1", "http://h/v1/"] {
            let url = Protocol::OpenAi.url(base, "m");
            assert_eq!(url, "http://h/v1/chat/completions");
            let url = Protocol::Responses.url(base, "m");
            assert_eq!(url, "http://h/v1/responses");
        }
        let url = Protocol::Gemini.url("http://h/", "models/g");
        assert_eq!(
            url,
            "http://h/v1beta/models/g:streamGenerateContent?alt=sse"
        );
    }

    #[test]
    fn a_key_that_is_no_header_value_is_refused() {
        let key = SecretString::from("a\nb");
        assert!(Protocol::OpenAi.headers(Some(&key)).is_none());
    }
}
