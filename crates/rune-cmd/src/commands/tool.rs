//! `rune tool`

mod new;
mod run;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use rune_spec::package::RUNEFILE;
use rune_spec::{Runefile, ToolDescriptor, ToolRuntime};
use rune_wasm::{AgentGrants, Audit, AuditedImport};
use serde_json::{Value, json};

use crate::context::Context;
use crate::daemon::node::wasm_runtime;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::table;

/// The tools of agents.
#[derive(Debug, Subcommand)]
pub(crate) enum ToolCommand {
    /// Print what a WebAssembly module imports, and what the tool or the agent it belongs to is granted
    #[command(
        after_help = "Examples:\n  rune tool audit my-agent/tools/shout.wasm\n  rune tool audit tools/fetch.wat -o json\n  rune tool audit my-agent/agent.wasm\n\nThe description is the file of the agent's tools/ that names the module, or the Runefile whose `entrypoint` it is.\nExit codes: 0 it can be loaded, 2 it cannot."
    )]
    Audit {
        /// The module: .wasm, or .wat
        module: PathBuf,
    },
    /// Make a new tool of an agent: its description, its source and an eval
    #[command(
        after_help = "Examples:\n  rune tool new word-count --lang python\n  rune tool new price --lang rust --dir my-agent\n\nLanguages:\n  python  a process, run with python3\n  js      a process, run with node\n  rust    a WASI command, built with cargo for wasm32-wasip1\n  wasm    WebAssembly in its text form\n\nThe tool is added to `toolset` of the Runefile. Files that are there are never overwritten."
    )]
    New(new::NewArgs),
    /// Run one tool of an agent directory as its requests would, without a model and without a daemon
    #[command(
        after_help = "Examples:\n  rune tool run word-count '{\"text\": \"one two\"}'\n  rune tool run word-count --file input.json --dir my-agent\n  echo '{}' | rune tool run rune@system-time - -o json\n\nThe output goes to standard output, what the tool writes to standard error and the time it took to standard error.\nThe input is checked against the tool's schema, the policy of the agent holds, and so do the sandbox and the limits.\nExit codes: 0 it worked, 1 the tool failed, 2 the input or a file is not valid, 3 denied, 4 a limit, 5 it needs an\napproval, 6 something it needs does not answer."
    )]
    Run(run::RunArgs),
}

pub(crate) fn run(context: &Context, command: ToolCommand) -> Outcome {
    match command {
        ToolCommand::Audit { module } => context.block_on(audit(context, &module)),
        ToolCommand::New(args) => new::run(context, &args),
        ToolCommand::Run(args) => run::run(context, &args),
    }
}

async fn audit(context: &Context, module: &Path) -> Outcome {
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
        "limits        fuel {}, timeout_ms {}",
        number(audit.fuel),
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
