//! What a tool may reach.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::checker::is_variable_name;
use crate::error::InvalidValue;
use crate::suggest::help_for;

/// Whether files may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Access {
    /// Reading only.
    #[serde(rename = "ro")]
    ReadOnly,
    /// Reading and writing.
    #[serde(rename = "rw")]
    ReadWrite,
}

/// One grant of a tool. Without a grant a tool reaches nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Capability {
    /// `filesystem`: the agent's workspace, read and write.
    Workspace,
    /// `filesystem:ro:PATH` or `filesystem:rw:PATH`; a relative path is below the agent's workspace.
    Filesystem {
        /// Reading only, or writing too.
        access: Access,
        /// The directory or file; raw text.
        path: String,
    },
    /// `network`: any host.
    AnyNetwork,
    /// `network:HOST[:PORT]`.
    Network {
        /// Host name, IPv4 address, IPv6 address without brackets, or `*.example.org`.
        host: String,
        /// Only this port; any when absent.
        port: Option<u16>,
    },
    /// `env:NAME`: this variable of the daemon's environment is passed on.
    Env(String),
    /// `secret:NAME`: this stored secret is passed as a variable.
    Secret(String),
}

impl FromStr for Capability {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let (kind, rest) = match text.split_once(':') {
            Some((kind, rest)) => (kind, Some(rest)),
            None => (text, None),
        };
        match (kind, rest) {
            ("filesystem", None) => Ok(Self::Workspace),
            ("filesystem", Some(rest)) => filesystem(text, rest),
            ("network", None) => Ok(Self::AnyNetwork),
            ("network", Some(rest)) => network(text, rest),
            ("env", Some(name)) if is_variable_name(name) => Ok(Self::Env(name.to_owned())),
            ("secret", Some(name)) if is_variable_name(name) => Ok(Self::Secret(name.to_owned())),
            ("env" | "secret", _) => Err(InvalidValue::new(format!(
                "`{text}` must name a variable, as in `{kind}:NAME`"
            ))),
            _ => Err(InvalidValue::new(format!("unknown capability `{text}`"))
                .with_help(help_for(kind, ["filesystem", "network", "env", "secret"]))),
        }
    }
}

fn filesystem(text: &str, rest: &str) -> Result<Capability, InvalidValue> {
    let access = match rest.split_once(':') {
        Some(("ro", path)) if !path.is_empty() => Some((Access::ReadOnly, path)),
        Some(("rw", path)) if !path.is_empty() => Some((Access::ReadWrite, path)),
        _ => None,
    };
    match access {
        Some((access, path)) if !path.contains('\0') => Ok(Capability::Filesystem {
            access,
            path: path.to_owned(),
        }),
        _ => Err(InvalidValue::new(format!(
            "`{text}` must be `filesystem`, `filesystem:ro:PATH` or `filesystem:rw:PATH`"
        ))),
    }
}

fn network(text: &str, rest: &str) -> Result<Capability, InvalidValue> {
    let invalid = || {
        InvalidValue::new(format!(
            "`{text}` must be `network`, `network:HOST` or `network:HOST:PORT`"
        ))
    };
    let (host, port) = match rest.strip_prefix('[') {
        Some(bracketed) => {
            let (host, port) = bracketed.split_once(']').ok_or_else(invalid)?;
            (
                host,
                if port.is_empty() {
                    None
                } else {
                    Some(port.strip_prefix(':').ok_or_else(invalid)?)
                },
            )
        }
        None if rest.matches(':').count() > 1 => (rest, None),
        None => rest
            .split_once(':')
            .map_or((rest, None), |(host, port)| (host, Some(port))),
    };
    let valid_host = !host.is_empty()
        && host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '*'));
    if !valid_host {
        return Err(invalid());
    }
    let port = port
        .map(|port| port.parse::<u16>().map_err(|_| invalid()))
        .transpose()?;
    Ok(Capability::Network {
        host: host.to_ascii_lowercase(),
        port,
    })
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workspace => f.write_str("filesystem"),
            Self::Filesystem {
                access: Access::ReadOnly,
                path,
            } => write!(f, "filesystem:ro:{path}"),
            Self::Filesystem {
                access: Access::ReadWrite,
                path,
            } => write!(f, "filesystem:rw:{path}"),
            Self::AnyNetwork => f.write_str("network"),
            Self::Network { host, port } => {
                match host.contains(':') {
                    true => write!(f, "network:[{host}]")?,
                    false => write!(f, "network:{host}")?,
                }
                port.map_or(Ok(()), |port| write!(f, ":{port}"))
            }
            Self::Env(name) => write!(f, "env:{name}"),
            Self::Secret(name) => write!(f, "secret:{name}"),
        }
    }
}

impl Serialize for Capability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_it_parsed() {
        for text in [
            "filesystem",
            "filesystem:ro:/etc/ssl",
            "filesystem:rw:data",
            "network",
            "network:example.org",
            "network:example.org:443",
            "network:[::1]:80",
            "env:HOME",
            "secret:API_KEY",
        ] {
            assert_eq!(
                text.parse::<Capability>().map(|c| c.to_string()).as_deref(),
                Ok(text)
            );
        }
    }

    #[test]
    fn rejects_what_grants_nothing_clear() {
        for text in [
            "",
            "filesystem:",
            "filesystem:wo:/x",
            "filesystem:ro:",
            "network:",
            "network:a:99999",
            "env",
            "env:1X",
            "netwrk",
        ] {
            assert!(text.parse::<Capability>().is_err(), "{text}");
        }
    }
}
