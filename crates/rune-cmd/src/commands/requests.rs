//! `rune requests`

mod fork;
mod window;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::client::{Api, Client, Follow, part};
use crate::commands::usage::usd;
use crate::context::Context;
use crate::events::as_line;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{one_line, shortened};

/// Longest line of an event for people.
const LINE_CHARS: usize = 400;

/// Most approvals of one request that are decided at once.
const MAX_APPROVALS: usize = 1000;

/// Requests and their journals.
#[derive(Debug, Subcommand)]
pub(crate) enum RequestsCommand {
    /// List requests, newest first
    #[command(
        after_help = "Examples:\n  rune requests ls\n  rune requests ls --agent hello --status failed -o json"
    )]
    Ls {
        /// Only of this agent
        #[arg(long)]
        agent: Option<String>,
        /// Only of agents in this namespace
        #[arg(long, visible_alias = "ns")]
        namespace: Option<String>,
        /// Only in this state
        #[arg(long, value_parser = ["accepted", "running", "input-required", "completed", "failed", "cancelled"])]
        status: Option<String>,
        /// Only of this session
        #[arg(long)]
        session_id: Option<String>,
        /// Requests at the most
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Show one request with its usage and the agents it called
    #[command(
        after_help = "Examples:\n  rune requests show req_0198c0ffee0198c0ffee0198c0ffee01\n  rune requests show req_0198c0ffee0198c0ffee0198c0ffee01 --context"
    )]
    Show {
        /// The request
        id: String,
        /// What filled the window of each model call, and what was left out
        #[arg(long)]
        context: bool,
    },
    /// Print the journal of a request
    #[command(
        after_help = "Examples:\n  rune requests events req_0198c0ffee0198c0ffee0198c0ffee01\n  rune requests events req_0198c0ffee0198c0ffee0198c0ffee01 -f -o json"
    )]
    Events {
        /// The request
        id: String,
        /// Go on until the request ends
        #[arg(short, long)]
        follow: bool,
        /// Only what comes after this entry
        #[arg(long, default_value_t = 0, value_name = "SEQ")]
        after: u64,
    },
    /// Cancel a request: its model call and its tools end
    #[command(
        after_help = "Examples:\n  rune requests cancel req_0198c0ffee0198c0ffee0198c0ffee01"
    )]
    Cancel {
        /// The request
        id: String,
    },
    /// Run a request again over its journal: no model is asked, no tool runs
    #[command(
        after_help = "Examples:\n  rune requests replay req_0198c0ffee0198c0ffee0198c0ffee01\n\nExit codes: 0 it went the same way, 1 it did not, or it cannot be replayed."
    )]
    Replay {
        /// The request
        id: String,
    },
    /// Make a new request that begins with the journal of another one and goes on from there
    #[command(
        after_help = "Examples:\n  rune requests fork req_0198c0ffee0198c0ffee0198c0ffee01@4\n  rune requests fork req_0198c0ffee0198c0ffee0198c0ffee01@4 --model openai:gpt-5-mini --stream\n  rune requests fork req_0198c0ffee0198c0ffee0198c0ffee01@2 --instructions prompt.md --policy strict.yaml\n\n`rune requests events ID` shows the entries. What is before SEQ is neither done nor charged again."
    )]
    Fork(fork::ForkArgs),
    /// List what waits for approval, oldest first
    #[command(
        after_help = "Examples:\n  rune requests approvals\n  rune requests approvals --agent ops -o json"
    )]
    Approvals {
        /// Only of this agent
        #[arg(long)]
        agent: Option<String>,
        /// Only of agents in this namespace
        #[arg(long, visible_alias = "ns")]
        namespace: Option<String>,
        /// In which state
        #[arg(long, default_value = "waiting", value_parser = ["waiting", "approved", "denied", "withdrawn", "all"])]
        state: String,
        /// Approvals at the most
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Approve, or deny, what a request waits for
    #[command(
        after_help = "Examples:\n  rune requests approve req_0198c0ffee0198c0ffee0198c0ffee01\n  rune requests approve req_0198c0ffee0198c0ffee0198c0ffee01 --deny --note \"not on a Friday\"\n  rune requests approve req_0198c0ffee0198c0ffee0198c0ffee01 --always=agent"
    )]
    Approve {
        /// The request
        id: String,
        /// Only this one of its approvals
        #[arg(long, value_name = "APPROVAL_ID")]
        approval: Option<String>,
        /// Deny instead
        #[arg(long)]
        deny: bool,
        /// Decide later calls that the same rules ask about the same way
        #[arg(long, value_name = "SCOPE", num_args = 0..=1, require_equals = true, default_missing_value = "session", value_parser = ["session", "agent"])]
        always: Option<String>,
        /// For the record; the model is told why a call was denied
        #[arg(long)]
        note: Option<String>,
    },
}

