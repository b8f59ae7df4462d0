//! Random clocks, crashes and zones: one planned time, one fire, at most one request.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rune_runtime::Recurrence;
use rune_store_runtime::*;

use super::rig::{A_LOOK, Life, World, at, cron, every, runtime, spec};
use crate::harness::Bot;

/// Worlds that are tried.
const SEEDS: u64 = 120;
/// As the scheduler documents them.
const ON_TIME: Duration = Duration::from_secs(10);
const MAX_CATCH_UP: usize = 100;

/// xorshift64*: the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % limit
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()].clone()
    }
}

/// When, from which moment on, and how far its planned times are apart.
fn kind(random: &mut Random) -> (ScheduleKind, Timestamp, Duration) {
    let changes = [
        ("Europe/Berlin", "2026-03-28T20:00:00Z"),
        ("Europe/Berlin", "2026-10-24T20:00:00Z"),
        ("America/New_York", "2026-03-08T02:00:00Z"),
        ("America/New_York", "2026-11-01T02:00:00Z"),
        ("Australia/Lord_Howe", "2026-10-03T10:00:00Z"),
        ("Australia/Lord_Howe", "2026-04-04T10:00:00Z"),
        ("America/Santiago", "2026-09-05T22:00:00Z"),
    ];
    let (zone, start) = random.pick(&changes);
    let start = at(start).plus(Duration::from_millis(random.below(3_600_000)));
    let day = Duration::from_secs(24 * 3600);
    match random.below(6) {
        0 => {
            let millis = random.pick(&[1000, 1500, 60_000, 3_600_000]);
            let period = Duration::from_millis(millis);
            (every(period, start.plus(period)), start, period)
        }
        1 => (cron("*/5 * * * * *", zone), start, Duration::from_secs(5)),
        2 => (cron("*/15 * * * *", zone), start, Duration::from_secs(900)),
        3 => (cron("0 * * * *", zone), start, Duration::from_secs(3600)),
        4 => (cron("30 2 * * *", zone), start.minus(day * 3), day),
        _ => (cron("0 0 * * *", zone), start.minus(day * 3), day),
    }
}

/// Where the clock goes: on, far on, or back.
fn move_clock(world: &World, random: &mut Random, period: Duration, jumps: &mut u32) {
    let period = u64::try_from(period.as_millis()).unwrap();
    let now = world.clock.now();
    let to = match random.below(10) {
        0 if *jumps > 0 => {
            *jumps -= 1;
            now.plus(Duration::from_millis(random.below(period * 150)))
        }
        1 | 2 => now.minus(Duration::from_millis(random.below(period * 8))),
        3 | 4 => now.plus(Duration::from_millis(random.below(period * 6))),
        _ => now.plus(Duration::from_millis(random.below(period.min(12_000)))),
    };
    world.clock.set(to);
}

#[test]
fn every_planned_time_fires_once_whatever_the_clock_and_the_daemon_do() {
    let mut world = World::new(&Bot::new(), Timestamp::default());
    let mut outcomes = BTreeMap::new();
    for seed in 1..=SEEDS {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (kind, start, period) = kind(&mut random);
        world.wipe(start);
        let mut spec = spec(kind);
        spec.catch_up = random.pick(&CatchUp::ALL);
        spec.jitter_ms = random.pick(&[0, 0, 900]);
        let recurrence = Recurrence::new(&spec.kind).unwrap();
        let created = runtime();
        let id = created.block_on(async { world.start().await.put(spec.clone()).await });
        drop(created);
        let mut highest = start;
        let mut jumps = 2;
        for _ in 0..12 {
            let life = runtime();
            life.block_on(async {
                let crash = random.one_in(2).then(|| {
                    let index = usize::try_from(random.below(14)).unwrap();
                    (index, random.one_in(2))
                });
                let _life = world
                    .start_with(|spy| {
                        if let Some((index, applied)) = crash {
                            spy.crash(index, applied);
                        }
                    })
                    .await;
                for _ in 0..random.below(6) {
                    move_clock(&world, &mut random, period, &mut jumps);
                    highest = highest.max(world.clock.now());
                    tokio::time::sleep(A_LOOK).await;
                }
            });
        }
        let calm = runtime();
        calm.block_on(async {
            let life = world.start().await;
            // On from wherever the clock was, so that everything has come.
            world
                .clock
                .set(highest.plus(Duration::from_millis(spec.jitter_ms)));
            life.settle().await;
            let what = format!("seed {seed}: {:?}", spec.kind);
            let recurrence = &recurrence;
            for (word, count) in verify(&life, id, recurrence, start, highest, &what).await {
                *outcomes.entry(word).or_insert(0) += count;
            }
        });
    }
    // The worlds are random, but not so much that something would never occur.
    for word in ["fired", "missed and fired", "catch-up", "left out"] {
        assert!(outcomes.get(word).is_some_and(|n| *n > 10), "{outcomes:?}");
    }
}

