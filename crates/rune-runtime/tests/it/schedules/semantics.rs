//! What a schedule does about overlaps, faults, pauses and people.

use std::time::Duration;

use rune_store_runtime::*;
use serde_json::json;

use super::rig::{World, at, cron, every, runtime, spec};
use crate::harness::Bot;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn start() -> Timestamp {
    at("2026-06-01T12:00:00Z")
}

/// An agent that takes its time.
fn slow() -> Bot {
    Bot::new().script(&json!([{"delay_ms": 90_000, "respond": "done"}]))
}

fn minutely() -> ScheduleSpec {
    spec(every(MINUTE, start().plus(MINUTE)))
}

fn outcomes(fires: &[ScheduleFireRow]) -> Vec<(FireState, &str)> {
    let mut found = Vec::new();
    for fire in fires {
        found.push((fire.state, fire.reason.as_str()));
    }
    found
}

#[test]
fn a_fire_that_meets_an_earlier_one_does_what_the_policy_says() {
    let overlap = "overlap: an earlier fire is not done";
    use FireState::{Fired, Pending, Skipped};
    for (policy, after_two, at_the_end) in [
        (Overlap::Allow, [(Fired, ""), (Fired, "")], 2),
        (Overlap::Skip, [(Fired, ""), (Skipped, overlap)], 1),
        (Overlap::Queue, [(Fired, ""), (Pending, "")], 2),
    ] {
        let world = World::new(&slow(), start());
        runtime().block_on(async {
            let life = world.start().await;
            let id = life
                .put(ScheduleSpec {
                    overlap: policy,
                    ..minutely()
                })
                .await;
            for _ in 0..2 {
                world.clock.advance(MINUTE);
                life.settle().await;
            }
            assert_eq!(outcomes(&life.fires(id).await), after_two, "{policy:?}");
            // The model needs 90 s, the clock of the schedule stands still.
            tokio::time::sleep(Duration::from_secs(300)).await;
            let requests = life.requests().await;
            assert_eq!(requests.len(), at_the_end, "{policy:?}");
            assert!(
                requests
                    .iter()
                    .all(|row| row.status == RequestStatus::Completed)
            );
            // The next one is on its own again.
            world.clock.advance(MINUTE);
            life.settle().await;
            let fires = life.fires(id).await;
            assert_eq!(fires.last().unwrap().state, Fired, "{policy:?}");
        });
    }
}

#[test]
fn what_waits_for_its_turn_waits_through_a_restart() {
    let world = World::new(&slow(), start());
    let id = runtime().block_on(async {
        let life = world.start().await;
        let queue = ScheduleSpec {
            overlap: Overlap::Queue,
            ..minutely()
        };
        let id = life.put(queue).await;
        for _ in 0..3 {
            world.clock.advance(MINUTE);
            life.settle().await;
        }
        id
    });
    runtime().block_on(async {
        let life = world.start().await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        let fires = life.fires(id).await;
        assert_eq!(outcomes(&fires), [(FireState::Fired, ""); 3]);
        let requests = life.requests().await;
        assert_eq!(requests.len(), 3);
        assert!(
            requests
                .iter()
                .all(|row| row.status == RequestStatus::Completed)
        );
    });
}

#[test]
fn a_fire_that_nobody_can_take_says_why() {
    let world = World::new(&Bot::new(), start());
    runtime().block_on(async {
        let life = world.start().await;
        let mut other = minutely();
        other.agent = "nobody".to_owned();
        let id = life.put(other).await;
        world.clock.advance(MINUTE);
        life.settle().await;
        let fires = life.fires(id).await;
        assert_eq!(fires[0].state, FireState::Failed);
        assert!(fires[0].reason.contains("nobody"), "{fires:?}");
        assert!(life.requests().await.is_empty());
        assert_eq!(life.row(id).await.last_fire.as_ref(), fires.last());
    });
}

#[test]
fn a_store_that_fails_for_a_moment_delays_a_fire_and_loses_none() {
    for (index, applied) in [(0, false), (0, true), (1, false), (1, true), (2, false)] {
        let world = World::new(&Bot::new(), start());
        runtime().block_on(async {
            let life = world.start().await;
            let id = life.put(minutely()).await;
            life.spy.reset();
            life.spy.fail(index, applied);
            world.clock.advance(MINUTE);
            tokio::time::sleep(MINUTE).await;
            let fires = life.fires(id).await;
            let which = format!("command {index}, applied {applied}");
            assert_eq!(outcomes(&fires), [(FireState::Fired, "")], "{which}");
            assert_eq!(life.requests().await.len(), 1, "{which}");
        });
    }
}

