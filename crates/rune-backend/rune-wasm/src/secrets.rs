//! Secrets that a guest can use and not see.

use std::fmt::Write;

use http::{HeaderMap, HeaderValue};
use rune_tools::{ToolError, ToolErrorKind};

/// Random bytes of a placeholder.
const PLACEHOLDER_BYTES: usize = 16;

/// The secrets of a tool under the placeholders that its guests hold.
#[derive(Default)]
pub(crate) struct Secrets(Vec<(String, String)>);

impl Secrets {
    /// Keeps a secret; answers its placeholder: letters, digits and dashes.
    pub(crate) fn hide(&mut self, value: String) -> Result<String, ToolError> {
        let mut random = [0; PLACEHOLDER_BYTES];
        getrandom::fill(&mut random).map_err(|error| {
            let message = format!("the system has no random numbers: {error}");
            ToolError::new(ToolErrorKind::Unavailable, message)
        })?;
        let mut placeholder = "rune-secret-".to_owned();
        for byte in random {
            // Writing to a text does not fail.
            let _ = write!(placeholder, "{byte:02x}");
        }
        self.0.push((placeholder.clone(), value));
        Ok(placeholder)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text with the secrets in it, each as `encode` writes it.
    pub(crate) fn reveal(&self, text: &str, encode: impl Fn(&str) -> String) -> String {
        let mut text = text.to_owned();
        for (placeholder, value) in &self.0 {
            if text.contains(placeholder) {
                text = text.replace(placeholder, &encode(value));
            }
        }
        text
    }

    /// As [`Secrets::reveal`] for headers; a secret that no header can hold stays a placeholder.
    pub(crate) fn reveal_headers(&self, headers: &mut HeaderMap) {
        if self.is_empty() {
            return;
        }
        for value in headers.values_mut() {
            let Ok(text) = value.to_str() else { continue };
            let revealed = self.reveal(text, str::to_owned);
            if revealed != text
                && let Ok(mut secret) = HeaderValue::try_from(revealed)
            {
                secret.set_sensitive(true);
                *value = secret;
            }
        }
    }

    /// As [`Secrets::reveal`] for a body.
    pub(crate) fn reveal_bytes(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(bytes).ok()?;
        let revealed = self.reveal(text, str::to_owned);
        (revealed != text).then(|| revealed.into_bytes())
    }

    /// The text without any secret.
    pub(crate) fn redact(&self, mut text: String) -> String {
        for (_, value) in self.0.iter().filter(|(_, value)| !value.is_empty()) {
            text = text.replace(value, "[redacted]");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_is_replaced_where_it_stands() {
        let mut secrets = Secrets::default();
        let token = secrets.hide("s3cr3t &".to_owned()).unwrap();
        let mut headers = HeaderMap::new();
        let bearer = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
        headers.insert("authorization", bearer);
        secrets.reveal_headers(&mut headers);
        assert_eq!(headers["authorization"], "Bearer s3cr3t &");
        let body = secrets.reveal_bytes(format!("{{\"k\":\"{token}\"}}").as_bytes());
        assert_eq!(body.unwrap(), b"{\"k\":\"s3cr3t &\"}");
        assert_eq!(secrets.reveal_bytes(b"nothing"), None);
        assert_eq!(
            secrets.redact("it was s3cr3t &".to_owned()),
            "it was [redacted]"
        );
    }
}
