//! Text that has to fit into a bounded JSON answer.

use std::borrow::Cow;

/// Room for the marker that stands for what was left out.
const MARKER_BYTES: usize = 64;

/// Bytes that a character takes in a JSON string.
fn json_len(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        c if u32::from(c) < 0x20 => 6,
        c => c.len_utf8(),
    }
}

/// Bytes that a text takes in a JSON string, without the quotes.
pub(crate) fn json_bytes(text: &str) -> usize {
    text.chars().map(json_len).sum()
}

/// The longest beginning of `text` that takes at most `budget` bytes in a JSON string.
pub(crate) fn prefix(text: &str, budget: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += json_len(c);
        if used > budget {
            return &text[..at];
        }
    }
    text
}

/// The longest end of `text` that takes at most `budget` bytes in a JSON string.
pub(crate) fn suffix(text: &str, budget: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices().rev() {
        used += json_len(c);
        if used > budget {
            return &text[at + c.len_utf8()..];
        }
    }
    text
}

/// Both ends of an output within `budget` bytes of JSON, with a marker between them
/// that says how much is missing. `total` is the size of the whole output where
/// `head` and `tail` are only parts of it; otherwise both are the whole.
pub(crate) fn elide(head: &str, tail: &str, total: Option<u64>, budget: usize) -> (String, bool) {
    if total.is_none() && prefix(head, budget).len() == head.len() {
        return (head.to_owned(), false);
    }
    let all = total.unwrap_or(head.len() as u64);
    let half = budget.saturating_sub(MARKER_BYTES) / 2;
    let head = prefix(head, half);
    let tail = suffix(tail, half);
    let missing = all.saturating_sub((head.len() + tail.len()) as u64);
    (
        format!("{head}\n[… {missing} bytes left out …]\n{tail}"),
        true,
    )
}

/// Decodes a part of an output: a character that was cut at either end is dropped,
/// other invalid bytes are replaced.
pub(crate) fn decode_cut(bytes: &[u8]) -> Cow<'_, str> {
    let start = bytes
        .iter()
        .take(3)
        .take_while(|byte| is_continuation(**byte))
        .count();
    let mut end = bytes.len();
    let last = bytes[start..]
        .iter()
        .rev()
        .take(4)
        .position(|byte| !is_continuation(*byte));
    if let Some(back) = last {
        let lead = bytes.len() - 1 - back;
        let needed = match bytes[lead] {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            _ => 1,
        };
        if lead + needed > bytes.len() {
            end = lead;
        }
    }
    String::from_utf8_lossy(&bytes[start..end])
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_the_budget_as_json() {
        let text = "a\"\\\n\u{1}é€😀".repeat(20);
        for budget in 0..300 {
            for part in [prefix(&text, budget), suffix(&text, budget)] {
                let json = serde_json::to_string(part).unwrap();
                assert!(json.len() - 2 <= budget, "{budget}: {json}");
            }
        }
    }

    #[test]
    fn says_how_much_is_left_out() {
        let text = "x".repeat(1000);
        let (shown, cut) = elide(&text, &text, None, 164);
        assert!(cut);
        assert!(shown.contains("[… 900 bytes left out …]"), "{shown}");
        assert_eq!(
            elide("short", "short", None, 164),
            ("short".to_owned(), false)
        );
    }
}
