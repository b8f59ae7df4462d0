//! `${VAR}` and `${VAR:-default}`.

use crate::checker::is_variable_name;

/// A `${VAR}` whose variable is not set and that has no default.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "environment variable `{name}` is not set (use `${{{name}:-default}}` to give it a default)"
)]
pub struct MissingVariable {
    /// The variable's name.
    pub name: String,
}

/// Replaces `${VAR}` and `${VAR:-default}` in `text` by what `lookup` says.
///
/// As in a shell, the default is used when the variable is unset or empty; it may contain references itself.
/// `$${` stands for a literal `${`. Anything else that looks like a reference but does not name a variable is kept as
/// it is. Substituted values are not scanned again.
///
/// # Errors
/// [`MissingVariable`] for the first reference that has neither a value nor a default.
pub fn interpolate(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, MissingVariable> {
    expand(text, lookup, 0)
}

/// Defaults nested deeper than this are kept as text.
const MAX_NESTING: usize = 16;

fn expand(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    depth: usize,
) -> Result<String, MissingVariable> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if let Some(head) = rest[..start].strip_suffix('$') {
            out.push_str(head);
            out.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        out.push_str(&rest[..start]);
        let body = &rest[start + 2..];
        let reference = closing(body).and_then(|end| Some((end, reference(&body[..end])?)));
        match reference {
            Some((end, (name, default))) if depth < MAX_NESTING => {
                match (lookup(name), default) {
                    (Some(value), None) => out.push_str(&value),
                    (Some(value), Some(_)) if !value.is_empty() => out.push_str(&value),
                    (_, Some(default)) => out.push_str(&expand(default, lookup, depth + 1)?),
                    (None, None) => {
                        return Err(MissingVariable {
                            name: name.to_owned(),
                        });
                    }
                }
                rest = &body[end + 1..];
            }
            _ => {
                out.push_str("${");
                rest = body;
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The position of the `}` that closes a reference whose body starts at the beginning of `body`.
fn closing(body: &str) -> Option<usize> {
    let bytes = body.as_bytes();
    let mut open = 0_usize;
    for (index, byte) in bytes.iter().enumerate() {
        match byte {
            b'}' if open == 0 => return Some(index),
            b'}' => open -= 1,
            b'{' if index > 0 && bytes[index - 1] == b'$' => open += 1,
            _ => {}
        }
    }
    None
}

fn reference(body: &str) -> Option<(&str, Option<&str>)> {
    let (name, default) = match body.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (body, None),
    };
    is_variable_name(name).then_some((name, default))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("example.org".to_owned()),
            "EMPTY" => Some(String::new()),
            "ODD" => Some("${HOST}".to_owned()),
            _ => None,
        }
    }

    fn check(text: &str, expected: &str) {
        assert_eq!(
            interpolate(text, &lookup).as_deref(),
            Ok(expected),
            "{text}"
        );
    }

    #[test]
    fn replaces_variables_and_defaults() {
        check("https://${HOST}/x", "https://example.org/x");
        check("${NONE:-fallback}", "fallback");
        check("${NONE:-}", "");
        check("${HOST:-fallback}", "example.org");
        check("${EMPTY:-fallback}", "fallback");
        check("${EMPTY}", "");
        check("${NONE:-${HOST}:6697}", "example.org:6697");
    }

    #[test]
    fn keeps_escapes_and_what_is_no_reference() {
        check("$${HOST}", "${HOST}");
        check("$HOST ${} ${a b} ${HOST", "$HOST ${} ${a b} ${HOST");
    }

    #[test]
    fn does_not_expand_values_again() {
        check("${ODD}", "${HOST}");
    }

    #[test]
    fn names_the_missing_variable() {
        let error = interpolate("a ${MISSING} b", &lookup).unwrap_err();
        assert_eq!(error.name, "MISSING");
        assert!(error.to_string().contains("`MISSING` is not set"));
    }

    proptest! {
        #[test]
        fn never_panics(text in "(\\$\\{|\\}|\\$|:-|HOST|é|[a-z ]){0,24}") {
            let _ = interpolate(&text, &lookup);
        }

        #[test]
        fn text_without_references_is_unchanged(text in "[^$]*") {
            prop_assert_eq!(interpolate(&text, &lookup), Ok(text));
        }
    }
}
