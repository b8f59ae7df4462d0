//! JSON as Cedar values. Cedar has no null and no floating point, and its types are fixed before a policy is read:
//! the tool's JSON Schema says them, as far as it does.

use std::collections::BTreeMap;

use cedar_policy::RestrictedExpression;
use serde_json::{Number, Value};

/// Deepest schema that is followed; what is below is [`Shape::Unknown`].
const MAX_SCHEMA_DEPTH: usize = 8;
/// Digits after the point that a Cedar decimal has.
const DECIMAL_DIGITS: usize = 4;
/// Digits before the point that a Cedar decimal always has room for.
const DECIMAL_WHOLE_DIGITS: usize = 14;

/// The Cedar type of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    Text,
    Long,
    Bool,
    /// A JSON Schema `number`.
    Decimal,
    Set(Box<Shape>),
    Record(BTreeMap<String, Shape>),
    /// The schema does not say, or says what Cedar has no type for.
    Unknown,
}

impl Shape {
    /// What a JSON Schema says.
    pub(super) fn of(schema: &Value) -> Self {
        Self::at(schema, MAX_SCHEMA_DEPTH)
    }

    fn at(schema: &Value, depth: usize) -> Self {
        let Some(depth) = depth.checked_sub(1) else {
            return Self::Unknown;
        };
        match type_name(schema) {
            Some("string") => Self::Text,
            Some("integer") => Self::Long,
            Some("boolean") => Self::Bool,
            Some("number") => Self::Decimal,
            Some("array") => match Self::at(&schema["items"], depth) {
                Self::Unknown => Self::Unknown,
                item => Self::Set(Box::new(item)),
            },
            Some("object") => match schema["properties"].as_object() {
                Some(properties) => Self::Record(
                    properties
                        .iter()
                        .map(|(name, schema)| (name.clone(), Self::at(schema, depth)))
                        .collect(),
                ),
                None => Self::Unknown,
            },
            _ => Self::Unknown,
        }
    }

    /// The type in the syntax of a Cedar schema; `None` where there is none.
    pub(super) fn cedar_type(&self) -> Option<String> {
        Some(match self {
            Self::Text => "__cedar::String".to_owned(),
            Self::Long => "__cedar::Long".to_owned(),
            Self::Bool => "__cedar::Bool".to_owned(),
            Self::Decimal => "__cedar::decimal".to_owned(),
            Self::Set(item) => format!("Set<{}>", item.cedar_type()?),
            Self::Record(fields) => record_type(fields),
            Self::Unknown => return None,
        })
    }

    fn field(&self, name: &str) -> &Self {
        match self {
            Self::Record(fields) => fields.get(name).unwrap_or(&Self::Unknown),
            _ => &Self::Unknown,
        }
    }

    fn item(&self) -> &Self {
        match self {
            Self::Set(item) => item,
            _ => &Self::Unknown,
        }
    }

    /// The Cedar value; `None` for null, which is as if it were not there.
    pub(super) fn value(&self, json: &Value) -> Option<RestrictedExpression> {
        Some(match json {
            Value::Null => return None,
            Value::Bool(value) => RestrictedExpression::new_bool(*value),
            Value::String(text) => RestrictedExpression::new_string(text.clone()),
            Value::Number(number) => self.number(number),
            Value::Array(items) => {
                let item = self.item();
                RestrictedExpression::new_set(items.iter().filter_map(|json| item.value(json)))
            }
            Value::Object(map) => {
                let fields = map
                    .iter()
                    .filter_map(|(name, json)| Some((name.clone(), self.field(name).value(json)?)));
                // The keys of a map are different, so this holds.
                RestrictedExpression::new_record(fields).ok()?
            }
        })
    }

    fn number(&self, number: &Number) -> RestrictedExpression {
        if *self != Self::Decimal
            && let Some(whole) = whole(number)
        {
            return RestrictedExpression::new_long(whole);
        }
        let text = number.to_string();
        match decimal(&text) {
            Some(decimal) => RestrictedExpression::new_decimal(decimal),
            None => RestrictedExpression::new_string(text),
        }
    }
}

/// The fields as a Cedar record type, each optional; a field without a type is left out.
pub(super) fn record_type(fields: &BTreeMap<String, Shape>) -> String {
    let fields = fields.iter().filter_map(|(name, shape)| {
        Some(format!(
            "\"{}\"?: {}",
            name.escape_debug(),
            shape.cedar_type()?
        ))
    });
    format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
}

/// The one type a schema names; `null` beside it is an absent value.
fn type_name(schema: &Value) -> Option<&str> {
    match &schema["type"] {
        Value::String(name) => Some(name),
        Value::Array(names) => {
            let mut names = names.iter().filter_map(Value::as_str);
            let mut names = names.by_ref().filter(|name| *name != "null");
            let first = names.next()?;
            names.next().is_none().then_some(first)
        }
        _ => None,
    }
}

fn whole(number: &Number) -> Option<i64> {
    // `2.0` is a whole number too; beyond 2^53 a float is not exact.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    number.as_i64().or_else(|| {
        let float = number.as_f64().filter(|_| number.is_f64())?;
        #[expect(clippy::cast_possible_truncation, reason = "a whole number in range")]
        (float.fract() == 0.0 && float.abs() <= EXACT).then_some(float as i64)
    })
}

/// The text of a JSON number as a Cedar decimal, where it is one exactly.
fn decimal(text: &str) -> Option<String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str, most: usize| {
        (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let unsigned = whole.strip_prefix('-').unwrap_or(whole);
    (digits(unsigned, DECIMAL_WHOLE_DIGITS) && digits(fraction, DECIMAL_DIGITS))
        .then(|| format!("{whole}.{fraction}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(schema: &Value, json: &Value, expected: &str) {
        let value = Shape::of(schema).value(json);
        let shown = value.map_or_else(|| "absent".to_owned(), |value| format!("{value:?}"));
        assert!(shown.contains(expected), "{json}: {shown}");
    }

    #[test]
    fn numbers_become_long_decimal_or_text() {
        let any = json!({});
        for (number, expected) in [
            (json!(3), "Long(3)"),
            (json!(2.0), "Long(2)"),
            (json!(-7), "Long(-7)"),
            (json!(1.25), "\"1.25\""),
            (json!(0.123_456), "String(\"0.123456\")"),
            (json!(u64::MAX), "String(\"18446744073709551615\")"),
            (json!(1e300), "String(\"1e+300\")"),
        ] {
            check(&any, &number, expected);
        }
        check(&json!({"type": "number"}), &json!(3), "\"3.0\"");
    }

    #[test]
    fn null_is_absent() {
        check(&json!({}), &Value::Null, "absent");
        assert_eq!(Shape::of(&json!({"type": ["null", "string"]})), Shape::Text);
        assert_eq!(
            Shape::of(&json!({"type": ["integer", "string"]})),
            Shape::Unknown
        );
    }

    #[test]
    fn a_schema_gives_cedar_types() {
        let schema = json!({"type": "object", "properties": {
            "tags": {"type": "array", "items": {"type": "string"}},
            "any": {},
            "a \"b\"": {"type": "integer"},
        }});
        assert_eq!(
            Shape::of(&schema).cedar_type().unwrap(),
            r#"{ "a \"b\""?: __cedar::Long, "tags"?: Set<__cedar::String> }"#
        );
    }
}
