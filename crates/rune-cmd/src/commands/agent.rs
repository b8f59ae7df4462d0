//! `rune agent`

pub(crate) mod logs;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{rm, stop};
use crate::cli::Target;
use crate::client::{Api, Client, part};
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{Column, fields, one_line, shortened, table};

/// Most rows of a list.
const MAX_ROWS: usize = 1000;

/// How deployments are shown.
const DEPLOYMENT_COLUMNS: [Column; 8] = [
    ("AGENT", "/agent"),
    ("NAMESPACE", "/namespace"),
    ("ALIAS", "/alias"),
    ("REPLICAS", "/ready_of_wanted"),
    ("RANGE", "/range"),
    ("STATE", "/state"),
    ("REASON", "/reason"),
    ("DEPLOYMENT", "/id"),
];

/// How the tools of an agent are shown.
const TOOL_COLUMNS: [Column; 5] = [
    ("TOOL", "/name"),
    ("SOURCE", "/source"),
    ("TOKENS", "/tokens"),
    ("IN PROMPT", "/shown"),
    ("DESCRIPTION", "/description"),
];
/// How the replicas of an agent are shown.
const REPLICA_COLUMNS: [Column; 7] = [
    ("REPLICA", "/id"),
    ("STATE", "/state"),
    ("BACKEND", "/backend"),
    ("RUNS", "/in_flight"),
    ("CPU MS", "/cpu_ms"),
    ("MEMORY MIB", "/memory_mib"),
    ("REASON", "/reason"),
];
/// Longest description of a tool that is shown.
const SHOWN_DESCRIPTION_CHARS: usize = 60;

/// Deployed agents.
#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// List what is deployed
    #[command(after_help = "Examples:\n  rune agent ls\n  rune agent ls --ns prod -o json")]
    Ls {
        /// Only of this namespace
        #[arg(long, visible_alias = "ns")]
        namespace: Option<String>,
    },
    /// Show one agent with the health of its replicas, its limits and what its tools take of every prompt
    #[command(
        after_help = "Examples:\n  rune agent inspect hello\n  rune agent inspect hello --ns prod --alias canary\n  rune agent inspect hello -o json"
    )]
    Inspect(Named),
    /// List the sessions of an agent's last 1000 requests, newest first
    #[command(after_help = "Examples:\n  rune agent sessions hello")]
    Sessions(Named),
    /// Stop an agent: scale it to 0 replicas
    #[command(after_help = "Examples:\n  rune agent stop hello")]
    Stop(Named),
    /// Remove an agent's deployment; sessions and requests stay readable
    #[command(after_help = "Examples:\n  rune agent rm hello\n  rune agent rm hello --force")]
    Rm {
        #[command(flatten)]
        named: Named,
        /// Also while requests of the agent run
        #[arg(long)]
        force: bool,
    },
    /// Print what an agent's replicas have logged, and the journals of its requests as log lines
    #[command(after_help = "Examples:\n  rune agent logs hello\n  rune agent logs hello -f")]
    Logs {
        #[command(flatten)]
        named: Named,
        /// Go on with the requests that come from now on
        #[arg(short, long)]
        follow: bool,
        /// Requests to begin with, and lines of each replica
        #[arg(long, default_value_t = 20)]
        tail: usize,
    },
}

/// One agent.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Name of the agent
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) target: Target,
}

pub(crate) async fn run(context: &Context, command: AgentCommand) -> Outcome {
    let client = context.client()?;
    match command {
        AgentCommand::Ls { namespace } => ls(context, &client, namespace).await,
        AgentCommand::Inspect(named) => inspect(context, &client, &named).await,
        AgentCommand::Sessions(named) => sessions(context, &client, &named).await,
        AgentCommand::Stop(named) => {
            let row = deployment(&client, &named).await?;
            stop::report(context, &stop::scale_to_zero(&client, id_of(&row)).await?)
        }
        AgentCommand::Rm { named, force } => remove(context, &client, &named, force).await,
        AgentCommand::Logs {
            named,
            follow,
            tail,
        } => logs::run(context, &client, &named, follow, tail).await,
    }
}

async fn ls(context: &Context, client: &Client, namespace: Option<String>) -> Outcome {
    let mut rows = super::status::deployments(client).await?;
    rows.retain(|row| {
        namespace
            .as_deref()
            .is_none_or(|namespace| row["namespace"] == namespace)
    });
    let nothing = "nothing is deployed; `rune run DIR` deploys an agent";
    if context.output.is_machine() {
        context.output.list(&rows, &DEPLOYMENT_COLUMNS)?;
    } else if rows.is_empty() {
        context.output.note(nothing);
    } else {
        context.output.text(&deployments_table(&rows))?;
    }
    Ok(Exit::Ok)
}

/// Deployments for people: ready and wanted replicas, between how many the daemon decides, and why it is as it is.
pub(crate) fn deployments_table(rows: &[Value]) -> String {
    let shown = rows.iter().map(|row| {
        let mut row = row.clone();
        let ready = format!("{}/{}", row["ready_replicas"], row["replicas"]);
        row["ready_of_wanted"] = ready.into();
        let scaling = row["scaling"].clone();
        if scaling.is_object() {
            let range = format!("{}-{}", scaling["min_replicas"], scaling["max_replicas"]);
            row["range"] = range.into();
        }
        if row["reason"] == "" && scaling.is_object() {
            row["reason"] = scaling["reason"].clone();
        }
        row
    });
    table(&shown.collect::<Vec<_>>(), &DEPLOYMENT_COLUMNS)
}