#[test]
fn somebody_may_fire_at_any_time() {
    let world = World::new(&slow(), start());
    runtime().block_on(async {
        let life = world.start().await;
        let spec = ScheduleSpec {
            overlap: Overlap::Skip,
            ..minutely()
        };
        let session = "daily".parse::<SessionId>().unwrap();
        let id = life
            .put(ScheduleSpec {
                session_id: Some(session.clone()),
                ..spec
            })
            .await;
        let next = life.row(id).await.next_fire_at;
        life.store
            .write(PauseSchedule {
                schedule_id: id,
                paused: true,
                next_fire_at: None,
            })
            .await
            .unwrap();
        let first = life.scheduler.run_now(id, Vec::new()).await.unwrap();
        let second = life.scheduler.run_now(id, Vec::new()).await.unwrap();
        for fire in [&first, &second] {
            assert_eq!((fire.state, fire.manual), (FireState::Fired, true));
            let request = life.engine.request(fire.request_id.unwrap()).await.unwrap();
            assert_eq!(request.session_id, session);
        }
        assert_ne!(first.planned_at, second.planned_at);
        // Held: the planned times pass.
        world.clock.advance(MINUTE * 3);
        life.settle().await;
        assert_eq!(life.fires(id).await.len(), 2);
        assert!(next.is_some());
        let unknown = life
            .scheduler
            .run_now(ScheduleId::generate(), Vec::new())
            .await
            .unwrap_err();
        assert_eq!(unknown.code(), ErrorCode::NotFound);
    });
}

#[test]
fn jitter_is_the_same_after_a_restart_and_never_early() {
    let world = World::new(&Bot::new(), start());
    let spec = ScheduleSpec {
        jitter_ms: 40_000,
        ..minutely()
    };
    let mut seen = Vec::new();
    let id = runtime().block_on(async { world.start().await.put(spec).await });
    for _ in 0..240 {
        runtime().block_on(async {
            let life = world.start().await;
            tokio::time::sleep(SECOND).await;
            seen = life.fires(id).await;
        });
        world.clock.advance(SECOND);
    }
    assert_eq!(seen.len(), 3);
    let late: Vec<u64> = seen
        .iter()
        .map(|fire| fire.fired_at.since(fire.planned_at).as_secs())
        .collect();
    assert!(late.iter().all(|late| *late <= 40), "{late:?}");
    assert!(late.windows(2).any(|pair| pair[0] != pair[1]), "{late:?}");
}

#[test]
fn a_schedule_is_looked_at_as_soon_as_it_changes() {
    let world = World::new(&Bot::new(), start());
    runtime().block_on(async {
        let life = world.start().await;
        tokio::time::sleep(SECOND).await;
        let id = life.put(spec(cron("* * * * * *", "UTC"))).await;
        world.clock.advance(SECOND);
        life.scheduler.wake();
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(life.fires(id).await.len(), 1);
        life.store
            .write(DeleteSchedule { schedule_id: id })
            .await
            .unwrap();
        world.clock.advance(MINUTE);
        life.settle().await;
        assert_eq!(life.requests().await.len(), 1);
    });
}

#[test]
fn a_long_jitter_on_a_busy_schedule_gets_through_a_downtime() {
    let world = World::new(&Bot::new(), start());
    let spec = ScheduleSpec {
        overlap: Overlap::Skip,
        jitter_ms: 3_600_000,
        ..spec(cron("* * * * * *", "UTC"))
    };
    let id = runtime().block_on(async { world.start().await.put(spec).await });
    let now = world.clock.advance(MINUTE * 180);
    runtime().block_on(async {
        let life = world.start().await;
        life.settle().await;
        let row = life.row(id).await;
        assert!(
            row.next_fire_at.unwrap() > now.minus(MINUTE * 60),
            "{row:?}"
        );
        let fires = life.fires(id).await;
        assert!(fires.iter().all(|fire| fire.state != FireState::Pending));
    });
}

#[test]
fn the_fires_of_a_day_share_its_budget_and_midnight_begins_another() {
    const HOUR: Duration = Duration::from_secs(3600);
    let bot = Bot::new().set("budget", json!({"tokens_per_day": 1090}));
    let world = World::new(&bot, start());
    runtime().block_on(async {
        let life = world.start().await;
        let hourly = spec(every(HOUR, start().plus(HOUR)));
        life.put(hourly).await;
        // Eleven fires until 23:00, and three of the next day.
        for _ in 0..14 {
            world.clock.advance(HOUR);
            life.settle().await;
        }
        let mut requests = life.requests().await;
        requests.sort_by_key(|row| row.id);
        let completed: Vec<bool> = requests
            .iter()
            .map(|row| row.status == RequestStatus::Completed)
            .collect();
        assert_eq!(completed.len(), 14);
        let spent = completed.iter().take_while(|completed| **completed).count();
        assert!((1..11).contains(&spent), "{completed:?}");
        assert!(completed[spent..11].iter().all(|completed| !completed));
        let failure = requests[spent].failure.clone().unwrap();
        assert_eq!(failure.code, ErrorCode::LimitExceeded);
        assert!(
            failure
                .message
                .contains("the day ends at 2026-06-02T00:00:00.000Z (UTC)"),
            "{failure}"
        );
        assert!(completed[11], "{completed:?}");
        let page = PageRequest::default();
        let rows = life.store.budgets(&BudgetFilter::default(), &page).await;
        let [row] = rows.unwrap().items.try_into().unwrap();
        assert_eq!(
            row.scope.resets_at(row.day),
            Some(at("2026-06-03T00:00:00Z"))
        );
        assert!(row.spent_tokens > 0 && row.reserved_tokens == 0, "{row:?}");
    });
}
