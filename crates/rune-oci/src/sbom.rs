//! What an agent is made of: a bill of materials in CycloneDX 1.6.
//!
//! It depends on the package and on nothing else, so it has neither a serial number nor a time. Values that may be secrets
//! (headers, arguments, variables, what stands behind `?` in a URL) are not in it.

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;
use rune_spec::{AgentPackage, McpTransport, ModelName, ToolRuntime};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::Digest;
use crate::manifest::to_bytes;

/// One part of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Component {
    /// `tool`, `program`, `image`, `mcp_server`, `agent` or `model`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Its version, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What runs it, serves it or where it is.
    pub origin: String,
    /// The digest of its file, where it is in the package.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

impl Component {
    fn new(kind: &'static str, name: impl Into<String>, origin: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.into(),
            version: None,
            origin: origin.into(),
            digest: None,
        }
    }

    /// How the bill names it.
    fn reference(&self) -> String {
        match self.kind {
            "model" => format!("model:{}/{}", self.origin, self.name),
            kind => format!("{kind}:{}", self.name),
        }
    }
}

/// What an agent is made of: tools in the order of its toolset, then what they and the agent rest on.
#[must_use]
pub fn components(agent: &AgentPackage) -> Vec<Component> {
    let mut found = Vec::new();
    let mut rest = Rest::default();
    for tool in &agent.tools {
        let descriptor = &tool.descriptor;
        let mut component = Component::new("tool", tool.reference.to_string(), "rune");
        component.version = Some(descriptor.version.to_string());
        component.origin = match &descriptor.runtime {
            ToolRuntime::Builtin => "builtin".to_owned(),
            ToolRuntime::Process { module } => {
                component.digest = digest(agent, module);
                format!("process {}", module.display())
            }
            ToolRuntime::Wasm { module } => {
                component.digest = digest(agent, module);
                format!("wasm {}", module.display())
            }
            ToolRuntime::Container { image, module } => {
                rest.images.insert(image.clone());
                component.digest = module.as_deref().and_then(|module| digest(agent, module));
                match module {
                    Some(module) => format!("container {image} {}", module.display()),
                    None => format!("container {image}"),
                }
            }
            ToolRuntime::Agent { agent_ref, .. } => {
                rest.agents.insert(without_secrets(&agent_ref.to_string()));
                format!("agent {}", without_secrets(&agent_ref.to_string()))
            }
            ToolRuntime::Mcp { mcp_server } => {
                rest.servers.insert(mcp_server.clone());
                format!("mcp {mcp_server}")
            }
        };
        found.push(component);
    }
    for selection in &agent.mcp_tools {
        rest.servers.insert(selection.server.clone());
        let tool = selection.tool.as_deref().unwrap_or("*");
        let name = format!("{}/{tool}", selection.server);
        found.push(Component::new(
            "tool",
            name,
            format!("mcp {}", selection.server),
        ));
    }
    rest.images.extend(agent.runefile.runtime.image.clone());
    found.extend(program(agent));
    found.extend(
        rest.images
            .into_iter()
            .map(|image| Component::new("image", image, "registry")),
    );
    found.extend(servers(agent, rest.servers));
    found.extend(
        rest.agents
            .into_iter()
            .map(|name| Component::new("agent", name, "called as a tool")),
    );
    found.extend(models(agent));
    found
}

/// What tools rest on, each once.
#[derive(Default)]
struct Rest {
    images: BTreeSet<String>,
    servers: BTreeSet<String>,
    agents: BTreeSet<String>,
}

/// The component that plans in the planner's place.
fn program(agent: &AgentPackage) -> Option<Component> {
    let path = agent.runefile.entrypoint.as_deref()?;
    let mut component = Component::new("program", path.display().to_string(), "wasm");
    component.digest = digest(agent, path);
    Some(component)
}

fn servers(agent: &AgentPackage, named: BTreeSet<String>) -> Vec<Component> {
    let declared = &agent.runefile.mcp_servers;
    let mut found = Vec::new();
    for server in declared {
        let component = match &server.transport {
            McpTransport::Http { url, .. } => {
                Component::new("mcp_server", &server.name, without_secrets(url))
            }
            McpTransport::Stdio { command, .. } => Component {
                digest: digest(agent, Path::new(command)),
                ..Component::new("mcp_server", &server.name, format!("process {command}"))
            },
        };
        found.push(component);
    }
    let unknown = named
        .into_iter()
        .filter(|name| declared.iter().all(|server| server.name != *name));
    found.extend(unknown.map(|name| Component::new("mcp_server", name, "named by the daemon")));
    found
}

