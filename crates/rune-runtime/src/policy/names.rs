//! Whether what a policy names is something that the agent has: a policy about anything else protects nothing.

use cedar_policy::EntityUid;
use reqwest::Url;
use rune_spec::{AgentPackage, AgentRef, LocalAgent, ToolRuntime, nearest};
use rune_tools::destination;

/// A name that leads nowhere.
pub(super) struct Unknown {
    pub(super) message: String,
    pub(super) help: Option<String>,
}

/// Why nothing has this name; `None` where something has it, or where that is not known before it runs.
pub(super) fn check(package: &AgentPackage, uid: &EntityUid) -> Option<Unknown> {
    let name = uid.id().unescaped();
    match uid.type_name().basename() {
        "Tool" => tool(package, name),
        "Model" => model(package, name),
        "Agent" => agent(package, name),
        "Host" => host(name),
        _ => None,
    }
}

fn unknown(message: String, near: Option<&str>) -> Option<Unknown> {
    let help = near.map(|near| format!("did you mean `{near}`?"));
    Some(Unknown { message, help })
}

fn tool(package: &AgentPackage, name: &str) -> Option<Unknown> {
    let tools = package.tools.iter();
    let known: Vec<String> = tools.map(|tool| tool.reference.to_string()).collect();
    let of_server = package.mcp_tools.iter().any(|selection| {
        let (server, tool) = name.split_once('/').unwrap_or_default();
        let any = selection.tool.as_deref().unwrap_or(tool);
        selection.server == server && any == tool
    });
    if of_server || known.iter().any(|tool| tool == name) {
        return None;
    }
    let message = format!("the policy names the tool `{name}`, which is not in the toolset");
    unknown(message, nearest(name, known.iter().map(String::as_str)))
}

fn model(package: &AgentPackage, name: &str) -> Option<Unknown> {
    let models = &package.runefile.models;
    let Some((provider, model)) = name.split_once('/') else {
        let message = format!("`{name}` is not a model: expected `provider/model`");
        return unknown(message, None);
    };
    let providers = models.possible_providers();
    if !providers.contains(&provider) {
        let message = format!("the policy names the provider `{provider}`, which is never asked");
        return unknown(message, nearest(provider, providers));
    }
    // Without a mapping the platform may name the model.
    let alias = &package.runefile.default_model;
    let mapped = models.model_mapping.contains_key(alias);
    let known = models.resolve(alias, provider).filter(|_| mapped)?;
    if known == model {
        return None;
    }
    let message = format!("the policy names the model `{name}`, which is never asked");
    unknown(message, Some(&format!("{provider}/{known}")))
}

fn agent(package: &AgentPackage, name: &str) -> Option<Unknown> {
    let Some((namespace, agent)) = name.split_once('/') else {
        let message = format!("`{name}` is not an agent: expected `namespace/name`");
        return unknown(message, None);
    };
    let own = package.runefile.name.as_str();
    let called: Vec<&LocalAgent> = callees(package).collect();
    let fits = |callee: &&LocalAgent| {
        let namespaces = callee.namespace.as_deref();
        callee.name.as_str() == agent && namespaces.is_none_or(|its| its == namespace)
    };
    if agent == own || called.iter().any(fits) {
        return None;
    }
    let known = called.iter().map(|callee| callee.name.as_str());
    let near = nearest(agent, known.chain([own]));
    let near = near.map(|near| format!("{namespace}/{near}"));
    let message = format!(
        "the policy names the agent `{name}`, which is not this one and is never called by it"
    );
    unknown(message, near.as_deref())
}

/// The agents that the package calls.
fn callees(package: &AgentPackage) -> impl Iterator<Item = &LocalAgent> {
    let tools = package
        .tools
        .iter()
        .filter_map(|tool| match &tool.descriptor.runtime {
            ToolRuntime::Agent { agent_ref, .. } => Some(agent_ref),
            _ => None,
        });
    let steps = package.workflow.iter().flat_map(|workflow| &workflow.steps);
    let steps = steps.map(|step| &step.agent_ref);
    tools.chain(steps).filter_map(|reference| match reference {
        AgentRef::Local(local) => Some(local),
        AgentRef::Url(_) => None,
    })
}

/// Which hosts there are is not known, only how they are written: as what is asked about when a tool connects.
fn host(name: &str) -> Option<Unknown> {
    let url = if name.contains("://") {
        name.to_owned()
    } else if name.matches(':').count() > 1 && !name.starts_with('[') {
        format!("http://[{name}]/")
    } else {
        format!("http://{name}/")
    };
    let written = Url::parse(&url).ok();
    let written = written.and_then(|url| Some(destination(&url)?.0));
    if written.as_deref() == Some(name) {
        return None;
    }
    let message = format!(
        "`{name}` is not how a host is named: lower case, without scheme, port, brackets and path (`resource.port` is \
         the port)"
    );
    unknown(message, written.as_deref())
}
