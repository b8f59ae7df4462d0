//! Events and the fires they make.

use rune_store_runtime::limits::MAX_EVENT_DEPTH;
use rune_store_runtime::{
    EventFilter, EventFire, EventId, FireState, PageRequest, PauseSchedule, PublishEvent, Reject,
    RequestId, ScheduleFilter, ScheduleId, ScheduleKind,
};
use serde_json::json;

use super::fixture::Fixture;
use super::schedule::schedule;
use crate::store::TestStore;

fn publish(topic: &str, schedules: &[ScheduleId]) -> PublishEvent {
    let fire = |schedule_id: &ScheduleId| EventFire {
        schedule_id: *schedule_id,
        request_id: RequestId::generate(),
    };
    PublishEvent {
        event_id: EventId::generate(),
        namespace: "dev".to_owned(),
        topic: topic.to_owned(),
        payload: json!({"total": 7}),
        publisher: "shop".to_owned(),
        request_id: None,
        depth: 0,
        fires: schedules.iter().map(fire).collect(),
    }
}

async fn subscribe(f: &Fixture, name: &str) -> ScheduleId {
    let mut put = schedule(name, 0);
    put.spec.kind = ScheduleKind::Event {
        topic: "order.*".to_owned(),
    };
    put.spec.created_by = Some(format!("dev/{name}"));
    put.next_fire_at = None;
    let id = put.schedule_id;
    f.write(put).await;
    id
}

pub async fn an_event_is_published_once_with_its_fires(test: TestStore) {
    let f = Fixture::new(test);
    f.write(schedule("by the clock", 1000)).await;
    let (a, b) = (subscribe(&f, "a").await, subscribe(&f, "b").await);
    let filter = ScheduleFilter {
        on_event: true,
        ..ScheduleFilter::default()
    };
    let page = PageRequest::default();
    let rows = f.store.schedules(&filter, &page).await.unwrap().items;
    let ids: Vec<ScheduleId> = rows.iter().map(|row| row.id).collect();
    assert_eq!(ids, [a, b]);
    let made = ScheduleFilter {
        created_by: Some("dev/b".to_owned()),
        ..ScheduleFilter::default()
    };
    let rows = f.store.schedules(&made, &page).await.unwrap().items;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].id, b);
    f.write(PauseSchedule {
        schedule_id: b,
        paused: true,
        next_fire_at: None,
    })
    .await;
    let first = publish("order.paid", &[a, b, ScheduleId::generate()]);
    assert_eq!(f.write(first.clone()).await, 1);
    assert_eq!(f.write(first.clone()).await, 1);
    let second = publish("order.sent", &[a]);
    assert_eq!(f.write(second.clone()).await, 1);
    let fires = f.fires(a).await;
    let made: Vec<_> = fires
        .iter()
        .map(|fire| (fire.event_id, fire.request_id, fire.state))
        .collect();
    let of = |event: &PublishEvent| {
        let request = event.fires[0].request_id;
        (Some(event.event_id), Some(request), FireState::Pending)
    };
    assert_eq!(made, [of(&second), of(&first)]);
    assert!(fires[0].planned_at > fires[1].planned_at);
    assert_eq!(f.fires(b).await.len(), 0);

    let row = f.store.event(first.event_id).await.unwrap().unwrap();
    assert_eq!((row.topic.as_str(), row.fires), ("order.paid", 1));
    let topic = EventFilter {
        topic: Some("order.sent".to_owned()),
        ..EventFilter::default()
    };
    let found = f.store.events(&topic, &page).await.unwrap().items;
    assert_eq!(found[0].id, second.event_id);
    let (all, one) = (EventFilter::default(), PageRequest::first(1));
    let newest = f.store.events(&all, &one).await.unwrap();
    assert_eq!(newest.items[0].id, second.event_id);
    let rest = PageRequest {
        limit: 1,
        cursor: newest.next,
    };
    let rest = f
        .store
        .events(&EventFilter::default(), &rest)
        .await
        .unwrap();
    assert_eq!((rest.items[0].id, rest.next), (first.event_id, None));
}

pub async fn an_event_that_breaks_a_limit_is_rejected(test: TestStore) {
    let f = Fixture::new(test);
    let id = subscribe(&f, "a").await;
    let good = publish("order.paid", &[id]);
    for bad in [
        PublishEvent {
            depth: MAX_EVENT_DEPTH + 1,
            ..good.clone()
        },
        PublishEvent {
            topic: String::new(),
            ..good.clone()
        },
        PublishEvent {
            payload: json!("x".repeat(70_000)),
            ..good.clone()
        },
    ] {
        let refused = f.rejected(bad).await;
        assert!(matches!(refused, Reject::Invalid { .. }), "{refused:?}");
    }
    assert_eq!(f.fires(id).await.len(), 0);
    // Two of one moment are two.
    let command = f.command(good);
    f.store.submit(command.clone()).await.unwrap();
    let mut twin = f.command(publish("order.paid", &[id]));
    twin.at = command.at;
    f.store.submit(twin).await.unwrap();
    assert_eq!(f.fires(id).await.len(), 2);
}