pub(crate) async fn run(context: &Context, command: RequestsCommand) -> Outcome {
    let client = context.client()?;
    match command {
        RequestsCommand::Ls {
            agent,
            namespace,
            status,
            session_id,
            limit,
        } => {
            let filters = [
                ("agent", agent),
                ("ns", namespace),
                ("status", status),
                ("session", session_id),
            ];
            ls(context, &client, &filters, limit).await
        }
        RequestsCommand::Show { id, context: true } => window::show(context, &client, &id).await,
        RequestsCommand::Show { id, context: false } => show(context, &client, &id).await,
        RequestsCommand::Events { id, follow, after } => {
            events(context, &client, &id, follow, after).await
        }
        RequestsCommand::Cancel { id } => cancel(context, &client, &id).await,
        RequestsCommand::Replay { id } => replay(context, &client, &id).await,
        RequestsCommand::Fork(args) => fork::run(context, &client, args).await,
        RequestsCommand::Approvals {
            agent,
            namespace,
            state,
            limit,
        } => {
            let filters = [("agent", agent), ("ns", namespace), ("state", Some(state))];
            approvals(context, &client, &filters, limit).await
        }
        RequestsCommand::Approve {
            id,
            approval,
            deny,
            always,
            note,
        } => {
            let decision = if deny { "deny" } else { "approve" };
            let body = json!({ "decision": decision, "remember": always, "note": note });
            approve(context, &client, &id, approval.as_deref(), &body).await
        }
    }
}

async fn ls(
    context: &Context,
    client: &Client,
    filters: &[(&str, Option<String>)],
    limit: usize,
) -> Outcome {
    let query: Vec<(&str, &str)> = filters
        .iter()
        .filter_map(|(name, value)| Some((*name, value.as_deref()?)))
        .collect();
    let rows = client
        .list(Api::Gateway, "/v1/requests", &query, limit)
        .await?;
    let columns = [
        ("REQUEST", "/id"),
        ("AGENT", "/agent"),
        ("STATUS", "/status"),
        ("SESSION", "/session_id"),
        ("TOOLS", "/tool_calls"),
        ("CREATED", "/created_at"),
    ];
    context.output.list(&rows, &columns)?;
    Ok(Exit::Ok)
}

async fn get(client: &Client, id: &str) -> Outcome<Value> {
    client
        .get(Api::Gateway, &format!("/v1/requests/{}", part(id)))
        .await
}

async fn show(context: &Context, client: &Client, id: &str) -> Outcome {
    let mut request = get(client, id).await?;
    if !context.output.is_machine() {
        request["cost"] = cost(&request["cost"]);
        if let Some(origin) = request.get_mut("forked_from") {
            origin["inherited"]["cost"] = cost(&origin["inherited"]["cost"]);
        }
    }
    let path = format!("/v1/requests/{}/calls", part(id));
    let tree = client.get(Api::Gateway, &path).await?;
    let calls: Vec<Value> = tree["calls"].as_array().cloned().unwrap_or_default();
    if calls.is_empty() {
        context.output.object(&request)?;
        return Ok(Exit::Ok);
    }
    request["tree_usage"] = tree["usage"].clone();
    if context.output.is_machine() {
        request["calls"] = calls.into();
        context.output.object(&request)?;
        return Ok(Exit::Ok);
    }
    context.output.object(&request)?;
    let mut rows = Vec::new();
    let first = calls.iter().filter_map(|call| call["depth"].as_u64()).min();
    branch(&calls, id, first.unwrap_or_default(), &mut rows);
    let columns = [
        ("CALLER", "/caller"),
        ("CALLEE", "/callee"),
        ("DEPTH", "/depth"),
        ("STATUS", "/status"),
        ("MS", "/latency_ms"),
        ("REQUEST", "/request_id"),
    ];
    context.output.text("")?;
    context.output.list(&rows, &columns)?;
    Ok(Exit::Ok)
}

/// The calls below a request, each before what it called, moved to the right by its level.
fn branch(calls: &[Value], parent: &str, first: u64, rows: &mut Vec<Value>) {
    for call in calls.iter().filter(|call| call["parent_id"] == parent) {
        let level = call["depth"]
            .as_u64()
            .unwrap_or_default()
            .saturating_sub(first);
        let indent = "  ".repeat(usize::try_from(level).unwrap_or_default());
        let callee = call["callee"].as_str().unwrap_or_default();
        let mut row = call.clone();
        row["callee"] = format!("{indent}{callee}").into();
        rows.push(row);
        branch(
            calls,
            call["request_id"].as_str().unwrap_or_default(),
            first,
            rows,
        );
    }
}

async fn events(context: &Context, client: &Client, id: &str, follow: bool, after: u64) -> Outcome {
    let request = get(client, id).await?;
    // Without -f: what is there. The events of a running request do not end by themselves.
    let until = if follow {
        u64::MAX
    } else {
        request["last_seq"].as_u64().unwrap_or_default()
    };
    if after >= until {
        return Ok(Exit::Ok);
    }
    let mut events = Follow::request(client.clone(), Some(id.to_owned()), after);
    while let Some(event) = events.next().await? {
        if context.output.is_machine() {
            context.output.text(&as_line(&event).to_string())?;
        } else {
            let seq = event.seq.map(|seq| seq.to_string()).unwrap_or_default();
            let line = format!("{seq:>4}  {:<16} {}", event.name, event.data);
            context
                .output
                .text(&shortened(&one_line(&line), LINE_CHARS))?;
        }
        if event.seq.is_some_and(|seq| seq >= until) {
            break;
        }
    }
    Ok(Exit::Ok)
}

