//! The conversation a model is shown, built from stored messages.
//!
//! A history cannot leave this module with a tool call that has no result or a
//! result that has no call: providers refuse both, and a session that holds one
//! would be unusable for ever. Loaded messages are repaired, and the repair is told.

mod repair;
mod turn;

use std::collections::HashMap;

use rune_spec::MemoryProfile;
use rune_store_runtime::{
    Compaction, Message, MessageRow, PageRequest, PromptMeasure, RequestId, SessionId, Store,
    StoreError, Timestamp,
};

use crate::tokens::{self, TokenScale};
use repair::Repair;

pub(crate) use turn::{Turn, without_steps};

/// Messages read from the store at a time.
const PAGE: u32 = 100;
/// Messages of earlier requests that are read at the most, however short they are.
const MAX_MESSAGES: u32 = 4000;

/// How much of earlier messages a model is shown, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// The part of the token budget, one over this, that they may fill.
    pub(crate) share: u64,
    /// That many.
    pub(crate) shown: u64,
    /// So many are read: what is too much is compacted where the profile says so, and for that it has to be read.
    pub(crate) read: u64,
}

/// The window of a profile; `None` where earlier messages are not shown.
pub(crate) fn window(profile: MemoryProfile, token_budget: u64) -> Option<Window> {
    let (share, pages) = match profile {
        MemoryProfile::Minimal => return None,
        MemoryProfile::Standard => (8, 1),
        MemoryProfile::Extended => (2, 2),
    };
    let shown = token_budget / share;
    Some(Window {
        share,
        shown,
        read: shown.saturating_mul(pages),
    })
}

/// Messages of earlier requests that are read at the most.
pub(crate) fn most(profile: MemoryProfile) -> u32 {
    match profile {
        MemoryProfile::Minimal => 0,
        MemoryProfile::Standard | MemoryProfile::Extended => MAX_MESSAGES,
    }
}

/// Earlier messages as they are shown to the model.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct History {
    /// What stands for everything older than the turns, where that was compacted.
    pub(crate) summary: Option<Summary>,
    /// The turns, oldest first; every call in them is followed by its result.
    pub(crate) turns: Vec<Turn>,
    /// How many calls or results had to be added or left out.
    pub(crate) repairs: u32,
    /// Where the newest earlier turn alone was too large.
    pub(crate) too_large: Option<TooLarge>,
    /// Whether older turns are left out that no summary stands for.
    pub(crate) left_out: bool,
    /// By the newest prompt of it that a provider has counted.
    pub(crate) scale: Option<TokenScale>,
}

/// A summary of what is not shown any more.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Summary {
    pub(crate) compaction: Box<Compaction>,
    /// What the model is shown.
    pub(crate) message: Message,
    /// Tokens of it, estimated.
    pub(crate) tokens: u64,
}

impl From<Box<Compaction>> for Summary {
    fn from(compaction: Box<Compaction>) -> Self {
        let message = Message::user(compaction.text());
        Self {
            tokens: tokens::of_message(&message),
            compaction,
            message,
        }
    }
}

impl History {
    /// The messages, oldest first.
    pub(crate) fn messages(&self) -> impl Iterator<Item = &Message> {
        let summary = self.summary.iter().map(|summary| &summary.message);
        summary.chain(self.turns.iter().flat_map(|turn| &turn.messages))
    }

    /// The same, to change them.
    pub(crate) fn messages_mut(&mut self) -> impl Iterator<Item = &mut Message> {
        self.turns.iter_mut().flat_map(|turn| &mut turn.messages)
    }

    /// What is left once a compaction of the request that is shown it counts.
    pub(crate) fn compact(&mut self, compaction: Box<Compaction>) {
        let replaced = compaction.replaces;
        let last = replaced.requests.map(|span| span.last);
        let last = self
            .turns
            .iter()
            .rposition(|turn| Some(turn.request_id) == last);
        let gone = match last {
            _ if replaced.steps > 0 => self.turns.len(),
            Some(last) => last + 1,
            None => 0,
        };
        self.turns.drain(..gone);
        self.left_out = false;
        self.summary = Some(compaction.into());
    }
}

/// The newest earlier turn does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLarge {
    /// What it has.
    pub(crate) tokens: u64,
    /// Whether its question and answer are shown in its place; else nothing is.
    pub(crate) condensed: bool,
}

/// Reads the newest turns of a session that have no more than `limit` tokens together, of requests that had ended `until` a
/// time where there is one. The rest is not read.
pub(crate) async fn read(
    store: &Store,
    session: &SessionId,
    limit: u64,
    until: Option<Timestamp>,
) -> Result<History, StoreError> {
    let rows = rows(store, session, limit, until).await?;
    Ok(build(rows, limit))
}

