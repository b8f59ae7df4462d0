//! Agents over A2A.

use std::path::PathBuf;

use secrecy::SecretString;

use crate::error::ConfigError;
use crate::resolve::Resolved;

/// How agents are shown to A2A clients.
#[derive(Debug, Clone)]
pub struct A2aConfig {
    /// `RUNE_A2A_LEGACY_CARD`: whether cards have the fields of 0.3 beside those of 1.0.
    pub legacy_card: bool,
    /// `RUNE_A2A_PUBLIC_CARDS`: whether clients without credentials see cards.
    pub public_cards: bool,
    /// `RUNE_A2A_DEFAULT_AGENT`: whose card stands at the root.
    pub default_agent: Option<String>,
    /// `RUNE_A2A_REMOTE_HOSTS`: where agents of other installations may be called, `*` for everywhere.
    pub remote_hosts: Vec<String>,
    /// `RUNE_A2A_REMOTE_CREDENTIALS`: what proves to them who calls.
    pub remote_credentials: Vec<RemoteCredentialConfig>,
    /// `RUNE_A2A_PUSH_NOTIFICATIONS`: whether tasks have webhooks.
    pub push_notifications: bool,
    /// `RUNE_A2A_PUSH_ALLOW_PRIVATE`: where webhooks may be although that is not public.
    pub push_allow_private: Vec<String>,
    /// `RUNE_A2A_SIGNING_KEY_FILE`: the private key that signs cards.
    pub signing_key_file: Option<PathBuf>,
}

/// A header that is sent to agents of one origin.
#[derive(Debug, Clone)]
pub struct RemoteCredentialConfig {
    /// Scheme, host and port.
    pub origin: String,
    /// The name of the header, in lower case.
    pub header: String,
    /// Its value.
    pub value: SecretString,
}

impl A2aConfig {
    pub(crate) fn read(
        resolved: &Resolved,
        list: Vec<String>,
        remote_hosts: Vec<String>,
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
            remote_hosts: remote_hosts
                .into_iter()
                .filter(|host| host != "none")
                .collect(),
            remote_credentials: resolved
                .parse("a2a.remote_credentials", credentials)?
                .unwrap_or_default(),
            push_notifications: flag("a2a.push_notifications")?,
            push_allow_private: list,
            signing_key_file,
        })
    }
}

/// One credential a line; nothing where one is not right.
fn credentials(text: &str) -> Option<Vec<RemoteCredentialConfig>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(credential).collect()
}

fn credential(line: &str) -> Option<RemoteCredentialConfig> {
    let (origin, rest) = line.split_once(char::is_whitespace)?;
    let rest = rest.trim();
    let is_origin = ["https://", "http://"].iter().any(|scheme| {
        let host = origin.strip_prefix(scheme);
        host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '?', '#', '@']))
    });
    let (header, value) = match rest.split_once(char::is_whitespace)? {
        (scheme, _) if scheme.eq_ignore_ascii_case("bearer") => ("authorization", rest),
        (header, value) => (header.strip_suffix(':')?, value.trim()),
    };
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let is_header = !header.is_empty() && header.bytes().all(is_name);
    let is_value = !value.is_empty() && value.bytes().all(|b| (0x20..0x7f).contains(&b));
    (is_origin && is_header && is_value).then(|| RemoteCredentialConfig {
        origin: origin.to_owned(),
        header: header.to_ascii_lowercase(),
        value: SecretString::from(value.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_credential_is_a_token_or_a_header_for_an_origin() {
        let text = "https://a.example Bearer abc\n\n  http://127.0.0.1:9 X-API-Key: k 1\n";
        let read = credentials(text).unwrap();
        let read: Vec<_> = read
            .iter()
            .map(|one| {
                (
                    one.origin.as_str(),
                    one.header.as_str(),
                    one.value.expose_secret(),
                )
            })
            .collect();
        let expected = [
            ("https://a.example", "authorization", "Bearer abc"),
            ("http://127.0.0.1:9", "x-api-key", "k 1"),
        ];
        assert_eq!(read, expected);
        for wrong in [
            "https://a.example",
            "a.example Bearer x",
            "https://a.example/path Bearer x",
            "https://a.example X-API-Key k",
            "https://a.example X Y: k",
            "https://u@a.example Bearer x",
        ] {
            assert!(credentials(wrong).is_none(), "{wrong}");
        }
    }
}
