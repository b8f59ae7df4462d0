//! What a model is given to summarise, and what is kept beside its words.

use rune_store_runtime::{Block, Message, Role};

use crate::agent::Agent;

/// Bytes of a result or a text that a transcript shows at the most.
const TRANSCRIBED: usize = 3000;
/// Characters of a call's input and of its outcome in the list of effects.
const EFFECT_CHARS: usize = 120;
/// Bytes of the note of what is missing between the ends of a text, at the most.
const MARKER: usize = 48;

/// The part of a conversation that is to be summarised, as text of no more than `limit` bytes.
/// What is longest is shortened first, then the oldest lines go; both is said.
pub(super) fn transcript<'a>(
    earlier: Option<&str>,
    messages: impl Iterator<Item = &'a Message>,
    limit: usize,
) -> String {
    let mut lines: Vec<String> = earlier.map(str::to_owned).into_iter().collect();
    for message in messages {
        lines.extend(
            message
                .blocks
                .iter()
                .filter_map(|block| line(message.role, block)),
        );
    }
    let mut size: usize = lines.iter().map(|line| line.len() + 1).sum();
    let mut gone = 0;
    // The earlier summary stands for more than any line.
    let first = usize::from(earlier.is_some());
    while size > limit && lines.len() > first + 1 {
        size -= lines.remove(first).len() + 1;
        gone += 1;
    }
    if gone > 0 {
        lines.insert(first, format!("[{gone} older parts are left out]"));
    }
    let mut text = lines.join("\n");
    text.truncate(text.floor_char_boundary(limit.max(TRANSCRIBED)));
    text
}

fn line(role: Role, block: &Block) -> Option<String> {
    match block {
        Block::Text { text, .. } if text.is_empty() => None,
        Block::Text { text, .. } => {
            let who = match role {
                Role::User => "User",
                Role::Assistant | Role::Tool => "Assistant",
            };
            Some(format!("{who}: {}", both_ends(text, TRANSCRIBED)))
        }
        Block::Image { .. } => Some("User: [an image]".to_owned()),
        Block::ToolCall { name, input, .. } => {
            let input = input.to_string();
            Some(format!(
                "Call of {name}: {}",
                both_ends(&input, TRANSCRIBED)
            ))
        }
        Block::ToolResult {
            name,
            content,
            images,
            is_error,
            ..
        } => {
            let how = if *is_error { "failed" } else { "answered" };
            let shown = if images.is_empty() {
                ""
            } else {
                " [with an image]"
            };
            let said = both_ends(content, TRANSCRIBED);
            Some(format!("{name} {how}: {said}{shown}"))
        }
        Block::Reasoning { .. } | Block::Opaque { .. } => None,
    }
}

/// The calls of these messages that may have had an effect, with how they ended.
pub(super) fn effects<'a>(
    agent: &Agent,
    messages: impl Iterator<Item = &'a Message>,
) -> Vec<String> {
    let mut open: Vec<(&str, String)> = Vec::new();
    let mut effects = Vec::new();
    for block in messages.flat_map(|message| &message.blocks) {
        match block {
            Block::ToolCall {
                id, name, input, ..
            } => {
                let tool = agent.tool(name);
                if tool.is_some_and(|tool| !tool.descriptor.read_only) {
                    let input = input.to_string();
                    open.push((id, format!("{name} {}", one_line(&input))));
                }
            }
            Block::ToolResult {
                call_id,
                content,
                is_error,
                ..
            } => {
                let index = open.iter().position(|(id, _)| id == call_id);
                if let Some(index) = index {
                    let (_, call) = open.remove(index);
                    let how = if *is_error { "failed" } else { "done" };
                    effects.push(format!("{call} → {how}: {}", one_line(content)));
                }
            }
            _ => {}
        }
    }
    effects
}

/// The newest of `effects` that have no more than `limit` bytes, and how many went.
pub(super) fn newest(mut effects: Vec<String>, limit: usize) -> (Vec<String>, u32) {
    let mut size = 0;
    let kept = effects.iter().rev().take_while(|effect| {
        size += effect.len() + 3;
        size <= limit
    });
    let gone = effects.len() - kept.count();
    effects.drain(..gone);
    (effects, u32::try_from(gone).unwrap_or(u32::MAX))
}

fn one_line(text: &str) -> String {
    let mut chars = text.chars();
    let head: String = chars.by_ref().take(EFFECT_CHARS).collect();
    let head = head.replace(['\n', '\r'], " ");
    if chars.next().is_some() {
        format!("{head}…")
    } else {
        head
    }
}

/// A text of at most `limit` bytes: both ends of a longer one, or its head where there is no
/// room for both.
pub(super) fn both_ends(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let room = limit.saturating_sub(MARKER);
    if room < MARKER {
        return text[..text.floor_char_boundary(limit)].to_owned();
    }
    let head = &text[..text.floor_char_boundary(room / 3 * 2)];
    let tail = &text[text.ceil_char_boundary(text.len() - room / 3)..];
    let missing = text.len() - head.len() - tail.len();
    format!("{head} [… {missing} bytes …] {tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_is_cut_at_its_old_end_and_says_so() {
        let messages: Vec<Message> = (0..9).map(|n| Message::user(format!("text {n}"))).collect();
        let whole = transcript(Some("Before: x"), messages.iter(), 10_000);
        assert!(whole.starts_with("Before: x\nUser: text 0\n"), "{whole}");
        let part = transcript(Some("Before: x"), messages.iter(), 60);
        assert!(
            part.starts_with("Before: x\n[6 older parts are left out]\nUser: text 6"),
            "{part}"
        );
        assert!(part.ends_with("User: text 8"), "{part}");
    }

    #[test]
    fn a_text_that_was_cut_is_not_cut_again() {
        for text in ["é".repeat(2000), "short".to_owned()] {
            for limit in [0, 1, 47, 100, 1000, 5000] {
                let cut = both_ends(&text, limit);
                assert!(
                    cut.len() <= limit.max(text.len().min(limit)),
                    "{limit}: {}",
                    cut.len()
                );
                assert_eq!(both_ends(&cut, limit), cut);
            }
        }
    }

    #[test]
    fn the_oldest_effects_go_first() {
        let effects: Vec<String> = (0..5).map(|n| format!("t {n}")).collect();
        let (kept, gone) = newest(effects, 12);
        assert_eq!((kept, gone), (vec!["t 3".to_owned(), "t 4".to_owned()], 3));
    }
}
