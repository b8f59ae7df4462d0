//! The Runefile's rules as Cedar policies.

use std::fmt::Write as _;

use rune_spec::{Glob, GlobToken, Policy, PolicyMode, PolicyRule, RuleArguments};

/// What a rule does with a call it speaks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RuleEffect {
    Allow,
    Ask,
    Deny,
}

impl RuleEffect {
    const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
        }
    }

    const fn cedar(self) -> &'static str {
        match self {
            Self::Allow => "permit",
            Self::Ask => "@ask(\"\")\nforbid",
            Self::Deny => "forbid",
        }
    }
}

/// A policy in Cedar's syntax under a stable id.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CedarText {
    pub(super) id: String,
    pub(super) text: String,
}

/// The policies that a Runefile's `policy` stands for.
pub(super) fn policies(policy: &Policy) -> Vec<CedarText> {
    let lists = [
        (RuleEffect::Allow, &policy.allow),
        (RuleEffect::Ask, &policy.ask),
        (RuleEffect::Deny, &policy.deny),
    ];
    let rules = lists
        .into_iter()
        .flat_map(|(effect, rules)| rules.iter().map(move |rule| compile(effect, rule)));
    let mut policies = vec![base(policy.mode)];
    policies.extend(rules);
    policies
}

/// What holds for tools where no rule speaks. In `strict` mode a tool that nothing permits asks, and in both modes a
/// model, an agent and a host that nothing forbids is allowed: that is the set's default.
fn base(mode: PolicyMode) -> CedarText {
    match mode {
        PolicyMode::Listed => CedarText {
            id: "mode listed".to_owned(),
            text: "permit(principal, action == Action::\"tool\", resource);".to_owned(),
        },
        PolicyMode::Strict => CedarText {
            id: "mode strict: read-only".to_owned(),
            text: "permit(principal, action == Action::\"tool\", resource) when { resource.read_only };"
                .to_owned(),
        },
    }
}

fn compile(effect: RuleEffect, rule: &PolicyRule) -> CedarText {
    let line = rule.line().map(|line| format!(":{line}"));
    let id = format!(
        "Runefile{} {} {rule}",
        line.unwrap_or_default(),
        effect.word()
    );
    let mut conditions = Vec::new();
    let resource = match rule.tool().literal() {
        Some(name) => format!("resource == Tool::\"{}\"", name.escape_debug()),
        None => {
            conditions.push(like("resource.name", rule.tool()));
            "resource".to_owned()
        }
    };
    match rule.arguments() {
        RuleArguments::Any => {}
        RuleArguments::Primary(glob) => conditions.push(like("context.primary", glob)),
        RuleArguments::Named(named) => {
            for (name, glob) in named {
                let name = name.escape_debug();
                let field = format!("context.text[\"{name}\"]");
                conditions.push(format!(
                    "context.text has \"{name}\" && {}",
                    like(&field, glob)
                ));
            }
        }
    }
    let mut text = format!(
        "{}(principal, action == Action::\"tool\", {resource})",
        effect.cedar()
    );
    if !conditions.is_empty() {
        let _ = write!(text, " when {{ {} }}", conditions.join(" && "));
    }
    text.push(';');
    CedarText { id, text }
}

fn like(field: &str, glob: &Glob) -> String {
    let mut pattern = String::new();
    for token in glob.tokens() {
        match token {
            GlobToken::Any => pattern.push('*'),
            GlobToken::Char('*') => pattern.push_str("\\*"),
            GlobToken::Char(c) => pattern.extend(c.escape_debug()),
        }
    }
    format!("{field} like \"{pattern}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: &str, expected: &str) {
        let rule: PolicyRule = rule.parse().unwrap();
        assert_eq!(compile(RuleEffect::Deny, &rule).text, expected);
    }

    #[test]
    fn rules_become_cedar() {
        check(
            "rune@shell-exec(rm *)",
            "forbid(principal, action == Action::\"tool\", resource == Tool::\"rune@shell-exec\") \
             when { context.primary like \"rm *\" };",
        );
        check(
            "rune@file-*(path=a\"b\\*, mode=w)",
            "forbid(principal, action == Action::\"tool\", resource) when { resource.name like \
             \"rune@file-*\" && context.text has \"path\" && context.text[\"path\"] like \
             \"a\\\"b\\*\" && context.text has \"mode\" && context.text[\"mode\"] like \"w\" };",
        );
    }
}
