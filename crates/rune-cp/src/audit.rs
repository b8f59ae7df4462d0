//! Leaving a trace of every change.

use rune_http::Caller;
use rune_store_runtime::{AuditId, AuditVerdict, DeploymentRow, RecordAudit, Store, StoreError};

/// Records that a caller changed something.
pub(crate) async fn record(
    store: &Store,
    caller: &Caller,
    kind: &str,
    resource: String,
    reason: String,
) -> Result<(), StoreError> {
    let row = RecordAudit {
        audit_id: AuditId::generate(),
        kind: kind.to_owned(),
        resource,
        verdict: AuditVerdict::Allowed,
        reason,
        caller: caller.id.as_ref().to_owned(),
        request_id: None,
    };
    store.write(row).await
}

/// How audit rows and messages name a deployment.
pub(crate) fn resource(row: &DeploymentRow) -> String {
    format!("{}/{}:{}", row.namespace, row.agent, row.alias)
}
