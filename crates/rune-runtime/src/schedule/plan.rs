//! What is done about the planned times that have come.

use std::time::Duration;

use rune_store_runtime::{
    Advance, CatchUp, FirePlan, FireSchedule, NewFire, RequestId, ScheduleId, ScheduleRow,
    Timestamp,
};

use super::Recurrence;

/// How late a fire may be, beside its jitter, before it counts as missed.
pub(super) const ON_TIME: Duration = Duration::from_secs(10);
/// How many missed planned times are recorded one by one, and fire with `catch_up: all`, at
/// the most; the newest ones.
pub(super) const MAX_CATCH_UP: usize = 100;

/// When a planned time fires: up to the jitter later, by an amount that the schedule and
/// the planned time determine, so that it is the same after a restart and on every node.
pub(super) fn fires_at(id: ScheduleId, jitter_ms: u64, planned_at: Timestamp) -> Timestamp {
    if jitter_ms == 0 {
        return planned_at;
    }
    // FNV-1a, and a mix for the low bits.
    let bytes = id.as_bytes().iter().copied();
    let bytes = bytes.chain(planned_at.as_millis().to_be_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    planned_at.plus(Duration::from_millis((hash >> 32) % jitter_ms))
}

/// The fires of a schedule that have come by `now`, and where it stands then; nothing
/// where none has.
pub(super) fn plan(
    recurrence: &Recurrence,
    row: &ScheduleRow,
    now: Timestamp,
) -> Option<FireSchedule> {
    let from = row.next_fire_at?;
    let due = Due::find(recurrence, row, from, now);
    let last = *due.times.last()?;
    let jitter = Duration::from_millis(row.spec.jitter_ms);
    let missed = due
        .times
        .partition_point(|time| time.plus(jitter).plus(ON_TIME) < now);
    let fires_too = |index: usize| match row.spec.catch_up {
        CatchUp::Skip => false,
        // A fire that is on time makes up for those that were missed.
        CatchUp::One => index + 1 == due.times.len(),
        CatchUp::All => true,
    };
    let left_out = due.left_out.map(|last| NewFire {
        planned_at: from,
        plan: FirePlan::Skip {
            reason: format!("catch-up: this and every other planned time until {last}"),
        },
    });
    let fires = due.times.iter().enumerate().map(|(index, planned_at)| {
        let plan = if index >= missed || fires_too(index) {
            let request_id = RequestId::generate();
            FirePlan::Invoke { request_id }
        } else {
            let reason = "catch-up".to_owned();
            FirePlan::Skip { reason }
        };
        NewFire {
            planned_at: *planned_at,
            plan,
        }
    });
    Some(FireSchedule {
        schedule_id: row.id,
        advance: Some(Advance {
            from,
            to: recurrence.next_after(last),
        }),
        fires: left_out.into_iter().chain(fires).collect(),
    })
}

/// How many fires are recorded at a time; what is left comes with the next look.
const MAX_FIRES: usize = 2 * MAX_CATCH_UP;

/// The planned times that have come.
struct Due {
    /// Ascending.
    times: Vec<Timestamp>,
    /// The last of those that are too many to record.
    left_out: Option<Timestamp>,
}

impl Due {
    fn find(recurrence: &Recurrence, row: &ScheduleRow, from: Timestamp, now: Timestamp) -> Self {
        let jitter_ms = row.spec.jitter_ms;
        // Back from where the jitter is over, so that a long downtime costs no more than
        // a short one.
        let surely = now.minus(Duration::from_millis(jitter_ms));
        let (mut times, mut left_out) = (Vec::new(), None);
        let mut back = recurrence.last_until(surely);
        while let Some(time) = back.filter(|time| *time >= from) {
            if times.len() == MAX_CATCH_UP {
                left_out = Some(time);
                break;
            }
            times.push(time);
            back = recurrence.last_until(Timestamp::from_millis(time.as_millis() - 1));
        }
        times.reverse();
        // What the schedule stands at counts, even where the recurrence would not name it.
        let mut next = match times.last() {
            Some(last) => recurrence.next_after(*last),
            None => Some(from),
        };
        // In order: a planned time does not overtake the one before it. None of these is missed
        // yet, so none is left out.
        while let Some(time) = next.filter(|time| fires_at(row.id, jitter_ms, *time) <= now) {
            if times.len() == MAX_FIRES {
                break;
            }
            times.push(time);
            next = recurrence.next_after(time);
        }
        Self { times, left_out }
    }
}
