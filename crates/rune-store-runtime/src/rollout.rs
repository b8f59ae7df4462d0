//! Rollouts: how a deployment gets from one version to another, and back.
//!
//! What a command makes of a row is here, once for every store: it follows from the row and the command.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::limits::MAX_RELEASES;
use crate::{
    ApplyDeployment, DeploymentId, DeploymentRow, DeploymentState, Reject, ScaleBounds, Timestamp,
    VersionId, VersionRow,
};

/// Rolls out a version beside the one that a deployment runs; for the version that is rolled out already, changes how.
/// Reply: the row. Rejected with `not_found` where deployment or version do not exist, with `conflict` where the
/// deployment is stopped, runs the version already or rolls out another one, with `invalid` where the version is one of
/// another agent or the weight is more than 100.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRollout {
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// The version to roll out.
    pub version_id: VersionId,
    /// How.
    pub strategy: RolloutStrategy,
    /// Percent of the new sessions that a canary gets, 0 to 100.
    pub weight: u32,
}

/// Has a rollout replace what the deployment runs, step by step. Reply: the row. Rejected with `not_found`, and with
/// `conflict` where none is under way or the deployment changed in the meantime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromoteRollout {
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// The generation that the decision is about.
    pub generation: u64,
}

/// Makes the version that was rolled out the one that the deployment runs. Reply: the row, of the same generation: what is
/// wanted is what was wanted. Rejected with `not_found`, and with `conflict` where the deployment changed in the meantime or
/// rolls out nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompleteRollout {
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// The generation of which it was observed that everything is replaced.
    pub generation: u64,
}

/// Ends a rollout that is under way without its version; where none is, goes back to the release before. Reply: the row.
/// Rejected with `not_found`, and with `conflict` where there is nothing to go back to or the deployment changed in the
/// meantime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollBack {
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// The generation that the decision is about.
    pub generation: u64,
    /// Why, for a person.
    pub reason: String,
}

/// How a version replaces another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutStrategy {
    /// Replica by replica, to the end.
    Rolling,
    /// Beside the other one, with a share of the new sessions, until somebody promotes it.
    Canary,
}

impl RolloutStrategy {
    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rolling => "rolling",
            Self::Canary => "canary",
        }
    }
}

/// How far a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// Both versions run.
    Progressing,
    /// The deployment runs the new version.
    Completed,
    /// The deployment runs what it ran before; the reason says why.
    RolledBack,
}

impl RolloutState {
    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Progressing => "progressing",
            Self::Completed => "completed",
            Self::RolledBack => "rolled_back",
        }
    }
}

/// The rollout of a deployment that began last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// What is rolled out.
    pub version_id: VersionId,
    /// Its variables while it is under way. May hold secrets: never listed, never logged.
    pub env: BTreeMap<String, String>,
    /// What the deployment ran when it began.
    pub from: VersionId,
    /// How.
    pub strategy: RolloutStrategy,
    /// Percent of the new sessions that a canary gets; 100 where it replaces what is there.
    pub weight: u32,
    /// How far it is.
    pub state: RolloutState,
    /// Why it ended so, for a person.
    pub reason: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// What a deployment ran before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The version.
    pub version_id: VersionId,
    /// Its variables. May hold secrets: never listed, never logged.
    pub env: BTreeMap<String, String>,
    /// When something else took its place.
    pub replaced_at: Timestamp,
}

impl Rollout {
    fn end(&mut self, state: RolloutState, reason: &str, at: Timestamp) {
        self.state = state;
        reason.clone_into(&mut self.reason);
        self.ended_at = Some(at);
        self.env.clear();
    }
}

impl DeploymentRow {
    /// The rollout that is under way.
    #[must_use]
    pub fn candidate(&self) -> Option<&Rollout> {
        let rollout = self.rollout.as_ref();
        rollout.filter(|rollout| rollout.state == RolloutState::Progressing)
    }

    /// The version and variables that it comes to by itself. Whether it comes to those of a canary nobody has decided.
    #[must_use]
    pub fn target(&self) -> (VersionId, &BTreeMap<String, String>) {
        let rolling = self
            .candidate()
            .filter(|rollout| rollout.strategy == RolloutStrategy::Rolling);
        rolling.map_or((self.version_id, &self.env), |rollout| {
            (rollout.version_id, &rollout.env)
        })
    }

