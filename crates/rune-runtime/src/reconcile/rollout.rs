//! What a rollout asks for, and how it ends.

use std::time::Duration;

use rune_backend::BackendError;
use rune_store_runtime::{
    AuditId, AuditVerdict, CompleteRollout, DeploymentRow, DeploymentState, EventId, PageRequest,
    RecordAudit, Reject, RequestFilter, RequestStatus, RollBack, Rollout, RolloutState,
    RolloutStrategy, StoreError, Timestamp,
};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{Look, ReconcileLoop, Role};
use crate::engine::{Publication, blames_version};

/// How often a replica of a new version may fail to start, or end early, before the version is given up.
const MAX_FAILURES: u32 = 3;
/// How long a version is compared with the one before after it has taken its place.
const WATCH: Duration = Duration::from_secs(300);
/// How long ago a rollout may have ended to be told of by a process that did not see it end.
const NEWS: Duration = Duration::from_secs(3600);
/// Longest reason that is kept, in characters.
const MAX_REASON: usize = 1000;
/// Who decides here, for the audit trail and for events.
pub(super) const DECIDER: &str = "rune";

/// How many replicas of either version are to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Goals {
    pub(super) stable: usize,
    pub(super) candidate: usize,
}

impl Goals {
    /// The goals while so many replicas of the new version are ready. There are never fewer replicas than are wanted:
    /// an old one goes when a new one is there, a quarter of them at a time. A canary is beside what is wanted.
    pub(super) fn of(row: &DeploymentRow, ready: usize) -> Self {
        let wanted = wanted(row);
        let Some(rollout) = row.candidate() else {
            return Self {
                stable: wanted,
                candidate: 0,
            };
        };
        match rollout.strategy {
            RolloutStrategy::Rolling => Self {
                stable: wanted.saturating_sub(ready),
                candidate: wanted.min(ready + (wanted / 4).max(1)),
            },
            RolloutStrategy::Canary => Self {
                stable: wanted,
                candidate: (wanted * rollout.weight as usize).div_ceil(100).max(1),
            },
        }
    }
}

/// How many replicas are to take requests. A version that is rolled out is seen running before it takes over, also where
/// nothing was to do.
pub(super) fn wanted(row: &DeploymentRow) -> usize {
    let fewest = u32::from(row.is_asleep() && row.candidate().is_some());
    row.wanted().max(fewest) as usize
}

/// Whether a start that failed so may be tried again with the same version.
pub(super) const fn is_final(error: &BackendError) -> bool {
    matches!(error, BackendError::Invalid(_))
}

impl ReconcileLoop {
    /// Ends the rollout where its outcome is clear.
    pub(super) async fn conclude(&mut self, look: &mut Look) -> Result<(), StoreError> {
        if let Some(reason) = self.fault(look) {
            return self.roll_back(look, &reason).await;
        }
        let row = &look.deployment;
        let is_rolling = row
            .candidate()
            .is_some_and(|it| it.strategy == RolloutStrategy::Rolling);
        let is_done = look
            .candidate
            .as_ref()
            .is_some_and(|it| it.current.len() >= wanted(row));
        if !is_rolling || !is_done || look.is_unsure {
            return Ok(());
        }
        let complete = CompleteRollout {
            deployment_id: row.id,
            generation: row.generation,
        };
        let reason = "every replica runs the new version".to_owned();
        let audit = audit(row, "deployment.complete", reason);
        match self.store.write_audited(complete, audit).await {
            Ok(row) => {
                self.backoffs.take_over(row.id);
                look.resort(row);
                Ok(())
            }
            Err(error) => self.is_void(look, error).await,
        }
    }

    /// Looks anew at what somebody else has changed before it was decided.
    async fn is_void(&self, look: &mut Look, error: StoreError) -> Result<(), StoreError> {
        let id = look.deployment.id;
        match error {
            StoreError::Rejected(reject @ Reject::Conflict { .. }) => {
                tracing::info!(deployment = %id, %reject, "nothing is decided about its rollout");
                if let Some(row) = self.store.deployment(id).await? {
                    look.resort(row);
                }
                self.wake.notify_one();
                Ok(())
            }
            error => Err(error),
        }
    }

