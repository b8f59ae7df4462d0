//! What the control plane takes.

use std::path::PathBuf;

use crate::error::ConfigError;
use crate::resolve::Resolved;

/// `[admission]`: what may be published and deployed, beside what `[packages]` says of signatures.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AdmissionConfig {
    /// `RUNE_ADMISSION_MAX_DEPLOYMENTS`: deployments that a namespace may have; absent: no limit.
    pub max_deployments: Option<u32>,
    /// `RUNE_ADMISSION_MAX_REPLICAS`: replicas that are to run in a namespace; absent: no limit.
    pub max_replicas: Option<u32>,
    /// `RUNE_ADMISSION_POLICIES`: files of Cedar policies; none: whatever is valid is admitted.
    pub policies: Vec<PathBuf>,
}

impl AdmissionConfig {
    pub(crate) fn read(resolved: &Resolved, policies: Vec<PathBuf>) -> Result<Self, ConfigError> {
        let limit = |key| {
            let most = resolved.parse(key, |text| text.parse::<u32>().ok())?;
            Ok(most.filter(|most| *most > 0))
        };
        Ok(Self {
            max_deployments: limit("admission.max_deployments")?,
            max_replicas: limit("admission.max_replicas")?,
            policies,
        })
    }
}
