//! What is read and tried at the most.

use std::time::Duration;

/// The largest card in bytes.
pub(super) const MAX_CARD_BYTES: usize = 512 << 10;
/// The largest answer in bytes.
pub(super) const MAX_ANSWER_BYTES: usize = 16 << 20;
/// The largest event of a stream in bytes.
pub(super) const MAX_EVENT_BYTES: usize = 16 << 20;
/// The longest stream in bytes.
pub(super) const MAX_STREAM_BYTES: usize = 256 << 20;
/// The largest answer that a task comes to, in bytes that it takes in memory.
pub(super) const MAX_TASK_BYTES: usize = 16 << 20;
/// What an artifact takes beside what is in it, so that there is an end of empty ones.
pub(super) const ARTIFACT_BYTES: usize = 1 << 10;
/// What a part takes beside what is in it.
pub(super) const PART_BYTES: usize = 128;
/// What a value of JSON takes beside what is in it.
pub(super) const VALUE_BYTES: usize = 32;
/// Interfaces, skills and extensions of a card, each.
pub(super) const MAX_CARD_ITEMS: usize = 256;
/// Redirects on the way to a card.
pub(super) const MAX_REDIRECTS: usize = 3;
/// Cards that are kept.
pub(super) const MAX_CARDS: usize = 256;
/// How long a card is not asked for again, where its server does not say.
pub(super) const CARD_AGE: Duration = Duration::from_mins(1);
/// And at the longest.
pub(super) const MAX_CARD_AGE: Duration = Duration::from_hours(1);
/// How often a message is sent of which nobody knows whether it arrived, where it can be sent again.
pub(super) const MAX_SENDS: u32 = 4;
/// Looks at a task in a row that may come to nothing.
pub(super) const MAX_FAILURES: u32 = 12;
/// The pause before the first further look.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// And at the longest.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(5);
/// The longest text of another's error that is told.
pub(super) const MAX_ERROR_CHARS: usize = 1000;