/// The messages that [`read`] reads, of requests that had ended `until` a time where there is one; oldest first.
pub(crate) async fn rows(
    store: &Store,
    session: &SessionId,
    limit: u64,
    until: Option<Timestamp>,
) -> Result<Vec<MessageRow>, StoreError> {
    let mut rows: Vec<MessageRow> = Vec::new();
    let mut sizes: HashMap<RequestId, u64> = HashMap::new();
    // Of the turns that are there from their beginning; no newer one is missing then.
    let mut whole = 0_u64;
    // The request that no summary leaves anything older than.
    let mut boundary: Option<RequestId> = None;
    let mut is_past_boundary = false;
    let mut page = PageRequest::first(PAGE);
    loop {
        let found = store.recent_messages(session, &page, until).await?;
        for row in &found.items {
            let size = sizes.entry(row.request_id).or_default();
            *size = size.saturating_add(tokens::of_message(&row.message));
            if let (None, Some(compaction)) = (boundary, &row.compaction) {
                let replaced = compaction.replaces;
                let last = replaced.requests.filter(|_| replaced.steps == 0);
                boundary = Some(last.map_or(row.request_id, |span| span.last));
            }
            if row.seq == turn::FIRST {
                whole = whole.saturating_add(*size);
                is_past_boundary |= boundary == Some(row.request_id);
            }
        }
        rows.extend(found.items);
        page.cursor = found.next;
        let is_full = scale(&rows).unwrap_or_default().apply(whole) > limit;
        let is_enough = is_full || is_past_boundary || rows.len() >= MAX_MESSAGES as usize;
        if is_enough || page.cursor.is_none() {
            rows.reverse();
            return Ok(rows);
        }
    }
}

/// The newest prompt that a provider has counted and that says something of others.
pub(crate) fn measure<'a>(
    newest_first: impl IntoIterator<Item = &'a MessageRow>,
) -> Option<PromptMeasure> {
    let mut measures = newest_first.into_iter().filter_map(|row| row.measure);
    measures.find(|measure| TokenScale::of(*measure).is_some())
}

/// The scale by that prompt.
fn scale<'a>(newest_first: impl IntoIterator<Item = &'a MessageRow>) -> Option<TokenScale> {
    measure(newest_first).and_then(TokenScale::of)
}

/// Builds the history of a session from its newest messages, oldest first.
///
/// Whole turns are left out, the oldest first, until the rest fits into `limit`. The newest
/// compaction stands for everything that is older than what it left.
fn build(rows: Vec<MessageRow>, limit: u64) -> History {
    let scale = scale(rows.iter().rev());
    let limit = scale.unwrap_or_default().within(limit);
    let mut size = 0_u64;
    let mut newest_first: Vec<Turn> = Vec::new();
    let mut summary: Option<Summary> = None;
    let mut boundary: Option<RequestId> = None;
    let (mut too_large, mut left_out) = (None, false);
    for (turn, compaction) in turn::complete(rows).into_iter().rev() {
        if boundary == Some(turn.request_id) {
            break;
        }
        let is_boundary = compaction.as_ref().is_some_and(|it| it.replaces.steps > 0);
        if summary.is_none()
            && let Some(compaction) = compaction
        {
            boundary = compaction.replaces.requests.map(|span| span.last);
            let newest = Summary::from(compaction);
            size = size.saturating_add(newest.tokens);
            summary = Some(newest);
        }
        size = size.saturating_add(turn.tokens);
        if size > limit {
            left_out = !newest_first.is_empty();
            if newest_first.is_empty() {
                let tokens = turn.tokens;
                let condensed = turn.condensed().filter(|turn| turn.tokens <= limit);
                too_large = Some(TooLarge {
                    tokens,
                    condensed: condensed.is_some(),
                });
                newest_first.extend(condensed);
            }
            break;
        }
        newest_first.push(turn);
        if is_boundary {
            break;
        }
    }
    let mut repair = Repair::default();
    let mut turns = newest_first;
    turns.reverse();
    for turn in &mut turns {
        turn.messages = repair.turn(std::mem::take(&mut turn.messages));
    }
    History {
        summary,
        turns,
        repairs: repair.repairs,
        too_large,
        left_out,
        scale,
    }
}

#[cfg(test)]
mod tests {
    use rune_store_runtime::{Block, PromptMeasure, Replaced, RequestSpan, Role};
    use serde_json::json;

    use super::*;

    fn reply(text: &str) -> Message {
        Message {
            role: Role::Assistant,
            blocks: Message::user(text).blocks,
        }
    }

    fn messages(history: &History) -> Vec<Message> {
        history.messages().cloned().collect()
    }

    fn row(request: u8, seq: u64, message: Message) -> MessageRow {
        MessageRow {
            session_id: "s".parse::<SessionId>().unwrap(),
            request_id: RequestId::from_bytes([request; 16]),
            seq,
            created_at: Timestamp::from_millis(0),
            message,
            measure: None,
            compaction: None,
        }
    }

