//! What replicas wanted and may not have: for the log, and once of each kind for the audit trail.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use rune_store_runtime::{AuditId, AuditVerdict, RecordAudit, ReplicaId, Store};

use crate::scope::DeploymentScope;

/// Kinds of denials that are remembered as told. A replica that tries everything all day does not
/// fill the trail with it.
const MAX_TOLD: usize = 10_000;

#[derive(Default)]
pub(super) struct Denials {
    told: Mutex<HashSet<(ReplicaId, &'static str)>>,
}

impl Denials {
    pub(super) async fn record(
        &self,
        store: &Store,
        scope: &DeploymentScope,
        call: &'static str,
        reason: &str,
    ) {
        let (replica, deployment) = (scope.replica_id, scope.deployment_id);
        tracing::warn!(%replica, %deployment, call, reason, "a replica's call was denied");
        if !self.is_first(replica, call) {
            return;
        }
        let row = RecordAudit {
            audit_id: AuditId::generate(),
            kind: "replica".to_owned(),
            resource: format!("{}/{}: {call}", scope.namespace, scope.agent),
            verdict: AuditVerdict::Denied,
            reason: reason.to_owned(),
            caller: format!("replica:{replica}"),
            request_id: None,
        };
        if let Err(error) = store.write(row).await {
            tracing::error!(%error, "the denial is not in the audit trail");
        }
    }

    fn is_first(&self, replica: ReplicaId, call: &'static str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= MAX_TOLD {
            told.clear();
        }
        told.insert((replica, call))
    }
}
