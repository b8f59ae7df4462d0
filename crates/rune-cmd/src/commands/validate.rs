//! `rune validate`

mod tools;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use rune_runtime::PolicySet;
use rune_spec::{AgentPackage, SchemaKind, SpecErrors, ToolRuntime};
use serde_json::{Value, json};

use super::eval::files::{self, Files};
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{Output, one_line, shortened, table};

/// Longest description of a tool that is shown.
const SHOWN_DESCRIPTION_CHARS: usize = 60;

/// Checks every file of an agent directory and prints all errors.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  rune validate hello\n  rune validate -o json")]
pub(crate) struct ValidateArgs {
    /// The agent directory, or its Runefile
    #[arg(default_value = ".")]
    dir: PathBuf,
}

pub(crate) fn run(context: &Context, args: &ValidateArgs) -> Outcome {
    let dir = agent_dir(&args.dir);
    let print_errors = |errors: &SpecErrors| {
        if context.output.is_machine() {
            let errors = as_json(errors);
            let report = json!({ "valid": false, "errors": errors });
            context.output.object(&report)?;
        }
        Ok::<_, Failure>(())
    };
    let package = match checked(context, &dir) {
        Ok(package) => package,
        Err(errors) => {
            print_errors(&errors)?;
            return Err(invalid(context.output, &errors));
        }
    };
    let evals = match files::load(&dir, &package) {
        Ok(evals) => evals,
        Err(errors) => {
            print_errors(&errors)?;
            return Err(files::invalid(context, &errors));
        }
    };
    context.output.data(&summary(&package, &evals), text)?;
    for server in unknown_servers(context, &package) {
        let warning = context.output.style.warn("[warn]");
        context.output.note(&format!(
            "{warning} MCP server `{server}` is not in `mcp_servers`: the daemon has to be told where it is by RUNE_MCP_{{SERVER}}_URL"
        ));
    }
    Ok(Exit::Ok)
}

/// The agent in a directory, with everything it leads to.
pub(crate) fn checked(context: &Context, dir: &Path) -> Result<AgentPackage, SpecErrors> {
    let package = AgentPackage::load(dir)?;
    PolicySet::compile(&package)?;
    tools::check(context, dir, &package)?;
    Ok(package)
}

/// The directory of an agent that was named by its directory or its Runefile.
pub(crate) fn agent_dir(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if path.is_file() && parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) if path.is_file() => parent.to_owned(),
        _ => path.to_owned(),
    }
}

/// Prints the errors of an agent and answers the failure they are.
pub(crate) fn invalid(output: Output, errors: &SpecErrors) -> Failure {
    invalid_file(output, errors, "the agent", SchemaKind::Runefile)
}

/// Prints the errors of a file and answers the failure they are.
pub(crate) fn invalid_file(
    output: Output,
    errors: &SpecErrors,
    what: &str,
    kind: SchemaKind,
) -> Failure {
    for error in errors {
        output.note(&format!("{error}\n"));
    }
    let count = errors.len();
    let noun = if count == 1 { "error" } else { "errors" };
    let name = kind.as_str();
    Failure::usage(format!("{what} is not valid: {count} {noun}"))
        .help(format!("`rune schema {name}` prints what it may hold"))
}

/// The MCP servers that the toolset needs and neither the Runefile nor the environment here describes.
fn unknown_servers(context: &Context, package: &AgentPackage) -> Vec<String> {
    let described = package.tools.iter();
    let described = described.filter_map(|tool| match &tool.descriptor.runtime {
        ToolRuntime::Mcp { mcp_server } => Some(mcp_server),
        _ => None,
    });
    let selected = package.mcp_tools.iter().map(|selection| &selection.server);
    let declared = &package.runefile.mcp_servers;
    let unknown = selected.chain(described).filter(|name| {
        declared.iter().all(|server| server.name != **name)
            && context.config.mcp_server_url(name).is_none()
    });
    unknown
        .cloned()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

fn as_json(errors: &SpecErrors) -> Vec<Value> {
    let errors = errors.iter().map(|error| {
        json!({
            "file": error.path(),
            "line": error.line(),
            "column": error.column(),
            "message": error.message(),
            "help": error.help(),
        })
    });
    errors.collect()
}

fn summary(package: &AgentPackage, evals: &Files) -> Value {
    let spec = &package.runefile;
    let tools: Vec<Value> = package
        .tools
        .iter()
        .map(|tool| {
            json!({
                "name": tool.visible_name,
                "reference": tool.reference.to_string(),
                "read_only": tool.descriptor.read_only,
                "description": tool.descriptor.description,
            })
        })
        .collect();
    let mcp_tools = package.mcp_tools.iter().map(|selection| {
        let tool = selection.tool.as_deref().unwrap_or("*");
        format!("{}/{tool}", selection.server)
    });
    json!({
        "valid": true,
        "name": spec.name.as_str(),
        "version": spec.version.to_string(),
        "description": spec.description,
        "default_model": spec.default_model,
        "providers": spec.models.providers,
        "max_steps": spec.max_steps,
        "entrypoint": spec.entrypoint,
        "workflow": package.workflow.is_some(),
        "channels": package.channels.is_some(),
        "script": package.script.is_some(),
        "policy": package.policy.is_some(),
        "tools": tools,
        "eval_cases": evals.cases.len(),
        "cassettes": evals.cassettes,
        "mcp_servers": spec.mcp_servers.iter().map(|server| &server.name).collect::<Vec<_>>(),
        "mcp_tools": mcp_tools.collect::<Vec<_>>(),
    })
}

fn text(summary: &Value) -> String {
    let word = |field: &str| summary[field].as_str().unwrap_or_default().to_owned();
    let files: Vec<&str> = ["workflow", "channels", "script", "policy"]
        .into_iter()
        .filter(|file| summary[*file] == true)
        .collect();
    let component = summary["entrypoint"].as_str();
    let component = component.map(|path| format!("the component {path}"));
    let files: Vec<String> = component
        .into_iter()
        .chain(files.into_iter().map(str::to_owned))
        .collect();
    let with = if files.is_empty() {
        String::new()
    } else {
        format!(", with {}", files.join(", "))
    };
    let mut text = format!("[ok] {} {} is valid{with}", word("name"), word("version"));
    let remote: Vec<&str> = summary["mcp_tools"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !remote.is_empty() {
        let remote = remote.join(", ");
        text.push_str(&format!(
            "\nMCP tools: {remote} (`rune mcp test` asks the servers for them)"
        ));
    }
    let tools: Vec<Value> = summary["tools"].as_array().cloned().unwrap_or_default();
    if tools.is_empty() {
        return text;
    }
    let rows: Vec<Value> = tools
        .into_iter()
        .map(|mut tool| {
            let description = one_line(tool["description"].as_str().unwrap_or_default());
            tool["description"] = shortened(&description, SHOWN_DESCRIPTION_CHARS).into();
            tool["access"] = if tool["read_only"] == true {
                "read"
            } else {
                "write"
            }
            .into();
            tool
        })
        .collect();
    let columns = [
        ("TOOL", "/reference"),
        ("ACCESS", "/access"),
        ("DESCRIPTION", "/description"),
    ];
    text.push_str("\n\n");
    text.push_str(&table(&rows, &columns));
    text
}