async fn cancel(context: &Context, client: &Client, id: &str) -> Outcome {
    let path = format!("/v1/requests/{}/cancel", part(id));
    let request = client.post(Api::Gateway, &path, &json!({})).await?;
    context.output.data(&request, |request| {
        let status = request["status"].as_str().unwrap_or("?");
        format!("request {id} is {status}")
    })?;
    Ok(Exit::Ok)
}

async fn replay(context: &Context, client: &Client, id: &str) -> Outcome {
    let path = format!("/v1/requests/{}/replay", part(id));
    let replayed = client.post(Api::Gateway, &path, &json!({})).await?;
    context.output.data(&replayed, |replayed| {
        let hash = replayed["hash"].as_str().unwrap_or("?");
        let divergence = &replayed["divergence"];
        if divergence.is_null() {
            return format!("request {id} replays the same: {hash}");
        }
        let shown = |name: &str| {
            let value = divergence[name].to_string();
            format!("\n  {name:<8} {}", shortened(&one_line(&value), LINE_CHARS))
        };
        let field = divergence["field"].as_str().unwrap_or_default();
        let place = if field.is_empty() {
            String::new()
        } else {
            format!(" at {field}")
        };
        format!(
            "request {id} does not replay the same: entry {} ({}) differs{place}{}{}",
            divergence["seq"],
            divergence["kind"].as_str().unwrap_or("?"),
            shown("journal"),
            shown("replay"),
        )
    })?;
    Ok(if replayed["equal"] == true {
        Exit::Ok
    } else {
        Exit::Failed
    })
}

async fn approvals(
    context: &Context,
    client: &Client,
    filters: &[(&str, Option<String>)],
    limit: usize,
) -> Outcome {
    let query: Vec<(&str, &str)> = filters
        .iter()
        .filter_map(|(name, value)| Some((*name, value.as_deref()?)))
        .collect();
    let rows = client
        .list(Api::Gateway, "/v1/approvals", &query, limit)
        .await?;
    let columns = [
        ("REQUEST", "/request_id"),
        ("APPROVAL", "/approval_id"),
        ("AGENT", "/agent"),
        ("TOOL", "/tool"),
        ("STATE", "/state"),
        ("REASON", "/reason"),
        ("DEADLINE", "/deadline"),
    ];
    context.output.list(&rows, &columns)?;
    Ok(Exit::Ok)
}

/// Decides everything a request waits for, or one thing of it.
async fn approve(
    context: &Context,
    client: &Client,
    id: &str,
    approval: Option<&str>,
    body: &Value,
) -> Outcome {
    let mut waiting = client
        .list(
            Api::Gateway,
            "/v1/approvals",
            &[("request", id)],
            MAX_APPROVALS,
        )
        .await?;
    if let Some(approval) = approval {
        waiting.retain(|row| row["approval_id"] == approval);
    }
    if waiting.is_empty() {
        let request = get(client, id).await?;
        let status = request["status"].as_str().unwrap_or("?");
        let message = match approval {
            Some(approval) => format!("request {id} does not wait for approval {approval}"),
            None => format!("request {id} is {status} and waits for nothing"),
        };
        return Err(Failure::new(Exit::Failed, message)
            .help(format!("what happened to it: rune requests events {id}")));
    }
    let mut decided = Vec::new();
    for row in waiting {
        let approval = row["approval_id"].as_str().unwrap_or_default();
        let path = format!("/v1/requests/{}/approvals/{}", part(id), part(approval));
        decided.push(client.post(Api::Gateway, &path, body).await?);
    }
    context.output.data(&Value::from(decided), |decided| {
        let lines = decided.as_array().into_iter().flatten().map(|row| {
            let text = |key: &str| row[key].as_str().unwrap_or("?").to_owned();
            format!("{} is {} for request {id}", text("tool"), text("state"))
        });
        lines.collect::<Vec<_>>().join("\n")
    })?;
    Ok(Exit::Ok)
}

/// A cost for people.
fn cost(cost: &Value) -> Value {
    let known = usd(&cost["micro_usd"]);
    let unpriced = cost["unpriced_calls"].as_u64().unwrap_or_default();
    match (known.as_str(), unpriced) {
        (None, 0) => Value::Null,
        (None, _) => Value::from("unknown: no price is known for the model"),
        (Some(known), 0) => Value::from(format!("{known} USD")),
        (Some(known), _) => Value::from(format!(
            "{known} USD and {unpriced} calls without a known price"
        )),
    }
}
