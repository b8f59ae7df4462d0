//! The conversation a model is shown, built from stored messages.
//!
//! A history cannot leave this module with a tool call that has no result or a
//! result that has no call: providers refuse both, and a session that holds one
//! would be unusable for ever. Loaded messages are repaired, and the repair is told.

use std::collections::HashSet;

use rune_spec::MemoryProfile;
use rune_store_runtime::{Block, Message, MessageRow, RequestId, Role};

/// Messages of earlier requests that `standard` shows at the most.
const STANDARD_WINDOW: u32 = 40;
/// Messages of earlier requests that `extended` reads at the most.
const EXTENDED_WINDOW: u32 = 1000;
/// Bytes that stand for a token when no tokenizer is at hand.
const BYTES_PER_TOKEN: u64 = 4;
/// Bytes that an image is counted as: about what the providers bill for a large one.
const IMAGE_BYTES: usize = 6400;

/// What the model is told about a call whose result was lost.
pub(crate) const LOST_RESULT: &str =
    "The result of this call was lost. Do not assume that it had or did not have an effect.";

/// How many earlier messages to read for a profile.
pub(crate) const fn window(profile: MemoryProfile) -> u32 {
    match profile {
        MemoryProfile::Minimal => 0,
        MemoryProfile::Standard => STANDARD_WINDOW,
        MemoryProfile::Extended => EXTENDED_WINDOW,
    }
}

/// Earlier messages as they are shown to the model.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct History {
    /// The messages, oldest first; every call is followed by its result.
    pub(crate) messages: Vec<Message>,
    /// How many calls or results had to be added or left out.
    pub(crate) repairs: u32,
    /// Tokens of the newest earlier turn, where that alone was too large and nothing is shown.
    pub(crate) too_large: Option<u64>,
}

/// Builds the history of a session from its newest messages, oldest first.
///
/// Whole requests are left out, the oldest first, until the rest fits into `token_limit`.
pub(crate) fn build(rows: Vec<MessageRow>, token_limit: u64) -> History {
    let mut turns = group_by_request(rows);
    // Requests that waited in line have their inputs ahead of the replies to those before
    // them, so the window may have cut off the beginning of more than one.
    turns.retain(|turn| turn.messages.first().is_some_and(|m| m.role == Role::User));

    let mut size = 0_u64;
    let mut kept: Vec<Message> = Vec::new();
    let mut too_large = None;
    for turn in turns.into_iter().rev() {
        size += turn.messages.iter().map(estimate_tokens).sum::<u64>();
        if size > token_limit {
            too_large = kept.is_empty().then_some(size);
            break;
        }
        kept.extend(turn.messages.into_iter().rev());
    }
    kept.reverse();
    let mut repairs = 0;
    let messages = repair(kept, &mut repairs);
    History {
        messages,
        repairs,
        too_large,
    }
}

/// Tokens of a message, estimated from its bytes.
pub(crate) fn estimate_tokens(message: &Message) -> u64 {
    let bytes: usize = message
        .blocks
        .iter()
        .map(|block| match block {
            Block::Text { text, .. } | Block::Reasoning { text, .. } => text.len(),
            Block::ToolCall { name, input, .. } => name.len() + input.to_string().len(),
            Block::ToolResult { content, .. } => content.len(),
            Block::Image { .. } => IMAGE_BYTES,
            Block::Opaque { native } => native.json.to_string().len(),
        })
        .sum();
    tokens_of(bytes)
}

/// Tokens of a text of so many bytes, estimated.
pub(crate) const fn tokens_of(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(BYTES_PER_TOKEN)
}

struct Turn {
    request_id: RequestId,
    messages: Vec<Message>,
}

fn group_by_request(rows: Vec<MessageRow>) -> Vec<Turn> {
    let mut turns: Vec<Turn> = Vec::new();
    for row in rows {
        match turns
            .iter_mut()
            .find(|turn| turn.request_id == row.request_id)
        {
            Some(turn) => turn.messages.push(row.message),
            None => turns.push(Turn {
                request_id: row.request_id,
                messages: vec![row.message],
            }),
        }
    }
    turns
}

/// A call that waits for its result.
struct OpenCall {
    /// The id as stored.
    stored_id: String,
    /// The id in the history, unique there.
    id: String,
    name: String,
}

/// Gives every call its result, right behind the assistant message that made it,
/// joins the results of one assistant message, drops results without a call, and
/// renames a call whose id was used before (some servers count from zero in every
/// reply).
pub(crate) fn repair(messages: Vec<Message>, repairs: &mut u32) -> Vec<Message> {
    let mut fixed: Vec<Message> = Vec::with_capacity(messages.len());
    let mut open: Vec<OpenCall> = Vec::new();
    let mut used: HashSet<String> = HashSet::new();
    for mut message in messages {
        match message.role {
            Role::Tool => {
                message.blocks = answer_calls(message.blocks, &mut open, repairs);
            }
            Role::Assistant => {
                close_calls(&mut fixed, &mut open, repairs);
                for block in &mut message.blocks {
                    open_call(block, &mut open, &mut used);
                }
            }
            Role::User => close_calls(&mut fixed, &mut open, repairs),
        }
        if message.blocks.is_empty() {
            continue;
        }
        match fixed.last_mut() {
            Some(last) if last.role == Role::Tool && message.role == Role::Tool => {
                last.blocks.append(&mut message.blocks);
            }
            _ => fixed.push(message),
        }
    }
    close_calls(&mut fixed, &mut open, repairs);
    fixed
}

