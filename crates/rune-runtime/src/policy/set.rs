//! Compiled policies, and the decision.

use std::collections::HashMap;

use cedar_policy::{Authorizer, Context, Entities, Policy, PolicyId, PolicySetError, Request};
use rune_spec::PolicyMode;

use super::arguments::{self, Needs, Texts};
use super::condition::Facts;
use super::decision::{PolicyDecision, Verdict};
use super::query::{ACTIONS, PolicyQuery, PolicyResource};
use super::slice::{ActionSlices, Asked, Spoke};
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
    slices: HashMap<&'static str, ActionSlices>,
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
    /// `policies` have different ids and are in the order of the files.
    pub(super) fn new(
        policies: &[Policy],
        notes: Vec<(PolicyId, PolicyNote)>,
        mode: PolicyMode,
        needs: Needs,
        vocabulary: Vocabulary,
    ) -> Result<Self, Box<PolicySetError>> {
        let slices = ACTIONS.map(|(action, resource_type)| {
            let slices = ActionSlices::new(action, resource_type, policies)?;
            Ok::<_, Box<PolicySetError>>((action, slices))
        });
        Ok(Self {
            slices: slices.into_iter().collect::<Result<_, _>>()?,
            notes: notes.into_iter().collect(),
            mode,
            needs,
            vocabulary,
            authorizer: Authorizer::new(),
        })
    }

    /// The ids of the policies, in the order of the files.
    #[must_use]
    pub fn policy_ids(&self) -> Vec<String> {
        let mut ids: Vec<_> = self.notes.iter().collect();
        ids.sort_by_key(|(_, note)| note.order);
        ids.into_iter().map(|(id, _)| id.to_string()).collect()
    }

    /// Whether any policy can speak about what the resource is of: where none can, there is nothing to decide.
    #[must_use]
    pub fn asks(&self, resource: &PolicyResource<'_>) -> bool {
        let slices = self.slices.get(resource.kind());
        slices.is_some_and(|slices| !slices.is_silent())
    }

    /// Decides a call. What cannot be evaluated is denied.
    #[must_use]
    pub fn decide(&self, query: &PolicyQuery<'_>) -> PolicyDecision {
        let texts = match &query.resource {
            PolicyResource::Tool {
                descriptor,
                arguments,
                ..
            } => Some(Texts::new(&self.needs, descriptor, arguments)),
            _ => None,
        };
        let facts = Facts {
            query,
            texts: texts.as_ref(),
        };
        let slices = self.slices.get(query.resource.kind());
        let spoke = slices.map(|slices| {
            let id = query.resource.entity_id();
            slices.ask(&id, &facts, || self.asked(query, texts.as_ref()))
        });
        match spoke.unwrap_or_else(|| Ok(Spoke::default())) {
            Ok(spoke) => self.decision(&query.resource, spoke),
            Err(error) => {
                PolicyDecision::failed(&format!("the policy cannot be evaluated: {error}"))
            }
        }
    }

    fn decision(&self, resource: &PolicyResource<'_>, spoke: Spoke) -> PolicyDecision {
        let Spoke { policies, failed } = spoke;
        let known = policies.iter();
        let known = known.filter_map(|id| self.notes.get_key_value(id));
        let mut spoke: Vec<(&PolicyId, &PolicyNote)> = known.collect();
        let any = |effect| spoke.iter().any(|(_, note)| note.effect == effect);
        let denied = any(PolicyEffect::Deny);
        if !denied && !failed.is_empty() {
            // A policy that was skipped might have been the one that forbids.
            let order = |id| self.notes.get(id).map(|note| note.order);
            let first = failed.iter().min_by_key(|(id, _)| order(id));
            let error = first.map_or("", |(_, error)| error.as_str());
            return PolicyDecision::failed(&format!("the policy cannot be evaluated: {error}"));
        }
        let (verdict, effect) = if denied {
            (Verdict::Denied, PolicyEffect::Deny)
        } else if any(PolicyEffect::Ask) {
            (Verdict::Asked, PolicyEffect::Ask)
        } else if any(PolicyEffect::Allow) {
            (Verdict::Allowed, PolicyEffect::Allow)
        } else {
            return self.nothing_permits(resource);
        };
        spoke.retain(|(_, note)| note.effect == effect);
        spoke.sort_by_key(|(_, note)| note.order);
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
            (PolicyResource::Tool { .. }, PolicyMode::Listed) => {
                PolicyDecision::failed("no policy permits it")
            }
            _ => PolicyDecision::new(
                Verdict::Allowed,
                "no policy forbids it",
                vec!["default".to_owned()],
            ),
        }
    }

    /// The call in Cedar's terms.
    fn asked(&self, query: &PolicyQuery<'_>, texts: Option<&Texts>) -> Result<Asked<'_>, String> {
        let principal = self.vocabulary.principal(query.principal, query.caller)?;
        let resource = self.vocabulary.resource(&query.resource)?;
        let context = match (query.resource, texts) {
            (
                PolicyResource::Tool {
                    descriptor,
                    arguments,
                    ..
                },
                Some(texts),
            ) => arguments::context(&self.needs, descriptor, arguments, texts)?,
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
        Ok(Asked {
            authorizer: &self.authorizer,
            request,
            entities: entities.map_err(|error| error.to_string())?,
        })
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

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use rune_spec::AgentPackage;
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::{PolicyCallee, PolicyPrincipal};

    impl PolicySet {
        /// The decision where Cedar looks at every policy.
        fn decide_by_all(&self, all: &[Policy], query: &PolicyQuery<'_>) -> PolicyDecision {
            let all = cedar_policy::PolicySet::from_policies(all.iter().cloned()).unwrap();
            let texts = match &query.resource {
                PolicyResource::Tool {
                    descriptor,
                    arguments,
                    ..
                } => Some(Texts::new(&self.needs, descriptor, arguments)),
                _ => None,
            };
            let asked = self.asked(query, texts.as_ref()).unwrap();
            let mut spoke = Spoke::default();
            spoke.add(&asked, &all);
            self.decision(&query.resource, spoke)
        }
    }

    fn policy() -> impl Strategy<Value = String> {
        let pick = |texts: &[&'static str]| prop::sample::select(texts.to_vec());
        let effect = pick(&[
            "permit",
            "forbid",
            "@ask(\"\") forbid",
            "@reason(\"r\") forbid",
        ]);
        let principal = pick(&[
            "principal",
            "principal",
            "principal == Agent::\"dev/guard\"",
            "principal == Agent::\"dev/other\"",
            "principal in Caller::\"alice\"",
            "principal is Agent in Caller::\"bob\"",
            "principal is Caller",
        ]);
        let action = pick(&[
            "action",
            "action == Action::\"tool\"",
            "action == Action::\"model\"",
            "action in [Action::\"tool\", Action::\"egress\"]",
            "action in [Action::\"agent_call\"]",
            "action == Other::Action::\"tool\"",
        ]);
        let resource = pick(&[
            "resource",
            "resource == Tool::\"rune@file-read\"",
            "resource == Tool::\"rune@file-write\"",
            "resource in Tool::\"rune@file-read\"",
            "resource in Caller::\"alice\"",
            "resource is Tool",
            "resource is Tool in Tool::\"rune@file-write\"",
            "resource == Host::\"h\"",
            "resource == Other::Host::\"h\"",
            "resource == Agent::\"dev/guard\"",
            "resource == Model::\"p/m\"",
        ]);
        let condition = || {
            pick(&[
                "",
                "when { context.primary like \"a*\" }",
                "unless { context.primary like \"*b\" }",
                "when { context.text.path == \"ab\" }",
                "when { context.text has content && context.text.content != \"a\\\"\\u{e9}\" }",
                "unless { context.arguments.max_lines > 3 }",
                "when { context.arguments has max_lines && context.arguments.max_lines < 3 }",
                "when { resource.read_only }",
                "when { resource has port && resource.port == 443 }",
                "when { resource.name like \"*\\*\" || principal.networks.contains(\"x\") }",
                "when { if resource is Tool then resource.capabilities.isEmpty() else true }",
                "when { context.primary }",
                "when { [1, {a: 2}].contains(1) && decimal(\"1.5\").lessThan(decimal(\"2.0\")) }",
                "unless { 9223372036854775807 + 1 > 0 }",
            ])
        };
        (
            effect,
            principal,
            action,
            resource,
            condition(),
            condition(),
        )
            .prop_map(|(effect, principal, action, resource, one, other)| {
                format!("{effect}({principal}, {action}, {resource}) {one} {other};")
            })
    }

    fn package() -> AgentPackage {
        let dir = tempfile::tempdir().unwrap();
        let runefile = "name: guard\nversion: 1.0.0\ninstructions: x\ndefault_model: m\n\
                        toolset: [rune@file-read, rune@file-write]\n";
        fs::write(dir.path().join("Runefile"), runefile).unwrap();
        AgentPackage::load(dir.path()).unwrap()
    }

    fn set(policies: &[Policy], mode: PolicyMode) -> PolicySet {
        let notes = policies.iter().enumerate().map(|(order, policy)| {
            let effect = match (policy.effect(), policy.annotation("ask")) {
                (cedar_policy::Effect::Permit, _) => PolicyEffect::Allow,
                (cedar_policy::Effect::Forbid, Some(_)) => PolicyEffect::Ask,
                (cedar_policy::Effect::Forbid, None) => PolicyEffect::Deny,
            };
            let reason = policy.annotation("reason").map(str::to_owned);
            let note = PolicyNote {
                order,
                effect,
                reason,
            };
            (policy.id().clone(), note)
        });
        let vocabulary = Vocabulary::new().unwrap();
        PolicySet::new(
            policies,
            notes.collect(),
            mode,
            Needs::Everything,
            vocabulary,
        )
        .unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        /// Also the reasons, the ids and the errors.
        #[test]
        fn what_is_left_out_changes_no_decision(
            texts in prop::collection::vec(policy(), 0..60), strict: bool,
            paths in prop::collection::vec("[ab*]{0,3}", 1..4),
        ) {
            let ids = (0..texts.len()).map(|number| PolicyId::new(format!("p{number}")));
            let parsed = ids.zip(&texts).map(|(id, text)| Policy::parse(Some(id), text).unwrap());
            let policies: Vec<Policy> = parsed.collect();
            let set = set(&policies, if strict { PolicyMode::Strict } else { PolicyMode::Listed });
            let package = package();
            let principal = PolicyPrincipal::of(&package, "dev");
            let callee = PolicyCallee {
                namespace: "dev".to_owned(),
                name: "guard".to_owned(),
                version: None,
                networks: None,
            };
            let inputs: Vec<Value> = paths.iter().zip(0..).map(|(path, number)| {
                if number % 2 == 0 { json!({"path": path, "max_lines": number}) } else { json!({"path": path}) }
            }).collect();
            let mut resources = vec![
                PolicyResource::Model { provider: "p", model: "m" },
                PolicyResource::Host { host: "h", port: 443 },
                PolicyResource::Agent(&callee),
            ];
            for tool in &package.tools {
                let name = if tool.descriptor.read_only { "rune@file-read" } else { "rune@file-write" };
                resources.extend(inputs.iter().map(|arguments| {
                    PolicyResource::Tool { name, descriptor: &tool.descriptor, arguments }
                }));
            }
            for resource in resources {
                for caller in ["alice", "bob"] {
                    let query = PolicyQuery { principal: &principal, caller, resource };
                    prop_assert_eq!(
                        set.decide(&query), set.decide_by_all(&policies, &query), "{:?}\n{}", resource, texts.join("\n"),
                    );
                }
            }
        }
    }
}
