//! The times that a schedule plans.
//!
//! A cron expression is read in its time zone, with the rules of Vixie cron where clocks
//! change: one fixed time of day fires once on every day, in a gap at the moment the gap
//! ends and in a repeated hour the first time; an expression with several times a day goes
//! with the clock on the wall, so it skips what a gap skips and repeats what is repeated.

use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Year};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Zoned};
use rune_store_runtime::{ScheduleKind, Timestamp};

use super::ScheduleError;

/// The shortest interval, in milliseconds.
pub const MIN_INTERVAL_MS: u64 = 1000;
/// The longest interval, in milliseconds: ten years.
pub const MAX_INTERVAL_MS: u64 = 10 * 366 * 24 * 60 * 60 * 1000;
/// How far a search goes on where it failed at a change of the clock.
const OVER_A_CHANGE: SignedDuration = SignedDuration::from_hours(48);

/// The first planned time from now on, of what somebody wrote; none where events fire it.
///
/// # Errors
/// What is wrong with it, also where it never comes true.
pub fn first_planned(
    kind: &ScheduleKind,
    now: Timestamp,
) -> Result<Option<Timestamp>, ScheduleError> {
    let next = Recurrence::new(kind)?.next_after(now);
    match kind {
        ScheduleKind::Cron { expression, .. } if next.is_none() => {
            Err(ScheduleError::Never(expression.clone()))
        }
        ScheduleKind::Cron { .. } | ScheduleKind::Interval { .. } | ScheduleKind::Event { .. } => {
            Ok(next)
        }
    }
}

/// When a schedule fires, understood.
#[derive(Debug, Clone)]
pub struct Recurrence(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Cron {
        cron: Box<Cron>,
        zone: TimeZone,
    },
    Interval {
        every: i64,
        anchor: i64,
    },
    /// No time is planned.
    Event,
}

impl Recurrence {
    /// Understands when a schedule fires.
    ///
    /// # Errors
    /// What is wrong with it, for the person who wrote it.
    pub fn new(kind: &ScheduleKind) -> Result<Self, ScheduleError> {
        match kind {
            ScheduleKind::Cron {
                expression,
                timezone,
            } => Ok(Self(Kind::Cron {
                cron: Box::new(parse(expression)?),
                zone: TimeZone::get(timezone).map_err(|_| ScheduleError::Zone(timezone.clone()))?,
            })),
            ScheduleKind::Event { .. } => Ok(Self(Kind::Event)),
            ScheduleKind::Interval { every_ms, anchor } => {
                if !(MIN_INTERVAL_MS..=MAX_INTERVAL_MS).contains(every_ms) {
                    return Err(ScheduleError::Interval(*every_ms));
                }
                Ok(Self(Kind::Interval {
                    every: every_ms.cast_signed(),
                    anchor: anchor.as_millis(),
                }))
            }
        }
    }

    /// The first planned time after `time`.
    #[must_use]
    pub fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        match &self.0 {
            Kind::Event => None,
            Kind::Cron { cron, zone } => {
                let start = zoned(time, zone)?;
                let found = cron.find_next_occurrence(&start, false).or_else(|_| {
                    let over = skip(&start, OVER_A_CHANGE)?;
                    cron.find_next_occurrence(&over, true)
                });
                found.ok().and_then(|found| timestamp(&found))
            }
            Kind::Interval { every, anchor } => {
                let passed = time.as_millis().checked_sub(*anchor)?;
                let steps = passed.div_euclid(*every).checked_add(1)?.max(0);
                let next = anchor.checked_add(every.checked_mul(steps)?)?;
                Some(Timestamp::from_millis(next))
            }
        }
    }

    /// The last planned time at or before `time`.
    #[must_use]
    pub fn last_until(&self, time: Timestamp) -> Option<Timestamp> {
        match &self.0 {
            Kind::Event => None,
            Kind::Cron { cron, zone } => {
                let start = zoned(time, zone)?;
                let found = cron.find_previous_occurrence(&start, true).or_else(|_| {
                    let over = skip(&start, -OVER_A_CHANGE)?;
                    cron.find_previous_occurrence(&over, true)
                });
                found.ok().and_then(|found| timestamp(&found))
            }
            Kind::Interval { every, anchor } => {
                let passed = time.as_millis().checked_sub(*anchor)?;
                let steps = passed.div_euclid(*every);
                (steps >= 0).then(|| Timestamp::from_millis(anchor + every * steps))
            }
        }
    }
}

