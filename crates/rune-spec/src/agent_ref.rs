//! References to agents.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::error::InvalidValue;
use crate::name::AgentName;

const LOCAL: &str = "local://";

/// Another agent: `local://NAME`, or the URL of an A2A endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AgentRef {
    /// An agent of this installation.
    Local(AgentName),
    /// An A2A endpoint. The text is raw: it may contain `${VAR}`.
    Url(String),
}

impl FromStr for AgentRef {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if let Some(name) = text.strip_prefix(LOCAL) {
            return name.parse().map(Self::Local);
        }
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"));
        let is_url = rest.is_some_and(|rest| !rest.is_empty()) || text.starts_with("${");
        if is_url && !text.contains(char::is_whitespace) {
            return Ok(Self::Url(text.to_owned()));
        }
        let help = text
            .parse::<AgentName>()
            .ok()
            .map(|name| format!("did you mean `{LOCAL}{name}`?"));
        Err(InvalidValue::new(format!(
            "`{text}` is not an agent reference: expected `local://NAME` or an http(s) URL"
        ))
        .with_help(help))
    }
}

impl fmt::Display for AgentRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(name) => write!(f, "{LOCAL}{name}"),
            Self::Url(url) => f.write_str(url),
        }
    }
}

impl Serialize for AgentRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
