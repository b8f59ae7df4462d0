//! Schedules and their fires.

use rune_store_runtime::limits::MAX_SCHEDULE_FIRES;
use rune_store_runtime::{
    Advance, CatchUp, DeleteSchedule, FireFilter, FirePlan, FireSchedule, FireState, NewFire,
    Overlap, PageRequest, PauseSchedule, PutSchedule, Reject, RequestId, ScheduleFilter,
    ScheduleFireRow, ScheduleId, ScheduleKind, ScheduleSpec, SettleFire, Timestamp,
};
use serde_json::json;

use super::fixture::Fixture;
use crate::store::TestStore;

impl Fixture {
    /// Every fire of a schedule, newest planned time first.
    pub(super) async fn fires(&self, schedule_id: ScheduleId) -> Vec<ScheduleFireRow> {
        let filter = FireFilter {
            schedule_id: Some(schedule_id),
            state: None,
        };
        let mut page = PageRequest::first(PageRequest::MAX_LIMIT);
        let mut fires = Vec::new();
        loop {
            let part = self.store.schedule_fires(&filter, &page).await.unwrap();
            fires.extend(part.items);
            page.cursor = part.next;
            if page.cursor.is_none() {
                return fires;
            }
        }
    }
}

pub(super) fn schedule(name: &str, next: i64) -> PutSchedule {
    PutSchedule {
        schedule_id: ScheduleId::generate(),
        spec: ScheduleSpec {
            namespace: "dev".to_owned(),
            name: name.to_owned(),
            agent: "echo".to_owned(),
            alias: "stable".to_owned(),
            input: json!("tick"),
            session_id: None,
            kind: ScheduleKind::Interval {
                every_ms: 1000,
                anchor: Timestamp::from_millis(1000),
            },
            catch_up: CatchUp::One,
            overlap: Overlap::Skip,
            jitter_ms: 0,
            created_by: None,
        },
        paused: false,
        next_fire_at: Some(Timestamp::from_millis(next)),
    }
}

fn fire(planned: i64) -> NewFire {
    NewFire {
        planned_at: Timestamp::from_millis(planned),
        plan: FirePlan::Invoke {
            request_id: RequestId::generate(),
        },
    }
}

/// Fires for one planned time and moves on by a second.
fn fire_at(schedule_id: ScheduleId, planned: i64) -> FireSchedule {
    FireSchedule {
        schedule_id,
        advance: Some(Advance {
            from: Timestamp::from_millis(planned),
            to: Some(Timestamp::from_millis(planned + 1000)),
        }),
        fires: vec![fire(planned)],
    }
}

pub async fn a_schedule_fires_once_per_planned_time(test: TestStore) {
    let f = Fixture::new(test);
    let op = schedule("tick", 1000);
    let schedule_id = op.schedule_id;
    f.write(op.clone()).await;
    let command = f.command(fire_at(schedule_id, 1000));
    let first = f.store.submit(command.clone()).await.unwrap();
    assert_eq!(f.store.submit(command).await.unwrap(), first);
    assert!(!f.write(fire_at(schedule_id, 1000)).await);
    assert!(f.write(fire_at(schedule_id, 2000)).await);
    let row = f.store.schedule(schedule_id).await.unwrap().unwrap();
    assert_eq!(row.next_fire_at, Some(Timestamp::from_millis(3000)));
    let filter = FireFilter {
        schedule_id: Some(schedule_id),
        state: None,
    };
    let fires = f
        .store
        .schedule_fires(&filter, &PageRequest::first(1))
        .await
        .unwrap();
    assert_eq!(fires.items[0].planned_at, Timestamp::from_millis(2000));
    assert_eq!(row.last_fire.as_ref(), fires.items.first());
    let rest = PageRequest {
        limit: 1,
        cursor: fires.next,
    };
    let rest = f.store.schedule_fires(&filter, &rest).await.unwrap();
    assert_eq!(
        (rest.items[0].planned_at.as_millis(), rest.next),
        (1000, None)
    );
    f.write(DeleteSchedule { schedule_id }).await;
    let gone = f.rejected(fire_at(schedule_id, 3000)).await;
    assert!(matches!(gone, Reject::NotFound { .. }));
    let delete = DeleteSchedule { schedule_id };
    assert!(matches!(f.rejected(delete).await, Reject::NotFound { .. }));
    f.write(op).await;
    let fires = f
        .store
        .schedule_fires(&filter, &PageRequest::default())
        .await
        .unwrap();
    assert!(fires.items.is_empty());
}

pub async fn a_schedule_that_goes_back_repeats_no_fire(test: TestStore) {
    let f = Fixture::new(test);
    let op = schedule("tick", 1000);
    let schedule_id = op.schedule_id;
    f.write(op.clone()).await;
    assert!(f.write(fire_at(schedule_id, 1000)).await);
    let before = f.fires(schedule_id).await;
    f.write(PauseSchedule {
        schedule_id,
        paused: false,
        next_fire_at: Some(Timestamp::from_millis(1000)),
    })
    .await;
    let mut again = fire_at(schedule_id, 1000);
    again.fires.push(fire(1500));
    assert!(f.write(again).await);
    let after = f.fires(schedule_id).await;
    assert_eq!(after.len(), 2);
    assert_eq!(after[1], before[0]);
}

