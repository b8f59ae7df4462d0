//! `rune tool audit`

use std::path::{Path, PathBuf};

use rune_spec::package::RUNEFILE;
use rune_spec::{Runefile, ToolDescriptor, ToolRuntime};
use rune_wasm::{AgentGrants, Audit, AuditedImport};
use serde_json::{Value, json};

use crate::context::Context;
use crate::daemon::node::wasm_runtime;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::table;

pub(super) async fn run(context: &Context, module: &Path) -> Outcome {
    let wasm = wasm_runtime(&context.config);
    let described = described(module);
    let audit = match &described {
        Some((_, Described::Tool(descriptor))) => wasm.audit(module, Some(descriptor)).await,
        Some((_, Described::Agent(grants))) => wasm.audit_agent(module, *grants).await,
        None => wasm.audit(module, None).await,
    };
    let audit = audit.map_err(|error| Failure::because("cannot audit the module", &error))?;
    let mut value = serde_json::to_value(&audit)
        .map_err(|error| Failure::because("cannot print the audit", &error))?;
    value["description"] = json!(described.as_ref().map(|(path, _)| path));
    context.output.data(&value, |value| text(value, &audit))?;
    match &audit.error {
        None => Ok(Exit::Ok),
        Some(error) => Err(Failure::usage(error.clone())),
    }
}

/// What a module is described as.
enum Described {
    Tool(Box<ToolDescriptor>),
    /// The `entrypoint`.
    Agent(AgentGrants),
}

/// The description of a module: the Runefile of the agent around it where it is the agent's `entrypoint`, else the file in
/// `tools/`.
fn described(module: &Path) -> Option<(PathBuf, Described)> {
    let module = module.canonicalize().ok()?;
    let agent = module
        .ancestors()
        .find(|dir| dir.join(RUNEFILE).is_file())?;
    if let Some(grants) = entrypoint(agent, &module) {
        return Some((agent.join(RUNEFILE), Described::Agent(grants)));
    }
    let entries = std::fs::read_dir(agent.join("tools")).ok()?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter().find_map(|path| {
        let is_yaml = path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml");
        let text = is_yaml.then(|| std::fs::read_to_string(&path))?.ok()?;
        let descriptor = ToolDescriptor::parse(&path, &text).ok()?;
        let ToolRuntime::Wasm { module: named } = &descriptor.runtime else {
            return None;
        };
        let is_named = agent.join(named).canonicalize().ok()? == module;
        is_named.then(|| (path, Described::Tool(Box::new(descriptor))))
    })
}

/// Where a module is the `entrypoint` of an agent: what it is granted.
fn entrypoint(agent: &Path, module: &Path) -> Option<AgentGrants> {
    let path = agent.join(RUNEFILE);
    let text = std::fs::read_to_string(&path).ok()?;
    let runefile = Runefile::parse(&path, &text).ok()?;
    let named = agent.join(runefile.entrypoint.as_ref()?).canonicalize();
    (named.ok()? == module).then(|| AgentGrants::of(&runefile))
}

fn text(value: &Value, audit: &Audit) -> String {
    let word = |name: &str| value[name].as_str().unwrap_or("-").to_owned();
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let mut lines = vec![
        format!("module        {}", word("module")),
        format!("kind          {}", word("kind")),
        format!(
            "size          {} bytes, sha256 {}",
            audit.bytes, audit.sha256
        ),
        format!("exports       {}", listed(&audit.exports)),
        format!("description   {}", word("description")),
    ];
    if let Some(capabilities) = &audit.capabilities {
        lines.push(format!("capabilities  {}", listed(capabilities)));
    }
    lines.push(format!(
        "memory        starts with {} bytes, limit {}",
        audit.initial_memory_bytes,
        number(audit.memory_limit_bytes)
    ));
    lines.push(format!(
        "limits        fuel {}, cpu_ms {}, timeout_ms {}",
        number(audit.fuel),
        number(audit.cpu_ms),
        number(audit.timeout_ms)
    ));
    if let Some(metadata) = &audit.metadata {
        let (name, version) = (&metadata.name, &metadata.version);
        lines.push(format!(
            "says          {name} {version}: {}",
            metadata.description
        ));
    }
    let rows: Vec<Value> = audit.imports.iter().map(row).collect();
    if rows.is_empty() {
        lines.push("imports       nothing".to_owned());
        return lines.join("\n");
    }
    let columns = [
        ("IMPORT", "/name"),
        ("TAKES", "/takes"),
        ("GRANTED", "/granted"),
    ];
    format!("{}\n\n{}", lines.join("\n"), table(&rows, &columns))
}

fn row(import: &AuditedImport) -> Value {
    let takes = match (import.capability, import.required) {
        (Some(capability), true) => capability.to_owned(),
        (Some(capability), false) => format!("{capability} (finds nothing without)"),
        (None, true) => "not offered".to_owned(),
        (None, false) => "nothing".to_owned(),
    };
    let granted = match import.granted {
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    };
    json!({ "name": import.name, "takes": takes, "granted": granted })
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}
