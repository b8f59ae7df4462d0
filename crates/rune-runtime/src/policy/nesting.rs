//! A bound on what Cedar's parser and validator are given: both recurse as deep as a policy nests, and a package comes
//! from outside, so a policy must not be able to exhaust the stack of the daemon.

use std::ops::Range;

/// Deepest nesting of brackets.
const MAX_BRACKETS: usize = 32;
/// Most operators (`&&`, `||`, `if`, `!`, `.`, `+`, `-`, `*`) of one policy; a chain of them nests.
const MAX_OPERATORS: usize = 256;

/// The same for what is also converted to Cedar's JSON form, which takes several times the stack.
const MAX_CONVERTED_BRACKETS: usize = 16;
const MAX_CONVERTED_OPERATORS: usize = 100;

/// Where a text nests too deeply, and what is too much.
pub(super) fn check(text: &str) -> Result<(), (Range<usize>, String)> {
    within(text, MAX_BRACKETS, MAX_OPERATORS)
}

/// Whether a policy may be converted to Cedar's JSON form.
pub(super) fn is_convertible(text: &str) -> bool {
    within(text, MAX_CONVERTED_BRACKETS, MAX_CONVERTED_OPERATORS).is_ok()
}

fn within(
    text: &str,
    max_brackets: usize,
    max_operators: usize,
) -> Result<(), (Range<usize>, String)> {
    let (mut depth, mut operators) = (0_usize, 0_usize);
    let mut word = None;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let ended = if c.is_alphanumeric() || c == '_' {
            word.get_or_insert(at);
            None
        } else {
            word.take()
        };
        if ended.is_some_and(|start| text.get(start..at) == Some("if")) {
            operators += 1;
        }
        match c {
            '"' => {
                while let Some((_, c)) = chars.next() {
                    match c {
                        '"' => break,
                        '\\' => drop(chars.next()),
                        _ => {}
                    }
                }
            }
            '/' if chars.peek().is_some_and(|(_, next)| *next == '/') => {
                while chars.next_if(|(_, c)| *c != '\n').is_some() {}
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            '&' | '|' => {
                chars.next_if(|(_, next)| *next == c);
                operators += 1;
            }
            '!' | '.' | '+' | '-' | '*' => operators += 1,
            ';' => operators = 0,
            _ => {}
        }
        if depth > max_brackets {
            let message = format!("the policy nests brackets deeper than {max_brackets} levels");
            return Err((at..at + c.len_utf8(), message));
        }
        if operators > max_operators {
            let message = format!("the policy has more than {max_operators} operators");
            return Err((at..at + c.len_utf8(), message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_brackets_and_operators_outside_of_strings() {
        assert!(check(&"(".repeat(33)).is_err());
        assert!(
            check(&format!(
                "\"{}\\\"(\" // {}\n",
                "(".repeat(99),
                "(".repeat(99)
            ))
            .is_ok()
        );
        assert!(check(&"if a then b else ".repeat(257)).is_err());
        assert!(check(&"a && b; ".repeat(1000)).is_ok());
        assert!(check(&"a.b ".repeat(257)).is_err());
    }
}