pub async fn a_fire_is_settled_once(test: TestStore) {
    let f = Fixture::new(test);
    let op = schedule("tick", 1000);
    let schedule_id = op.schedule_id;
    f.write(op).await;
    f.write(fire_at(schedule_id, 1000)).await;
    let pending = FireFilter {
        schedule_id: None,
        state: Some(FireState::Pending),
    };
    let page = PageRequest::default();
    let open = f.store.schedule_fires(&pending, &page).await.unwrap();
    assert_eq!(open.items, f.fires(schedule_id).await);
    let settle = |state, planned| SettleFire {
        schedule_id,
        planned_at: Timestamp::from_millis(planned),
        manual: false,
        state,
        reason: "because".to_owned(),
    };
    assert!(f.write(settle(FireState::Failed, 1000)).await);
    assert!(!f.write(settle(FireState::Fired, 1000)).await);
    let fires = f.fires(schedule_id).await;
    assert_eq!(
        (fires[0].state, fires[0].reason.as_str()),
        (FireState::Failed, "because")
    );
    let open = f.store.schedule_fires(&pending, &page).await.unwrap();
    assert!(open.items.is_empty());
    let unknown = f.rejected(settle(FireState::Fired, 2000)).await;
    assert!(matches!(unknown, Reject::NotFound { .. }));
    let reopened = f.rejected(settle(FireState::Pending, 1000)).await;
    assert!(matches!(reopened, Reject::Invalid { .. }));
}

pub async fn a_fire_by_hand_stands_beside_the_planned_one(test: TestStore) {
    let f = Fixture::new(test);
    let op = schedule("tick", 1000);
    let schedule_id = op.schedule_id;
    f.write(op).await;
    let by_hand = || FireSchedule {
        schedule_id,
        advance: None,
        fires: vec![fire(1000)],
    };
    assert!(f.write(by_hand()).await);
    assert!(!f.write(by_hand()).await);
    let row = f.store.schedule(schedule_id).await.unwrap().unwrap();
    assert_eq!(row.next_fire_at, Some(Timestamp::from_millis(1000)));
    assert!(f.write(fire_at(schedule_id, 1000)).await);
    let fires = f.fires(schedule_id).await;
    let manual: Vec<bool> = fires.iter().map(|fire| fire.manual).collect();
    assert_eq!(manual, [false, true]);
}

pub async fn only_the_newest_fires_are_kept(test: TestStore) {
    let f = Fixture::new(test);
    let op = schedule("tick", 0);
    let schedule_id = op.schedule_id;
    f.write(op).await;
    f.write(fire_at(schedule_id, 0)).await;
    let most = i64::from(MAX_SCHEDULE_FIRES);
    let skip = |planned| NewFire {
        planned_at: Timestamp::from_millis(planned),
        plan: FirePlan::Skip {
            reason: String::new(),
        },
    };
    let mut many = fire_at(schedule_id, 1000);
    many.fires = (1..=most).map(skip).collect();
    assert!(f.write(many.clone()).await);
    // The pending one stays, however old it is.
    assert_eq!(f.fires(schedule_id).await.len() as i64, most + 1);
    let mut more = fire_at(schedule_id, 2000);
    more.fires = vec![skip(most + 1)];
    assert!(f.write(more).await);
    let fires = f.fires(schedule_id).await;
    let planned: Vec<i64> = fires
        .iter()
        .map(|fire| fire.planned_at.as_millis())
        .collect();
    let kept: Vec<i64> = (2..=most + 1).rev().chain([0]).collect();
    assert_eq!(planned, kept);
    many.fires.push(skip(0));
    assert!(matches!(f.rejected(many).await, Reject::Invalid { .. }));
}

pub async fn schedules_are_found_by_name_and_due_time(test: TestStore) {
    let f = Fixture::new(test);
    let later = schedule("a", 5000);
    f.write(later.clone()).await;
    f.write(schedule("b", 1000)).await;
    f.write(PutSchedule {
        paused: true,
        ..schedule("c", 1000)
    })
    .await;
    assert!(matches!(
        f.rejected(schedule("a", 1)).await,
        Reject::Conflict { .. }
    ));
    let mut moved = later;
    moved.spec.agent = "other".to_owned();
    f.write(moved).await;
    let list = async |filter: ScheduleFilter| {
        let rows = f
            .store
            .schedules(&filter, &PageRequest::default())
            .await
            .unwrap();
        rows.items
            .into_iter()
            .map(|row| row.spec.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(list(ScheduleFilter::default()).await, ["a", "b", "c"]);
    let due_by = Some(Timestamp::from_millis(1000));
    assert_eq!(
        list(ScheduleFilter {
            due_by,
            ..ScheduleFilter::default()
        })
        .await,
        ["b"]
    );
    let name = Some("c".to_owned());
    assert_eq!(
        list(ScheduleFilter {
            name,
            ..ScheduleFilter::default()
        })
        .await,
        ["c"]
    );
    let agent = Some("other".to_owned());
    assert_eq!(
        list(ScheduleFilter {
            agent,
            ..ScheduleFilter::default()
        })
        .await,
        ["a"]
    );
}
