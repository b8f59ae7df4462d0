//! Which version of a deployment takes a request.
//!
//! While two run, a session stays with the version that took its last request, as long as that has replicas, or is about to
//! have some again after a start of the daemon. A new one
//! gets the version that follows from its id and the weight of the rollout: the same for every request of it, here and
//! after a restart; and as the weight grows it goes to the new version once and never back.

use std::sync::Arc;
use std::time::Duration;

use rune_store_runtime::{DeploymentId, Rollout, RolloutStrategy, SessionId, VersionId};
use sha2::{Digest as _, Sha256};

use super::outcomes::Tally;
use super::{Pool, ReplicaRouter};
use crate::replica::Replica;

/// How long after a start of the daemon a version is waited for that ran before.
const RETURN: Duration = Duration::from_secs(30);

impl ReplicaRouter {
    /// Whether replicas of more than one version of a deployment take requests.
    pub(crate) fn is_split(&self, id: DeploymentId) -> bool {
        let state = self.lock();
        let pool = state.pools.get(&id);
        pool.is_some_and(|pool| {
            let mut versions = pool.live_of(None).map(|replica| replica.version_id());
            let first = versions.next();
            versions.any(|version| Some(version) != first)
        })
    }

    /// Counts the end of a request for the version that ran it; `failed`, and not by its caller.
    pub(crate) fn ended(&self, id: DeploymentId, version: VersionId, failed: bool) {
        let mut state = self.lock();
        let Some(pool) = state.pools.get_mut(&id) else {
            return;
        };
        let was_worse = pool.objection().is_some();
        pool.outcomes.add(version, failed);
        let is_worse = pool.objection().is_some();
        drop(state);
        if is_worse && !was_worse {
            self.suspicions.notify_one();
        }
    }

    /// How the last requests of a version ended, as far as this process knows.
    #[must_use]
    pub fn tally(&self, id: DeploymentId, version: VersionId) -> Tally {
        let state = self.lock();
        let pool = state.pools.get(&id);
        pool.map(|pool| pool.outcomes.tally(version))
            .unwrap_or_default()
    }

    /// Why the version that was rolled out last is worse than the one before, where it is.
    pub(crate) fn objection(&self, id: DeploymentId) -> Option<String> {
        self.lock().pools.get(&id)?.objection()
    }
}

impl Pool {
    fn objection(&self) -> Option<String> {
        self.outcomes.objection(self.deployment.rollout.as_ref()?)
    }

    /// The version that requests of a session are for; none where nothing runs. `pinned` is that of its last request.
    pub(super) fn version_for(
        &self,
        session: &SessionId,
        pinned: Option<VersionId>,
    ) -> Option<VersionId> {
        let count = |version| {
            self.live_of(None)
                .filter(|r| r.version_id() == version)
                .count()
        };
        let sticky = || {
            let id = self.sticky.peek(session)?;
            let replica = self.live_of(None).find(|replica| replica.id() == *id)?;
            Some(replica.version_id())
        };
        let pinned = pinned.filter(|version| count(*version) > 0 || self.is_returning(*version));
        if let Some(version) = pinned.or_else(sticky) {
            return Some(version);
        }
        let stable = self.deployment.version_id;
        if let Some(rollout) = self.deployment.candidate() {
            let (old, new) = (count(stable), count(rollout.version_id));
            if new > 0 && (old == 0 || place(session) < weight(rollout, old, new)) {
                return Some(rollout.version_id);
            }
        }
        (count(stable) > 0).then_some(stable)
    }

    /// Whether a version is to run and has not had a replica since the daemon started: the other one may be there first.
    fn is_returning(&self, version: VersionId) -> bool {
        let stays = match self.deployment.candidate() {
            Some(rollout) if rollout.version_id == version => true,
            // What a rolling update replaces may be gone for good.
            Some(rollout) if rollout.strategy == RolloutStrategy::Rolling => false,
            _ => self.deployment.version_id == version,
        };
        stays && !self.seen.contains(&version) && self.since.elapsed() < RETURN
    }

    /// The replica that was added last, of a version where that has some.
    pub(super) fn newest(&self, version: Option<VersionId>) -> Option<Arc<Replica>> {
        self.live_of(version).next_back().cloned()
    }

    /// The replicas of a version that take requests; all that do where none is named, or it has none and none is about to be
    /// there again.
    pub(super) fn live_of(
        &self,
        version: Option<VersionId>,
    ) -> impl DoubleEndedIterator<Item = &Arc<Replica>> {
        let live = || self.replicas.iter().filter(|r| !r.is_draining());
        let is_there = |version: &VersionId| live().any(|r| r.version_id() == *version);
        let version = version.filter(|version| is_there(version) || self.is_returning(*version));
        live().filter(move |r| version.is_none_or(|version| r.version_id() == version))
    }
}

/// Percent of the new sessions that the version of a rollout gets while so many replicas run.
fn weight(rollout: &Rollout, old: usize, new: usize) -> u64 {
    match rollout.strategy {
        RolloutStrategy::Canary => u64::from(rollout.weight),
        RolloutStrategy::Rolling => (100 * new / (old + new)) as u64,
    }
}

/// Where a session stands among all: 0 to 99.
fn place(session: &SessionId) -> u64 {
    let digest = Sha256::digest(session.as_str());
    let first = digest.iter().take(8);
    first.fold(0, |place, byte| (place * 256 + u64::from(*byte)) % 100)
}
