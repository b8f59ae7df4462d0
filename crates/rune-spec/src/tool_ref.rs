//! Entries of a toolset.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::error::InvalidValue;
use crate::name::tool_name;

/// One entry of `toolset`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ToolRef {
    /// `rune@NAME`: a built-in tool.
    Builtin(String),
    /// `NAME`: a tool of the package (`tools/*.yaml`).
    Local(String),
    /// `SERVER/TOOL`: one tool of an MCP server.
    Mcp {
        /// The server's name.
        server: String,
        /// The tool's name on that server.
        tool: String,
    },
    /// `SERVER/*`: every tool of an MCP server.
    McpAll(String),
}

impl ToolRef {
    /// The name the model sees: `rune__NAME`, `NAME`, `SERVER__TOOL`; `None` for `SERVER/*`.
    pub fn visible_name(&self) -> Option<String> {
        match self {
            Self::Builtin(name) => Some(format!("rune__{name}")),
            Self::Local(name) => Some(name.clone()),
            Self::Mcp { server, tool } => Some(Self::mcp_visible_name(server, tool)),
            Self::McpAll(_) => None,
        }
    }

    /// The name the model sees for a tool of an MCP server: characters that providers refuse become `_`.
    pub fn mcp_visible_name(server: &str, tool: &str) -> String {
        format!("{server}__{tool}")
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '_' || c == '-' {
                    c
                } else {
                    '_'
                }
            })
            .take(64)
            .collect()
    }
}

impl FromStr for ToolRef {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if let Some(name) = text.strip_prefix("rune@") {
            return tool_name(name).map(|()| Self::Builtin(name.to_owned()));
        }
        let Some((server, tool)) = text.split_once('/') else {
            return tool_name(text).map(|()| Self::Local(text.to_owned()));
        };
        tool_name(server).map_err(|_| {
            InvalidValue::new(format!("`{text}` does not name an MCP server before `/`"))
        })?;
        match tool {
            "*" => Ok(Self::McpAll(server.to_owned())),
            "" => Err(
                InvalidValue::new(format!("`{text}` names no tool after `/`"))
                    .with_help(Some(format!("use `{server}/*` for all of its tools"))),
            ),
            _ if tool
                .chars()
                .any(|c| c.is_whitespace() || c.is_control() || c == '*') =>
            {
                Err(InvalidValue::new(format!("`{text}` is not a tool name")))
            }
            _ => Ok(Self::Mcp {
                server: server.to_owned(),
                tool: tool.to_owned(),
            }),
        }
    }
}

impl fmt::Display for ToolRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin(name) => write!(f, "rune@{name}"),
            Self::Local(name) => f.write_str(name),
            Self::Mcp { server, tool } => write!(f, "{server}/{tool}"),
            Self::McpAll(server) => write!(f, "{server}/*"),
        }
    }
}

impl Serialize for ToolRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
