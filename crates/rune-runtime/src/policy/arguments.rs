//! The context of a tool call: its arguments in the forms that policies can read.

use cedar_policy::{Context, RestrictedExpression};
use rune_spec::ToolDescriptor;
use serde_json::Value;

use super::shape::Shape;

/// Which forms of the arguments a set of policies can read. What none of them reads is not built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Needs {
    /// There are Cedar policies: everything.
    Everything,
    /// There are short rules only: the primary argument and these.
    Named(Vec<String>),
}

/// The arguments of a call as text: what the short form sees.
pub(super) struct Texts {
    /// The primary argument.
    pub(super) primary: String,
    named: Vec<(String, String)>,
}

impl Texts {
    /// The texts that are needed.
    pub(super) fn new(needs: &Needs, descriptor: &ToolDescriptor, arguments: &Value) -> Self {
        let text = |name: &str| {
            let text = descriptor.argument_text(arguments, name)?;
            Some((name.to_owned(), text))
        };
        let named = match needs {
            Needs::Named(names) => names.iter().filter_map(|name| text(name)).collect(),
            Needs::Everything => {
                let given = arguments.as_object().into_iter().flat_map(|map| map.keys());
                let declared = descriptor.input_schema.get("properties");
                let declared = declared.and_then(Value::as_object);
                let absent = declared
                    .into_iter()
                    .flat_map(|map| map.keys())
                    .filter(|name| arguments.get(name.as_str()).is_none());
                given.chain(absent).filter_map(|name| text(name)).collect()
            }
        };
        Self {
            primary: descriptor.policy_argument(arguments),
            named,
        }
    }

    /// The text of an argument.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.named.iter().find(|(its, _)| its == name);
        found.map(|(_, text)| text.as_str())
    }
}

/// The context of a call.
pub(super) fn context(
    needs: &Needs,
    descriptor: &ToolDescriptor,
    arguments: &Value,
    texts: &Texts,
) -> Result<Context, String> {
    let text = RestrictedExpression::new_string;
    let mut pairs = vec![("primary".to_owned(), text(texts.primary.clone()))];
    if *needs == Needs::Everything {
        pairs.push(("arguments_json".to_owned(), text(arguments.to_string())));
        let shape = Shape::of(&descriptor.input_schema);
        let empty = || RestrictedExpression::new_record([]).ok();
        let record = shape.value(arguments).or_else(empty);
        pairs.extend(record.map(|record| ("arguments".to_owned(), record)));
    }
    let named = texts.named.iter();
    let named = named.map(|(name, value)| (name.clone(), text(value.clone())));
    let named = RestrictedExpression::new_record(named).map_err(|error| error.to_string())?;
    pairs.push(("text".to_owned(), named));
    Context::from_pairs(pairs).map_err(|error| error.to_string())
}