async fn inspect(context: &Context, client: &Client, named: &Named) -> Outcome {
    let path = format!("/v1/agents/{}", part(&named.name));
    let agent = client.get(Api::Gateway, &named.target.query(&path)).await?;
    context.output.data(&agent, described)?;
    Ok(Exit::Ok)
}

/// An agent for people: its fields, its replicas, then its tools with what they take of a prompt.
fn described(agent: &Value) -> String {
    let mut agent = agent.clone();
    let part = |agent: &mut Value, name: &str| {
        let fields = agent.as_object_mut();
        fields.and_then(|fields| fields.remove(name))
    };
    let tools = part(&mut agent, "tools");
    let tokens = part(&mut agent, "tool_tokens").unwrap_or_default();
    let replicas = part(&mut agent, "replicas");
    let mut text = fields(&agent);
    if let Some(Value::Array(mut replicas)) = replicas
        && !replicas.is_empty()
    {
        for replica in &mut replicas {
            let bytes = replica["memory_bytes"].as_u64();
            replica["memory_mib"] = bytes.map(|bytes| bytes >> 20).into();
        }
        text.push_str("\n\n");
        text.push_str(&table(&replicas, &REPLICA_COLUMNS));
    }
    let Some(Value::Array(mut tools)) = tools else {
        return text;
    };
    for tool in &mut tools {
        let shown = if tool["loaded"] == true {
            "yes"
        } else {
            "deferred"
        };
        tool["shown"] = shown.into();
        let description = one_line(tool["description"].as_str().unwrap_or_default());
        tool["description"] = shortened(&description, SHOWN_DESCRIPTION_CHARS).into();
    }
    if tools.is_empty() {
        return text;
    }
    text.push_str("\n\n");
    text.push_str(&table(&tools, &TOOL_COLUMNS));
    text.push_str(&format!(
        "\n\nabout {} tokens of tools in every prompt",
        tokens["loaded"]
    ));
    if tokens["deferred"] != 0 {
        text.push_str(&format!(
            "; {} more are of tools that the model searches for",
            tokens["deferred"]
        ));
    }
    text
}

/// The sessions of the agent's newest requests.
async fn sessions(context: &Context, client: &Client, named: &Named) -> Outcome {
    let query = [
        ("ns", named.target.namespace.as_str()),
        ("agent", &named.name),
    ];
    let requests = client
        .list(Api::Gateway, "/v1/requests", &query, MAX_ROWS)
        .await?;
    let mut rows: Vec<Value> = Vec::new();
    for request in requests {
        match rows
            .iter_mut()
            .find(|row| row["id"] == request["session_id"])
        {
            Some(row) => {
                let count = row["requests"].as_u64().unwrap_or_default() + 1;
                row["requests"] = count.into();
            }
            None => rows.push(json!({
                "id": request["session_id"],
                "requests": 1,
                "last_status": request["status"],
                "updated_at": request["updated_at"],
            })),
        }
    }
    let columns = [
        ("SESSION", "/id"),
        ("REQUESTS", "/requests"),
        ("LAST", "/last_status"),
        ("UPDATED", "/updated_at"),
    ];
    context.output.list(&rows, &columns)?;
    Ok(Exit::Ok)
}

async fn remove(context: &Context, client: &Client, named: &Named, force: bool) -> Outcome {
    let row = deployment(client, named).await?;
    if !force {
        let query = [
            ("ns", named.target.namespace.as_str()),
            ("agent", named.name.as_str()),
            ("status", "running"),
        ];
        let running = client
            .list(Api::Gateway, "/v1/requests", &query, MAX_ROWS)
            .await?;
        let here = running
            .iter()
            .filter(|request| request["deployment_id"] == row["id"])
            .count();
        if here > 0 {
            let message = format!("{here} requests of `{}` are running", named.name);
            return Err(Failure::new(Exit::Failed, message)
                .help("wait for them, `rune requests cancel ID`, or use --force"));
        }
    }
    rm::remove(client, id_of(&row)).await?;
    rm::report(
        context,
        &format!(
            "{}/{}:{}",
            named.target.namespace, named.name, named.target.alias
        ),
    )
}

/// The deployment of an agent, which is to be there.
pub(crate) async fn deployment(client: &Client, named: &Named) -> Outcome<Value> {
    let found = find(client, named).await?;
    found.ok_or_else(|| absent(named).help("`rune agent ls` lists what is deployed"))
}

/// The failure of what needs a deployment that is not there.
pub(crate) fn absent(named: &Named) -> Failure {
    let Target { namespace, alias } = &named.target;
    let message = format!("agent `{namespace}/{}:{alias}` is not deployed", named.name);
    Failure::new(Exit::Failed, message)
}

/// The deployment of an agent, where it has one.
pub(crate) async fn find(client: &Client, named: &Named) -> Outcome<Option<Value>> {
    let Target { namespace, alias } = &named.target;
    let query = [
        ("ns", namespace.as_str()),
        ("agent", &named.name),
        ("alias", alias),
    ];
    let rows = client
        .list(Api::ControlPlane, "/v1/deployments", &query, 1)
        .await?;
    Ok(rows.into_iter().next())
}

pub(crate) fn id_of(row: &Value) -> &str {
    row["id"].as_str().unwrap_or_default()
}
