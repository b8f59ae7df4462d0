//! The condition of a policy, as far as it can be decided without Cedar.
//!
//! Most policies ask little: whether a text is one, or is like one. Evaluating that by Cedar costs a microsecond for each
//! policy, and here a few nanoseconds. The answer is Cedar's: what this module does not know is left to Cedar, and so is
//! everything that could fail.

use cedar_policy::Policy;
use serde_json::Value;

use super::arguments::Texts;
use super::nesting;
use super::query::{PolicyQuery, PolicyResource};

/// A condition in parts.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Condition {
    Constant(bool),
    Not(Box<Condition>),
    Both(Box<Condition>, Box<Condition>),
    Either(Box<Condition>, Box<Condition>),
    /// `context.text has NAME`
    Has(String),
    Equal(Text, String),
    Like(Text, Pattern),
    /// `principal ==` the entity of this type and with this id.
    PrincipalIs(String, String),
    /// `principal in` it.
    PrincipalIn(String, String),
    /// Cedar knows.
    Unknown,
}

/// A text that every call of a tool has, or may have.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Text {
    /// `context.primary`
    Primary,
    /// `context.text.NAME`
    Argument(String),
    /// `resource.name`
    Tool,
}

/// What is known of a call.
pub(super) struct Facts<'a> {
    pub(super) query: &'a PolicyQuery<'a>,
    /// Those of a call of a tool.
    pub(super) texts: Option<&'a Texts>,
}

impl Condition {
    /// The condition under which a policy applies, without its action; also without its resource where `resource_holds`.
    pub(super) fn of(policy: &Policy, resource_holds: bool) -> Self {
        if !policy
            .to_cedar()
            .is_some_and(|text| nesting::is_convertible(&text))
        {
            return Self::Unknown;
        }
        let Ok(form) = policy.to_json() else {
            return Self::Unknown;
        };
        let mut all = scope(&form["principal"]);
        if !resource_holds {
            all = Self::Both(Box::new(all), Box::new(Self::Unknown));
        }
        for condition in form["conditions"].as_array().into_iter().flatten() {
            let body = Self::read(&condition["body"]);
            let body = match condition["kind"].as_str() {
                Some("when") => body,
                Some("unless") => Self::Not(Box::new(body)),
                _ => Self::Unknown,
            };
            all = Self::Both(Box::new(all), Box::new(body));
        }
        all
    }

    /// Reads an expression in Cedar's JSON form.
    fn read(form: &Value) -> Self {
        let Some((name, of)) = form.as_object().and_then(|map| map.iter().next()) else {
            return Self::Unknown;
        };
        let boxed = |side: &str| Box::new(Self::read(&of[side]));
        match name.as_str() {
            "Value" => of.as_bool().map_or(Self::Unknown, Self::Constant),
            "!" => Self::Not(boxed("arg")),
            "&&" => Self::Both(boxed("left"), boxed("right")),
            "||" => Self::Either(boxed("left"), boxed("right")),
            "has" if is_texts(&of["left"]) => {
                let name = of["attr"].as_str();
                name.map_or(Self::Unknown, |name| Self::Has(name.to_owned()))
            }
            "==" | "!=" => match (Text::read(&of["left"]), of["right"]["Value"].as_str()) {
                (Some(text), Some(value)) => {
                    let equal = Self::Equal(text, value.to_owned());
                    if name == "==" {
                        equal
                    } else {
                        Self::Not(Box::new(equal))
                    }
                }
                _ => Self::Unknown,
            },
            "like" => match (Text::read(&of["left"]), Pattern::read(&of["pattern"])) {
                (Some(text), Some(pattern)) => Self::Like(text, pattern),
                _ => Self::Unknown,
            },
            _ => Self::Unknown,
        }
    }

    /// Whether Cedar has to be asked whatever the call is.
    pub(super) fn is_unknown(&self) -> bool {
        match self {
            Self::Unknown => true,
            Self::Not(one) => one.is_unknown(),
            Self::Both(left, right) => {
                left.is_unknown() || **left == Self::Constant(true) && right.is_unknown()
            }
            Self::Either(left, right) => {
                left.is_unknown() || **left == Self::Constant(false) && right.is_unknown()
            }
            _ => false,
        }
    }

    /// What Cedar makes of it; `None` where only Cedar knows, or where it may fail.
    pub(super) fn holds(&self, facts: &Facts<'_>) -> Option<bool> {
        match self {
            Self::Constant(value) => Some(*value),
            Self::Not(one) => one.holds(facts).map(|holds| !holds),
            Self::Both(left, right) => match left.holds(facts)? {
                true => right.holds(facts),
                false => Some(false),
            },
            Self::Either(left, right) => match left.holds(facts)? {
                true => Some(true),
                false => right.holds(facts),
            },
            Self::Has(name) => Some(facts.texts?.get(name).is_some()),
            Self::Equal(text, value) => Some(text.of(facts)? == value),
            Self::Like(text, pattern) => Some(pattern.is_match(text.of(facts)?)),
            Self::PrincipalIs(kind, id) => Some(facts.is_principal(kind, id)),
            Self::PrincipalIn(kind, id) => {
                let caller = kind == "Caller" && id == facts.query.caller;
                Some(caller || facts.is_principal(kind, id))
            }
            Self::Unknown => None,
        }
    }
}

