//! Compiled policies, and the decision.

use std::collections::HashMap;

use cedar_policy::{Authorizer, Context, Decision, Entities, PolicyId, Request};
use rune_spec::PolicyMode;

use super::arguments::{self, Needs};
use super::decision::{PolicyDecision, Verdict};
use super::query::{PolicyQuery, PolicyResource};
use super::vocabulary::Vocabulary;

/// What a policy does with a call it speaks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PolicyEffect {
    Allow,
    Ask,
    Deny,
}

/// What is known of a policy beside its condition.
#[derive(Debug, Clone)]
pub(super) struct PolicyNote {
    /// Its place among all policies.
    pub(super) order: usize,
    pub(super) effect: PolicyEffect,
    /// What its author wrote for the reader of a verdict.
    pub(super) reason: Option<String>,
}

/// The compiled policies of one package. Immutable; deciding takes no lock.
pub struct PolicySet {
    policies: cedar_policy::PolicySet,
    notes: HashMap<PolicyId, PolicyNote>,
    mode: PolicyMode,
    needs: Needs,
    vocabulary: Vocabulary,
    authorizer: Authorizer,
}

impl std::fmt::Debug for PolicySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PolicySet")
            .field("policies", &self.notes.len())
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl PolicySet {
    pub(super) fn new(
        policies: cedar_policy::PolicySet,
        notes: Vec<(PolicyId, PolicyNote)>,
        mode: PolicyMode,
        needs: Needs,
        vocabulary: Vocabulary,
    ) -> Self {
        Self {
            policies,
            notes: notes.into_iter().collect(),
            mode,
            needs,
            vocabulary,
            authorizer: Authorizer::new(),
        }
    }

    /// The ids of the policies, in the order of the files.
    #[must_use]
    pub fn policy_ids(&self) -> Vec<String> {
        let mut ids: Vec<_> = self.notes.iter().collect();
        ids.sort_by_key(|(_, note)| note.order);
        ids.into_iter().map(|(id, _)| id.to_string()).collect()
    }

    /// Decides a call. What cannot be evaluated is denied.
    #[must_use]
    pub fn decide(&self, query: &PolicyQuery<'_>) -> PolicyDecision {
        let (request, entities) = match self.request(query) {
            Ok(ready) => ready,
            Err(error) => {
                return PolicyDecision::failed(&format!("the policy cannot be evaluated: {error}"));
            }
        };
        let response = self
            .authorizer
            .is_authorized(&request, &self.policies, &entities);
        let errors: Vec<String> = response
            .diagnostics()
            .errors()
            .map(ToString::to_string)
            .collect();
        let mut spoke: Vec<(&PolicyId, &PolicyNote)> = response
            .diagnostics()
            .reason()
            .filter_map(|id| self.notes.get_key_value(id))
            .collect();
        spoke.sort_by_key(|(_, note)| note.order);
        let denied = spoke
            .iter()
            .any(|(_, note)| note.effect == PolicyEffect::Deny);
        if let (false, Some(error)) = (denied, errors.first()) {
            // A policy that was skipped might have been the one that forbids.
            return PolicyDecision::failed(&format!("the policy cannot be evaluated: {error}"));
        }
        let (verdict, effect) = match response.decision() {
            Decision::Allow => (Verdict::Allowed, PolicyEffect::Allow),
            Decision::Deny if denied => (Verdict::Denied, PolicyEffect::Deny),
            Decision::Deny if !spoke.is_empty() => (Verdict::Asked, PolicyEffect::Ask),
            Decision::Deny => return self.nothing_permits(&query.resource),
        };
        spoke.retain(|(_, note)| note.effect == effect);
        let ids = spoke.iter().map(|(id, _)| id.to_string()).collect();
        PolicyDecision::new(verdict, &reason(verdict, &spoke), ids)
    }

    fn nothing_permits(&self, resource: &PolicyResource<'_>) -> PolicyDecision {
        match (resource, self.mode) {
            (PolicyResource::Tool { name, .. }, PolicyMode::Strict) => PolicyDecision::new(
                Verdict::Asked,
                &format!("`{name}` is not declared read-only (`policy.mode: strict`)"),
                vec!["mode strict".to_owned()],
            ),
            _ => PolicyDecision::failed("no policy permits it"),
        }
    }

    fn request(&self, query: &PolicyQuery<'_>) -> Result<(Request, Entities), String> {
        let principal = self
            .vocabulary
            .principal(query.principal, Some(query.caller))?;
        let resource = self.vocabulary.resource(&query.resource)?;
        let context = match query.resource {
            PolicyResource::Tool {
                descriptor,
                arguments,
                ..
            } => arguments::context(&self.needs, descriptor, arguments)?,
            _ => Context::empty(),
        };
        let request = Request::new(
            principal.uid(),
            self.vocabulary.action(query.resource.kind()),
            resource.uid(),
            context,
            None,
        )
        .map_err(|error| error.to_string())?;
        // An agent that calls itself is one entity.
        let own = principal.uid() == resource.uid();
        let entities = [Some(principal), (!own).then_some(resource)];
        let entities = Entities::from_entities(entities.into_iter().flatten(), None);
        Ok((request, entities.map_err(|error| error.to_string())?))
    }
}

fn reason(verdict: Verdict, spoke: &[(&PolicyId, &PolicyNote)]) -> String {
    let written = spoke.iter().find_map(|(_, note)| note.reason.as_deref());
    if let Some(text) = written {
        return text.to_owned();
    }
    let id = spoke.first().map(|(id, _)| id.to_string());
    let id = id.unwrap_or_default();
    match verdict {
        Verdict::Allowed => format!("allowed by `{id}`"),
        Verdict::Denied => format!("denied by `{id}`"),
        Verdict::Asked => format!("`{id}` asks a person first"),
    }
}
