//! What the deployments of a namespace may come to.

use serde::{Deserialize, Serialize};

use crate::{DeploymentRow, Reject};

/// What the deployments of one namespace may come to; what is absent is not limited.
///
/// A change that a command makes within it ([`Command::within`](crate::Command::within)) is rejected with
/// [`Reject::QuotaExceeded`] where it adds a deployment, or replicas, beyond that. One that adds nothing is made also where there
/// is too much already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Quota {
    /// Deployments, those that are stopped included.
    pub deployments: Option<u32>,
    /// Replicas that are to run ([`DeploymentRow::wanted`]), of all deployments together.
    pub replicas: Option<u32>,
}

/// What some deployments come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QuotaUse {
    /// Deployments.
    pub deployments: u64,
    /// Replicas that are to run.
    pub replicas: u64,
}

impl Quota {
    /// How many replicas one deployment may have beside those of the others of its namespace, where that is limited.
    #[must_use]
    pub fn room(&self, others: QuotaUse) -> Option<u32> {
        let most = u64::from(self.replicas?);
        u32::try_from(most.saturating_sub(others.replicas)).ok()
    }

    /// Whether a deployment may become `after`, which was `before` or was not there, beside the others of its namespace.
    ///
    /// # Errors
    /// [`Reject::QuotaExceeded`] with the number, the limit and the setting that it is from.
    pub fn check(
        &self,
        others: QuotaUse,
        before: Option<&DeploymentRow>,
        after: &DeploymentRow,
    ) -> Result<(), Reject> {
        let namespace = &after.namespace;
        let exceeded = |count: u64, what: &str, most: u32, setting: &str| {
            Err(Reject::QuotaExceeded {
                message: format!(
                    "the namespace `{namespace}` would have {count} {what}, and {most} is the most; let some go, or raise \
                     `admission.{setting}` of the daemon"
                ),
            })
        };
        let deployments = others.deployments + 1;
        if let Some(most) = self.deployments
            && before.is_none()
            && deployments > u64::from(most)
        {
            return exceeded(deployments, "deployments", most, "max_deployments");
        }
        let replicas = others.replicas + u64::from(after.wanted());
        if let Some(most) = self.replicas
            && after.wanted() > before.map_or(0, DeploymentRow::wanted)
            && replicas > u64::from(most)
        {
            return exceeded(replicas, "replicas", most, "max_replicas");
        }
        Ok(())
    }
}

impl QuotaUse {
    /// What these deployments come to.
    #[must_use]
    pub fn of<'a>(rows: impl IntoIterator<Item = &'a DeploymentRow>) -> Self {
        let add = |sum: Self, row: &DeploymentRow| Self {
            deployments: sum.deployments + 1,
            replicas: sum.replicas + u64::from(row.wanted()),
        };
        rows.into_iter().fold(Self::default(), add)
    }
}
