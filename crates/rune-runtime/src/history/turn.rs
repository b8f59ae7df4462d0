//! What one request left in the history of its session.

use rune_store_runtime::{Block, Compaction, Message, MessageRow, RequestId, Role};

use crate::tokens;

/// The journal entry of a request's input.
pub(super) const FIRST: u64 = 1;

/// The messages of one request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Turn {
    pub(crate) request_id: RequestId,
    /// The input, then the steps.
    pub(crate) messages: Vec<Message>,
    /// Tokens of them, estimated.
    pub(crate) tokens: u64,
}

impl Turn {
    pub(super) fn new(request_id: RequestId, messages: Vec<Message>) -> Self {
        Self {
            request_id,
            tokens: tokens::of_messages(&messages),
            messages,
        }
    }

    /// Its question and its answer, where it has one.
    pub(super) fn condensed(self) -> Option<Self> {
        let mut messages = self.messages.into_iter();
        let question = messages.next()?;
        let answer = messages.next_back()?;
        let is_call = |block: &Block| matches!(block, Block::ToolCall { .. });
        let is_answer = answer.role == Role::Assistant && !answer.blocks.iter().any(is_call);
        is_answer.then(|| Self::new(self.request_id, vec![question, answer]))
    }
}

/// The messages of a request without its first model turns: its input, then the rest. A call
/// and its result belong to one turn.
pub(crate) fn without_steps(messages: Vec<Message>, steps: u32) -> Vec<Message> {
    if steps == 0 {
        return messages;
    }
    let mut turns = 0;
    let mut rest = messages.into_iter();
    let input = rest.next();
    let kept = rest.skip_while(|message| {
        turns += u32::from(message.role == Role::Assistant);
        turns <= steps
    });
    input.into_iter().chain(kept).collect()
}

/// The turns of messages, oldest first, that are there from their beginning, and the newest
/// compaction of each. What a turn's own compaction replaced of it is left out.
///
/// Requests that waited in line have their inputs ahead of the replies to those before
/// them, so more than one may have lost its beginning.
pub(super) fn complete(rows: Vec<MessageRow>) -> Vec<(Turn, Option<Box<Compaction>>)> {
    struct Found {
        request_id: RequestId,
        messages: Vec<Message>,
        compaction: Option<Box<Compaction>>,
    }
    let mut found: Vec<Found> = Vec::new();
    for row in rows {
        let request_id = row.request_id;
        let known = found.iter_mut().rfind(|turn| turn.request_id == request_id);
        match (known, row.compaction) {
            (Some(turn), Some(compaction)) => turn.compaction = Some(compaction),
            (Some(turn), None) => turn.messages.push(row.message),
            (None, _) if row.seq == FIRST => found.push(Found {
                request_id,
                messages: vec![row.message],
                compaction: None,
            }),
            (None, _) => {}
        }
    }
    let turns = found.into_iter().map(|turn| {
        let steps = turn.compaction.as_ref().map_or(0, |it| it.replaces.steps);
        let messages = without_steps(turn.messages, steps);
        (Turn::new(turn.request_id, messages), turn.compaction)
    });
    turns.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_steps_of_a_request_go_with_their_results() {
        let said = |role, text: &str| Message {
            role,
            blocks: Message::user(text).blocks,
        };
        let messages = vec![
            said(Role::User, "input"),
            said(Role::Assistant, "1"),
            said(Role::Tool, "r1"),
            said(Role::Assistant, "2"),
            said(Role::User, "that is no JSON"),
            said(Role::Assistant, "3"),
        ];
        for (steps, kept) in [(0, 1), (1, 3), (2, 5), (3, 6), (9, 6)] {
            let mut expected = messages[kept..].to_vec();
            expected.insert(0, messages[0].clone());
            assert_eq!(without_steps(messages.clone(), steps), expected, "{steps}");
        }
    }
}