    /// Why the version that was rolled out last must go.
    fn fault(&self, look: &Look) -> Option<String> {
        let row = &look.deployment;
        let rollout = row.rollout.as_ref()?;
        let role = match rollout.state {
            RolloutState::RolledBack => return None,
            RolloutState::Completed => {
                let since = self.store.now().as_millis() - rollout.ended_at?.as_millis();
                let is_watched = u128::try_from(since).is_ok_and(|it| it < WATCH.as_millis());
                if !is_watched || row.releases.is_empty() {
                    return None;
                }
                Role::Stable
            }
            RolloutState::Progressing => {
                let candidate = look.candidate.as_ref()?;
                if candidate.is_hopeless {
                    return candidate.failure.clone();
                }
                Role::Candidate
            }
        };
        let failures = self.backoffs.failures(row, role);
        if let Some((_, why)) = failures.filter(|(count, _)| *count >= MAX_FAILURES) {
            return Some(format!("given up after {MAX_FAILURES} attempts: {why}"));
        }
        self.router.objection(row.id)
    }

    async fn roll_back(&mut self, look: &mut Look, why: &str) -> Result<(), StoreError> {
        let row = &look.deployment;
        let bad = row.rollout.as_ref().map(|it| it.version_id);
        let version = match bad {
            Some(id) => self.store.version(id).await?,
            None => None,
        };
        let name = version.map_or_else(|| "the new version".to_owned(), |it| it.version);
        let reason: String = format!("{name}: {why}").chars().take(MAX_REASON).collect();
        let back = RollBack {
            deployment_id: row.id,
            generation: row.generation,
            reason: reason.clone(),
        };
        let audit = audit(row, "deployment.rollback", reason.clone());
        let row = match self.store.write_audited(back, audit).await {
            Ok(row) => row,
            Err(error) => return self.is_void(look, error).await,
        };
        tracing::warn!(deployment = %row.id, agent = row.agent, reason, "a rollout is rolled back");
        look.resort(row);
        // What is missing now is started by the next look, which comes at once.
        self.wake.notify_one();
        Ok(())
    }

    /// Counts how the last requests of a deployment ended before this process began: a restart is no reason to judge a version
    /// anew.
    pub(super) async fn recall(&self, row: &DeploymentRow) -> Result<(), StoreError> {
        let rollout = row.rollout.as_ref();
        let Some(rollout) = rollout.filter(|it| it.state != RolloutState::RolledBack) else {
            return Ok(());
        };
        let filter = RequestFilter {
            deployment_id: Some(row.id),
            statuses: vec![RequestStatus::Completed, RequestStatus::Failed],
            ..RequestFilter::default()
        };
        let page = PageRequest::first(PageRequest::MAX_LIMIT);
        let newest_first = self.store.requests(&filter, &page).await?.items;
        for request in newest_first.iter().rev() {
            let version = request.version_id;
            // How it did in an earlier rollout is another matter.
            let is_earlier =
                version == rollout.version_id && request.created_at < rollout.started_at;
            let failed = blames_version(request.failure.as_ref());
            if let Some(failed) = failed.filter(|_| !is_earlier) {
                self.router.ended(row.id, version, failed);
            }
        }
        Ok(())
    }

    /// Publishes that a rollout has ended, whoever ended it. What has just ended is published again by the next process,
    /// under the same id: the one before may have ended in between.
    pub(super) async fn tell(&self, row: &DeploymentRow) {
        let (Some(engine), Some(now)) = (&self.events, &row.rollout) else {
            return;
        };
        let topic = match now.state {
            RolloutState::Completed => "rollout.completed",
            RolloutState::RolledBack => "rollout.rolled_back",
            RolloutState::Progressing => return,
        };
        let known = self.router.deployment(row.id);
        let was = known.as_ref().and_then(|known| known.rollout.as_ref());
        let of = |it: &Rollout| (it.version_id, it.started_at, it.state);
        let is_told = was.is_some_and(|was| of(was) == of(now));
        let Some(ended_at) = now.ended_at.filter(|_| !is_told) else {
            return;
        };
        let age = self.store.now().as_millis() - ended_at.as_millis();
        if u128::try_from(age).is_ok_and(|age| age > NEWS.as_millis()) {
            return;
        }
        let event = Publication {
            event_id: event_id(row, now, ended_at),
            namespace: row.namespace.clone(),
            topic: topic.to_owned(),
            payload: json!({
                "agent": row.agent,
                "alias": row.alias,
                "deployment_id": row.id,
                "version_id": now.version_id,
                "from_version_id": now.from,
                "reason": now.reason,
            }),
            publisher: DECIDER.to_owned(),
            request_id: None,
            depth: 0,
        };
        if let Err(error) = engine.publish(event).await {
            tracing::warn!(deployment = %row.id, %error, topic, "an event was not published");
        }
    }
}

