use serde::{Deserialize, Serialize};

use super::copilot;

/// A wire protocol the server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Anthropic Messages: `POST /v1/messages`.
    Anthropic,
    /// OpenAI Chat Completions: `POST /v1/chat/completions`.
    Openai,
    /// OpenAI Responses: `POST /v1/responses`.
    Responses,
    /// Gemini: `POST /{v1|v1beta}/models/{model}:generateContent` and `:streamGenerateContent`.
    Gemini,
}

impl Protocol {
    /// All of them, for tests that run on each.
    pub const ALL: [Self; 4] = [Self::Anthropic, Self::Openai, Self::Responses, Self::Gemini];
}

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) protocol: Protocol,
    /// Gemini names model and streaming in the path.
    pub(crate) gemini: Option<GeminiRoute>,
    /// OpenAI has paths of their own for pictures and sound.
    pub(crate) media: Option<MediaRoute>,
}

/// What is no conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MediaRoute {
    Images,
    Speech,
    Transcriptions,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GeminiRoute {
    pub(crate) model: String,
    pub(crate) stream: bool,
    /// `alt=sse`; without it a stream is a JSON array.
    pub(crate) sse: bool,
}

impl Route {
    pub(crate) fn parse(path: &str, query: &str) -> Option<Self> {
        let plain = |protocol| {
            Some(Self {
                protocol,
                gemini: None,
                media: None,
            })
        };
        let media = |media| {
            Some(Self {
                protocol: Protocol::Openai,
                gemini: None,
                media: Some(media),
            })
        };
        match path {
            "/v1/messages" => return plain(Protocol::Anthropic),
            "/v1/chat/completions" | copilot::COMPLETIONS => return plain(Protocol::Openai),
            "/v1/responses" => return plain(Protocol::Responses),
            "/v1/images/generations" => return media(MediaRoute::Images),
            "/v1/audio/speech" => return media(MediaRoute::Speech),
            "/v1/audio/transcriptions" => return media(MediaRoute::Transcriptions),
            _ => {}
        }
        let rest = path
            .strip_prefix("/v1/models/")
            .or_else(|| path.strip_prefix("/v1beta/models/"))?;
        let (model, method) = rest.split_once(':')?;
        let stream = match method {
            "generateContent" => false,
            "streamGenerateContent" => true,
            _ => return None,
        };
        let sse = query.split('&').any(|pair| pair == "alt=sse");
        Some(Self {
            protocol: Protocol::Gemini,
            gemini: Some(GeminiRoute {
                model: model.to_owned(),
                stream,
                sse,
            }),
            media: None,
        })
    }
}
