//! From a package to a set of policies.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cedar_policy::{Effect, Policy, PolicyId};
use rune_spec::{AgentPackage, PolicyRule, RuleArguments, SpecError, SpecErrors};

use super::arguments::Needs;
use super::cedar_file::{self, Effects, Terms};
use super::set::{PolicyEffect, PolicyNote, PolicySet};
use super::vocabulary::Vocabulary;
use super::{names, schema, short_form};

impl PolicySet {
    /// The policies of a package: its Runefile's rules and its Cedar file.
    ///
    /// # Errors
    /// Everything wrong with the Cedar file, with its places. The Runefile's rules were checked when it was parsed.
    pub fn compile(package: &AgentPackage) -> Result<Self, SpecErrors> {
        let runefile = package.dir.join(rune_spec::package::RUNEFILE);
        let mut builder = Builder {
            policies: Vec::new(),
            notes: Vec::new(),
            ids: BTreeSet::new(),
            runefile,
        };
        let policy = &package.runefile.policy;
        for rule in short_form::policies(policy) {
            // The same rule twice on one line says the same twice.
            if builder.ids.insert(rule.id.clone()) {
                let parsed = Policy::parse(Some(PolicyId::new(&rule.id)), &rule.text);
                let parsed = parsed.map_err(|error| builder.internal(&rule.id, &error))?;
                builder.add(parsed);
            }
        }
        let needs = match &package.policy {
            Some(file) => {
                let terms = Terms {
                    schema: schema::text(package),
                    is_open: schema::is_open(package),
                    types: "the types are `Agent`, `Caller`, `Tool`, `Model` and `Host`",
                    effects: Effects::All,
                    check: &|uid| names::check(package, uid),
                };
                for policy in cedar_file::parse(file, &terms, &mut BTreeSet::new())? {
                    builder.add(policy);
                }
                Needs::Everything
            }
            None => {
                let rules = [&policy.allow, &policy.ask, &policy.deny];
                let arguments = rules.into_iter().flatten().map(PolicyRule::arguments);
                let named = arguments.filter_map(|arguments| match arguments {
                    RuleArguments::Named(named) => Some(named.iter().map(|(name, _)| name)),
                    _ => None,
                });
                let names: BTreeSet<&String> = named.flatten().collect();
                Needs::Named(names.into_iter().cloned().collect())
            }
        };
        let vocabulary = Vocabulary::new();
        let vocabulary = vocabulary.map_err(|error| builder.internal("vocabulary", &error))?;
        let notes = std::mem::take(&mut builder.notes);
        Self::new(&builder.policies, notes, policy.mode, needs, vocabulary)
            .map_err(|error| builder.internal("policy", &error))
    }
}

struct Builder {
    policies: Vec<Policy>,
    notes: Vec<(PolicyId, PolicyNote)>,
    ids: BTreeSet<String>,
    runefile: PathBuf,
}

impl Builder {
    fn add(&mut self, policy: Policy) {
        let effect = match (policy.effect(), policy.annotation("ask")) {
            (Effect::Permit, _) => PolicyEffect::Allow,
            (Effect::Forbid, Some(_)) => PolicyEffect::Ask,
            (Effect::Forbid, None) => PolicyEffect::Deny,
        };
        let words = [policy.annotation("reason"), policy.annotation("ask")];
        let reason = words.into_iter().flatten().find(|text| !text.is_empty());
        let id = policy.id().clone();
        let note = PolicyNote {
            order: self.notes.len(),
            effect,
            reason: reason.map(str::to_owned),
        };
        self.notes.push((id, note));
        self.policies.push(policy);
    }

    /// Something that checked input cannot cause.
    fn internal(&self, what: &str, error: &dyn std::fmt::Display) -> SpecErrors {
        let message = format!("`{what}` cannot be compiled to a Cedar policy: {error}");
        let path: &Path = &self.runefile;
        SpecError::in_text(path, "", 0..0, message).into()
    }
}