    /// What [`ApplyDeployment`] makes of it, with a version of these bounds; answers whether that is a change. Where requests
    /// are served now, the new version is rolled out; elsewhere it takes the place of the other one at once.
    pub fn deploy(&mut self, op: &ApplyDeployment, bounds: ScaleBounds, at: Timestamp) -> bool {
        let is_there = self.target() == (op.version_id, &op.env);
        // Whoever deploys knows that something else was rolled back before: from here on only this is told.
        let was_rolled_back = |it: &mut Rollout| it.state == RolloutState::RolledBack;
        let told = self.rollout.take_if(was_rolled_back).is_some();
        let asked = self.differs(op.replicas, bounds);
        if is_there && asked.is_none() {
            if told {
                self.changed(at);
            }
            return told;
        }
        let is_observed = matches!(
            self.state,
            DeploymentState::Ready | DeploymentState::Degraded
        );
        let ran = self.replicas > 0;
        if let Some(replicas) = asked {
            self.ask_for(replicas, at);
        }
        let serves = is_observed && ran && self.replicas > 0;
        let is_stable = (self.version_id, &self.env) == (op.version_id, &op.env);
        if !serves && !is_stable {
            self.rollout = None;
            self.release(op.version_id, op.env.clone(), at);
        } else if !is_there {
            self.roll_out(op.version_id, &op.env, RolloutStrategy::Rolling, 100, at);
        } else {
            self.stop_rollout_without_replicas(at);
        }
        self.changed(at);
        true
    }

    /// What [`crate::ScaleDeployment`] makes of it; answers whether that is a change.
    pub fn scale(&mut self, replicas: u32, at: Timestamp) -> bool {
        if !self.ask_for(replicas, at) {
            return false;
        }
        self.stop_rollout_without_replicas(at);
        self.changed(at);
        true
    }

    /// What [`StartRollout`] makes of it; answers whether that is a change.
    ///
    /// # Errors
    /// The [`Reject`] of the command.
    pub fn start_rollout(
        &mut self,
        op: &StartRollout,
        version: &VersionRow,
        at: Timestamp,
    ) -> Result<bool, Reject> {
        if op.weight > 100 {
            let message = format!("the weight is a percentage, 0 to 100, not {}", op.weight);
            return Err(Reject::invalid(message));
        }
        if version.agent != self.agent {
            return Err(Reject::invalid(format!(
                "version `{}` is one of the agent `{}`, not of `{}`",
                version.id, version.agent, self.agent
            )));
        }
        if self.replicas == 0 {
            let message = "the deployment is stopped: scale it up, or deploy the version";
            return Err(Reject::conflict(message));
        }
        if let Some(rollout) = self.candidate() {
            let same = (rollout.strategy, rollout.weight) == (op.strategy, op.weight_of_all());
            if rollout.version_id != op.version_id {
                return Err(Reject::conflict(format!(
                    "version `{}` is being rolled out: promote it or roll it back first",
                    rollout.version_id
                )));
            }
            if same {
                return Ok(false);
            }
        } else if self.version_id == op.version_id {
            return Err(Reject::conflict(format!(
                "the deployment runs version `{}` already",
                op.version_id
            )));
        }
        let env = self
            .candidate()
            .map_or_else(|| self.env.clone(), |it| it.env.clone());
        self.roll_out(op.version_id, &env, op.strategy, op.weight_of_all(), at);
        self.changed(at);
        Ok(true)
    }

    /// What [`PromoteRollout`] makes of it; answers whether that is a change.
    ///
    /// # Errors
    /// The [`Reject`] of the command.
    pub fn promote(&mut self, op: &PromoteRollout, at: Timestamp) -> Result<bool, Reject> {
        self.is_still(op.generation)?;
        let Some(rollout) = self.candidate() else {
            return Err(Reject::conflict("no rollout is under way"));
        };
        if rollout.strategy == RolloutStrategy::Rolling {
            return Ok(false);
        }
        let (version_id, env) = (rollout.version_id, rollout.env.clone());
        self.roll_out(version_id, &env, RolloutStrategy::Rolling, 100, at);
        self.changed(at);
        Ok(true)
    }

