//! The operator's policies: what may be published and deployed, and by whom.
//!
//! They are Cedar files of the daemon, not of a package. What none of them forbids is admitted; nobody is asked.

use std::collections::{BTreeSet, HashMap, HashSet};

use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy, PolicyId,
    PolicySet, Request, RestrictedExpression,
};
use rune_spec::{AgentPackage, PolicyFile, SpecError, SpecErrors};

use super::cedar_file::{self, Effects, Terms};
use super::decision::{PolicyDecision, Verdict};
use super::names::Unknown;

const SCHEMA: &str = r#"
// Who publishes or deploys: `anonymous`, `api-key`, or `jwt:` and the subject of a token.
entity Caller;
// Version::"hello 0.1.0": a package, as its Runefile describes it.
entity Version = {
    "agent": __cedar::String,
    "version": __cedar::String,
    "digest": __cedar::String,
    "signed": __cedar::Bool,
    "image"?: __cedar::String,
    "networks": Set<__cedar::String>,
    "tools": Set<__cedar::String>,
    "capabilities": Set<__cedar::String>,
    "providers": Set<__cedar::String>,
    "min_replicas": __cedar::Long,
    "max_replicas": __cedar::Long,
};
// Deployment::"prod/hello:stable": a version, where it is to run.
entity Deployment = {
    "namespace": __cedar::String,
    "agent": __cedar::String,
    "alias": __cedar::String,
    "replicas": __cedar::Long,
    "version": Version,
};
action "publish" appliesTo { principal: [Caller], resource: [Version], context: {} };
action "deploy" appliesTo { principal: [Caller], resource: [Deployment], context: {} };
"#;

/// The types of [`SCHEMA`], for a message.
const TYPES: &str = "the types are `Caller`, `Version` and `Deployment`";

type Attributes = HashMap<String, RestrictedExpression>;

/// A package, as policies see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmittedVersion {
    /// Name of the agent.
    pub agent: String,
    /// Its semantic version.
    pub version: String,
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// Whether a key that the daemon trusts has signed it.
    pub signed: bool,
    /// `runtime.image`, as it is written.
    pub image: Option<String>,
    /// Its networks.
    pub networks: Vec<String>,
    /// Its toolset: `rune@shell-exec`, `word-count`, `server/tool`, `server/*`.
    pub tools: Vec<String>,
    /// What all its tools together are granted.
    pub capabilities: Vec<String>,
    /// The providers of models that it may ask.
    pub providers: Vec<String>,
    /// Fewest replicas.
    pub min_replicas: u32,
    /// Most replicas.
    pub max_replicas: u32,
}

/// Where a version is to run.
#[derive(Debug, Clone, Copy)]
pub struct AdmittedDeployment<'a> {
    /// Namespace.
    pub namespace: &'a str,
    /// Alias.
    pub alias: &'a str,
    /// Replicas that are to run.
    pub replicas: u32,
}

/// What is to be admitted.
#[derive(Debug, Clone, Copy)]
pub enum AdmissionQuery<'a> {
    /// A version comes into the registry.
    Publish(&'a AdmittedVersion),
    /// A version is to run somewhere, or with another number of replicas.
    Deploy(&'a AdmittedVersion, AdmittedDeployment<'a>),
}

/// The operator's policies. Immutable; deciding takes no lock.
#[derive(Default)]
pub struct AdmissionPolicies {
    publish: PolicySet,
    deploy: PolicySet,
    /// The ids in the order of the files, with what their author wrote for the reader of a verdict.
    order: Vec<(PolicyId, Option<String>)>,
    authorizer: Authorizer,
}

impl std::fmt::Debug for AdmissionPolicies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdmissionPolicies")
            .field("policies", &self.order.len())
            .finish_non_exhaustive()
    }
}

