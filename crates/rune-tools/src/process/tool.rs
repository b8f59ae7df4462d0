//! What is needed to run a tool of the `process` runtime.

use std::fmt;
use std::path::PathBuf;

use crate::{ToolError, ToolErrorKind};

/// Names that a grant cannot set: the runner owns them.
const RESERVED_PREFIX: &str = "RUNE_";

/// A variable that a tool's `capabilities` grant it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant<'a> {
    /// `env:NAME`: a variable of the daemon's environment.
    Env(&'a str),
    /// `secret:NAME`: a stored secret.
    Secret(&'a str),
}

/// A tool that is a program of the agent's package.
#[derive(Clone, PartialEq, Eq)]
pub struct ProcessTool {
    /// The program or script, as an absolute path.
    pub module: PathBuf,
    /// Variables it is granted.
    pub env: Vec<(String, String)>,
    /// Values that must not appear in an error message or a log.
    pub secrets: Vec<String>,
}

impl ProcessTool {
    /// A tool without any grant.
    pub fn new(module: impl Into<PathBuf>) -> Self {
        Self {
            module: module.into(),
            env: Vec::new(),
            secrets: Vec::new(),
        }
    }

    /// The same tool with what its capabilities grant. `lookup` knows the values.
    /// A variable that is not set stays unset; capabilities of other kinds are
    /// enforced elsewhere and ignored here.
    ///
    /// # Errors
    /// [`ToolErrorKind::Unavailable`] names a secret that does not exist;
    /// [`ToolErrorKind::Denied`] a name that the runner sets itself.
    pub fn with_capabilities<'a>(
        mut self,
        capabilities: impl IntoIterator<Item = &'a str>,
        mut lookup: impl FnMut(Grant<'_>) -> Option<String>,
    ) -> Result<Self, ToolError> {
        for capability in capabilities {
            let (name, value) = if let Some(name) = capability.strip_prefix("env:") {
                check_name(name, capability)?;
                let Some(value) = lookup(Grant::Env(name)) else {
                    continue;
                };
                (name, value)
            } else if let Some(name) = capability.strip_prefix("secret:") {
                check_name(name, capability)?;
                let value = lookup(Grant::Secret(name)).ok_or_else(|| {
                    ToolError::new(
                        ToolErrorKind::Unavailable,
                        format!(
                            "secret `{name}` is not set; store it with `rune secret set {name}`"
                        ),
                    )
                })?;
                self.secrets.push(value.clone());
                (name, value)
            } else {
                continue;
            };
            self.env.push((name.to_owned(), value));
        }
        Ok(self)
    }

    /// The text with every secret value replaced.
    pub(crate) fn redact(&self, mut text: String) -> String {
        for secret in self.secrets.iter().filter(|secret| !secret.is_empty()) {
            text = text.replace(secret, "[redacted]");
        }
        text
    }
}

// By hand: values may be secrets.
impl fmt::Debug for ProcessTool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("ProcessTool")
            .field("module", &self.module)
            .field("env", &names)
            .finish_non_exhaustive()
    }
}

fn check_name(name: &str, capability: &str) -> Result<(), ToolError> {
    if name.is_empty() || name.contains(['=', '\0']) || name.starts_with(RESERVED_PREFIX) {
        return Err(ToolError::new(
            ToolErrorKind::Denied,
            format!(
                "capability `{capability}` cannot be granted: variable names are not empty, \
                 contain no `=` and do not start with {RESERVED_PREFIX}"
            ),
        ));
    }
    Ok(())
}