impl Facts<'_> {
    fn is_principal(&self, kind: &str, id: &str) -> bool {
        let principal = self.query.principal;
        let parts = id.strip_prefix(principal.namespace.as_str());
        let name = parts.and_then(|rest| rest.strip_prefix('/'));
        kind == "Agent" && name == Some(principal.name.as_str())
    }
}

impl Text {
    fn read(form: &Value) -> Option<Self> {
        let of = &form["."];
        let name = of["attr"].as_str()?;
        let left = &of["left"];
        match (left["Var"].as_str(), name) {
            (Some("context"), "primary") => Some(Self::Primary),
            (Some("resource"), "name") => Some(Self::Tool),
            (None, name) if is_texts(left) => Some(Self::Argument(name.to_owned())),
            _ => None,
        }
    }

    /// `None` where there is none: Cedar fails there, or there is no call of a tool.
    fn of<'a>(&self, facts: &Facts<'a>) -> Option<&'a str> {
        let texts = facts.texts?;
        match (self, facts.query.resource) {
            (Self::Primary, _) => Some(&texts.primary),
            (Self::Argument(name), _) => texts.get(name),
            (Self::Tool, PolicyResource::Tool { name, .. }) => Some(name),
            (Self::Tool, _) => None,
        }
    }
}

/// `context.text`
fn is_texts(form: &Value) -> bool {
    let of = &form["."];
    of["attr"] == "text" && of["left"]["Var"] == "context"
}

fn scope(constraint: &Value) -> Condition {
    let entity = |is: fn(String, String) -> Condition| {
        let entity = &constraint["entity"];
        match (entity["type"].as_str(), entity["id"].as_str()) {
            (Some(kind), Some(id)) => is(kind.to_owned(), id.to_owned()),
            _ => Condition::Unknown,
        }
    };
    match constraint["op"].as_str() {
        Some("All") => Condition::Constant(true),
        Some("==") => entity(Condition::PrincipalIs),
        Some("in") => entity(Condition::PrincipalIn),
        _ => Condition::Unknown,
    }
}

/// The pattern of a `like`: pieces of text with any run of characters between them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pattern {
    first: String,
    /// What stands behind each wildcard.
    rest: Vec<String>,
}

impl Pattern {
    fn read(form: &Value) -> Option<Self> {
        let mut pattern = Self {
            first: String::new(),
            rest: Vec::new(),
        };
        for element in form.as_array()? {
            if element == "Wildcard" {
                pattern.rest.push(String::new());
            } else {
                let text = element["Literal"].as_str()?;
                let piece = pattern.rest.last_mut().unwrap_or(&mut pattern.first);
                piece.push_str(text);
            }
        }
        Some(pattern)
    }

    fn is_match(&self, text: &str) -> bool {
        let Some((last, middle)) = self.rest.split_last() else {
            return text == self.first;
        };
        let Some(mut text) = text.strip_prefix(self.first.as_str()) else {
            return false;
        };
        for piece in middle {
            // The earliest place leaves the most for the pieces behind.
            let Some(at) = text.find(piece.as_str()) else {
                return false;
            };
            text = text.get(at + piece.len()..).unwrap_or_default();
        }
        text.ends_with(last.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        let policy = format!(
            "permit(principal, action, resource) when {{ context.primary like \"{text}\" }};"
        );
        let policy = Policy::parse(None, policy).unwrap();
        match Condition::of(&policy, true) {
            Condition::Both(_, condition) => match *condition {
                Condition::Like(Text::Primary, pattern) => pattern,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn a_pattern_means_what_cedar_says(glob in "[ab*é]{0,7}", text in "[abé]{0,7}") {
            let expected = rune_spec::Glob::new(&glob).is_match(&text);
            prop_assert_eq!(pattern(&glob).is_match(&text), expected);
        }
    }

    #[test]
    fn what_could_fail_is_left_to_cedar() {
        for (text, unknown) in [
            ("when { context.arguments.n > 3 }", true),
            (
                "when { context.text has path && context.arguments.n > 3 }",
                false,
            ),
            ("unless { resource.read_only }", true),
            (
                "when { context.primary == \"a\" || context.primary like \"b*\" }",
                false,
            ),
            ("when { context.text.path like \"b*\" }", false),
        ] {
            let policy = format!("permit(principal, action, resource) {text};");
            let policy = Policy::parse(None, policy).unwrap();
            assert_eq!(Condition::of(&policy, true).is_unknown(), unknown, "{text}");
        }
    }
}
