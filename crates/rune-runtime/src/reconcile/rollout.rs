//! What a rollout asks for, and how it ends.

use std::time::Duration;

use rune_backend::BackendError;
use rune_store_runtime::{
    AuditId, AuditVerdict, CompleteRollout, DeploymentRow, DeploymentState, EventId, RecordAudit,
    RollBack, RolloutState, RolloutStrategy, StoreError,
};
use serde_json::json;

use super::{Look, ReconcileLoop, Role};
use crate::engine::Publication;

/// How often a replica of a new version may fail to start, or end early, before the version is given up.
const MAX_FAILURES: u32 = 3;
/// How long a version is compared with the one before after it has taken its place.
const WATCH: Duration = Duration::from_secs(300);
/// Longest reason that is kept, in characters.
const MAX_REASON: usize = 1000;
/// Who decides here, for the audit trail and for events.
const DECIDER: &str = "rune";

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
        let wanted = row.replicas as usize;
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
            .is_some_and(|it| it.current.len() >= row.replicas as usize);
        if !is_rolling || !is_done {
            return Ok(());
        }
        let complete = CompleteRollout {
            deployment_id: row.id,
            generation: row.generation,
        };
        let reason = "every replica runs the new version".to_owned();
        let audit = audit(row, "deployment.complete", reason);
        let row = self.store.write_audited(complete, audit).await?;
        self.backoffs.take_over(row.id);
        look.resort(row);
        Ok(())
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
        tracing::warn!(deployment = %row.id, agent = row.agent, reason, "a rollout is rolled back");
        let back = RollBack {
            deployment_id: row.id,
            generation: Some(row.generation),
            reason: reason.clone(),
        };
        let audit = audit(row, "deployment.rollback", reason);
        let row = self.store.write_audited(back, audit).await?;
        look.resort(row);
        // What is missing now is started by the next look, which comes at once.
        self.wake.notify_one();
        Ok(())
    }

    /// Publishes that a rollout has ended, whoever ended it.
    pub(super) async fn tell(&self, row: &DeploymentRow) {
        let known = self.router.deployment(row.id);
        let was = known.as_ref().and_then(|known| known.rollout.as_ref());
        let (Some(engine), Some(was), Some(now)) = (&self.events, was, &row.rollout) else {
            return;
        };
        let is_same = (was.version_id, was.started_at) == (now.version_id, now.started_at);
        if !is_same || was.state == now.state {
            return;
        }
        let topic = match now.state {
            RolloutState::Completed => "rollout.completed",
            RolloutState::RolledBack => "rollout.rolled_back",
            RolloutState::Progressing => return,
        };
        let event = Publication {
            event_id: EventId::generate(),
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

fn audit(row: &DeploymentRow, kind: &str, reason: String) -> Vec<RecordAudit> {
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
    let wanted = row.replicas as usize;
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
        let state = match nothing_runs {
            true => DeploymentState::Failed,
            false => DeploymentState::Degraded,
        };
        return (state, reason);
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