fn parse(expression: &str) -> Result<Cron, ScheduleError> {
    let found = expression.split_whitespace().count();
    if !expression.trim_start().starts_with('@') && !(5..=6).contains(&found) {
        return Err(ScheduleError::Fields {
            expression: expression.to_owned(),
            found,
        });
    }
    let parser = CronParser::builder().year(Year::Disallowed).build();
    parser
        .parse(expression)
        .map_err(|error| ScheduleError::Cron {
            expression: expression.to_owned(),
            reason: reason(error),
        })
}

/// What is wrong, without the library's words before it.
fn reason(error: CronError) -> String {
    let text = match error {
        CronError::ComponentError(text)
        | CronError::InvalidPattern(text)
        | CronError::IllegalCharacters(text) => text,
        error => error.to_string(),
    };
    let text = text.trim_end_matches('.');
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

/// The second that `time` is in.
fn zoned(time: Timestamp, zone: &TimeZone) -> Option<Zoned> {
    let second = time.as_millis().div_euclid(1000);
    let time = jiff::Timestamp::from_second(second).ok()?;
    Some(time.to_zoned(zone.clone()))
}

fn timestamp(time: &Zoned) -> Option<Timestamp> {
    let second = time.timestamp().as_second();
    second.checked_mul(1000).map(Timestamp::from_millis)
}

fn skip(time: &Zoned, by: SignedDuration) -> Result<Zoned, CronError> {
    time.checked_add(by).map_err(|_| CronError::InvalidTime)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cron(expression: &str, timezone: &str) -> Result<Recurrence, ScheduleError> {
        Recurrence::new(&ScheduleKind::Cron {
            expression: expression.to_owned(),
            timezone: timezone.to_owned(),
        })
    }

    fn at(text: &str) -> Timestamp {
        let time: jiff::Timestamp = text.parse().unwrap();
        Timestamp::from_millis(time.as_millisecond())
    }

    /// The first planned times after a moment.
    fn after(expression: &str, timezone: &str, start: &str, count: usize) -> Vec<String> {
        let recurrence = cron(expression, timezone).unwrap();
        let mut time = at(start);
        let mut found = Vec::new();
        for _ in 0..count {
            time = recurrence.next_after(time).unwrap();
            found.push(time.to_string().replace(".000", ""));
        }
        found
    }

    #[test]
    fn five_fields_have_minutes_and_six_have_seconds() {
        let start = "2026-01-01T00:00:00Z";
        assert_eq!(
            after("30 8 * * MON-FRI", "UTC", start, 2),
            ["2026-01-01T08:30:00Z", "2026-01-02T08:30:00Z"]
        );
        assert_eq!(
            after("*/20 * * * * *", "UTC", start, 2),
            ["2026-01-01T00:00:20Z", "2026-01-01T00:00:40Z"]
        );
        assert_eq!(after("@daily", "UTC", start, 1), ["2026-01-02T00:00:00Z"]);
    }

    #[test]
    fn day_of_month_and_day_of_week_are_alternatives() {
        assert_eq!(
            after("0 0 13 * 5", "UTC", "2026-01-01T00:00:00Z", 3),
            [
                "2026-01-02T00:00:00Z",
                "2026-01-09T00:00:00Z",
                "2026-01-13T00:00:00Z"
            ]
        );
    }

    #[test]
    fn a_time_in_a_gap_fires_once_at_its_end() {
        // 02:00 to 03:00 does not exist on 2026-03-29.
        assert_eq!(
            after("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3),
            [
                "2026-03-28T01:30:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-30T00:30:00Z"
            ]
        );
        // The clock goes from 02:00 to 02:30.
        assert_eq!(
            after(
                "10 2 * * *",
                "Australia/Lord_Howe",
                "2026-10-03T00:00:00Z",
                2
            ),
            ["2026-10-03T15:30:00Z", "2026-10-04T15:10:00Z"]
        );
        // Midnight does not exist.
        assert_eq!(
            after("0 0 * * *", "America/Santiago", "2026-09-05T12:00:00Z", 2),
            ["2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z"]
        );
    }

    #[test]
    fn a_time_that_is_repeated_fires_the_first_time() {
        assert_eq!(
            after("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
    }

    #[test]
    fn several_times_a_day_follow_the_clock_on_the_wall() {
        assert_eq!(
            after("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:15:00Z", 3),
            [
                "2026-03-29T00:30:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-29T01:30:00Z"
            ]
        );
        assert_eq!(
            after("0 */1 * * *", "Europe/Berlin", "2026-10-24T23:30:00Z", 4),
            [
                "2026-10-25T00:00:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T02:00:00Z",
                "2026-10-25T03:00:00Z"
            ]
        );
    }

    #[test]
    fn an_interval_keeps_its_anchor() {
        let recurrence = Recurrence::new(&ScheduleKind::Interval {
            every_ms: 1500,
            anchor: Timestamp::from_millis(10_000),
        });
        let recurrence = recurrence.unwrap();
        let millis = |time: Option<Timestamp>| time.map(Timestamp::as_millis);
        for (time, last, next) in [
            (0, None, 10_000),
            (9_999, None, 10_000),
            (10_000, Some(10_000), 11_500),
            (11_499, Some(10_000), 11_500),
            (1_000_001, Some(1_000_000), 1_001_500),
        ] {
            let time = Timestamp::from_millis(time);
            assert_eq!(millis(recurrence.last_until(time)), last, "{time}");
            assert_eq!(millis(recurrence.next_after(time)), Some(next), "{time}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (expression, timezone, message) in [
            (
                "* * *",
                "UTC",
                "cron expression `* * *` has 3 fields, expected 5 (minute hour day-of-month month day-of-week) or 6 (second first)",
            ),
            ("* * * * * * 2027", "UTC", "has 7 fields"),
            (
                "61 * * * *",
                "UTC",
                "cron expression `61 * * * *` is not valid: ",
            ),
            (
                "@sometimes",
                "UTC",
                "cron expression `@sometimes` is not valid: ",
            ),
            (
                "* * * * *",
                "Europe/Berlinn",
                "time zone `Europe/Berlinn` does not exist",
            ),
        ] {
            let error = cron(expression, timezone).unwrap_err();
            assert_eq!(error.code(), rune_store_runtime::ErrorCode::InvalidInput);
            assert!(error.to_string().contains(message), "{error}");
        }
        let short = ScheduleKind::Interval {
            every_ms: 999,
            anchor: Timestamp::default(),
        };
        let error = Recurrence::new(&short).unwrap_err().to_string();
        assert!(error.contains("999 ms is out of range"), "{error}");
    }

    #[test]
    fn a_date_that_no_year_has_is_never_found() {
        let recurrence = cron("0 0 30 2 *", "UTC").unwrap();
        assert_eq!(recurrence.next_after(at("2026-01-01T00:00:00Z")), None);
    }

    const ZONES: [&str; 7] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "America/Santiago",
        "Africa/Cairo",
        "Pacific/Chatham",
    ];

    proptest! {
        /// What the library answers, against a walk through the days of the zone.
        #[test]
        fn a_time_of_day_fires_once_on_every_day(
            zone in 0..ZONES.len(), hour in 0_i8..24, minute in 0_i8..60, start in 0_i64..1000,
        ) {
            let zone = TimeZone::get(ZONES[zone]).unwrap();
            let recurrence = Recurrence(Kind::Cron {
                cron: Box::new(parse(&format!("{minute} {hour} * * *")).unwrap()),
                zone: zone.clone(),
            });
            let day = jiff::civil::date(2025, 1, 1) + jiff::Span::new().days(start);
            let planned: Vec<Timestamp> = day.series(jiff::Span::new().days(1)).take(120).map(|day| {
                let wall = day.at(hour, minute, 0, 0);
                let ambiguous = zone.to_ambiguous_zoned(wall);
                let time = match ambiguous.offset() {
                    jiff::tz::AmbiguousOffset::Gap { .. } => {
                        // The change itself: the first one after the wall time without the gap.
                        let before = ambiguous.earlier().unwrap().timestamp();
                        zone.following(before - SignedDuration::from_hours(3)).next().unwrap().timestamp()
                    }
                    _ => ambiguous.earlier().unwrap().timestamp(),
                };
                Timestamp::from_millis(time.as_millisecond())
            }).collect();
            let mut time = planned[0];
            for expected in &planned[1..] {
                let next = recurrence.next_after(time).unwrap();
                prop_assert_eq!(next, *expected);
                let before = Timestamp::from_millis(next.as_millis() - 1);
                prop_assert_eq!(recurrence.last_until(before), Some(time));
                prop_assert_eq!(recurrence.last_until(next), Some(next));
                time = next;
            }
        }

        /// Forwards and backwards agree, and quarters of an hour come every quarter of one.
        #[test]
        fn quarters_of_an_hour_never_stop(zone in 0..ZONES.len(), start in 0_i64..70_000) {
            let recurrence = cron("*/15 * * * *", ZONES[zone]).unwrap();
            let start = at("2025-01-01T00:07:31.250Z").as_millis() + start * 900_000;
            let mut time = recurrence.next_after(Timestamp::from_millis(start)).unwrap();
            for _ in 0..200 {
                let next = recurrence.next_after(time).unwrap();
                prop_assert_eq!(next.as_millis() - time.as_millis(), 900_000);
                let before = Timestamp::from_millis(next.as_millis() - 1);
                prop_assert_eq!(recurrence.last_until(before), Some(time));
                time = next;
            }
        }
    }
}
