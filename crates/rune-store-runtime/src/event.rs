//! Events: what agents tell a namespace. A schedule whose kind is an event makes one request of each event that it is
//! about; its fire is recorded in the commit of the event.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{EventId, RequestId, ScheduleId, Timestamp};

/// Publishes an event. Reply: how many requests it makes. One that exists already stays as it is.
///
/// A schedule that is not there any more, or is held, makes none. Rejected with `invalid` where there are more fires than
/// [`MAX_EVENT_FIRES`](crate::limits::MAX_EVENT_FIRES) or it was caused by more than
/// [`MAX_EVENT_DEPTH`](crate::limits::MAX_EVENT_DEPTH) events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PublishEvent {
    /// The event.
    pub event_id: EventId,
    /// Namespace of the schedules that it is for.
    pub namespace: String,
    /// What it is about, 1 to 128 bytes.
    pub topic: String,
    /// What is to be known of it.
    pub payload: Value,
    /// The agent or caller that says it.
    pub publisher: String,
    /// The request that published it.
    pub request_id: Option<RequestId>,
    /// How many events led to this one.
    pub depth: u32,
    /// The requests it makes.
    pub fires: Vec<EventFire>,
}

/// A request that an event makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFire {
    /// By which schedule.
    pub schedule_id: ScheduleId,
    /// Under which id.
    pub request_id: RequestId,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRow {
    /// The event.
    pub id: EventId,
    /// Its namespace.
    pub namespace: String,
    /// What it is about.
    pub topic: String,
    /// What is to be known of it.
    pub payload: Value,
    /// The agent or caller that said it.
    pub publisher: String,
    /// The request that published it.
    pub request_id: Option<RequestId>,
    /// How many events led to this one.
    pub depth: u32,
    /// How many requests it made.
    pub fires: u64,
    /// When it was published.
    pub at: Timestamp,
}

/// Which events to list, newest first. Empty fields match everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventFilter {
    /// Only in this namespace.
    pub namespace: Option<String>,
    /// Only about this topic.
    pub topic: Option<String>,
}

/// Whether a pattern, in which `*` stands for any text, is about a topic.
#[must_use]
pub fn topic_matches(pattern: &str, topic: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| topic.strip_prefix(first)) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, topic, matches) in [
            ("order.paid", "order.paid", true),
            ("order.paid", "order.paid.late", false),
            ("order.*", "order.paid", true),
            ("order.*", "order.", true),
            ("order.*", "border.paid", false),
            ("*", "anything", true),
            ("*.paid", "order.paid", true),
            ("o*r*d", "order.paid", true),
            ("a*a", "a", false),
            ("ab*ba*b", "abbab", true),
            ("", "x", false),
        ] {
            assert_eq!(topic_matches(pattern, topic), matches, "{pattern} {topic}");
        }
    }
}
