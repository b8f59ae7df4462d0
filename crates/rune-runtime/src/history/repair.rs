//! Every tool call has its result, every result its call.

use std::collections::HashSet;

use rune_store_runtime::{Block, Message, Role};

/// What the model is told about a call whose result was lost.
const LOST_RESULT: &str =
    "The result of this call was lost. Do not assume that it had or did not have an effect.";

/// A call that waits for its result.
struct OpenCall {
    /// The id as stored.
    stored_id: String,
    /// The id in the history, unique there.
    id: String,
    name: String,
}

/// Repairs the turns of a history, one after the other.
#[derive(Debug, Default)]
pub(super) struct Repair {
    /// The ids of the calls so far.
    used: HashSet<String>,
    /// How many calls or results had to be added or left out.
    pub(super) repairs: u32,
}

impl Repair {
    /// Gives every call its result, right behind the assistant message that made it,
    /// joins the results of one assistant message, drops results without a call, and
    /// renames a call whose id was used before (some servers count from zero in every
    /// reply).
    pub(super) fn turn(&mut self, messages: Vec<Message>) -> Vec<Message> {
        let mut fixed: Vec<Message> = Vec::with_capacity(messages.len());
        let mut open: Vec<OpenCall> = Vec::new();
        let Self { used, repairs } = self;
        for mut message in messages {
            match message.role {
                Role::Tool => {
                    message.blocks = answer_calls(message.blocks, &mut open, repairs);
                }
                Role::Assistant => {
                    close_calls(&mut fixed, &mut open, repairs);
                    for block in &mut message.blocks {
                        open_call(block, &mut open, used);
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
            images,
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
                    images,
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
            images: Vec::new(),
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
            images: Vec::new(),
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
        let mut repair = Repair::default();
        let fixed = repair.turn(vec![
            Message::user("hi"),
            message(Role::Assistant, vec![call("a"), call("b")]),
            message(Role::Tool, vec![result("b")]),
            Message::user("and now?"),
        ]);
        assert_eq!(repair.repairs, 1);
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
            turns in proptest::collection::vec(proptest::collection::vec(any_message(), 0..8), 0..3),
        ) {
            let mut repair = Repair::default();
            let fixed: Vec<Message> = turns.into_iter().flat_map(|turn| repair.turn(turn)).collect();
            check(&fixed);
            let mut again = Repair::default();
            prop_assert_eq!(&again.turn(fixed.clone()), &fixed);
            prop_assert_eq!(again.repairs, 0);
        }
    }
}
