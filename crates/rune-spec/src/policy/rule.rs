//! One rule of the short form.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::{Glob, GlobToken};
use crate::error::InvalidValue;

/// Longest rule, in bytes; a longer one belongs into a Cedar file.
const MAX_RULE_BYTES: usize = 1024;
/// Most wildcards of one pattern: matching takes time in proportion.
const MAX_WILDCARDS: usize = 8;

/// `tool`, `tool(glob)` or `tool(name=glob, other=glob)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    tool: Glob,
    arguments: RuleArguments,
    line: Option<usize>,
}

/// What a rule says of the arguments of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleArguments {
    /// Nothing.
    Any,
    /// The text of the tool's primary argument ([`crate::ToolDescriptor::policy_argument`]) fits.
    Primary(Glob),
    /// Each of these arguments is there and its text ([`crate::ToolDescriptor::argument_text`]) fits.
    Named(Vec<(String, Glob)>),
}

impl PolicyRule {
    /// The pattern of the tool's name as the toolset writes it (`rune@shell-exec`, `word-count`, `server/tool`).
    pub fn tool(&self) -> &Glob {
        &self.tool
    }

    /// What the rule says of the arguments.
    pub fn arguments(&self) -> &RuleArguments {
        &self.arguments
    }

    /// The line of the Runefile, counted from 1; `None` for a rule that comes from elsewhere.
    pub fn line(&self) -> Option<usize> {
        self.line
    }

    /// The same rule, read from this line.
    pub(crate) fn at_line(mut self, line: usize) -> Self {
        self.line = Some(line);
        self
    }
}

impl FromStr for PolicyRule {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text.len() > MAX_RULE_BYTES {
            return Err(InvalidValue::new(format!(
                "the rule is longer than {MAX_RULE_BYTES} bytes"
            ))
            .with_help(Some(
                "write it in Cedar, in the file that `policy.file` names".to_owned(),
            )));
        }
        let invalid = || {
            InvalidValue::new(format!(
                "`{text}` is not a rule: expected `tool`, `tool(glob)` or `tool(argument=glob)`"
            ))
        };
        let (tool, arguments) = match text.split_once('(') {
            Some((tool, rest)) => (tool, Some(rest.strip_suffix(')').ok_or_else(invalid)?)),
            None => (text, None),
        };
        if tool.is_empty() || !tool.chars().all(is_tool_char) || text.contains(char::is_control) {
            return Err(invalid());
        }
        let arguments = match arguments.map(str::trim) {
            None => RuleArguments::Any,
            Some("") => return Err(invalid()),
            Some(text) => parse_arguments(text)?,
        };
        let rule = Self {
            tool: Glob::new(tool),
            arguments,
            line: None,
        };
        match &rule.arguments {
            RuleArguments::Any => {}
            RuleArguments::Primary(glob) => check_wildcards(glob)?,
            RuleArguments::Named(named) => {
                named.iter().try_for_each(|(_, g)| check_wildcards(g))?;
            }
        }
        check_wildcards(&rule.tool).map(|()| rule)
    }
}

fn check_wildcards(glob: &Glob) -> Result<(), InvalidValue> {
    let wildcards = glob.tokens().filter(|token| *token == GlobToken::Any);
    if wildcards.count() <= MAX_WILDCARDS {
        return Ok(());
    }
    Err(InvalidValue::new(format!(
        "`{}` has more than {MAX_WILDCARDS} wildcards",
        glob.as_str()
    )))
}

fn is_tool_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '@' | '/' | '*' | '.' | ':')
}

/// `name=glob, other=glob` when it begins with a name and `=`, else one glob.
fn parse_arguments(text: &str) -> Result<RuleArguments, InvalidValue> {
    if argument_name(text).is_none() {
        return Ok(RuleArguments::Primary(Glob::new(text)));
    }
    let mut named: Vec<(String, Glob)> = Vec::new();
    for part in split_arguments(text) {
        // Each part begins with a name: that is where the text was split.
        let Some((name, glob)) = argument_name(part) else {
            continue;
        };
        if named.iter().any(|(other, _)| other == name) {
            return Err(InvalidValue::new(format!(
                "the rule names the argument `{name}` twice"
            )));
        }
        named.push((name.to_owned(), Glob::new(glob.trim_end())));
    }
    Ok(RuleArguments::Named(named))
}

