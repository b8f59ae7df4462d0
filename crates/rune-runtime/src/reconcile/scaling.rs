//! How many replicas are to run: a decision that follows from what there is to do, and from what there was to do lately.
//!
//! More are wanted as soon as they are needed, fewer once fewer have been enough for a while, none once there has been
//! nothing to do for longer. What there was to do is known since this process looks; a restart only makes it wait again.

use std::collections::VecDeque;
use std::fmt;

use rune_env::ScalingConfig;
use rune_store_runtime::ScaleBounds;
use tokio::time::Instant;

use crate::router::Load;

/// A deployment at a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation {
    pub(super) load: Load,
    /// Replicas that are to run.
    pub(super) wanted: u32,
    pub(super) bounds: ScaleBounds,
    /// Whether another version is rolled out, which has to be seen running.
    pub(super) rolls_out: bool,
}

/// What is to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) to: u32,
    /// Why, with the numbers, for a person.
    pub(super) reason: String,
}

/// What a deployment needed lately.
pub(super) struct Trend {
    /// Since when it is looked at.
    since: Instant,
    /// When there was something to do last.
    busy_at: Instant,
    /// Requests that had begun then.
    opened: Option<u64>,
    /// What was needed at most after each of these moments, so ever less.
    needs: VecDeque<(Instant, u32)>,
}

/// Replicas that a situation needs, and how that was found.
struct Need {
    replicas: u32,
    /// Requests that one replica is to have.
    each: u32,
    situation: Situation,
    target_percent: u32,
}

impl Situation {
    const fn is_idle(&self) -> bool {
        self.load.running == 0 && self.load.waiting == 0 && self.load.open == 0 && !self.rolls_out
    }
}

impl Trend {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            busy_at: now,
            opened: None,
            needs: VecDeque::new(),
        }
    }

    /// Takes a situation in and answers what is to be changed.
    pub(super) fn look(
        &mut self,
        now: Instant,
        situation: Situation,
        config: &ScalingConfig,
    ) -> Option<Decision> {
        let need = Need::of(situation, config);
        let most = self.remember(now, need.replicas, config);
        let opened = Some(situation.load.opened);
        if !situation.is_idle() || self.opened != opened {
            (self.busy_at, self.opened) = (now, opened);
        }
        if need.replicas > situation.wanted {
            return Some(Decision {
                to: need.replicas,
                reason: need.to_string(),
            });
        }
        let down_after = config.down_after;
        let idle = now - self.busy_at;
        let is_quiet = idle >= config.zero_after;
        let fewest = u32::from(!is_quiet).max(situation.load.pinned);
        let fewest = situation.bounds.nearest(fewest);
        let to = most.max(fewest);
        if to >= situation.wanted || now - self.since < down_after {
            return None;
        }
        let reason = match to {
            0 => format!("nothing to do for {} s", config.zero_after.as_secs()),
            _ => format!(
                "{to} replicas were enough for {} s; now {need}",
                down_after.as_secs()
            ),
        };
        Some(Decision { to, reason })
    }

    /// The most that was needed lately.
    fn remember(&mut self, now: Instant, need: u32, config: &ScalingConfig) -> u32 {
        while self.needs.back().is_some_and(|(_, less)| *less <= need) {
            self.needs.pop_back();
        }
        self.needs.push_back((now, need));
        let is_over = |at: Instant| now - at >= config.down_after;
        while self.needs.len() > 1 && self.needs.front().is_some_and(|(at, _)| is_over(*at)) {
            self.needs.pop_front();
        }
        self.needs.front().map_or(need, |(_, most)| *most)
    }
}

