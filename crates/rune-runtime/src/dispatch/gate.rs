//! What policy says of the hosts that a tool connects to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rune_store_runtime::{AuditVerdict, EntryBody, PolicyVerdict};
use rune_tools::{EgressGate, Secrets, ToolError, ToolErrorKind};

use crate::policy::{self, PolicyEngine, PolicyResource};

/// Decides about the connections of one call, and remembers what it decided. The verdicts are committed with the
/// call's result: after a crash in between the call has no result, and whatever it does again is decided again.
pub(crate) struct PolicyGate {
    policy: Arc<PolicyEngine>,
    caller: String,
    step: u32,
    call_id: String,
    verdicts: Mutex<Vec<PolicyVerdict>>,
    /// What the call is granted: a host that it names may hold one.
    secrets: Mutex<Secrets>,
}

impl PolicyGate {
    /// A gate for a call; `None` where no policy can speak about a host.
    pub(crate) fn new(
        policy: &Arc<PolicyEngine>,
        caller: &str,
        step: u32,
        call_id: &str,
    ) -> Option<Arc<Self>> {
        let any = PolicyResource::Host { host: "", port: 0 };
        policy.asks(&any).then(|| {
            Arc::new(Self {
                policy: Arc::clone(policy),
                caller: caller.to_owned(),
                step,
                call_id: call_id.to_owned(),
                verdicts: Mutex::default(),
                secrets: Mutex::default(),
            })
        })
    }

    /// Keeps these secrets out of what is remembered from now on.
    pub(super) fn hide(&self, secrets: &Secrets) {
        // Each is whole at any time.
        *self.secrets.lock().unwrap_or_else(PoisonError::into_inner) = secrets.clone();
    }

    /// What was decided, in its order.
    pub(crate) fn entries(&self) -> Vec<EntryBody> {
        let verdicts = self.lock().clone();
        verdicts.into_iter().map(EntryBody::PolicyVerdict).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<PolicyVerdict>> {
        // A list of verdicts is one at any time.
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EgressGate for PolicyGate {
    fn connect(&self, host: &str, port: u16) -> Result<(), ToolError> {
        let resource = PolicyResource::Host { host, port };
        let decision = self.policy.decide(&self.caller, resource);
        let mut verdict = policy::without_a_person(
            policy::verdict(self.step, Some(&self.call_id), &resource, &decision),
            "a tool that runs does not wait for a person",
        );
        let secrets = self.secrets.lock();
        let secrets = secrets.unwrap_or_else(PoisonError::into_inner).clone();
        verdict.resource = secrets.redact(verdict.resource);
        verdict.reason = secrets.redact(verdict.reason);
        let refusal = (verdict.verdict == AuditVerdict::Denied).then(|| {
            let (name, reason) = (&verdict.resource, &verdict.reason);
            let message = format!("policy denies connecting to `{name}`: {reason}");
            ToolError::new(ToolErrorKind::Denied, message)
        });
        let mut verdicts = self.lock();
        // One call that connects again, to go on or to try again, asks nothing new.
        if !verdicts
            .iter()
            .any(|known| known.resource == verdict.resource)
        {
            verdicts.push(verdict);
        }
        refusal.map_or(Ok(()), Err)
    }
}