    /// What [`CompleteRollout`] makes of it.
    ///
    /// # Errors
    /// The [`Reject`] of the command.
    pub fn complete_rollout(&mut self, op: &CompleteRollout, at: Timestamp) -> Result<(), Reject> {
        self.is_still(op.generation)?;
        let rollout = self.rollout.as_mut();
        let Some(rollout) = rollout.filter(|it| it.state == RolloutState::Progressing) else {
            return Err(Reject::conflict("no rollout is under way"));
        };
        let (version_id, env) = (rollout.version_id, std::mem::take(&mut rollout.env));
        rollout.end(RolloutState::Completed, "", at);
        self.release(version_id, env, at);
        self.updated_at = at;
        Ok(())
    }

    /// What [`RollBack`] makes of it.
    ///
    /// # Errors
    /// The [`Reject`] of the command.
    pub fn roll_back(&mut self, op: &RollBack, at: Timestamp) -> Result<(), Reject> {
        self.is_still(op.generation)?;
        if self.candidate().is_none() {
            if self.releases.is_empty() {
                return Err(Reject::conflict(
                    "the deployment has no earlier release to go back to",
                ));
            }
            let earlier = self.releases.remove(0);
            // What comes before the release that the last rollout brought has its own story.
            let brought = |it: &Rollout| {
                it.state == RolloutState::Completed && it.version_id == self.version_id
            };
            self.rollout = self.rollout.take().filter(brought);
            (self.version_id, self.env) = (earlier.version_id, earlier.env);
        }
        if let Some(rollout) = &mut self.rollout {
            rollout.end(RolloutState::RolledBack, &op.reason, at);
        }
        self.changed(at);
        Ok(())
    }

    /// Whether a decision is about the deployment as it is.
    fn is_still(&self, generation: u64) -> Result<(), Reject> {
        if generation == self.generation {
            return Ok(());
        }
        let message = "the deployment has changed in the meantime: look at it again";
        Err(Reject::conflict(message))
    }

    fn roll_out(
        &mut self,
        version_id: VersionId,
        env: &BTreeMap<String, String>,
        strategy: RolloutStrategy,
        weight: u32,
        at: Timestamp,
    ) {
        if let Some(rollout) = &mut self.rollout
            && rollout.state == RolloutState::Progressing
        {
            if (self.version_id, &self.env) == (version_id, env) {
                let reason = "what ran before was deployed again";
                rollout.end(RolloutState::RolledBack, reason, at);
                return;
            }
            if (rollout.version_id, &rollout.env) == (version_id, env) {
                (rollout.strategy, rollout.weight) = (strategy, weight);
                return;
            }
        }
        self.rollout = Some(Rollout {
            version_id,
            env: env.clone(),
            from: self.version_id,
            strategy,
            weight,
            state: RolloutState::Progressing,
            reason: String::new(),
            started_at: at,
            ended_at: None,
        });
    }

    /// Puts a release into the place of the one that is there.
    fn release(&mut self, version_id: VersionId, env: BTreeMap<String, String>, at: Timestamp) {
        let replaced = Release {
            version_id: std::mem::replace(&mut self.version_id, version_id),
            env: std::mem::replace(&mut self.env, env),
            replaced_at: at,
        };
        self.releases.insert(0, replaced);
        self.releases.truncate(MAX_RELEASES);
    }

    fn stop_rollout_without_replicas(&mut self, at: Timestamp) {
        let rollout = self.rollout.as_mut();
        if let Some(rollout) = rollout.filter(|it| it.state == RolloutState::Progressing)
            && self.replicas == 0
        {
            rollout.end(RolloutState::RolledBack, "the deployment was stopped", at);
        }
    }

    fn changed(&mut self, at: Timestamp) {
        self.generation += 1;
        self.updated_at = at;
    }
}

impl StartRollout {
    /// The weight that is kept: what replaces everything has all.
    const fn weight_of_all(&self) -> u32 {
        match self.strategy {
            RolloutStrategy::Rolling => 100,
            RolloutStrategy::Canary => self.weight,
        }
    }
}
