//! The limits that every store keeps. A command beyond one of them is rejected
//! with [`crate::Reject::Invalid`].

use std::time::Duration;

/// Earlier releases that a deployment can go back to, at the most.
pub const MAX_RELEASES: usize = 10;
/// The largest journal entry, in bytes of its JSON. Larger payloads go to the
/// object store and the entry keeps the digest.
pub const MAX_ENTRY_BYTES: usize = 1 << 20;

/// The largest object of the object store, in bytes, wherever it is put in: as much as a package may have.
pub const MAX_OBJECT_BYTES: usize = 64 << 20;

/// The most of what is read at once, a page of a list or a part of a journal, in bytes of its rows. What would have more
/// ends before the row that does not fit, and has one row at the least.
pub const MAX_PAGE_BYTES: usize = 8 << 20;

/// The largest command, in bytes of its JSON: room for the journal of a long request that is
/// written at its end.
pub const MAX_COMMAND_BYTES: usize = 32 << 20;

/// The most entries in one journal.
pub const MAX_ENTRIES: u64 = (1 << 20) - 1;

/// The most messages in one session.
pub const MAX_SESSION_MESSAGES: u64 = (1 << 24) - 1;

/// The largest token count that one model call may report. Small enough that the
/// sum over the longest journal fits a signed 64-bit integer.
pub const MAX_CALL_TOKENS: u64 = 1 << 40;

/// The largest cost that one model call may report, in millionths of a US dollar; about a
/// million dollars. Sums fit as those of tokens do.
pub const MAX_CALL_COST_MICRO_USD: u64 = 1 << 40;

/// The largest budget, in tokens or millionths of a US dollar. Sums of a few of them fit a
/// signed 64-bit integer.
pub const MAX_BUDGET: u64 = 1 << 52;

/// The most groups of the usage ledger that are answered at once.
pub const MAX_USAGE_TOTALS: u32 = 10_000;

/// The longest memory key, in bytes.
pub const MAX_MEMORY_KEY_BYTES: usize = 256;

/// The largest memory value with its tags, in bytes of JSON.
pub const MAX_MEMORY_VALUE_BYTES: usize = 256 << 10;

/// The longest name or type of an entity or a relation, in bytes.
pub const MAX_KNOWLEDGE_NAME_BYTES: usize = 256;

/// The largest set of properties of an entity or a relation, in bytes of JSON.
pub const MAX_PROPERTIES_BYTES: usize = 64 << 10;

/// The longest name of a queue or topic, in bytes.
pub const MAX_QUEUE_NAME_BYTES: usize = 128;

/// The most tasks of a queue that are not done.
pub const MAX_QUEUE_TASKS: u32 = 10_000;

/// How many tasks of a queue that have ended are kept, the oldest go first.
pub const MAX_ENDED_TASKS: u32 = 1000;

/// The largest title, payload or result of a task, each in bytes of JSON.
pub const MAX_TASK_BYTES: usize = 64 << 10;

/// The longest lease of a task.
pub const MAX_TASK_LEASE: Duration = Duration::from_secs(24 * 60 * 60);

/// The largest payload of an event, in bytes of JSON.
pub const MAX_EVENT_BYTES: usize = 64 << 10;

/// How many events may have led to one: what ends agents that answer events with events.
pub const MAX_EVENT_DEPTH: u32 = 8;

/// The most requests that one event makes.
pub const MAX_EVENT_FIRES: usize = 1000;

/// How many events of a namespace are kept, the oldest go first; those that a pending fire tells of stay.
pub const MAX_EVENTS: u32 = 10_000;

/// The longest text of a message to a person, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 32 << 10;

/// The most messages of a namespace that wait in the outbox.
pub const MAX_OUTBOX_MESSAGES: u32 = 10_000;

/// The longest name of a secret, in bytes.
pub const MAX_SECRET_NAME_BYTES: usize = 128;

/// The largest value of a secret, in bytes: it has to fit a variable of a process.
pub const MAX_SECRET_BYTES: usize = 64 << 10;

/// The largest encrypted secret, in bytes: a value with its nonce and its tag.
pub const MAX_SEALED_SECRET_BYTES: usize = MAX_SECRET_BYTES + 64;

/// The most secrets of a namespace.
pub const MAX_SECRETS: u32 = 1000;

/// The longest id of a webhook of a request, in bytes.
pub const MAX_PUSH_ID_BYTES: usize = 256;

/// The most webhooks of a request.
pub const MAX_PUSHES: u32 = 32;

/// The latest time a command may carry: the end of the year 9999.
pub const MAX_COMMAND_MILLIS: i64 = 253_402_300_799_999;

/// How long an idempotency key is kept, by the time of the commands.
pub const IDEMPOTENCY_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a retry of a command is recognised, by the time of the commands.
pub const RECEIPT_WINDOW: Duration = Duration::from_secs(10 * 60);

/// How many of the oldest receipts, and of the oldest idempotency keys, a command
/// that writes one looks at to drop those that have expired by its own time.
pub const PRUNE_BATCH: u32 = 8;

/// How many fires of a schedule are kept, the oldest go first; pending ones stay.
pub const MAX_SCHEDULE_FIRES: u32 = 1000;

/// How deep stored JSON may nest, so that every reader can parse it back.
pub const MAX_JSON_DEPTH: usize = 100;

/// How deep arrays and objects nest in a valid JSON text.
#[must_use]
pub fn json_depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0usize);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_in_strings_do_not_nest() {
        assert_eq!(json_depth("1"), 0);
        assert_eq!(json_depth(r#"{"a":[{"b":"]]{{\"[["}]}"#), 3);
    }
}
