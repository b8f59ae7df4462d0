//! Why the configuration was refused.

use std::borrow::Cow;
use std::path::PathBuf;

/// The configuration is not usable. Values of secrets never appear in a message.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path}:{line}:{column}: {message}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the parser says.
        message: String,
    },
    /// The file has a key that does not exist.
    #[error(
        "{path}:{line}:{column}: unknown key `{key}`{}",
        suggestion.map(|near| format!(" (did you mean `{near}`?)")).unwrap_or_default(),
        path = path.display()
    )]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// The key with its table.
        key: String,
        /// The near name.
        suggestion: Option<&'static str>,
    },
    /// A value in the file has the wrong shape.
    #[error("{path}:{line}:{column}: `{key}` {message}", path = path.display())]
    FileValue {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// The key with its table.
        key: Cow<'static, str>,
        /// What is expected.
        message: String,
    },
    /// A value of the environment or a flag has the wrong shape.
    #[error("{origin} {message}")]
    Value {
        /// The variable or the flag's key.
        origin: String,
        /// What is expected.
        message: String,
    },
    /// A flag names a key that does not exist.
    #[error("there is no configuration key `{key}`")]
    UnknownOverride {
        /// The key.
        key: String,
    },
    /// A path starts with `~`, but there is no home directory.
    #[error("`{key}` starts with `~`, but HOME is not set")]
    NoHome {
        /// The key.
        key: &'static str,
    },
}
