//! Secrets that a guest can use and not see.

use std::fmt::Write;

use http::{HeaderMap, HeaderValue};
use rune_tools::{Secrets, ToolError, ToolErrorKind};
use secrecy::{ExposeSecret, SecretString};

/// Random bytes of a placeholder.
const PLACEHOLDER_BYTES: usize = 16;

/// The secrets of one call under the placeholders that its guest holds.
#[derive(Default)]
pub(crate) struct Placeholders {
    all: Vec<(String, SecretString)>,
    secrets: Secrets,
}

impl Placeholders {
    /// Hides secrets; answers the variables of the guest, which hold placeholders.
    pub(crate) fn hide(secrets: &Secrets) -> Result<(Self, Vec<(String, String)>), ToolError> {
        let mut hidden = Self {
            all: Vec::new(),
            secrets: secrets.clone(),
        };
        let mut variables = Vec::new();
        for (name, value) in secrets.iter() {
            variables.push((name.to_owned(), hidden.add(value)?));
        }
        Ok((hidden, variables))
    }

    /// Keeps a secret; answers its placeholder: letters, digits and dashes.
    fn add(&mut self, value: &str) -> Result<String, ToolError> {
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
        let value = SecretString::from(value.to_owned());
        self.all.push((placeholder.clone(), value));
        Ok(placeholder)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The text with the secrets in it, each as `encode` writes it.
    pub(crate) fn reveal(&self, text: &str, encode: impl Fn(&str) -> String) -> String {
        let mut text = text.to_owned();
        for (placeholder, value) in &self.all {
            if text.contains(placeholder) {
                text = text.replace(placeholder, &encode(value.expose_secret()));
            }
        }
        text
    }

    /// As [`Placeholders::reveal`] for headers; a secret that no header can hold stays a placeholder.
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

    /// As [`Placeholders::reveal`] for a body.
    pub(crate) fn reveal_bytes(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(bytes).ok()?;
        let revealed = self.reveal(text, str::to_owned);
        (revealed != text).then(|| revealed.into_bytes())
    }

    /// The secrets themselves.
    pub(crate) const fn secrets(&self) -> &Secrets {
        &self.secrets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_is_replaced_where_it_stands() {
        let value = SecretString::from("s3cr3t &".to_owned());
        let granted = Secrets::new(vec![("TOKEN".to_owned(), value)]);
        let (secrets, variables) = Placeholders::hide(&granted).unwrap();
        let (name, token) = &variables[0];
        assert_eq!(name, "TOKEN");
        assert!(!token.contains("s3cr3t"));
        let mut headers = HeaderMap::new();
        let bearer = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
        headers.insert("authorization", bearer);
        secrets.reveal_headers(&mut headers);
        assert_eq!(headers["authorization"], "Bearer s3cr3t &");
        let body = secrets.reveal_bytes(format!("{{\"k\":\"{token}\"}}").as_bytes());
        assert_eq!(body.unwrap(), b"{\"k\":\"s3cr3t &\"}");
        assert_eq!(secrets.reveal_bytes(b"nothing"), None);
    }
}
