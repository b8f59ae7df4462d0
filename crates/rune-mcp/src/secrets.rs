//! Values that must not leave.

use std::fmt;

use serde_json::Value;

/// What stands in the place of a secret.
const REDACTED: &str = "[redacted]";
/// A shorter value is not taken for a secret: replacing it everywhere would destroy what is said.
const SHORTEST: usize = 6;

/// The values that were resolved for one server.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    pub(crate) fn add(&mut self, value: &str) {
        let value = value.trim();
        if value.len() >= SHORTEST && !self.0.iter().any(|known| known == value) {
            self.0.push(value.to_owned());
            // One may be a part of another.
            self.0.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        }
    }

    /// Forgets the values of which `keep` says so.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|secret| keep(secret));
    }

    /// The text without them.
    pub(crate) fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.0 {
            if text.contains(secret.as_str()) {
                text = text.replace(secret, REDACTED);
            }
        }
        text
    }

    /// The value without them, in texts and in names.
    pub(crate) fn redact_value(&self, value: Value) -> Value {
        if self.0.is_empty() {
            return value;
        }
        match value {
            Value::String(text) => Value::String(self.redact(&text)),
            Value::Array(items) => items
                .into_iter()
                .map(|item| self.redact_value(item))
                .collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, value)| (self.redact(&name), self.redact_value(value)))
                .collect(),
            other => other,
        }
    }
}

// By hand: they are secrets.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_secret_is_replaced_wherever_it_is_and_a_short_value_is_none() {
        let mut secrets = Secrets::default();
        for value in ["token-1", "token-1-and-more", "on"] {
            secrets.add(value);
        }
        assert_eq!(
            secrets.redact("token-1-and-more token-1 on"),
            "[redacted] [redacted] on"
        );
        assert_eq!(
            secrets.redact_value(json!({"a": ["x token-1"], "token-1": 1})),
            json!({"a": ["x [redacted]"], "[redacted]": 1})
        );
    }
}