impl AdmittedVersion {
    /// The version of a package with this digest.
    #[must_use]
    pub fn of(package: &AgentPackage, digest: String, signed: bool) -> Self {
        let spec = &package.runefile;
        let capabilities: BTreeSet<String> = package
            .tools
            .iter()
            .flat_map(|tool| &tool.descriptor.capabilities)
            .map(ToString::to_string)
            .collect();
        Self {
            agent: spec.name.to_string(),
            version: spec.version.to_string(),
            digest,
            signed,
            image: spec.runtime.image.clone(),
            networks: spec.networks.clone(),
            tools: spec.toolset.iter().map(ToString::to_string).collect(),
            capabilities: capabilities.into_iter().collect(),
            providers: owned(&spec.models.possible_providers()),
            min_replicas: spec.runtime.min_replicas,
            max_replicas: spec.runtime.max_replicas,
        }
    }

    /// The version as policies and the audit trail name it.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{} {}", self.agent, self.version)
    }

    fn attributes(&self) -> Attributes {
        let image = self.image.as_ref().map(|image| ("image", text(image)));
        let attributes = [
            ("agent", text(&self.agent)),
            ("version", text(&self.version)),
            ("digest", text(&self.digest)),
            ("signed", RestrictedExpression::new_bool(self.signed)),
            ("networks", texts(&self.networks)),
            ("tools", texts(&self.tools)),
            ("capabilities", texts(&self.capabilities)),
            ("providers", texts(&self.providers)),
            ("min_replicas", number(self.min_replicas)),
            ("max_replicas", number(self.max_replicas)),
        ];
        let attributes = attributes.into_iter().chain(image);
        attributes.map(|(key, it)| (key.to_owned(), it)).collect()
    }
}

impl AdmissionPolicies {
    /// The policies of these files.
    ///
    /// # Errors
    /// Everything wrong with them, with its places.
    pub fn compile(files: &[PolicyFile]) -> Result<Self, SpecErrors> {
        let mut this = Self::default();
        let mut ids = BTreeSet::new();
        let terms = Terms {
            schema: SCHEMA.to_owned(),
            is_open: false,
            types: TYPES,
            effects: Effects::Forbid,
            check: &unknown,
        };
        for file in files {
            for policy in cedar_file::parse(file, &terms, &mut ids)? {
                let failed = |error: &dyn std::fmt::Display| {
                    SpecErrors::from(SpecError::in_text(
                        &file.path,
                        &file.text,
                        0..0,
                        error.to_string(),
                    ))
                };
                for (set, action) in [(&mut this.publish, "publish"), (&mut this.deploy, "deploy")]
                {
                    if super::slice::is_about(&policy, action) {
                        set.add(policy.clone()).map_err(|error| failed(&error))?;
                    }
                }
                this.order.push((policy.id().clone(), reason_of(&policy)));
            }
        }
        Ok(this)
    }

    /// Whether any policy can speak about deploying: where none can, nothing has to be known of a package.
    #[must_use]
    pub fn asks_about_deploying(&self) -> bool {
        !self.deploy.is_empty()
    }

    /// Decides for a caller. What cannot be evaluated is denied; nothing where no policy can speak about it.
    #[must_use]
    pub fn decide(&self, caller: &str, query: &AdmissionQuery<'_>) -> Option<PolicyDecision> {
        let policies = match query {
            AdmissionQuery::Publish(_) => &self.publish,
            AdmissionQuery::Deploy(..) => &self.deploy,
        };
        if policies.is_empty() {
            return None;
        }
        let (request, entities) = match asked(caller, query) {
            Ok(asked) => asked,
            Err(error) => return Some(failed(&error)),
        };
        let response = self.authorizer.is_authorized(&request, policies, &entities);
        let spoke: HashSet<&PolicyId> = response.diagnostics().reason().collect();
        let mut spoke = self.order.iter().filter(|(id, _)| spoke.contains(id));
        if let Some((first, _)) = spoke.clone().next() {
            let written = spoke.clone().find_map(|(_, reason)| reason.clone());
            let reason = written.unwrap_or_else(|| format!("denied by `{first}`"));
            let ids = spoke.by_ref().map(|(id, _)| id.to_string()).collect();
            return Some(PolicyDecision::new(Verdict::Denied, &reason, ids));
        }
        // One that failed might have been the one that forbids.
        if let Some(error) = response.diagnostics().errors().next() {
            return Some(failed(&error.to_string()));
        }
        let reason = "no policy forbids it";
        Some(PolicyDecision::new(Verdict::Allowed, reason, Vec::new()))
    }
}

