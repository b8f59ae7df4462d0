//! The short YAML form of a policy.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::error::InvalidValue;

/// What happens to a call that no rule names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicyMode {
    /// What the toolset lists is allowed.
    #[default]
    Listed,
    /// Whatever is not declared read-only asks.
    Strict,
}

/// The `policy` of a Runefile. Deny wins, then ask, then allow.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Policy {
    /// What happens to a call that no rule names.
    pub mode: PolicyMode,
    /// Calls that run without asking.
    pub allow: Vec<PolicyRule>,
    /// Calls that wait for a person.
    pub ask: Vec<PolicyRule>,
    /// Calls that never run.
    pub deny: Vec<PolicyRule>,
    /// A Cedar policy file inside the package.
    pub file: Option<PathBuf>,
}

/// `tool` or `tool(argument-glob)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    tool: Glob,
    argument: Option<Glob>,
}

impl PolicyRule {
    /// Whether the rule speaks about this call.
    ///
    /// `tool` is the toolset form (`rune@shell-exec`, `word-count`, `server/tool`); `argument` is what
    /// [`crate::ToolDescriptor::policy_argument`] says for the call's input.
    pub fn matches(&self, tool: &str, argument: &str) -> bool {
        self.tool.is_match(tool)
            && self
                .argument
                .as_ref()
                .is_none_or(|glob| glob.is_match(argument))
    }

    /// The pattern of the tool's name.
    pub fn tool(&self) -> &Glob {
        &self.tool
    }

    /// The pattern of the argument, when the rule has one.
    pub fn argument(&self) -> Option<&Glob> {
        self.argument.as_ref()
    }
}

impl FromStr for PolicyRule {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let invalid = || {
            InvalidValue::new(format!(
                "`{text}` is not a rule: expected `tool` or `tool(argument-glob)`"
            ))
        };
        let (tool, argument) = match text.split_once('(') {
            Some((tool, rest)) => (tool, Some(rest.strip_suffix(')').ok_or_else(invalid)?)),
            None => (text, None),
        };
        let valid = |c: char| {
            c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '@' | '/' | '*' | '?' | '.')
        };
        if tool.is_empty() || !tool.chars().all(valid) || argument == Some("") {
            return Err(invalid());
        }
        Ok(Self {
            tool: Glob::new(tool),
            argument: argument.map(Glob::new),
        })
    }
}

impl fmt::Display for PolicyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.tool.as_str())?;
        self.argument
            .as_ref()
            .map_or(Ok(()), |argument| write!(f, "({})", argument.as_str()))
    }
}

impl Serialize for PolicyRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A pattern over a whole text: `*` is any run of characters (also `/` and line ends), `?` exactly one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// Every text is a pattern.
    pub fn new(pattern: impl Into<String>) -> Self {
        Self(pattern.into())
    }

    /// The pattern.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern has no wildcard.
    pub fn is_literal(&self) -> bool {
        !self.0.contains(['*', '?'])
    }

    /// Whether the pattern describes the whole of `text`. Takes at most pattern × text steps.
    pub fn is_match(&self, text: &str) -> bool {
        let pattern: Vec<char> = self.0.chars().collect();
        let text: Vec<char> = text.chars().collect();
        let (mut p, mut t) = (0, 0);
        // Where to go on when the text after the last `*` does not fit: one character later.
        let mut retry: Option<(usize, usize)> = None;
        while t < text.len() {
            match pattern.get(p) {
                Some('*') => {
                    retry = Some((p + 1, t));
                    p += 1;
                }
                Some(c) if *c == '?' || *c == text[t] => {
                    p += 1;
                    t += 1;
                }
                _ => {
                    let Some((after, from)) = retry else {
                        return false;
                    };
                    retry = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
            }
        }
        pattern[p..].iter().all(|c| *c == '*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: &str, tool: &str, argument: &str, expected: bool) {
        let rule: PolicyRule = rule.parse().unwrap();
        assert_eq!(
            rule.matches(tool, argument),
            expected,
            "{rule} on {tool}({argument})"
        );
    }

    #[test]
    fn matches_tool_and_argument() {
        check("rune@shell-exec", "rune@shell-exec", "ls", true);
        check(
            "rune@shell-exec(git *)",
            "rune@shell-exec",
            "git status",
            true,
        );
        check(
            "rune@shell-exec(git *)",
            "rune@shell-exec",
            "rm -rf /; git x",
            false,
        );
        check("rune@file-*", "rune@file-read", "", true);
        check("github/*", "github/create_issue", "", true);
        check("f(a*b*c)", "f", "axxbxxbc", true);
        check("f(a?c)", "f", "ac", false);
    }

    #[test]
    fn rejects_what_is_no_rule() {
        for text in ["", "(x)", "tool(", "tool()", "two words"] {
            assert!(text.parse::<PolicyRule>().is_err(), "{text}");
        }
    }
}
