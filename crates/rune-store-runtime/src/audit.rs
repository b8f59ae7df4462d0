//! The audit trail: who was allowed or refused what.

use serde::{Deserialize, Serialize};

use crate::{AuditId, RequestId, Timestamp};

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditVerdict {
    /// It was done.
    Allowed,
    /// It was refused.
    Denied,
    /// A person was asked.
    Asked,
}

impl AuditVerdict {
    /// All verdicts.
    pub const ALL: [Self; 3] = [Self::Allowed, Self::Denied, Self::Asked];

    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Asked => "asked",
        }
    }

    /// The verdict with this stored word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|verdict| verdict.as_str() == text)
    }
}

/// Adds a row to the audit trail. Reply: unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordAudit {
    /// The row.
    pub audit_id: AuditId,
    /// What was asked for, such as `tool` or `deployment.apply`.
    pub kind: String,
    /// On what, such as the tool's name.
    pub resource: String,
    /// What was decided.
    pub verdict: AuditVerdict,
    /// Why, for a person.
    pub reason: String,
    /// Who asked.
    pub caller: String,
    /// The request it belongs to.
    pub request_id: Option<RequestId>,
}

/// A row of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    /// The row.
    pub id: AuditId,
    /// When.
    pub at: Timestamp,
    /// What was asked for.
    pub kind: String,
    /// On what.
    pub resource: String,
    /// What was decided.
    pub verdict: AuditVerdict,
    /// Why.
    pub reason: String,
    /// Who asked.
    pub caller: String,
    /// The request it belongs to.
    pub request_id: Option<RequestId>,
}

/// Which audit rows to list, newest first. Empty fields match everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditFilter {
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only of this request.
    pub request_id: Option<RequestId>,
    /// Only with this verdict.
    pub verdict: Option<AuditVerdict>,
}
