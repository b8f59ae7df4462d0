//! Leaving a trace of every change.

use rune_http::Caller;
use rune_store_runtime::{AuditId, AuditVerdict, DeploymentRow, RecordAudit};

/// The row that says that a caller changed something. It goes with the change.
pub(crate) fn row(
    caller: &Caller,
    kind: &str,
    resource: String,
    reason: String,
) -> Vec<RecordAudit> {
    vec![verdict(
        caller,
        kind,
        resource,
        reason,
        AuditVerdict::Allowed,
    )]
}

/// The row that says that a caller was refused something.
pub(crate) fn refusal(
    caller: &Caller,
    kind: &str,
    resource: String,
    reason: String,
) -> RecordAudit {
    verdict(caller, kind, resource, reason, AuditVerdict::Denied)
}

fn verdict(
    caller: &Caller,
    kind: &str,
    resource: String,
    reason: String,
    verdict: AuditVerdict,
) -> RecordAudit {
    RecordAudit {
        audit_id: AuditId::generate(),
        kind: kind.to_owned(),
        resource,
        verdict,
        reason,
        caller: caller.id.as_ref().to_owned(),
        request_id: None,
    }
}

/// How audit rows and messages name a deployment.
pub(crate) fn resource(namespace: &str, agent: &str, alias: &str) -> String {
    format!("{namespace}/{agent}:{alias}")
}

/// [`resource`] of a deployment that is there.
pub(crate) fn resource_of(row: &DeploymentRow) -> String {
    resource(&row.namespace, &row.agent, &row.alias)
}
