//! What a replica was made from.

use rune_backend::ReplicaSpec;
use rune_store_runtime::{DeploymentRow, ReplicaId, VersionRow};
use sha2::{Digest as _, Sha256};

/// What tells a replica that is as it should be from one that is not: what is deployed, and then what it starts from beside
/// that, which is `basis`.
pub(super) fn fingerprint(spec: &ReplicaSpec, basis: &str) -> String {
    let deployed = deployed(spec);
    format!("{deployed}.{}", hex(Sha256::new().chain_update(basis)))
}

/// The first part of a fingerprint.
fn deployed(spec: &ReplicaSpec) -> String {
    let mut hash = Sha256::new();
    let parts = [
        spec.deployment_id.to_string(),
        spec.version_id.to_string(),
        spec.digest.clone(),
        spec.image.clone().unwrap_or_default(),
    ];
    let env = spec.env.iter().flat_map(|(name, value)| [name, value]);
    for part in parts.iter().chain(env) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(hash)
}

fn hex(hash: Sha256) -> String {
    let digest = hash.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The deployment as a replica with this fingerprint has it: with the variables of what is rolled out, where it is made from
/// that, and without those of any other release.
#[must_use]
pub fn deployment_of(
    replica: ReplicaId,
    replica_fingerprint: &str,
    deployment: &DeploymentRow,
    version: &VersionRow,
) -> DeploymentRow {
    let mut own = DeploymentRow {
        rollout: None,
        releases: Vec::new(),
        ..deployment.clone()
    };
    if let Some(rollout) = deployment.candidate() {
        let env = rollout.env.clone();
        let candidate = DeploymentRow { env, ..own.clone() };
        let spec = ReplicaSpec::new(replica, &candidate, version);
        let made_from = replica_fingerprint.split('.').next();
        if made_from == Some(deployed(&spec).as_str()) {
            own = candidate;
        }
    }
    own
}
