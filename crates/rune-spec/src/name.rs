//! Names that route requests.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::error::InvalidValue;

/// Longest agent name, in characters.
const MAX_NAME: usize = 63;

/// The name of an agent: 1-63 of `a-z0-9-`, starts and ends alphanumeric. The routing key of `local://NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct AgentName(String);

impl AgentName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for AgentName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for AgentName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        label(text, "name").map(Self)
    }
}

/// Checks a lower-case label (agents, networks, projects, namespaces).
pub(crate) fn label(text: &str, what: &str) -> Result<String, InvalidValue> {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let inside = text.chars().all(|c| alphanumeric(c) || c == '-');
    let ends = text.starts_with(alphanumeric) && text.ends_with(alphanumeric);
    if inside && ends && text.len() <= MAX_NAME {
        return Ok(text.to_owned());
    }
    Err(InvalidValue::new(format!(
        "{what} `{text}` must be 1 to {MAX_NAME} of `a-z`, `0-9` and `-`, starting and ending with a letter or digit"
    ))
    .with_help(repaired(text)))
}

fn repaired(text: &str) -> Option<String> {
    let mapped: String = text
        .to_lowercase()
        .chars()
        .map(|c| {
            if c.is_ascii_lowercase() || c.is_ascii_digit() {
                c
            } else {
                '-'
            }
        })
        .take(MAX_NAME)
        .collect();
    let trimmed = mapped.trim_matches('-');
    (!trimmed.is_empty()).then(|| format!("for example `{trimmed}`"))
}

/// Checks a tool name: what every model provider accepts as a function name.
pub(crate) fn tool_name(text: &str) -> Result<(), InvalidValue> {
    let valid = (1..=64).contains(&text.len())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if valid {
        return Ok(());
    }
    Err(InvalidValue::new(format!(
        "tool name `{text}` must be 1 to 64 of letters, digits, `_` and `-`"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_labels_only() {
        for name in ["a", "0", "hello-world", &"x".repeat(63)] {
            assert!(name.parse::<AgentName>().is_ok(), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a_b", "a.b", "é", &"x".repeat(64)] {
            assert!(name.parse::<AgentName>().is_err(), "{name}");
        }
    }
}
