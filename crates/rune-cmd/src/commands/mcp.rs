//! `rune mcp`

mod daemon_agents;
mod serve;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use clap::{Args, Subcommand};
use rune_runtime::Agent;
use serde_json::{Value, json};

use super::embedded::{self, Embedded};
use super::validate::agent_dir;
use crate::cli::Target;
use crate::client::{Api, part};
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::output::{Column, one_line, shortened, table};

/// Agents whose servers are listed, at the most.
const MAX_AGENTS: usize = 1000;
/// Characters of a description or an error that a table shows.
const SHOWN_CHARS: usize = 60;

/// The columns of a list of servers.
const SERVERS: [Column; 7] = [
    ("AGENT", "/agent"),
    ("SERVER", "/name"),
    ("STATE", "/state"),
    ("TOOLS", "/tool_count"),
    ("PROTOCOL", "/protocol"),
    ("TARGET", "/target"),
    ("ERROR", "/shown_error"),
];
/// The columns of a list of tools.
const TOOLS: [Column; 4] = [
    ("TOOL", "/shown_name"),
    ("TOKENS", "/tokens"),
    ("IN TOOLSET", "/shown_taken"),
    ("DESCRIPTION", "/shown_description"),
];

/// The MCP servers of agents.
#[derive(Debug, Subcommand)]
pub(crate) enum McpCommand {
    /// List MCP servers with their states
    #[command(
        after_help = "Examples:\n  rune mcp ls              of every deployed agent\n  rune mcp ls hello        of the directory hello, else of the deployed agent\n  rune mcp ls -o json\n\nThe servers of a directory are connected to; those of a deployed agent are as its replica sees them."
    )]
    Ls {
        /// An agent directory, or the name of a deployed agent [default: all deployed agents]
        agent: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Connect to MCP servers and print their tools with what each costs in every prompt
    #[command(
        after_help = "Examples:\n  rune mcp test ./hello            connect as the agent of this directory would\n  rune mcp test ./hello github     only to this server\n  rune mcp test hello -o json      what the deployed agent sees\n\nExit codes: 0 every server can be called, 2 a file is not valid, 6 one cannot."
    )]
    Test(TestArgs),
    /// Serve deployed agents as the tools of an MCP server, over standard input and output
    #[command(
        after_help = "Examples:\n  rune mcp serve                       every deployed agent is a tool\n  rune mcp serve --agent hello         only this one\n  rune --gateway https://rune.example.org mcp serve\n\nFor the configuration of a desktop client:\n  {\"mcpServers\": {\"rune\": {\"command\": \"rune\", \"args\": [\"mcp\", \"serve\"]}}}\n\nA daemon has to run. Clients that speak HTTP use the gateway's /mcp and need no command."
    )]
    Serve(serve::ServeArgs),
}

/// What `rune mcp test` takes.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// An agent directory, or the name of a deployed agent
    #[arg(value_name = "DIR|NAME")]
    agent: String,
    /// Only this server
    server: Option<String>,
    #[command(flatten)]
    target: Target,
    /// A variable for the agent's `${VAR}`, over the environment's own
    #[arg(long, value_name = "NAME=VALUE", value_parser = super::run::variable)]
    env: Vec<(String, String)>,
}

pub(crate) async fn run(context: &Context, command: McpCommand) -> Outcome {
    match command {
        McpCommand::Ls { agent, target } => ls(context, agent.as_deref(), &target).await,
        McpCommand::Test(args) => test(context, args).await,
        McpCommand::Serve(args) => serve::run(context, args).await,
    }
}

async fn ls(context: &Context, agent: Option<&str>, target: &Target) -> Outcome {
    let mut rows = Vec::new();
    match agent {
        Some(agent) => {
            let found = servers(context, agent, None, target, &BTreeMap::new()).await?;
            rows.extend(found.into_iter().map(|server| row(agent, server)));
        }
        None => {
            let client = context.client()?;
            let agents = client
                .list(Api::Gateway, "/v1/agents", &[], MAX_AGENTS)
                .await?;
            for agent in agents {
                let text = |field: &str| agent[field].as_str().unwrap_or_default().to_owned();
                let (name, target) = (
                    text("name"),
                    Target {
                        namespace: text("namespace"),
                        alias: text("alias"),
                    },
                );
                // One that is stopped has no servers to speak of.
                if agent["tools"].is_null() {
                    continue;
                }
                let shown = format!("{}/{name}:{}", target.namespace, target.alias);
                let found = deployed(context, &name, &target).await?;
                rows.extend(found.into_iter().map(|server| row(&shown, server)));
            }
        }
    }
    let nothing = "no MCP servers; an agent names its own in `mcp_servers` of its Runefile";
    context.output.list_or(&rows, &SERVERS, nothing)?;
    Ok(Exit::Ok)
}

/// A server as a row of the list.
fn row(agent: &str, mut server: Value) -> Value {
    let count = server["tools"].as_array().map_or(0, Vec::len);
    let error = one_line(server["error"].as_str().unwrap_or_default());
    server["agent"] = agent.into();
    server["tool_count"] = count.into();
    server["shown_error"] = shortened(&error, SHOWN_CHARS).into();
    server
}

