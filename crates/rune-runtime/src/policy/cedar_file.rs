//! Files of Cedar policies: parsing and checking, with errors that point at the text.

use std::collections::BTreeSet;
use std::ops::Range;

use cedar_policy::{
    Effect, EntityUid, Policy, PolicyId, PolicySet, Schema, ValidationError, ValidationMode,
    ValidationWarning, Validator,
};
use miette::Diagnostic;
use rune_spec::{PolicyFile, SpecError, SpecErrors, nearest};

use super::names::Unknown;
use super::nesting;

/// The annotations that Rune acts on.
const ANNOTATIONS: [&str; 3] = ["id", "ask", "reason"];

/// What the policies of a file can be about.
pub(super) struct Terms<'a> {
    /// The Cedar schema.
    pub(super) schema: String,
    /// Whether there may be attributes that it does not have.
    pub(super) is_open: bool,
    /// Its types, for a message.
    pub(super) types: &'static str,
    /// What a policy may do.
    pub(super) effects: Effects,
    /// What is wrong with the name of an entity.
    pub(super) check: &'a dyn Fn(&EntityUid) -> Option<Unknown>,
}

/// What a policy may do with what it speaks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effects {
    /// Permit it, forbid it, or have a person asked.
    All,
    /// Forbid it, and nothing else: what is not forbidden is permitted.
    Forbid,
}

/// The policies of a file, in its order, each under an id that names its line and is none of those that are `taken`.
pub(super) fn parse(
    file: &PolicyFile,
    terms: &Terms<'_>,
    taken: &mut BTreeSet<String>,
) -> Result<Vec<Policy>, SpecErrors> {
    let reader = Reader { file, terms };
    if let Err((range, message)) = nesting::check(&file.text) {
        let help = "write it as several policies";
        return Err(reader
            .error(range, message)
            .with_help(Some(help.to_owned()))
            .into());
    }
    let parsed: PolicySet = file.text.parse().map_err(|errors| reader.syntax(&errors))?;
    let mut errors = Vec::new();
    for template in parsed.templates() {
        let place = place(template.as_ref().loc().map(|loc| loc.start()..loc.end()));
        errors.push(reader.error(
            place,
            "a template (`?principal`, `?resource`) cannot be used here",
        ));
    }
    let mut found: Vec<(Range<usize>, &Policy)> = parsed
        .policies()
        .map(|policy| {
            let loc = policy.as_ref().loc();
            (place(loc.map(|loc| loc.start()..loc.end())), policy)
        })
        .collect();
    found.sort_by_key(|(range, _)| range.start);
    let mut policies = Vec::new();
    for (range, policy) in found {
        errors.extend(reader.annotations(&range, policy));
        errors.extend(reader.names(&range, policy));
        policies.push(policy.new_id(PolicyId::new(reader.id(&range, policy, taken))));
    }
    SpecErrors::check(errors)?;
    SpecErrors::check(reader.types(&policies))?;
    Ok(policies)
}

struct Reader<'a> {
    file: &'a PolicyFile,
    terms: &'a Terms<'a>,
}

