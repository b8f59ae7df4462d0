//! What policy says of the models that are asked.

use rune_store_runtime::{EntryBody, ErrorCode, Failure};

use super::Planner;
use crate::model::{Candidate, LlmClient};
use crate::policy::{self, PolicyResource};

/// Code of the notice that policy denies a model and another one is asked.
pub(crate) const MODEL_DENIED: &str = "model_denied";

impl Planner {
    /// Whether policy denies a model; `next` is asked then. A model is decided about once in a request, since all that
    /// counts stays the same in it, and what the journal says holds.
    ///
    /// # Errors
    /// It is denied and there is no other.
    pub(super) fn is_denied(
        &mut self,
        candidate: &Candidate,
        next: Option<&Candidate>,
    ) -> Result<bool, Failure> {
        let resource = resource(candidate);
        if !self.agent.policy().asks(&resource) {
            return Ok(false);
        }
        let name = resource.id();
        let known = self.state.models.get(&name).cloned();
        let is_new = known.is_none();
        let denied = match known {
            Some(denied) => denied,
            None => self.decide(&resource),
        };
        let Some(reason) = denied else {
            return Ok(false);
        };
        let Some(next) = next else {
            let message = format!("policy denies the model `{name}`: {reason}");
            return Err(Failure::new(ErrorCode::Denied, message));
        };
        if is_new {
            let next = self::resource(next).id();
            self.note(EntryBody::Notice {
                code: MODEL_DENIED.to_owned(),
                message: format!("policy denies the model `{name}`: {reason}; `{next}` is next"),
            });
        }
        Ok(true)
    }

    /// Asks the policy, and answers why it denies the model where it does.
    fn decide(&mut self, resource: &PolicyResource<'_>) -> Option<String> {
        let decision = self.agent.policy().decide(&self.caller, *resource);
        let verdict = policy::without_a_person(
            policy::verdict(self.state.steps + 1, None, resource, &decision),
            "a request does not wait for a person to ask a model",
        );
        let name = verdict.resource.clone();
        self.note(EntryBody::PolicyVerdict(verdict));
        self.state.models.get(&name).cloned().flatten()
    }
}

fn resource(candidate: &Candidate) -> PolicyResource<'_> {
    PolicyResource::Model {
        provider: candidate.client.provider(),
        model: &candidate.model,
    }
}