/// The id of the event that a rollout has ended: the same one whoever tells it.
fn event_id(row: &DeploymentRow, rollout: &Rollout, ended_at: Timestamp) -> EventId {
    let mut hash = Sha256::new();
    hash.update(row.id.as_bytes());
    hash.update(rollout.version_id.as_bytes());
    hash.update(rollout.started_at.as_millis().to_le_bytes());
    hash.update(rollout.state.as_str());
    let mut random = [0; 10];
    let pairs = random.iter_mut().zip(hash.finalize());
    pairs.for_each(|(byte, hashed)| *byte = hashed);
    let millis = u64::try_from(ended_at.as_millis()).unwrap_or_default();
    let id = uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
    EventId::from_bytes(*id.as_bytes())
}

pub(super) fn audit(row: &DeploymentRow, kind: &str, reason: String) -> Vec<RecordAudit> {
    vec![RecordAudit {
        audit_id: AuditId::generate(),
        kind: kind.to_owned(),
        resource: format!("{}/{}:{}", row.namespace, row.agent, row.alias),
        verdict: AuditVerdict::Allowed,
        reason,
        caller: DECIDER.to_owned(),
        request_id: None,
    }]
}

/// What the deployment's row says.
pub(super) fn judge(look: &Look) -> (DeploymentState, String) {
    let row = &look.deployment;
    let wanted = wanted(row);
    let stable = look.stable.current.len();
    let candidate = look.candidate.as_ref();
    let new = candidate.map_or(0, |it| it.current.len());
    let nothing_runs = stable + new + look.outdated.len() == 0;
    let failure = [Some(&look.stable), candidate].into_iter().flatten();
    let mut failure = failure.filter_map(|group| match (group.role, group.failure.as_ref()?) {
        (Role::Stable, why) => Some(why.clone()),
        (Role::Candidate, why) => Some(format!("the new version: {why}")),
    });
    if let Some(reason) = failure.next() {
        // Where only the new version fails, the one before can be started.
        let state = match nothing_runs && look.stable.failure.is_some() {
            true => DeploymentState::Failed,
            false => DeploymentState::Degraded,
        };
        return (state, reason);
    }
    if row.is_asleep() && wanted == 0 {
        let reason = "asleep: the next request starts a replica";
        return (DeploymentState::Ready, reason.to_owned());
    }
    if wanted == 0 {
        return (DeploymentState::Stopped, String::new());
    }
    if nothing_runs {
        return (DeploymentState::Pending, "replicas are starting".to_owned());
    }
    let degraded = |reason| (DeploymentState::Degraded, reason);
    match row.candidate().map(|it| it.strategy) {
        Some(RolloutStrategy::Rolling) => {
            return degraded(format!("{new} of {wanted} replicas run the new version"));
        }
        _ if stable < wanted => {
            return degraded(format!("{stable} of {wanted} replicas are ready"));
        }
        Some(RolloutStrategy::Canary) => {
            let goal = Goals::of(row, new).candidate;
            if new < goal {
                return degraded(format!("{new} of {goal} replicas of the canary are ready"));
            }
        }
        None => {}
    }
    let rollout = row.rollout.as_ref();
    let rolled_back = rollout.filter(|it| it.state == RolloutState::RolledBack);
    let reason = rolled_back.map(|it| format!("rolled back: {}", it.reason));
    (DeploymentState::Ready, reason.unwrap_or_default())
}
