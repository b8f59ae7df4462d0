//! How requests end, by version: what tells whether a version that is rolled out is worse than the one before.

use std::collections::{HashMap, VecDeque};

use rune_store_runtime::{DeploymentRow, Rollout, VersionId};

/// Requests of a version that are remembered, the last ones.
const WINDOW: usize = 100;
/// Requests of a version that have to have ended before it is judged.
const MIN_REQUESTS: u32 = 20;
/// By how many percentage points more of its requests may fail than of the version before.
const MAX_EXCESS: u32 = 20;

/// How the last requests of a version ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Requests that ended.
    pub requests: u32,
    /// Those that failed, and not by their caller.
    pub failures: u32,
}

/// How the last requests of a deployment ended.
#[derive(Default)]
pub(super) struct Outcomes {
    /// Whether each failed, the last one last.
    ended: HashMap<VersionId, VecDeque<bool>>,
}

impl Tally {
    fn percent(self) -> u32 {
        self.failures * 100 / self.requests.max(1)
    }
}

impl Outcomes {
    /// Counts a request that ended.
    pub(super) fn add(&mut self, version: VersionId, failed: bool) {
        let ended = self.ended.entry(version).or_default();
        ended.push_back(failed);
        if ended.len() > WINDOW {
            ended.pop_front();
        }
    }

    pub(super) fn tally(&self, version: VersionId) -> Tally {
        let mut tally = Tally::default();
        for failed in self.ended.get(&version).into_iter().flatten() {
            tally.requests += 1;
            tally.failures += u32::from(*failed);
        }
        tally
    }

    /// Forgets what a rollout that begins must not be judged by, and versions that nobody asks about any more.
    pub(super) fn changes(&mut self, from: &DeploymentRow, to: &DeploymentRow) {
        let began = |it: &Rollout| (it.version_id, it.started_at);
        let is_new = from.rollout.as_ref().map(began) != to.rollout.as_ref().map(began);
        let rollout = to.rollout.as_ref();
        if let Some(rollout) = rollout.filter(|it| is_new && it.from != it.version_id) {
            self.ended.remove(&rollout.version_id);
        }
        let asked = rollout.map(|it| [it.version_id, it.from]);
        let is_asked = |id: &VersionId| asked.is_some_and(|asked| asked.contains(id));
        self.ended
            .retain(|id, _| *id == to.version_id || is_asked(id));
    }

    /// Why the version of a rollout is worse than the one before, where it is.
    pub(super) fn objection(&self, rollout: &Rollout) -> Option<String> {
        if rollout.version_id == rollout.from {
            return None;
        }
        let (new, old) = (self.tally(rollout.version_id), self.tally(rollout.from));
        let is_worse = new.requests >= MIN_REQUESTS && new.percent() > old.percent() + MAX_EXCESS;
        is_worse.then(|| {
            format!(
                "{} of its last {} requests failed ({} %), of the version before {} of {} ({} %)",
                new.failures,
                new.requests,
                new.percent(),
                old.failures,
                old.requests,
                old.percent()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use rune_store_runtime::{RolloutState, RolloutStrategy, Timestamp};

    use super::*;

    fn rollout() -> Rollout {
        Rollout {
            version_id: VersionId::generate(),
            env: Default::default(),
            from: VersionId::generate(),
            strategy: RolloutStrategy::Canary,
            weight: 10,
            state: RolloutState::Progressing,
            reason: String::new(),
            started_at: Timestamp::from_millis(1),
            ended_at: None,
        }
    }

    fn add(outcomes: &mut Outcomes, version: VersionId, good: usize, bad: usize) {
        for n in 0..good + bad {
            outcomes.add(version, n < bad);
        }
    }

    /// Whether a version is objected to with so many good and bad ends, of the new and the old one.
    fn objects(new: (usize, usize), old: (usize, usize)) -> bool {
        let (mut outcomes, rollout) = (Outcomes::default(), rollout());
        add(&mut outcomes, rollout.version_id, new.0, new.1);
        add(&mut outcomes, rollout.from, old.0, old.1);
        outcomes.objection(&rollout).is_some()
    }

    #[test]
    fn a_version_is_compared_with_the_one_before() {
        assert!(!objects((0, 19), (100, 0)), "too few to say");
        assert!(objects((0, 20), (100, 0)));
        assert!(!objects((80, 20), (100, 0)), "20 points more are allowed");
        assert!(objects((79, 21), (100, 0)));
        assert!(!objects((40, 60), (50, 50)), "both are bad");
        assert!(objects((0, 20), (0, 0)), "nothing is known of the old one");
    }

    #[test]
    fn only_the_last_requests_count() {
        let (mut outcomes, rollout) = (Outcomes::default(), rollout());
        add(&mut outcomes, rollout.version_id, 0, WINDOW);
        add(&mut outcomes, rollout.version_id, WINDOW, 0);
        let tally = outcomes.tally(rollout.version_id);
        assert_eq!((tally.requests, tally.failures), (100, 0));
        assert_eq!(outcomes.objection(&rollout), None);
    }
}
