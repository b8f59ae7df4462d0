//! The policies that can speak about a call, found before it is made.
//!
//! Cedar looks at every policy of a set for every decision. What an action and a resource's name leave of a set is known when
//! the set is compiled, and most of what is left is decided by its [`Condition`]. Cedar is asked about the rest only. The
//! answer is that of Cedar about the whole set.

use std::collections::HashMap;

use cedar_policy::{
    ActionConstraint, AuthorizationError, Authorizer, Entities, EntityTypeName, EntityUid, Policy,
    PolicyId, PolicySet, PolicySetError, Request, ResourceConstraint,
};

use super::condition::{Condition, Facts};

/// The policies of a set that can speak about one action.
pub(super) struct ActionSlices {
    /// By the id of the only resource they can speak about.
    named: HashMap<String, Slice>,
    /// Those that can speak about any resource.
    open: Slice,
}

/// Policies that are asked together.
#[derive(Default)]
struct Slice {
    /// Cedar is asked about them every time.
    unknown: PolicySet,
    /// The others, each also as a set that Cedar can be asked about.
    known: Vec<(Condition, PolicyId, PolicySet)>,
}

/// What spoke about a call.
#[derive(Debug, Default)]
pub(super) struct Spoke {
    /// The policies that apply; where one that forbids does, perhaps without those that permit.
    pub(super) policies: Vec<PolicyId>,
    /// The policies that failed, with their errors.
    pub(super) failed: Vec<(PolicyId, String)>,
}

/// A call in Cedar's terms.
pub(super) struct Asked<'a> {
    pub(super) authorizer: &'a Authorizer,
    pub(super) request: Request,
    pub(super) entities: Entities,
}

impl ActionSlices {
    /// The slices of an action of `resource_type`.
    pub(super) fn new(
        action: &str,
        resource_type: &str,
        policies: &[Policy],
    ) -> Result<Self, Box<PolicySetError>> {
        let mut named: HashMap<String, Slice> = HashMap::new();
        let mut open = Slice::default();
        let policies = policies.iter().filter(|policy| is_about(policy, action));
        for policy in policies {
            match policy.resource_constraint() {
                ResourceConstraint::Any => open.add(policy, true)?,
                ResourceConstraint::Eq(uid) => {
                    if is_of(&uid, resource_type) {
                        let id = uid.id().unescaped().to_owned();
                        named.entry(id).or_default().add(policy, true)?;
                    }
                }
                ResourceConstraint::Is(name) | ResourceConstraint::IsIn(name, _)
                    if !is_named(&name, resource_type) => {}
                _ => open.add(policy, false)?,
            }
        }
        Ok(Self { named, open })
    }

    /// Whether no policy can speak about the action.
    pub(super) fn is_silent(&self) -> bool {
        self.named.is_empty() && self.open.is_empty()
    }

    /// What speaks about a call about the resource with this id. `asked` is made where Cedar is needed.
    ///
    /// # Errors
    /// Those of `asked`.
    pub(super) fn ask<'a>(
        &self,
        id: &str,
        facts: &Facts<'_>,
        asked: impl FnOnce() -> Result<Asked<'a>, String>,
    ) -> Result<Spoke, String> {
        let mut spoke = Spoke::default();
        let mut rest = Vec::new();
        for slice in [Some(&self.open), self.named.get(id)].into_iter().flatten() {
            if !slice.unknown.is_empty() {
                rest.push(&slice.unknown);
            }
            for (condition, id, policy) in &slice.known {
                match condition.holds(facts) {
                    Some(true) => spoke.policies.push(id.clone()),
                    Some(false) => {}
                    None => rest.push(policy),
                }
            }
        }
        if !rest.is_empty() {
            let asked = asked()?;
            for policies in rest {
                spoke.add(&asked, policies);
            }
        }
        Ok(spoke)
    }
}

impl Slice {
    fn is_empty(&self) -> bool {
        self.unknown.is_empty() && self.known.is_empty()
    }

    fn add(&mut self, policy: &Policy, resource_holds: bool) -> Result<(), Box<PolicySetError>> {
        let condition = Condition::of(policy, resource_holds);
        if condition.is_unknown() {
            return self.unknown.add(policy.clone()).map_err(Box::new);
        }
        let alone = PolicySet::from_policies([policy.clone()]).map_err(Box::new)?;
        self.known.push((condition, policy.id().clone(), alone));
        Ok(())
    }
}

impl Spoke {
    /// Adds what Cedar says.
    pub(super) fn add(&mut self, asked: &Asked<'_>, policies: &PolicySet) {
        let Asked {
            authorizer,
            request,
            entities,
        } = asked;
        let response = authorizer.is_authorized(request, policies, entities);
        let diagnostics = response.diagnostics();
        self.policies.extend(diagnostics.reason().cloned());
        for error in diagnostics.errors() {
            let AuthorizationError::PolicyEvaluationError(failed) = error;
            let id = failed.policy_id().clone();
            self.failed.push((id, error.to_string()));
        }
    }
}

/// Whether a policy's scope has room for the action.
pub(super) fn is_about(policy: &Policy, action: &str) -> bool {
    let is = |uid: &EntityUid| is_of(uid, "Action") && uid.id().unescaped() == action;
    match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => is(&uid),
        // No action is in anything but itself.
        ActionConstraint::In(uids) => uids.iter().any(is),
    }
}

fn is_of(uid: &EntityUid, kind: &str) -> bool {
    is_named(uid.type_name(), kind)
}

fn is_named(name: &EntityTypeName, kind: &str) -> bool {
    name.namespace_components().next().is_none() && name.basename() == kind
}