impl Reader<'_> {
    fn error(&self, range: Range<usize>, message: impl Into<String>) -> SpecError {
        SpecError::in_text(&self.file.path, &self.file.text, range, message)
    }

    fn diagnostic(&self, diagnostic: &dyn Diagnostic) -> SpecError {
        let label = diagnostic.labels().and_then(|mut labels| labels.next());
        let range = label.map(|label| label.offset()..label.offset() + label.len());
        let help = diagnostic
            .help()
            .map(|help| without_policy(&help.to_string()));
        self.error(place(range), without_policy(&diagnostic.to_string()))
            .with_help(help)
    }

    fn syntax(&self, errors: &cedar_policy::ParseErrors) -> SpecErrors {
        let all: Vec<SpecError> = errors.iter().map(|error| self.diagnostic(error)).collect();
        match SpecErrors::check(all) {
            Err(errors) => errors,
            Ok(()) => self.error(0..0, errors.to_string()).into(),
        }
    }

    /// The file's name, the line and, when there is one, the `@id`.
    fn id(&self, range: &Range<usize>, policy: &Policy, taken: &mut BTreeSet<String>) -> String {
        let name = self.file.path.file_name().unwrap_or_default();
        let before = self.file.text.get(..range.start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let own = policy.annotation("id").map(|id| format!(" {id}"));
        let base = format!("{}:{line}{}", name.display(), own.unwrap_or_default());
        let mut id = base.clone();
        let mut number = 2;
        while !taken.insert(id.clone()) {
            id = format!("{base} #{number}");
            number += 1;
        }
        id
    }

    fn annotations(&self, range: &Range<usize>, policy: &Policy) -> Vec<SpecError> {
        let mut errors = Vec::new();
        for (name, _) in policy.annotations() {
            if ANNOTATIONS.contains(&name) {
                continue;
            }
            if let Some(near) = nearest(name, ANNOTATIONS) {
                let error = self.error(range.clone(), format!("unknown annotation `@{name}`"));
                errors.push(error.with_help(Some(format!("did you mean `@{near}`?"))));
            }
        }
        let asks = policy.annotation("ask").is_some();
        let wrong = match (self.terms.effects, policy.effect(), asks) {
            (Effects::All, Effect::Permit, true) => Some((
                "`@ask` has no meaning on `permit`",
                "write `@ask(\"why\") forbid (…)`: what it forbids waits for a person",
            )),
            (Effects::Forbid, Effect::Permit, _) => Some((
                "`permit` has no meaning here: what no policy forbids is admitted",
                "write `forbid (…) unless { … }`",
            )),
            (Effects::Forbid, Effect::Forbid, true) => Some((
                "`@ask` has no meaning here: nobody is asked",
                "leave it out, or write `@reason(\"why\")`",
            )),
            _ => None,
        };
        if let Some((message, help)) = wrong {
            let error = self.error(range.clone(), message);
            errors.push(error.with_help(Some(help.to_owned())));
        }
        errors
    }

    /// What is named has to be there.
    fn names(&self, range: &Range<usize>, policy: &Policy) -> Vec<SpecError> {
        let text = self.file.text.get(range.clone()).unwrap_or_default();
        let mut errors = Vec::new();
        for uid in policy.entity_literals() {
            let Some(unknown) = (self.terms.check)(&uid) else {
                continue;
            };
            let literal = uid.to_string();
            let place = text.find(&literal).map_or_else(
                || range.clone(),
                |at| range.start + at..range.start + at + literal.len(),
            );
            errors.push(self.error(place, unknown.message).with_help(unknown.help));
        }
        errors
    }

    fn types(&self, policies: &[Policy]) -> Vec<SpecError> {
        let schema = match Schema::from_cedarschema_str(&self.terms.schema) {
            Ok((schema, _)) => schema,
            Err(error) => {
                let message = format!("what it may be about cannot be described to Cedar: {error}");
                return vec![self.error(0..0, message)];
            }
        };
        let set = match PolicySet::from_policies(policies.iter().cloned()) {
            Ok(set) => set,
            Err(error) => return vec![self.error(0..0, error.to_string())],
        };
        let open = self.terms.is_open;
        let result = Validator::new(schema).validate(&set, ValidationMode::Strict);
        let mut wrong = BTreeSet::new();
        let mut all = Vec::new();
        for error in result.validation_errors() {
            // An argument that no schema declares may still be sent.
            if !(open && matches!(error, ValidationError::UnsafeAttributeAccess(_))) {
                wrong.insert(error.policy_id().clone());
                let shown = self.diagnostic(error);
                all.push(match error {
                    // Cedar guesses among equally near names as it happens.
                    ValidationError::UnrecognizedEntityType(_) => {
                        shown.with_help(Some(self.terms.types.to_owned()))
                    }
                    _ => shown,
                });
            }
        }
        for warning in result.validation_warnings() {
            let never = matches!(
                warning,
                ValidationWarning::ImpossiblePolicy(_)
                    | ValidationWarning::InvalidActionApplication(_)
            );
            let hidden = matches!(
                warning,
                ValidationWarning::BidiCharsInString(_)
                    | ValidationWarning::BidiCharsInIdentifier(_)
            );
            // A policy that is wrong anyway never applies either.
            if never && !open && wrong.insert(warning.policy_id().clone()) {
                let found = policies
                    .iter()
                    .find(|policy| policy.id() == warning.policy_id());
                let loc = found.and_then(|policy| policy.as_ref().loc());
                let range = place(loc.map(|loc| loc.start()..loc.end()));
                let error = self.error(range, "the policy never applies to any call");
                let help =
                    "check that actions, types, attributes and arguments are ones that exist";
                all.push(error.with_help(Some(help.to_owned())));
            } else if hidden {
                all.push(self.diagnostic(warning));
            }
        }
        // The validator looks at a policy once per kind of resource.
        let key = |error: &SpecError| (error.line(), error.column(), error.message().to_owned());
        all.sort_by_key(key);
        all.dedup();
        all
    }
}

/// A message without the policy's name: the place says it.
fn without_policy(message: &str) -> String {
    let rest = message.strip_prefix("for policy `");
    let rest = rest.and_then(|rest| rest.split_once("`, "));
    rest.map_or(message, |(_, rest)| rest).to_owned()
}

fn place(range: Option<Range<usize>>) -> Range<usize> {
    range.unwrap_or(0..0)
}