/// What is wrong with the name of an entity in a policy.
fn unknown(uid: &EntityUid) -> Option<Unknown> {
    let name = uid.id().unescaped();
    let (is_one, form) = match uid.type_name().basename() {
        "Version" => (name.contains(' '), "AGENT VERSION"),
        "Deployment" => (
            name.split_once('/')
                .is_some_and(|(_, rest)| rest.contains(':')),
            "NAMESPACE/AGENT:ALIAS",
        ),
        _ => return None,
    };
    let message = format!("`{name}` names nothing: expected `{form}`");
    (!is_one).then_some(Unknown {
        message,
        help: None,
    })
}

/// What is to be admitted, in Cedar's terms.
fn asked(caller: &str, query: &AdmissionQuery<'_>) -> Result<(Request, Entities), String> {
    let (action, version, deployment) = match query {
        AdmissionQuery::Publish(version) => ("publish", version, None),
        AdmissionQuery::Deploy(version, deployment) => ("deploy", version, Some(deployment)),
    };
    let principal = uid("Caller", caller)?;
    let version_uid = uid("Version", &version.id())?;
    let mut entities = vec![
        entity(principal.clone(), Attributes::new())?,
        entity(version_uid.clone(), version.attributes())?,
    ];
    let resource = match deployment {
        None => version_uid,
        Some(it) => {
            let id = format!("{}/{}:{}", it.namespace, version.agent, it.alias);
            let resource = uid("Deployment", &id)?;
            let attributes = [
                ("namespace", text(it.namespace)),
                ("agent", text(&version.agent)),
                ("alias", text(it.alias)),
                ("replicas", number(it.replicas)),
                ("version", RestrictedExpression::new_entity_uid(version_uid)),
            ];
            let attributes = attributes.map(|(key, it)| (key.to_owned(), it));
            entities.push(entity(resource.clone(), Attributes::from(attributes))?);
            resource
        }
    };
    let action = uid("Action", action)?;
    let request = Request::new(principal, action, resource, Context::empty(), None);
    let request = request.map_err(|error| error.to_string())?;
    let entities = Entities::from_entities(entities, None);
    Ok((request, entities.map_err(|error| error.to_string())?))
}

fn failed(error: &str) -> PolicyDecision {
    PolicyDecision::failed(&format!("the policy cannot be evaluated: {error}"))
}