async fn verify(
    life: &Life,
    id: ScheduleId,
    recurrence: &Recurrence,
    start: Timestamp,
    until: Timestamp,
    what: &str,
) -> BTreeMap<&'static str, usize> {
    let row = life.row(id).await;
    let fires = life.fires(id).await;
    let mut outcomes = BTreeMap::new();

    // Every planned time has one row, or a row says that it was left out.
    let mut planned = BTreeSet::new();
    let mut next = recurrence.next_after(start);
    while let Some(time) = next.filter(|time| *time <= until) {
        planned.insert(time);
        next = recurrence.next_after(time);
    }
    let prefix = "catch-up: this and every other planned time until ";
    let mut recorded = BTreeSet::new();
    for fire in &fires {
        let new = match fire.reason.strip_prefix(prefix) {
            Some(last) => {
                let left_out = planned.range(fire.planned_at..=at(last));
                *outcomes.entry("left out").or_insert(0) += 1;
                left_out.copied().collect()
            }
            None => vec![fire.planned_at],
        };
        for time in new {
            assert!(recorded.insert(time), "{what}: {time} twice");
        }
    }
    // The last look was later than `until` by the jitter: what came in between may have fired.
    recorded.retain(|time| *time <= until);
    assert_eq!(recorded, planned, "{what}");

    // Every fire that fired has its request, and there is no other.
    let requests = life.requests().await;
    let by_id: BTreeMap<_, _> = requests.iter().map(|row| (row.id, row)).collect();
    let fired: Vec<_> = fires
        .iter()
        .filter(|fire| fire.state != FireState::Skipped)
        .collect();
    assert_eq!(fired.len(), requests.len(), "{what}");
    for fire in &fired {
        assert_eq!(fire.state, FireState::Fired, "{what}: {fire:?}");
        let request = by_id[&fire.request_id.unwrap()];
        assert_eq!(request.status, RequestStatus::Completed, "{what}");
        assert_eq!(request.caller, "schedule:tick");
        assert_eq!(
            request.metadata["planned_at"],
            fire.planned_at.to_string(),
            "{what}"
        );
    }

    // The policy was kept in every look that recorded something.
    let mut looks: BTreeMap<Timestamp, Vec<&ScheduleFireRow>> = BTreeMap::new();
    for fire in &fires {
        looks.entry(fire.fired_at).or_default().push(fire);
    }
    for (now, fires) in looks {
        let latest = ON_TIME + Duration::from_millis(row.spec.jitter_ms);
        let newest = fires.len() - 1;
        let left_out = |fire: &ScheduleFireRow| fire.reason.starts_with(prefix);
        assert!(
            !left_out(fires[0]) || newest >= MAX_CATCH_UP,
            "{what}: too many left out at {now}"
        );
        for (index, fire) in fires.iter().enumerate() {
            assert!(fire.planned_at <= now, "{what}: {fire:?} before its time");
            let missed = fire.planned_at.plus(latest) < now;
            let fires_too = match row.spec.catch_up {
                CatchUp::Skip => false,
                CatchUp::One => index == newest,
                CatchUp::All => !left_out(fire),
            };
            let expected = !missed || fires_too;
            let fired = fire.state == FireState::Fired;
            assert_eq!(fired, expected, "{what}: {fire:?} at {now}");
            let word = match (fired, missed) {
                (true, false) => "fired",
                (true, true) => "missed and fired",
                (false, _) => "catch-up",
            };
            *outcomes.entry(word).or_insert(0) += 1;
        }
    }
    outcomes
}
