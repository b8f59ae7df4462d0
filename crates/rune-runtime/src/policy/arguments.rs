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

/// The context of a call.
pub(super) fn context(
    needs: &Needs,
    descriptor: &ToolDescriptor,
    arguments: &Value,
) -> Result<Context, String> {
    let text = RestrictedExpression::new_string;
    let mut pairs = vec![(
        "primary".to_owned(),
        text(descriptor.policy_argument(arguments)),
    )];
    let texts: Vec<(String, RestrictedExpression)> = match needs {
        Needs::Named(names) => texts(descriptor, arguments, names.iter().map(String::as_str)),
        Needs::Everything => {
            let given = arguments.as_object().into_iter().flat_map(|map| map.keys());
            let declared = descriptor.input_schema.get("properties");
            let declared = declared.and_then(Value::as_object);
            let absent = declared
                .into_iter()
                .flat_map(|map| map.keys())
                .filter(|name| arguments.get(name.as_str()).is_none());
            pairs.push(("arguments_json".to_owned(), text(arguments.to_string())));
            let shape = Shape::of(&descriptor.input_schema);
            let empty = || RestrictedExpression::new_record([]).ok();
            let record = shape.value(arguments).or_else(empty);
            pairs.extend(record.map(|record| ("arguments".to_owned(), record)));
            texts(
                descriptor,
                arguments,
                given.chain(absent).map(String::as_str),
            )
        }
    };
    let texts = RestrictedExpression::new_record(texts).map_err(|error| error.to_string())?;
    pairs.push(("text".to_owned(), texts));
    Context::from_pairs(pairs).map_err(|error| error.to_string())
}

fn texts<'a>(
    descriptor: &ToolDescriptor,
    arguments: &Value,
    names: impl Iterator<Item = &'a str>,
) -> Vec<(String, RestrictedExpression)> {
    names
        .filter_map(|name| {
            let text = descriptor.argument_text(arguments, name)?;
            Some((name.to_owned(), RestrictedExpression::new_string(text)))
        })
        .collect()
}
