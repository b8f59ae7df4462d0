//! `tools/*.yaml`: what one tool is.

mod document;
mod validate;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::agent_ref::AgentRef;
use crate::capability::Capability;
use crate::document::Document;
use crate::error::SpecErrors;

pub(crate) use document::ToolDocument;
pub(crate) use validate::{first_required, object_schema};

/// Longest wait between two attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// A valid tool description.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ToolDescriptor {
    /// The name in `toolset` (without `rune@`).
    pub name: String,
    /// Told to the model.
    pub description: String,
    /// The tool's version.
    pub version: semver::Version,
    /// What runs it.
    #[serde(flatten)]
    pub runtime: ToolRuntime,
    /// Hard limit per attempt; for an agent only where the description says so, a year otherwise.
    #[serde(rename = "timeout_ms", serialize_with = "as_millis")]
    pub timeout: Duration,
    /// When a failed call is repeated.
    pub retry_policy: RetryPolicy,
    /// Whether running it twice with the same key is the same as once.
    pub idempotent: bool,
    /// Whether it changes nothing.
    pub read_only: bool,
    /// What it may reach.
    pub capabilities: Vec<Capability>,
    /// JSON Schema of the input; always of type object.
    pub input_schema: Value,
    /// The file `input_schema` comes from; [`crate::AgentPackage::load`] has read it, [`Self::parse`] has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_schema_ref: Option<PathBuf>,
    /// JSON Schema of the output.
    pub output_schema: Option<Value>,
    /// The file `output_schema` comes from; see `input_schema_ref`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_schema_ref: Option<PathBuf>,
    /// The input property that policy rules `tool(glob)` look at.
    pub primary_argument: Option<String>,
    /// Limits besides time.
    pub limits: Limits,
}

impl ToolDescriptor {
    /// Parses and validates the text of a tool description. `path` only serves the messages.
    ///
    /// # Errors
    /// The first error of the YAML, or every error of meaning.
    pub fn parse(path: &Path, text: &str) -> Result<Self, SpecErrors> {
        Self::parse_with_source(path, text).map(|(tool, _)| tool)
    }

    pub(crate) fn parse_with_source(
        path: &Path,
        text: &str,
    ) -> Result<(Self, Document), SpecErrors> {
        let (document, source) = Document::parse::<ToolDocument>(path, text)?;
        Ok((validate::validate(document, &source)?, source))
    }

    /// The longest that a call may take with all of its attempts and the waits between them.
    #[must_use]
    pub fn longest_call(&self) -> Duration {
        let policy = &self.retry_policy;
        let waits = (1..policy.max_attempts).map(|tried| policy.wait(tried));
        self.timeout.saturating_mul(policy.max_attempts) + waits.sum::<Duration>()
    }

    /// The text policy rules match for a call: the primary argument (its schema default when absent), as text when
    /// it is a string, else as compact JSON; the whole input as compact JSON when no argument is primary.
    pub fn policy_argument(&self, input: &Value) -> String {
        match &self.primary_argument {
            Some(name) => self.argument_text(input, name).unwrap_or_default(),
            None => input.to_string(),
        }
    }

    /// The text policy rules match for the argument `name`: the argument, or its schema default when absent, as text
    /// when it is a string, else as compact JSON.
    pub fn argument_text(&self, input: &Value, name: &str) -> Option<String> {
        let default = || {
            let properties = self.input_schema.get("properties")?;
            properties.get(name)?.get("default")
        };
        Some(match input.get(name).or_else(default)? {
            Value::String(text) => text.clone(),
            value => value.to_string(),
        })
    }
}

/// What runs a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "runtime", rename_all = "snake_case")]
pub enum ToolRuntime {
    /// A child process: JSON on stdin, JSON on stdout.
    Process {
        /// The program, relative to the agent directory.
        module: PathBuf,
    },
    /// A WASI command or a component exporting `rune:tool`.
    Wasm {
        /// The module, relative to the agent directory.
        module: PathBuf,
    },
    /// A container per call.
    Container {
        /// OCI reference; raw text.
        image: String,
        /// A program of the package to run inside, relative to the agent directory.
        module: Option<PathBuf>,
    },
    /// Another agent.
    Agent {
        /// Which agent.
        agent_ref: AgentRef,
        /// Deepest level below the outermost request on which the agent may be called; the platform's default
        /// when absent.
        max_depth: Option<u32>,
    },
    /// A tool of an MCP server, under its own name.
    Mcp {
        /// The server's name.
        mcp_server: String,
    },
    /// Part of Rune.
    Builtin,
}

/// When a failed call is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RetryPolicy {
    /// Attempts in total, at least 1.
    pub max_attempts: u32,
    /// Wait before the second attempt; doubles for each further one, up to half a minute.
    #[serde(rename = "backoff_ms", serialize_with = "as_millis")]
    pub backoff: Duration,
}

impl RetryPolicy {
    /// The wait behind so many attempts, at least one.
    #[must_use]
    pub fn wait(&self, tried: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(tried.saturating_sub(1));
        self.backoff.saturating_mul(doubled).min(MAX_BACKOFF)
    }
}

/// Limits besides time; absent means the platform's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Limits {
    /// Memory in MiB.
    pub memory_mb: Option<u64>,
    /// WASM fuel.
    pub fuel: Option<u64>,
    /// CPU time in milliseconds.
    pub cpu_ms: Option<u64>,
    /// Processes and threads at a time; process tools and containers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    /// Bytes of output.
    pub output_bytes: Option<u64>,
}

/// Serializes a duration as whole milliseconds.
pub(crate) fn as_millis<S: Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(duration.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_may_take_all_of_its_attempts_and_waits() {
        let text = "name: a\ndescription: A.\nmodule: a.sh\ntimeout_ms: 1000\nretry_policy: {max_attempts: 4, backoff_ms: 10000}\n";
        let tool = ToolDescriptor::parse(Path::new("tools/a.yaml"), text).unwrap();
        // Four attempts; waits of 10, 20 and, instead of 40, 30 seconds.
        assert_eq!(tool.longest_call(), Duration::from_secs(4 + 10 + 20 + 30));
        let once = RetryPolicy {
            max_attempts: 1,
            ..tool.retry_policy
        };
        let tool = ToolDescriptor {
            retry_policy: once,
            ..tool
        };
        assert_eq!(tool.longest_call(), Duration::from_secs(1));
    }
}
