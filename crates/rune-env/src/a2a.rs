//! Agents over A2A.

use std::path::PathBuf;

use crate::error::ConfigError;
use crate::resolve::Resolved;

/// How agents are shown to A2A clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct A2aConfig {
    /// `RUNE_A2A_LEGACY_CARD`: whether cards have the fields of 0.3 beside those of 1.0.
    pub legacy_card: bool,
    /// `RUNE_A2A_PUBLIC_CARDS`: whether clients without credentials see cards.
    pub public_cards: bool,
    /// `RUNE_A2A_DEFAULT_AGENT`: whose card stands at the root.
    pub default_agent: Option<String>,
    /// `RUNE_A2A_PUSH_NOTIFICATIONS`: whether tasks have webhooks.
    pub push_notifications: bool,
    /// `RUNE_A2A_PUSH_ALLOW_PRIVATE`: where webhooks may be although that is not public.
    pub push_allow_private: Vec<String>,
    /// `RUNE_A2A_SIGNING_KEY_FILE`: the private key that signs cards.
    pub signing_key_file: Option<PathBuf>,
}

impl A2aConfig {
    pub(crate) fn read(
        resolved: &Resolved,
        list: Vec<String>,
        signing_key_file: Option<PathBuf>,
    ) -> Result<Self, ConfigError> {
        let flag = |key| {
            let parse = |text: &str| match text {
                "on" => Some(true),
                "off" => Some(false),
                _ => None,
            };
            resolved.parse(key, parse).map(|flag| flag.unwrap_or(true))
        };
        Ok(Self {
            legacy_card: flag("a2a.legacy_card")?,
            public_cards: flag("a2a.public_cards")?,
            default_agent: resolved.text("a2a.default_agent"),
            push_notifications: flag("a2a.push_notifications")?,
            push_allow_private: list,
            signing_key_file,
        })
    }
}
