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

/// The deployment as a replica with this fingerprint has it: with the variables that it is made from, and without those of any
/// other release. Nothing where what it is made from is neither what the deployment runs nor what is rolled out.
#[must_use]
pub fn deployment_of(
    replica: ReplicaId,
    replica_fingerprint: &str,
    deployment: &DeploymentRow,
    version: &VersionRow,
) -> Option<DeploymentRow> {
    let made_from = replica_fingerprint.split('.').next();
    let candidate = deployment.candidate().map(|rollout| &rollout.env);
    let mut rows = candidate
        .into_iter()
        .chain([&deployment.env])
        .map(|env| DeploymentRow {
            env: env.clone(),
            rollout: None,
            releases: Vec::new(),
            ..deployment.clone()
        });
    rows.find(|row| {
        let spec = ReplicaSpec::new(replica, row, version);
        made_from == Some(deployed(&spec).as_str())
    })
}