fn open_call(block: &mut Block, open: &mut Vec<OpenCall>, used: &mut HashSet<String>) {
    let Block::ToolCall {
        id, name, native, ..
    } = block
    else {
        return;
    };
    let stored_id = id.clone();
    if !used.insert(id.clone()) {
        let free = (2_u32..)
            .map(|n| format!("{stored_id}_{n}"))
            .find(|id| !used.contains(id));
        *id = free.unwrap_or_default();
        *native = None;
        used.insert(id.clone());
    }
    open.push(OpenCall {
        stored_id,
        id: id.clone(),
        name: name.clone(),
    });
}

fn answer_calls(blocks: Vec<Block>, open: &mut Vec<OpenCall>, repairs: &mut u32) -> Vec<Block> {
    let mut answers = Vec::with_capacity(blocks.len());
    for block in blocks {
        let Block::ToolResult {
            call_id,
            name,
            content,
            is_error,
        } = block
        else {
            *repairs += 1;
            continue;
        };
        match open.iter().position(|call| call.stored_id == call_id) {
            Some(index) => {
                let call_id = open.remove(index).id;
                answers.push(Block::ToolResult {
                    call_id,
                    name,
                    content,
                    is_error,
                });
            }
            None => *repairs += 1,
        }
    }
    answers
}

fn close_calls(fixed: &mut Vec<Message>, open: &mut Vec<OpenCall>, repairs: &mut u32) {
    if open.is_empty() {
        return;
    }
    *repairs += u32::try_from(open.len()).unwrap_or(u32::MAX);
    let mut results: Vec<Block> = open
        .drain(..)
        .map(|call| Block::ToolResult {
            call_id: call.id,
            name: call.name,
            content: LOST_RESULT.to_owned(),
            is_error: true,
        })
        .collect();
    match fixed.last_mut() {
        Some(last) if last.role == Role::Tool => last.blocks.append(&mut results),
        _ => fixed.push(Message {
            role: Role::Tool,
            blocks: results,
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rune_store_runtime::{SessionId, Timestamp};
    use serde_json::json;

    use super::*;

    fn call(id: &str) -> Block {
        Block::ToolCall {
            id: id.to_owned(),
            name: "t".to_owned(),
            input: json!({}),
            native: None,
        }
    }

    fn result(id: &str) -> Block {
        Block::ToolResult {
            call_id: id.to_owned(),
            name: "t".to_owned(),
            content: "ok".to_owned(),
            is_error: false,
        }
    }

    fn message(role: Role, blocks: Vec<Block>) -> Message {
        Message { role, blocks }
    }

    /// What every provider asks of a history.
    fn check(messages: &[Message]) {
        for (index, message) in messages.iter().enumerate() {
            assert!(!message.blocks.is_empty());
            let calls: Vec<&String> = message
                .blocks
                .iter()
                .filter_map(|block| match block {
                    Block::ToolCall { id, .. } => Some(id),
                    _ => None,
                })
                .collect();
            if message.role == Role::Assistant && !calls.is_empty() {
                let next = messages
                    .get(index + 1)
                    .expect("a call is followed by its results");
                let mut results: Vec<&String> = next
                    .blocks
                    .iter()
                    .filter_map(|block| match block {
                        Block::ToolResult { call_id, .. } => Some(call_id),
                        _ => None,
                    })
                    .collect();
                let mut calls = calls;
                calls.sort();
                results.sort();
                assert_eq!(calls, results);
            }
            if message.role == Role::Tool {
                assert_eq!(messages[index - 1].role, Role::Assistant);
            }
        }
    }

    #[test]
    fn a_call_without_a_result_gets_one() {
        let mut repairs = 0;
        let fixed = repair(
            vec![
                Message::user("hi"),
                message(Role::Assistant, vec![call("a"), call("b")]),
                message(Role::Tool, vec![result("b")]),
                Message::user("and now?"),
            ],
            &mut repairs,
        );
        assert_eq!(repairs, 1);
        assert_eq!(fixed.len(), 4);
        check(&fixed);
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let id = prop_oneof![Just("a"), Just("b"), Just("c")];
        prop_oneof![
            Just(Message::user("u")),
            proptest::collection::vec(id.clone().prop_map(call), 0..3)
                .prop_map(|blocks| message(Role::Assistant, blocks)),
            proptest::collection::vec(id.prop_map(result), 0..3)
                .prop_map(|blocks| message(Role::Tool, blocks)),
        ]
    }

    proptest! {
        #[test]
        fn no_stored_history_can_be_refused(
            messages in proptest::collection::vec(any_message(), 0..12),
        ) {
            let mut repairs = 0;
            let fixed = repair(messages, &mut repairs);
            check(&fixed);
            let mut again = 0;
            prop_assert_eq!(&repair(fixed.clone(), &mut again), &fixed);
            prop_assert_eq!(again, 0);
        }
    }

    fn row(request: u8, message: Message) -> MessageRow {
        MessageRow {
            session_id: "s".parse::<SessionId>().unwrap(),
            request_id: RequestId::from_bytes([request; 16]),
            seq: 1,
            created_at: Timestamp::from_millis(0),
            message,
        }
    }

    #[test]
    fn the_oldest_requests_are_left_out_first() {
        let rows = ["12345678", "1234"].map(Message::user);
        let rows = (1..).zip(rows).map(|(n, message)| row(n, message));
        let history = build(rows.collect(), 2);
        assert_eq!(history.messages, [Message::user("1234")]);
    }

    #[test]
    fn requests_whose_beginning_the_window_cut_off_are_left_out() {
        let reply = |text: &str| {
            let text = Message::user(text).blocks;
            message(Role::Assistant, text)
        };
        // Three requests waited in line; their inputs came before the first reply.
        let rows = vec![
            row(3, Message::user("c")),
            row(1, reply("A")),
            row(2, reply("B")),
            row(3, reply("C")),
        ];
        let history = build(rows, 1000);
        assert_eq!(history.messages, [Message::user("c"), reply("C")]);
    }
}