async fn test(context: &Context, args: TestArgs) -> Outcome {
    let env: BTreeMap<String, String> = args.env.into_iter().collect();
    let server = args.server.as_deref();
    let found = servers(context, &args.agent, server, &args.target, &env).await?;
    let down: Vec<String> = found
        .iter()
        .filter(|server| server["state"] != "ready")
        .map(|server| server["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    context
        .output
        .data(&Value::from(found.clone()), |_| text(&found))?;
    if down.is_empty() {
        return Ok(Exit::Ok);
    }
    let message = format!("cannot be called: {}", down.join(", "));
    Err(Failure::new(Exit::Unavailable, message).help(
        "the daemon's log has what a server writes to standard error; RUNE_MCP_{SERVER}_URL says where one is instead",
    ))
}

fn text(servers: &[Value]) -> String {
    let parts = servers.iter().map(|server| {
        let word = |field: &str| server[field].as_str().unwrap_or("-").to_owned();
        let mut lines = vec![format!(
            "{}  {}  {} {}",
            word("name"),
            word("state"),
            word("transport"),
            word("target")
        )];
        if server["state"] == "ready" {
            lines.push(format!(
                "  {} speaks MCP {}",
                one_line(&word("server")),
                word("protocol")
            ));
        }
        if let Some(error) = server["error"].as_str() {
            let indented = error.lines().map(|line| format!("  {line}"));
            lines.extend(indented);
        }
        for refused in server["refused"].as_array().into_iter().flatten() {
            let why = one_line(refused.as_str().unwrap_or_default());
            lines.push(format!("  refused: {why}"));
        }
        for skipped in server["skipped"].as_array().into_iter().flatten() {
            let text = |field: &str| one_line(skipped[field].as_str().unwrap_or_default());
            lines.push(format!("  left out: {}: {}", text("name"), text("reason")));
        }
        let tools: Vec<Value> = server["tools"].as_array().cloned().unwrap_or_default();
        if !tools.is_empty() {
            let tokens: u64 = tools
                .iter()
                .filter_map(|tool| tool["tokens"].as_u64())
                .sum();
            let rows: Vec<Value> = tools
                .into_iter()
                .map(|mut tool| {
                    let text = |field: &str| one_line(tool[field].as_str().unwrap_or_default());
                    let shown = format!("{}/{}", word("name"), text("name"));
                    let description = shortened(&text("description"), SHOWN_CHARS);
                    let taken = if tool["taken"] == true { "yes" } else { "no" };
                    tool["shown_name"] = shown.into();
                    tool["shown_description"] = description.into();
                    tool["shown_taken"] = taken.into();
                    tool
                })
                .collect();
            lines.push(String::new());
            lines.push(table(&rows, &TOOLS));
            let count = rows.len();
            let noun = if count == 1 { "tool" } else { "tools" };
            lines.push(format!(
                "{count} {noun}, about {tokens} tokens in every prompt where all are in the toolset"
            ));
        }
        lines.join("\n")
    });
    parts.collect::<Vec<_>>().join("\n\n")
}

/// The servers of an agent directory or of a deployed agent; all, or the one of a name.
async fn servers(
    context: &Context,
    agent: &str,
    server: Option<&str>,
    target: &Target,
    env: &BTreeMap<String, String>,
) -> Outcome<Vec<Value>> {
    let path = Path::new(agent);
    let mut found = if path.is_dir() || path.is_file() {
        of_directory(context, &agent_dir(path), server, target, env).await?
    } else if env.is_empty() {
        deployed(context, agent, target).await?
    } else {
        return Err(Failure::usage(format!(
            "--env goes with a directory, and `{agent}` is none"
        )));
    };
    if let Some(name) = server {
        let names: Vec<String> = found
            .iter()
            .map(|server| server["name"].as_str().unwrap_or_default().to_owned())
            .collect();
        found.retain(|server| server["name"] == name);
        if found.is_empty() {
            let known = match names.as_slice() {
                [] => "it has none".to_owned(),
                names => format!("it has {}", names.join(", ")),
            };
            return Err(Failure::usage(format!(
                "`{agent}` has no MCP server `{name}`; {known}"
            )));
        }
    }
    Ok(found)
}

async fn deployed(context: &Context, name: &str, target: &Target) -> Outcome<Vec<Value>> {
    let path = target.query(&format!("/v1/agents/{}/mcp-servers", part(name)));
    let found = context.client()?.get(Api::Gateway, &path).await;
    let found = found.map_err(|failure| {
        if failure.hint().is_some() {
            return failure;
        }
        failure.help("name a directory to connect to the servers of an agent that is not deployed")
    })?;
    Ok(found["items"].as_array().cloned().unwrap_or_default())
}

/// Connects to the servers of a directory as its agent would.
async fn of_directory(
    context: &Context,
    dir: &Path,
    server: Option<&str>,
    target: &Target,
    env: &BTreeMap<String, String>,
) -> Outcome<Vec<Value>> {
    embedded::quiet(context)?;
    let dir = dir
        .canonicalize()
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", dir.display())))?;
    let package = embedded::load(context, &dir)?;
    // What a server writes is not the agent's own.
    let mut embedded = Embedded::apart(context)?;
    let reported = match embedded.make(package, &target.namespace, env) {
        Ok(agent) => connected(&agent, server).await,
        Err(failure) => Err(failure),
    };
    // Servers that are processes end before this one does.
    embedded.close().await;
    reported
}

async fn connected(agent: &Arc<Agent>, server: Option<&str>) -> Outcome<Vec<Value>> {
    let mut interrupt = Interrupt::listen()?;
    let tried = async {
        // What it cannot do without shows in the report, too.
        let _ = agent.connect().await;
        for handle in agent.mcp_servers() {
            if server.is_none_or(|name| handle.config().name == name) {
                handle.tried().await;
            }
        }
    };
    tokio::select! {
        () = tried => {}
        () = interrupt.next() => return Err(Failure::silent(Exit::Interrupted)),
    }
    let report = agent.mcp_report();
    Ok(report.iter().map(|server| json!(server)).collect())
}
