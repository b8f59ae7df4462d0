//! The words of Cedar that Rune uses, parsed once.

use std::collections::{HashMap, HashSet};

use cedar_policy::{
    Entity, EntityId, EntityTypeName, EntityUid, ParseErrors, RestrictedExpression,
};
use rune_spec::{ToolDescriptor, ToolRuntime};

use super::query::{PolicyCallee, PolicyPrincipal, PolicyResource};

type Attributes = HashMap<String, RestrictedExpression>;

/// Cedar's names of what Rune has.
pub(super) struct Vocabulary {
    action: EntityTypeName,
    agent: EntityTypeName,
    caller: EntityTypeName,
    host: EntityTypeName,
    model: EntityTypeName,
    tool: EntityTypeName,
}

impl Vocabulary {
    pub(super) fn new() -> Result<Self, Box<ParseErrors>> {
        Ok(Self {
            action: "Action".parse()?,
            agent: "Agent".parse()?,
            caller: "Caller".parse()?,
            host: "Host".parse()?,
            model: "Model".parse()?,
            tool: "Tool".parse()?,
        })
    }

    pub(super) fn action(&self, kind: &str) -> EntityUid {
        uid(&self.action, kind)
    }

    /// The agent; it is `in` the caller it acts for.
    pub(super) fn principal(
        &self,
        agent: &PolicyPrincipal,
        caller: &str,
    ) -> Result<Entity, String> {
        let id = format!("{}/{}", agent.namespace, agent.name);
        let attributes = Attributes::from([
            ("namespace".to_owned(), text(&agent.namespace)),
            ("name".to_owned(), text(&agent.name)),
            ("version".to_owned(), text(&agent.version)),
            ("networks".to_owned(), texts(&agent.networks)),
        ]);
        let caller = uid(&self.caller, caller);
        entity(uid(&self.agent, &id), attributes, HashSet::from([caller]))
    }

    fn callee(&self, agent: &PolicyCallee, id: &str) -> Result<Entity, String> {
        let mut attributes = Attributes::from([
            ("namespace".to_owned(), text(&agent.namespace)),
            ("name".to_owned(), text(&agent.name)),
        ]);
        let version = agent.version.as_deref().map(text);
        let networks = agent.networks.as_deref().map(texts);
        attributes.extend(version.map(|version| ("version".to_owned(), version)));
        attributes.extend(networks.map(|networks| ("networks".to_owned(), networks)));
        entity(uid(&self.agent, id), attributes, HashSet::new())
    }

    pub(super) fn resource(&self, resource: &PolicyResource<'_>) -> Result<Entity, String> {
        let attributes = match resource {
            PolicyResource::Tool {
                name, descriptor, ..
            } => {
                return entity(
                    uid(&self.tool, name),
                    tool(name, descriptor),
                    HashSet::new(),
                );
            }
            PolicyResource::Agent(agent) => return self.callee(agent, &resource.entity_id()),
            PolicyResource::Model { provider, model } => Attributes::from([
                ("provider".to_owned(), text(provider)),
                ("name".to_owned(), text(model)),
            ]),
            PolicyResource::Host { host, port } => Attributes::from([
                ("name".to_owned(), text(host)),
                (
                    "port".to_owned(),
                    RestrictedExpression::new_long(i64::from(*port)),
                ),
            ]),
        };
        let kind = match resource {
            PolicyResource::Model { .. } => &self.model,
            _ => &self.host,
        };
        entity(uid(kind, &resource.entity_id()), attributes, HashSet::new())
    }
}

fn tool(name: &str, descriptor: &ToolDescriptor) -> Attributes {
    let (runtime, source) = match &descriptor.runtime {
        ToolRuntime::Builtin => ("builtin", "builtin".to_owned()),
        ToolRuntime::Process { .. } => ("process", "package".to_owned()),
        ToolRuntime::Wasm { .. } => ("wasm", "package".to_owned()),
        ToolRuntime::Container { .. } => ("container", "package".to_owned()),
        ToolRuntime::Agent { .. } => ("agent", "package".to_owned()),
        ToolRuntime::Mcp { mcp_server } => ("mcp", format!("mcp:{mcp_server}")),
    };
    let capabilities = descriptor.capabilities.iter();
    let capabilities = capabilities.map(|capability| text(&capability.to_string()));
    Attributes::from([
        ("name".to_owned(), text(name)),
        ("runtime".to_owned(), text(runtime)),
        ("source".to_owned(), text(&source)),
        (
            "read_only".to_owned(),
            RestrictedExpression::new_bool(descriptor.read_only),
        ),
        (
            "idempotent".to_owned(),
            RestrictedExpression::new_bool(descriptor.idempotent),
        ),
        (
            "capabilities".to_owned(),
            RestrictedExpression::new_set(capabilities),
        ),
    ])
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

fn entity(
    uid: EntityUid,
    attributes: Attributes,
    parents: HashSet<EntityUid>,
) -> Result<Entity, String> {
    Entity::new(uid, attributes, parents).map_err(|error| error.to_string())
}

fn texts(texts: &[String]) -> RestrictedExpression {
    RestrictedExpression::new_set(texts.iter().map(|one| text(one)))
}

fn text(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}