fn models(agent: &AgentPackage) -> Vec<Component> {
    let models = &agent.runefile.models;
    let any = || match models.providers.as_slice() {
        [] => vec!["any provider".to_owned()],
        providers => providers.to_vec(),
    };
    let mut found = BTreeSet::new();
    for model in models.model_mapping.values() {
        match model {
            ModelName::Any(name) => {
                found.extend(any().into_iter().map(|provider| (provider, name.clone())));
            }
            ModelName::PerProvider(names) => found.extend(names.clone()),
        }
    }
    if models.model_mapping.is_empty() {
        let name = &agent.runefile.default_model;
        found.extend(any().into_iter().map(|provider| (provider, name.clone())));
    }
    found
        .into_iter()
        .map(|(provider, name)| Component::new("model", name, provider))
        .collect()
}

/// The digest of a file of the package.
fn digest(agent: &AgentPackage, path: &Path) -> Option<Digest> {
    let path = agent.dir.join(path).canonicalize().ok()?;
    let inside = path.starts_with(&agent.dir) && path.is_file();
    inside.then(|| std::fs::read(&path).ok().map(|bytes| Digest::of(&bytes)))?
}

/// A URL without user, password and query.
fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// The bill of materials of an agent.
#[must_use]
pub fn bill_of_materials(agent: &AgentPackage) -> Bytes {
    let spec = &agent.runefile;
    let root = format!("agent:{}@{}", spec.name, spec.version);
    let found = components(agent);
    let (services, parts): (Vec<_>, Vec<_>) = found
        .iter()
        .partition(|component| component.kind == "mcp_server");
    let references: Vec<String> = found.iter().map(Component::reference).collect();
    let mut subject = json!({
        "type": "application",
        "bom-ref": root,
        "name": spec.name.as_str(),
        "version": spec.version.to_string(),
    });
    if let Some(description) = &spec.description {
        subject["description"] = json!(description);
    }
    let services: Vec<Value> = services.into_iter().map(service).collect();
    let parts: Vec<Value> = parts.into_iter().map(part).collect();
    let bill = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": { "component": subject },
        "components": parts,
        "services": services,
        "dependencies": [{ "ref": root, "dependsOn": references }],
    });
    to_bytes(&bill)
}

fn part(component: &Component) -> Value {
    let kind = match component.kind {
        "image" => "container",
        "model" => "machine-learning-model",
        _ => "application",
    };
    let mut part = Map::new();
    part.insert("type".to_owned(), json!(kind));
    part.insert("bom-ref".to_owned(), json!(component.reference()));
    part.insert("name".to_owned(), json!(component.name));
    if let Some(version) = &component.version {
        part.insert("version".to_owned(), json!(version));
    }
    if let Some(digest) = &component.digest {
        let hash = json!({ "alg": "SHA-256", "content": digest.hex() });
        part.insert("hashes".to_owned(), json!([hash]));
    }
    part.insert("properties".to_owned(), properties(component));
    Value::Object(part)
}

fn service(component: &Component) -> Value {
    let mut service = json!({
        "bom-ref": component.reference(),
        "name": component.name,
        "properties": properties(component),
    });
    // A text with a variable in it is no URL yet.
    if component.origin.contains("://") && !component.origin.contains('$') {
        service["endpoints"] = json!([component.origin]);
    }
    service
}

fn properties(component: &Component) -> Value {
    let mut properties = vec![
        json!({ "name": "rune:kind", "value": component.kind }),
        json!({ "name": "rune:origin", "value": component.origin }),
    ];
    // Services have no hashes.
    if let (Some(digest), "mcp_server") = (&component.digest, component.kind) {
        properties.push(json!({ "name": "rune:digest", "value": digest }));
    }
    Value::Array(properties)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_in_a_url_is_not_shown() {
        for (url, shown) in [
            ("https://me:word@host:1/a?key=1#x", "https://host:1/a"),
            ("https://host?key=1", "https://host"),
            ("https://${HOST}/mcp", "https://${HOST}/mcp"),
            ("local://other", "local://other"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }
}
