//! Scaling: how many replicas of a deployment are to run.
//!
//! A person asks for a number of replicas. Where the version has bounds that differ, the daemon goes on from there by what
//! there is to do, and its last decision is part of the row.

use serde::{Deserialize, Serialize};

use crate::{DeploymentId, DeploymentRow, Reject, Timestamp};

/// Fewest and most replicas of a version; between two that differ the daemon decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ScaleBounds {
    /// Fewest; 0 where none runs while nothing is to be done.
    pub min: u32,
    /// Most, at least 1.
    pub max: u32,
}

/// What the daemon has decided last about a deployment that it scales.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaling {
    /// Those of the version that the deployment comes to.
    pub bounds: ScaleBounds,
    /// Replicas that are to run, within the bounds.
    pub wanted: u32,
    /// Why, with the numbers, for a person.
    pub reason: String,
    /// When that was decided.
    pub decided_at: Timestamp,
}

/// Writes down how many replicas the daemon has decided for. Reply: the row, of the same generation: what was asked for is
/// what was asked for. Rejected with `not_found`, with `conflict` where the deployment changed since the decision or is not
/// scaled by the daemon, with `invalid` where the number is out of its bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutoscaleDeployment {
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// The generation that the decision is about.
    pub generation: u64,
    /// The number that the decision is about.
    pub from: u32,
    /// The number from now on.
    pub to: u32,
    /// Why, with the numbers, for a person.
    pub reason: String,
}

impl Default for ScaleBounds {
    fn default() -> Self {
        Self { min: 1, max: 1 }
    }
}

impl ScaleBounds {
    /// Whether the daemon has anything to decide.
    #[must_use]
    pub const fn is_range(self) -> bool {
        self.min < self.max
    }

    /// The number within the bounds that is nearest to another one.
    #[must_use]
    pub fn nearest(self, replicas: u32) -> u32 {
        replicas.min(self.max).max(self.min)
    }

    /// How many replicas a deployment that runs with so many goes on with, where nobody says.
    #[must_use]
    fn kept(self, replicas: u32) -> u32 {
        match self.is_range() {
            true => self.nearest(replicas),
            false => self.first().max(replicas),
        }
    }

    /// How many replicas a deployment begins with where nobody says.
    #[must_use]
    pub fn first(self) -> u32 {
        self.min.max(1)
    }
}

impl DeploymentRow {
    /// Replicas that are to run now: those that were asked for, or that the daemon has decided for.
    #[must_use]
    pub fn wanted(&self) -> u32 {
        match &self.scaling {
            Some(scaling) if self.replicas > 0 => scaling.wanted,
            _ => self.replicas,
        }
    }

    /// Whether none is to run because there is nothing to do; the next request changes that.
    #[must_use]
    pub fn is_asleep(&self) -> bool {
        self.replicas > 0 && self.wanted() == 0
    }

    /// Keeps what the daemon has decided within the bounds of the version that the deployment comes to
    /// ([`DeploymentRow::target`]); answers whether that is a change. Follows every command that may change these.
    pub fn keep_within(&mut self, bounds: ScaleBounds, at: Timestamp) -> bool {
        if !bounds.is_range() {
            let wanted = self.wanted().max(1);
            let decided = self.scaling.take();
            if decided.is_some() && self.replicas > 0 {
                self.replicas = wanted;
            }
            return decided.is_some();
        }
        let begun = || Scaling {
            bounds,
            wanted: self.replicas.max(1),
            reason: asked_for(self.replicas.max(1)),
            decided_at: at,
        };
        let known = self.scaling.clone();
        let mut scaling = known.clone().unwrap_or_else(begun);
        scaling.bounds = bounds;
        let nearest = bounds.nearest(scaling.wanted);
        if nearest != scaling.wanted {
            let ScaleBounds { min, max } = bounds;
            scaling.reason = format!("the version runs with {min} to {max} replicas");
            scaling.wanted = nearest;
            scaling.decided_at = at;
        }
        self.scaling = Some(scaling);
        self.scaling != known
    }

    /// What [`AutoscaleDeployment`] makes of it.
    ///
    /// # Errors
    /// The [`Reject`] of the command.
    pub fn autoscale(&mut self, op: &AutoscaleDeployment, at: Timestamp) -> Result<(), Reject> {
        let is_stopped = self.replicas == 0;
        let Some(scaling) = self.scaling.as_mut().filter(|_| !is_stopped) else {
            let message = "the deployment is stopped, or its version has no range of replicas";
            return Err(Reject::conflict(message));
        };
        if (self.generation, scaling.wanted) != (op.generation, op.from) {
            let message = "the deployment changed after it was decided how to scale it";
            return Err(Reject::conflict(message));
        }
        if scaling.bounds.nearest(op.to) != op.to {
            let ScaleBounds { min, max } = scaling.bounds;
            let message = format!(
                "the version runs with {min} to {max} replicas, not {}",
                op.to
            );
            return Err(Reject::invalid(message));
        }
        scaling.wanted = op.to;
        scaling.reason.clone_from(&op.reason);
        scaling.decided_at = at;
        self.updated_at = at;
        Ok(())
    }

    /// The number that a deployment of a version with these bounds asks for, where it is not what there is: the one that was
    /// said, or else what one that runs goes on with. Where the daemon scales it, that is left to
    /// [`DeploymentRow::keep_within`].
    #[must_use]
    pub fn differs(&self, asked: Option<u32>, bounds: ScaleBounds) -> Option<u32> {
        let is_stopped = self.replicas == 0;
        let asked = match asked {
            Some(replicas) => replicas,
            None if is_stopped => bounds.first(),
            None if bounds.is_range() && self.scaling.is_some() => return None,
            None => bounds.kept(self.wanted()),
        };
        let is_as_asked = match asked {
            0 => is_stopped,
            replicas => !is_stopped && self.wanted() == replicas,
        };
        (!is_as_asked).then_some(asked)
    }

    /// Takes the number that a person asks for; answers whether that is a change. Where the daemon scales, it is the one to
    /// go on from.
    pub(crate) fn ask_for(&mut self, replicas: u32, at: Timestamp) -> bool {
        let is_stopped = self.replicas == 0;
        let Some(scaling) = self.scaling.as_mut().filter(|_| replicas > 0) else {
            let is_change = self.replicas != replicas;
            self.replicas = replicas;
            return is_change;
        };
        let reason = asked_for(replicas);
        // A number that the daemon has decided for is held from now on, too.
        if !is_stopped && scaling.wanted == replicas && scaling.reason == reason {
            return false;
        }
        scaling.wanted = replicas;
        scaling.reason = reason;
        scaling.decided_at = at;
        self.replicas = replicas;
        true
    }
}

/// Why there are so many replicas, where a person said so.
fn asked_for(replicas: u32) -> String {
    match replicas {
        1 => "1 replica was asked for".to_owned(),
        _ => format!("{replicas} replicas were asked for"),
    }
}