impl Need {
    fn of(situation: Situation, config: &ScalingConfig) -> Self {
        let Situation { load, bounds, .. } = situation;
        let each = load.limit.map_or(u32::MAX, |limit| {
            let part = u64::from(limit) * u64::from(config.target_percent) / 100;
            u32::try_from(part).unwrap_or(u32::MAX).max(1)
        });
        let requests = load.running.saturating_add(load.waiting);
        let fewest = u32::from(!situation.is_idle());
        Self {
            replicas: bounds.nearest(requests.div_ceil(each).max(fewest)),
            each,
            situation,
            target_percent: config.target_percent,
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Situation { load, bounds, .. } = self.situation;
        let Load {
            running,
            waiting,
            limit,
            ..
        } = load;
        write!(f, "{running} running and {waiting} waiting requests")?;
        match limit {
            Some(limit) => write!(
                f,
                " at {} a replica ({} % of `concurrency_limit` {limit})",
                self.each, self.target_percent
            )?,
            None => write!(f, " of a deployment without replicas")?,
        }
        if self.situation.rolls_out {
            write!(f, " while a version is rolled out")?;
        }
        let ScaleBounds { min, max } = bounds;
        write!(f, " need {} of {min} to {max}", self.replicas)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn config() -> ScalingConfig {
        ScalingConfig {
            target_percent: 70,
            down_after: Duration::from_secs(60),
            zero_after: Duration::from_secs(300),
        }
    }

    /// A deployment that is looked at every second.
    struct Looked {
        config: ScalingConfig,
        trend: Trend,
        now: Instant,
        wanted: u32,
        bounds: ScaleBounds,
        rolls_out: bool,
        pinned: u32,
        limit: u32,
        opened: u64,
        /// Decisions: the second, the number and why.
        decisions: Vec<(u64, u32, String)>,
        seconds: u64,
    }

    impl Looked {
        fn new(min: u32, max: u32, wanted: u32) -> Self {
            let now = Instant::now();
            Self {
                config: config(),
                trend: Trend::new(now),
                now,
                wanted,
                bounds: ScaleBounds { min, max },
                rolls_out: false,
                pinned: 0,
                limit: 10,
                opened: 0,
                decisions: Vec::new(),
                seconds: 0,
            }
        }

        fn second(&mut self, running: u32, waiting: u32, open: u32) {
            let situation = Situation {
                load: Load {
                    running,
                    waiting,
                    open,
                    opened: self.opened,
                    pinned: self.pinned,
                    limit: Some(self.limit),
                },
                wanted: self.wanted,
                bounds: self.bounds,
                rolls_out: self.rolls_out,
            };
            let decision = self.trend.look(self.now, situation, &self.config);
            if let Some(Decision { to, reason }) = decision {
                assert_ne!(to, self.wanted);
                self.wanted = to;
                self.decisions.push((self.seconds, to, reason));
            }
            self.now += Duration::from_secs(1);
            self.seconds += 1;
        }

        /// The decisions of so many seconds with so many requests.
        fn runs(&mut self, seconds: u64, requests: u32) -> Vec<(u64, u32)> {
            let known = self.decisions.len();
            for _ in 0..seconds {
                self.second(requests, 0, requests);
            }
            let new = self.decisions.iter().skip(known);
            new.map(|(at, to, _)| (*at, *to)).collect()
        }
    }

    #[test]
    fn more_are_wanted_at_once_and_fewer_after_a_while() {
        let mut it = Looked::new(1, 5, 1);
        assert_eq!(it.runs(10, 7), [], "70 % of 10 are in use");
        assert_eq!(it.runs(10, 8), [(10, 2)]);
        assert_eq!(it.runs(10, 1000), [(20, 5)], "and never more than the most");
        assert_eq!(it.runs(50, 15), [], "the last 60 s count");
        assert_eq!(it.runs(50, 0), [(89, 3)]);
        assert_eq!(it.runs(50, 0), [(139, 1)]);
        assert_eq!(it.runs(1000, 0), [], "and never fewer than the fewest");
    }

    #[test]
    fn none_is_wanted_after_a_longer_while_without_anything_to_do() {
        let mut it = Looked::new(0, 5, 1);
        it.runs(10, 1);
        assert_eq!(it.runs(299, 0), []);
        assert_eq!(it.runs(60, 0), [(309, 0)]);
        assert_eq!(it.decisions[0].2, "nothing to do for 300 s");
        it.second(0, 3, 3);
        assert_eq!(it.wanted, 1, "a request wakes it");
    }

    #[test]
    fn a_request_that_waits_for_others_keeps_it_awake() {
        let mut it = Looked::new(0, 5, 1);
        for _ in 0..1000 {
            it.second(0, 0, 1);
        }
        assert_eq!(it.decisions, []);
    }

    #[test]
    fn requests_that_nobody_saw_keep_it_awake() {
        let mut it = Looked::new(0, 5, 1);
        for _ in 0..20 {
            it.opened += 1;
            assert_eq!(it.runs(250, 0), []);
        }
        assert_eq!(it.runs(60, 0).len(), 1);
    }

    #[test]
    fn a_replica_that_holds_something_is_kept() {
        let mut it = Looked::new(0, 5, 4);
        it.pinned = 2;
        assert_eq!(it.runs(1000, 0), [(60, 2)]);
        it.pinned = 0;
        assert_eq!(it.runs(1000, 0), [(1000, 0)]);
    }

    #[test]
    fn a_rollout_has_something_to_run_on() {
        let mut it = Looked::new(0, 5, 0);
        it.rolls_out = true;
        assert_eq!(it.runs(1000, 0), [(0, 1)]);
        assert!(
            it.decisions[0].2.contains("rolled out"),
            "{:?}",
            it.decisions
        );
    }

    #[test]
    fn a_restart_lets_nothing_go_at_once() {
        let mut it = Looked::new(0, 5, 5);
        assert_eq!(it.runs(60, 8), []);
        assert_eq!(it.runs(1, 8), [(60, 2)]);
        let mut it = Looked::new(0, 5, 0);
        assert_eq!(it.runs(1000, 0), [], "nor does it wake anything");
    }

    #[test]
    fn a_reason_has_the_numbers() {
        let mut it = Looked::new(1, 2, 1);
        it.second(10, 30, 40);
        let expected = "10 running and 30 waiting requests at 7 a replica (70 % of `concurrency_limit` 10) need 2 of 1 to 2";
        assert_eq!(it.decisions, [(0, 2, expected.to_owned())]);
    }

    #[test]
    fn a_limit_that_is_not_known_starts_one() {
        let situation = Situation {
            load: Load {
                waiting: 100,
                open: 100,
                ..Load::default()
            },
            wanted: 0,
            bounds: ScaleBounds { min: 0, max: 9 },
            rolls_out: false,
        };
        let now = Instant::now();
        let decision = Trend::new(now).look(now, situation, &config());
        assert_eq!(decision.map(|it| it.to), Some(1));
    }

    fn a_range() -> impl Strategy<Value = ScaleBounds> {
        (0u32..5, 1u32..6).prop_map(|(min, more)| ScaleBounds {
            min,
            max: min + more,
        })
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds(
            bounds in a_range(),
            first in 0u32..12,
            limit in 1u32..20,
            loads in vec((0u32..60, 0u32..200, 0u32..3), 1..800),
        ) {
            let mut it = Looked::new(bounds.min, bounds.max, bounds.nearest(first));
            it.limit = limit;
            for (running, waiting, more) in loads {
                it.second(running, waiting, running + waiting + more);
                prop_assert!(bounds.nearest(it.wanted) == it.wanted, "{:?}", it.decisions);
                let each = (limit * 7 / 10).max(1);
                let needed = bounds.nearest((running + waiting).div_ceil(each));
                prop_assert!(it.wanted >= needed, "{} for {needed}", it.wanted);
                prop_assert!(running + waiting + more == 0 || it.wanted > 0);
            }
        }

        #[test]
        fn a_load_that_does_not_change_is_decided_about_once_or_twice(
            bounds in a_range(),
            first in 0u32..12,
            requests in 0u32..80,
        ) {
            let mut it = Looked::new(bounds.min, bounds.max, bounds.nearest(first));
            it.runs(2000, requests);
            let needed = bounds.nearest(requests.div_ceil(7));
            prop_assert_eq!(it.wanted, needed);
            // Without anything to do it may be one replica before it is none.
            prop_assert!(it.decisions.len() <= 2, "{:?}", it.decisions);
            let steps: Vec<u32> = it.decisions.iter().map(|(_, to, _)| *to).collect();
            let falls = steps.is_sorted_by(|one, next| one > next);
            prop_assert!(falls, "it went up and down: {:?}", it.decisions);
        }

        #[test]
        fn what_changes_faster_than_the_window_makes_nothing_go_up_and_down(
            high in 20u32..60,
            low in 0u32..10,
            pause in 1u64..59,
        ) {
            let mut it = Looked::new(0, 9, 1);
            it.runs(1, high);
            let up = it.wanted;
            it.decisions.clear();
            for _ in 0..50 {
                it.runs(pause, low);
                it.runs(1, high);
            }
            prop_assert_eq!(it.wanted, up);
            prop_assert!(it.decisions.is_empty(), "{:?}", it.decisions);
        }
    }
}