    #[test]
    fn the_oldest_requests_are_left_out_first() {
        let rows = ["12345678", "1234"].map(Message::user);
        let rows = (1..)
            .zip(rows)
            .map(|(request, message)| row(request, 1, message));
        let history = build(rows.collect(), 2);
        assert_eq!(messages(&history), [Message::user("1234")]);
        assert!(history.left_out && history.too_large.is_none());
    }

    #[test]
    fn requests_whose_beginning_was_not_read_are_left_out() {
        // Three requests waited in line; their inputs came before the first reply.
        let rows = vec![
            row(3, 1, Message::user("c")),
            row(1, 3, reply("A")),
            row(2, 3, reply("B")),
            row(3, 3, reply("C")),
        ];
        let history = build(rows, 1000);
        assert_eq!(messages(&history), [Message::user("c"), reply("C")]);
    }

    #[test]
    fn of_a_turn_that_is_too_large_the_question_and_the_answer_are_shown() {
        let call = Message {
            role: Role::Assistant,
            blocks: vec![
                Block::text("I look."),
                Block::ToolCall {
                    id: "a".to_owned(),
                    name: "t".to_owned(),
                    input: json!({}),
                    native: None,
                },
            ],
        };
        let result = Message {
            role: Role::Tool,
            blocks: vec![Block::ToolResult {
                call_id: "a".to_owned(),
                name: "t".to_owned(),
                content: "x".repeat(400),
                images: Vec::new(),
                is_error: false,
            }],
        };
        let rows = vec![
            row(1, 1, Message::user("question")),
            row(1, 3, call),
            row(1, 5, result),
            row(1, 6, reply("answer")),
        ];
        let history = build(rows.clone(), 50);
        assert_eq!(
            messages(&history),
            [Message::user("question"), reply("answer")]
        );
        let too_large = history.too_large.unwrap();
        assert!(too_large.condensed && too_large.tokens > 100);
        assert_eq!(history.repairs, 0);
        let history = build(rows, 1);
        assert!(history.turns.is_empty() && !history.too_large.unwrap().condensed);
    }

    #[test]
    fn a_limit_counts_what_the_provider_counted() {
        let mut rows = vec![
            row(1, 1, Message::user("1".repeat(40))),
            row(2, 1, Message::user("2".repeat(40))),
        ];
        assert_eq!(build(rows.clone(), 20).turns.len(), 2);
        rows[1].measure = Some(PromptMeasure {
            estimated: 1000,
            reported: 2000,
        });
        assert_eq!(build(rows, 20).turns.len(), 1);
    }
    fn compacted(request: u8, seq: u64, last: Option<u8>, steps: u32) -> MessageRow {
        let compaction = Compaction {
            step: 1,
            replaces: Replaced {
                requests: last.map(|last| RequestSpan {
                    first: RequestId::from_bytes([1; 16]),
                    last: RequestId::from_bytes([last; 16]),
                    count: last.into(),
                }),
                steps,
            },
            summary: format!("summary of {request}"),
            effects: Vec::new(),
            more_effects: 0,
            tokens_before: 2,
            tokens_after: 1,
            call: None,
        };
        MessageRow {
            compaction: Some(Box::new(compaction)),
            ..row(request, seq, Message::user(""))
        }
    }

    #[test]
    fn a_compaction_stands_for_what_is_older_than_what_it_left() {
        let asked = |request: u8| row(request, 1, Message::user(format!("q{request}")));
        let said = |request: u8, seq, text: &str| row(request, seq, reply(text));
        // Request 3 replaced 1 and left 2; request 4 replaced what it had itself.
        let rows = vec![
            asked(1),
            said(1, 3, "a1"),
            asked(2),
            said(2, 3, "a2"),
            asked(3),
            compacted(3, 3, Some(1), 0),
            said(3, 4, "a3"),
        ];
        let texts = |rows: &[MessageRow]| -> Vec<String> {
            let history = build(rows.to_vec(), 1000);
            assert!(!history.left_out);
            history.messages().map(Message::text).collect()
        };
        let summary = |request: u8| compacted(request, 0, None, 0).compaction.unwrap().text();
        assert_eq!(texts(&rows), [&summary(3), "q2", "a2", "q3", "a3"]);
        let mut more = rows.clone();
        more.extend([
            asked(4),
            said(4, 3, "step 1"),
            said(4, 4, "step 2"),
            compacted(4, 5, Some(3), 2),
            said(4, 6, "step 3"),
            asked(5),
            said(5, 3, "a5"),
        ]);
        let expected = [&summary(4), "q4", "step 3", "q5", "a5"];
        assert_eq!(texts(&more), expected);
        // Without the beginning of what was replaced nothing changes.
        assert_eq!(texts(&more[6..]), expected);
    }
}
