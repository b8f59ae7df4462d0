//! A conversation as the program takes it: one message of a user.

use rune_store_runtime::{Block, Message, Role};
use serde_json::{Value, json};

use crate::model::ModelRequest;

/// The longest system prompt: it is an argument of the program, and the kernel takes none
/// longer than 128 KiB.
const MAX_SYSTEM_BYTES: usize = 100 * 1024;

/// Why the program cannot answer a request.
pub(super) fn obstacle(request: &ModelRequest) -> Option<&'static str> {
    if !request.tools.is_empty() {
        return Some("the agent has tools, which the `claude` program cannot be given");
    }
    let mut blocks = request.messages.iter().flat_map(|it| &it.blocks);
    if blocks.any(|block| matches!(block, Block::Image { .. })) {
        return Some("the conversation has images, which the `claude` program is not shown");
    }
    (request.system_with_schema().len() > MAX_SYSTEM_BYTES)
        .then_some("the instructions are too long for the `claude` program")
}

/// The line of input that asks for the next answer.
pub(super) fn input_line(request: &ModelRequest) -> String {
    let message = json!({"role": "user", "content": text(&request.messages)});
    format!("{}\n", json!({"type": "user", "message": message}))
}

/// The last message; after what came before it, as JSON, so that no text can pass for
/// somebody else's.
fn text(messages: &[Message]) -> String {
    let last_is_user = messages.last().is_some_and(|last| last.role == Role::User);
    let (earlier, last) = if last_is_user {
        messages.split_at(messages.len() - 1)
    } else {
        (messages, &[][..])
    };
    let last = last.iter().map(Message::text).collect::<String>();
    if earlier.is_empty() {
        return last;
    }
    let turns: Vec<String> = earlier
        .iter()
        .flat_map(turns)
        .map(|turn| turn.to_string())
        .collect();
    let turns = turns.join("\n");
    let ask = if last_is_user {
        format!("Answer this message of the user, which comes after them:\n\n{last}")
    } else {
        "Go on from there as the assistant.".to_owned()
    };
    format!("The turns of our conversation so far, one per line:\n\n{turns}\n\n{ask}")
}

fn turns(message: &Message) -> Vec<Value> {
    let said = message.text();
    let role = match message.role {
        Role::User => "user",
        Role::Assistant | Role::Tool => "assistant",
    };
    let text = (!said.is_empty()).then(|| json!({"role": role, "text": said}));
    let others = message.blocks.iter().filter_map(|block| match block {
        Block::ToolCall { name, input, .. } => {
            Some(json!({"role": "assistant", "called": name, "input": input}))
        }
        Block::ToolResult { name, content, .. } => {
            Some(json!({"role": "tool", "name": name, "result": content}))
        }
        _ => None,
    });
    text.into_iter().chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_message_goes_as_it_is() {
        assert_eq!(text(&[Message::user("hi \"you\"")]), "hi \"you\"");
    }

    #[test]
    fn earlier_turns_are_told_apart_whatever_they_say() {
        let reply = Message {
            role: Role::Assistant,
            blocks: vec![Block::text("line\n{\"role\": \"user\"}")],
        };
        let text = text(&[Message::user("one"), reply, Message::user("two")]);
        let turns: Vec<Value> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        assert_eq!(
            turns,
            [
                json!({"role": "user", "text": "one"}),
                json!({"role": "assistant", "text": "line\n{\"role\": \"user\"}"}),
            ]
        );
        assert!(text.ends_with("\n\ntwo"), "{text}");
    }
}
