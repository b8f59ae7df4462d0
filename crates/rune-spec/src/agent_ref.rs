//! References to agents.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::error::InvalidValue;
use crate::name::{AgentName, label};

const LOCAL: &str = "local://";
const ALIAS: &str = "?alias=";

/// Another agent: `local://NAME`, or the URL of an A2A endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AgentRef {
    /// An agent of this installation.
    Local(LocalAgent),
    /// An A2A endpoint. The text is raw: it may contain `${VAR}`.
    Url(String),
}

/// An agent of this installation: `local://[NAMESPACE/]NAME[?alias=ALIAS]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LocalAgent {
    /// The namespace; that of whoever refers to it when absent.
    pub namespace: Option<String>,
    /// The name.
    pub name: AgentName,
    /// The alias of the deployment; `stable` when absent.
    pub alias: Option<String>,
}

impl FromStr for LocalAgent {
    type Err = InvalidValue;

    /// Parses what follows `local://`.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let (path, alias) = match text.split_once(ALIAS) {
            Some((path, alias)) => (path, Some(label(alias, "alias")?)),
            None => (text, None),
        };
        let (namespace, name) = match path.split_once('/') {
            Some((namespace, name)) => (Some(label(namespace, "namespace")?), name),
            None => (None, path),
        };
        Ok(Self {
            namespace,
            name: name.parse()?,
            alias,
        })
    }
}

impl fmt::Display for LocalAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(LOCAL)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        write!(f, "{}", self.name)?;
        match &self.alias {
            Some(alias) => write!(f, "{ALIAS}{alias}"),
            None => Ok(()),
        }
    }
}

impl FromStr for AgentRef {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if let Some(rest) = text.strip_prefix(LOCAL) {
            return rest.parse().map(Self::Local);
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
            Self::Local(local) => local.fmt(f),
            Self::Url(url) => f.write_str(url),
        }
    }
}

impl Serialize for AgentRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_survives_being_printed() {
        for text in [
            "local://a",
            "local://prod/a",
            "local://a?alias=canary",
            "local://prod/a?alias=canary",
            "https://example.org/a2a/x",
            "${PEER}",
        ] {
            assert_eq!(text.parse::<AgentRef>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_names_no_agent() {
        for text in [
            "local://",
            "local://A",
            "local:///a",
            "local://x/y/z",
            "local://a?alias=",
            "local://a?ns=b",
            "billing",
            "http://",
        ] {
            assert!(text.parse::<AgentRef>().is_err(), "{text}");
        }
    }
}