/// The parts of `a=…, b=…`. A comma ends a part only where a name and `=` follow and no backslash stands before it.
fn split_arguments(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        let next = text[at + c.len_utf8()..].trim_start();
        if c == ',' && !escaped && argument_name(next).is_some() {
            parts.push(&text[start..at]);
            start = text.len() - next.len();
        }
        escaped = c == '\\' && !escaped;
    }
    parts.push(&text[start..]);
    parts
}

/// The name and what follows its `=`.
fn argument_name(text: &str) -> Option<(&str, &str)> {
    let (name, glob) = text.split_once('=')?;
    let name = name.trim_end();
    let first = name.chars().next()?;
    let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    ((first.is_ascii_alphabetic() || first == '_') && name.chars().all(rest))
        .then(|| (name, glob.trim_start()))
}

/// Whether a comma right behind the pattern would be a part of it.
fn escapes_what_follows(glob: &Glob) -> bool {
    let backslashes = glob.as_str().chars().rev().take_while(|c| *c == '\\');
    backslashes.count() % 2 == 1
}

impl fmt::Display for PolicyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.tool.as_str())?;
        match &self.arguments {
            RuleArguments::Any => Ok(()),
            RuleArguments::Primary(glob) => write!(f, "({})", glob.as_str()),
            RuleArguments::Named(named) => {
                let mut before = "(";
                for (name, glob) in named {
                    write!(f, "{before}{name}={}", glob.as_str())?;
                    // A backslash must not come to stand before the comma.
                    before = if escapes_what_follows(glob) {
                        " , "
                    } else {
                        ", "
                    };
                }
                f.write_str(")")
            }
        }
    }
}

impl Serialize for PolicyRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Vec<(String, String)> {
        match text.parse::<PolicyRule>().unwrap().arguments {
            RuleArguments::Named(named) => named
                .into_iter()
                .map(|(name, glob)| (name, glob.as_str().to_owned()))
                .collect(),
            other => panic!("{text} has {other:?}"),
        }
    }

    fn pair(name: &str, glob: &str) -> (String, String) {
        (name.to_owned(), glob.to_owned())
    }

    #[test]
    fn a_pattern_that_ends_with_a_backslash_prints_as_itself() {
        for text in [r"t(a=x\ , b=y)", r"t(a=x\\, b=y)", r"t(a=x\\\ , b=y\)"] {
            let rule: PolicyRule = text.parse().unwrap();
            let again: PolicyRule = rule.to_string().parse().unwrap();
            assert_eq!(again, rule, "{text}: {rule}");
            assert_eq!(named(text).len(), 2, "{text}");
        }
    }

    #[test]
    fn tells_the_primary_argument_from_named_ones() {
        for text in ["t(rm *)", "t(https://x/?a=b)", "t(a, b)", "t(f(x))"] {
            let rule: PolicyRule = text.parse().unwrap();
            assert!(
                matches!(rule.arguments, RuleArguments::Primary(_)),
                "{text}"
            );
            assert_eq!(rule.to_string(), text);
        }
        assert_eq!(named("t(path=/etc/*)"), [pair("path", "/etc/*")]);
        assert_eq!(
            named("t( method = GET , url=https://*?a=1,2)"),
            [pair("method", "GET"), pair("url", "https://*?a=1,2")]
        );
        assert_eq!(
            named(r"t(command=echo a\, b=c)"),
            [pair("command", r"echo a\, b=c")]
        );
    }

    #[test]
    fn rejects_what_is_no_rule() {
        for text in [
            "",
            "(x)",
            "tool(",
            "tool()",
            "tool( )",
            "two words",
            "t(a=1, a=2)",
            "t(*********)",
            "t(a\nb)",
        ] {
            assert!(text.parse::<PolicyRule>().is_err(), "{text}");
        }
        assert!(
            format!("t({})", "x".repeat(2000))
                .parse::<PolicyRule>()
                .is_err()
        );
    }
}
