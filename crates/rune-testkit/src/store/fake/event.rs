//! Events and the fires they make.

use async_trait::async_trait;
use rune_store_runtime::limits::{
    MAX_EVENT_BYTES, MAX_EVENT_DEPTH, MAX_EVENT_FIRES, MAX_EVENTS, MAX_QUEUE_NAME_BYTES,
};
use rune_store_runtime::{
    Command, EventFilter, EventFire, EventId, EventReader, EventRow, FireState, Page, PageRequest,
    PublishEvent, Reject, ScheduleFireRow, StoreError, Timestamp,
};

use super::apply::check_json;
use super::page::page;
use super::{FakeStore, State, is};

impl State {
    pub(super) fn publish_event(
        &mut self,
        command: &Command,
        op: &PublishEvent,
    ) -> Result<u64, Reject> {
        let named = !op.topic.is_empty() && op.topic.len() <= MAX_QUEUE_NAME_BYTES;
        if !named || op.depth > MAX_EVENT_DEPTH || op.fires.len() > MAX_EVENT_FIRES {
            return Err(Reject::invalid("the event breaks a limit"));
        }
        check_json(&op.payload, MAX_EVENT_BYTES)?;
        if let Some((_, row)) = self.events.iter().find(|(_, row)| row.id == op.event_id) {
            return Ok(row.fires);
        }
        let mut fires = 0;
        for fire in &op.fires {
            fires += u64::from(self.fire_by_event(command, op, fire));
        }
        let row = EventRow {
            id: op.event_id,
            namespace: op.namespace.clone(),
            topic: op.topic.clone(),
            payload: op.payload.clone(),
            publisher: op.publisher.clone(),
            request_id: op.request_id,
            depth: op.depth,
            fires,
            at: command.at,
        };
        self.created += 1;
        self.events.push((self.created, row));
        self.forget_oldest_events(&op.namespace);
        Ok(fires)
    }

    fn fire_by_event(&mut self, command: &Command, op: &PublishEvent, fire: &EventFire) -> bool {
        let recorded = self.created + 1;
        let Some(schedule) = self.schedules.get_mut(&fire.schedule_id) else {
            return false;
        };
        if schedule.row.paused || schedule.row.spec.namespace != op.namespace {
            return false;
        }
        let planned = schedule.fires.keys().filter(|(_, manual)| !manual);
        let last = planned.map(|(at, _)| at.as_millis()).max();
        let now = command.at.as_millis();
        let planned_at = last.map_or(now, |last| now.max(last.saturating_add(1)));
        let planned_at = Timestamp::from_millis(planned_at);
        let row = ScheduleFireRow {
            schedule_id: fire.schedule_id,
            planned_at,
            manual: false,
            event_id: Some(op.event_id),
            state: FireState::Pending,
            reason: String::new(),
            request_id: Some(fire.request_id),
            fired_at: command.at,
        };
        schedule.fires.insert((planned_at, false), (recorded, row));
        schedule.forget_oldest();
        self.created = recorded;
        true
    }

    fn forget_oldest_events(&mut self, namespace: &str) {
        let numbers = self.events.iter().rev();
        let numbers = numbers.filter(|(_, row)| row.namespace == namespace);
        let oldest = numbers
            .map(|(created, _)| *created)
            .nth(MAX_EVENTS as usize);
        let Some(oldest) = oldest else { return };
        let fires = self.schedules.values().flat_map(|row| row.fires.values());
        let wanted: Vec<EventId> = fires
            .filter(|(_, fire)| fire.state == FireState::Pending)
            .filter_map(|(_, fire)| fire.event_id)
            .collect();
        self.events.retain(|(created, row)| {
            row.namespace != namespace || *created > oldest || wanted.contains(&row.id)
        });
    }
}

#[async_trait]
impl EventReader for FakeStore {
    async fn event(&self, id: EventId) -> Result<Option<EventRow>, StoreError> {
        let state = self.state();
        let found = state.events.iter().find(|(_, row)| row.id == id);
        Ok(found.map(|(_, row)| row.clone()))
    }

    async fn events(
        &self,
        filter: &EventFilter,
        request: &PageRequest,
    ) -> Result<Page<EventRow>, StoreError> {
        let state = self.state();
        let rows = state.events.iter().filter(|(_, row)| {
            is(filter.namespace.as_ref(), &row.namespace) && is(filter.topic.as_ref(), &row.topic)
        });
        page(
            "events",
            request,
            rows.map(|(created, row)| (-created, row.clone())),
        )
    }
}