fn reason_of(policy: &Policy) -> Option<String> {
    let reason = policy.annotation("reason")?;
    (!reason.is_empty()).then(|| reason.to_owned())
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, String> {
    let kind: EntityTypeName = kind
        .parse()
        .map_err(|error: cedar_policy::ParseErrors| error.to_string())?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

fn entity(uid: EntityUid, attributes: Attributes) -> Result<Entity, String> {
    Entity::new(uid, attributes, HashSet::new()).map_err(|error| error.to_string())
}

fn text(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

fn texts(texts: &[String]) -> RestrictedExpression {
    RestrictedExpression::new_set(texts.iter().map(|one| text(one)))
}

fn number(number: u32) -> RestrictedExpression {
    RestrictedExpression::new_long(number.into())
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(text: &str) -> Result<AdmissionPolicies, String> {
        let file = PolicyFile {
            path: "ops.cedar".into(),
            text: text.to_owned(),
        };
        AdmissionPolicies::compile(&[file]).map_err(|errors| errors.to_string())
    }

    fn version() -> AdmittedVersion {
        AdmittedVersion {
            agent: "hello".to_owned(),
            version: "1.0.0".to_owned(),
            digest: "sha256:0".to_owned(),
            signed: false,
            image: None,
            networks: vec!["bridge".to_owned()],
            tools: vec!["rune@file-read".to_owned()],
            capabilities: Vec::new(),
            providers: vec!["offline".to_owned()],
            min_replicas: 1,
            max_replicas: 1,
        }
    }

    /// The verdict about a deployment in `prod` with two replicas, and the reason.
    fn deploys(text: &str, caller: &str) -> Option<(Verdict, String)> {
        let version = version();
        let place = AdmittedDeployment {
            namespace: "prod",
            alias: "stable",
            replicas: 2,
        };
        let query = AdmissionQuery::Deploy(&version, place);
        let decided = compiled(text).unwrap().decide(caller, &query)?;
        Some((decided.verdict, decided.reason))
    }

    #[test]
    fn what_a_policy_is_not_about_is_not_decided() {
        let about_publishing = "forbid(principal, action == Action::\"publish\", resource);";
        assert_eq!(deploys(about_publishing, "ci"), None);
        let policies = compiled(about_publishing).unwrap();
        assert!(!policies.asks_about_deploying());
        let version = version();
        let decided = policies
            .decide("ci", &AdmissionQuery::Publish(&version))
            .unwrap();
        assert_eq!(decided.verdict, Verdict::Denied);
        assert_eq!(decided.policy_ids, ["ops.cedar:1"]);
        let elsewhere = compiled("").unwrap();
        assert_eq!(
            elsewhere.decide("ci", &AdmissionQuery::Publish(&version)),
            None
        );
    }

    #[test]
    fn who_asks_and_what_it_is_decide() {
        let only_ci = "@reason(\"ask the pipeline\") forbid(principal, action, resource is Deployment) \
                       when { resource.namespace == \"prod\" } unless { principal == Caller::\"jwt:ci\" };";
        let allowed = (Verdict::Allowed, "no policy forbids it".to_owned());
        let denied = (Verdict::Denied, "ask the pipeline".to_owned());
        assert_eq!(deploys(only_ci, "jwt:ci"), Some(allowed));
        assert_eq!(deploys(only_ci, "jwt:eve"), Some(denied));
        for (condition, denied) in [
            ("resource.replicas > 1", true),
            ("resource.replicas > 2", false),
            ("resource.version.tools.contains(\"rune@file-read\")", true),
            ("resource.version.networks.contains(\"wide\")", false),
            ("!resource.version.signed", true),
            ("resource.version has image", false),
            ("resource.version == Version::\"hello 1.0.0\"", true),
            ("resource == Deployment::\"prod/hello:stable\"", true),
            ("resource == Deployment::\"dev/hello:stable\"", false),
            // What cannot be evaluated forbids.
            ("resource.replicas + 9223372036854775807 > 0", true),
        ] {
            let text = format!(
                "forbid(principal, action == Action::\"deploy\", resource) when {{ {condition} }};"
            );
            let verdict = deploys(&text, "ci").unwrap().0;
            assert_eq!(verdict == Verdict::Denied, denied, "{condition}");
        }
    }

    #[test]
    fn what_has_no_meaning_is_an_error_at_its_place() {
        for (text, told) in [
            (
                "\npermit(principal, action, resource);",
                "`permit` has no meaning here",
            ),
            (
                "@ask(\"why\") forbid(principal, action, resource);",
                "`@ask` has no meaning here",
            ),
            (
                "forbid(principal, action == Action::\"tool\", resource);",
                "tool",
            ),
            ("forbid(principal, action, resource is Tool);", "Tool"),
            (
                "forbid(principal, action, resource is Version) when { resource.namespace == \"x\" };",
                "namespace",
            ),
            (
                "forbid(principal, action, resource is Version) when { resource.image like \"*\" };",
                "image",
            ),
            (
                "forbid(principal, action, resource == Deployment::\"hello\");",
                "NAMESPACE/AGENT:ALIAS",
            ),
            ("forbid(principal, action, resource", "ops.cedar"),
        ] {
            let error = compiled(text).unwrap_err();
            assert!(
                error.contains(told) && error.contains("ops.cedar:"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn files_of_one_name_have_policies_of_their_own() {
        let file = |path: &str| PolicyFile {
            path: path.into(),
            text: "forbid(principal, action, resource);".to_owned(),
        };
        let policies = AdmissionPolicies::compile(&[file("a/ops.cedar"), file("b/ops.cedar")]);
        let version = version();
        let decided = policies
            .unwrap()
            .decide("ci", &AdmissionQuery::Publish(&version))
            .unwrap();
        assert_eq!(decided.policy_ids, ["ops.cedar:1", "ops.cedar:1 #2"]);
    }
}
