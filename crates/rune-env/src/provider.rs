//! Model providers and which of them can be used.

use std::fmt;

use crate::config::ProvidersConfig;

/// A model provider that needs no `endpoints` entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Provider {
    /// Anthropic Messages.
    Anthropic,
    /// The `claude` CLI or its key.
    ClaudeCode,
    /// Gemini generateContent.
    Gemini,
    /// GitHub Copilot.
    Copilot,
    /// OpenAI.
    Openai,
    /// The scripted model that comes with Rune.
    Offline,
}

impl Provider {
    /// In the order in which an agent without `providers` tries them.
    pub const ALL: [Self; 6] = [
        Self::Anthropic,
        Self::ClaudeCode,
        Self::Gemini,
        Self::Copilot,
        Self::Openai,
        Self::Offline,
    ];

    /// The word used in a Runefile.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::ClaudeCode => "claude-code",
            Self::Gemini => "gemini",
            Self::Copilot => "copilot",
            Self::Openai => "openai",
            Self::Offline => "offline",
        }
    }

    /// The provider of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|provider| provider.as_str() == name)
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl ProvidersConfig {
    /// Whether the provider can be called; `offline` always can.
    pub fn has_key(&self, provider: Provider) -> bool {
        match provider {
            Provider::Anthropic => self.anthropic_api_key.is_some(),
            Provider::ClaudeCode => self.claude_api_key.is_some(),
            Provider::Gemini => self.gemini_api_key.is_some(),
            Provider::Copilot => self.copilot_token.is_some(),
            Provider::Openai => self.openai_api_key.is_some(),
            Provider::Offline => true,
        }
    }

    /// What an agent without `providers` uses: the first provider with a key, else `offline`.
    pub fn preferred(&self) -> Provider {
        Provider::ALL
            .into_iter()
            .find(|provider| self.has_key(*provider))
            .unwrap_or(Provider::Offline)
    }
}
