//! Events: what is published makes the requests of the schedules that are about it.

use rune_store_runtime::limits::{MAX_EVENT_DEPTH, MAX_EVENT_FIRES};
use rune_store_runtime::{
    EventFire, EventId, PageRequest, PublishEvent, RequestId, ScheduleFilter, StoreError,
    topic_matches,
};
use serde_json::Value;
use std::collections::BTreeMap;

use super::{Engine, EngineError};

/// Names the depth of the event that made a request in its metadata.
pub(crate) const EVENT_DEPTH: &str = "event_depth";

/// An event to publish.
#[derive(Debug, Clone, PartialEq)]
pub struct Publication {
    /// The event; one that is there already is not published again.
    pub event_id: EventId,
    /// Its namespace.
    pub namespace: String,
    /// What it is about.
    pub topic: String,
    /// What is to be known of it.
    pub payload: Value,
    /// The agent or caller that says it.
    pub publisher: String,
    /// The request that publishes it.
    pub request_id: Option<RequestId>,
    /// How many events led to this one.
    pub depth: u32,
}

impl Engine {
    /// Publishes an event and answers how many requests it makes. They are recorded in the commit of the event and made
    /// by the scheduler, whatever ends in between.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn publish(&self, event: Publication) -> Result<u64, EngineError> {
        let fires = self.fires_of(&event).await?;
        let publish = PublishEvent {
            event_id: event.event_id,
            namespace: event.namespace,
            topic: event.topic,
            payload: event.payload,
            publisher: event.publisher,
            request_id: event.request_id,
            depth: event.depth,
            fires,
        };
        let fires = self.inner.store.write(publish).await?;
        self.inner.schedules_changed.notify_one();
        Ok(fires)
    }

    async fn fires_of(&self, event: &Publication) -> Result<Vec<EventFire>, StoreError> {
        // A loop ends in the store, which says so.
        if event.depth > MAX_EVENT_DEPTH {
            return Ok(Vec::new());
        }
        let filter = ScheduleFilter {
            namespace: Some(event.namespace.clone()),
            on_event: true,
            ..ScheduleFilter::default()
        };
        let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
        let mut fires = Vec::new();
        loop {
            let found = self.inner.store.schedules(&filter, &page).await?;
            let about = found.items.iter().filter(|row| {
                let topic = row.spec.kind.topic();
                !row.paused && topic.is_some_and(|topic| topic_matches(topic, &event.topic))
            });
            fires.extend(about.map(|row| EventFire {
                schedule_id: row.id,
                request_id: RequestId::generate(),
            }));
            page.cursor = found.next;
            // More than that is refused.
            if page.cursor.is_none() || fires.len() > MAX_EVENT_FIRES {
                return Ok(fires);
            }
        }
    }
}

/// How many events led to what the request with this metadata, or one below it, publishes.
pub(super) fn next_depth(metadata: &BTreeMap<String, Value>) -> u32 {
    let depth = metadata.get(EVENT_DEPTH).and_then(Value::as_u64);
    depth.map_or(0, |depth| {
        u32::try_from(depth).unwrap_or(u32::MAX).saturating_add(1)
    })
}
