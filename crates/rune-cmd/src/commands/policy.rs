//! `rune policy`

mod new_policy;

use std::path::PathBuf;

use clap::Subcommand;
use jiff::Timestamp;
use rune_runtime::{JournaledCall, JournaledResource, PolicyChange, PolicyComparison, Verdict};
use serde_json::{Value, json};

use crate::cli::Target;
use crate::client::{Api, Client};
use crate::commands::since::since;
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{shortened, table};

/// Most journaled calls that are decided again.
const MAX_CALLS: usize = 100_000;
/// Most decisions of one request that are shown.
const MAX_VERDICTS: usize = 10_000;
/// Calls of each kind of change that are shown to people; programs get all of them.
const SHOWN_EXAMPLES: usize = 5;
/// Longest arguments of a call that are shown to people.
const ARGUMENTS_CHARS: usize = 80;

/// What policy decided, and what another one would have decided.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Print every decision about a request, with the rules that made it
    #[command(
        after_help = "Examples:\n  rune policy explain req_0198c0ffee0198c0ffee0198c0ffee01\n  rune policy explain req_0198c0ffee0198c0ffee0198c0ffee01 -o json"
    )]
    Explain {
        /// The request
        request: String,
    },
    /// Decide the calls of the journal again with another policy. Nothing runs
    #[command(
        after_help = "Examples:\n  rune policy test ./ops --since 7d\n  rune policy test strict.cedar --agent ops --since 24h -o json\n\nExit codes: 0 nothing would change, 1 something would, 2 NEW is not valid."
    )]
    Test {
        /// A Runefile or an agent directory, or a Cedar file in place of the deployed agent's
        new: PathBuf,
        /// Calls of requests since then: `7d`, `12h`, or a time in RFC 3339
        #[arg(long, default_value = "7d", value_parser = since)]
        since: Timestamp,
        /// The agent whose calls they are [default: the one NEW describes]
        #[arg(long)]
        agent: Option<String>,
        #[command(flatten)]
        target: Target,
    },
}

pub(crate) async fn run(context: &Context, command: PolicyCommand) -> Outcome {
    let client = context.client()?;
    match command {
        PolicyCommand::Explain { request } => explain(context, &client, &request).await,
        PolicyCommand::Test {
            new,
            since,
            agent,
            target,
        } => {
            let new = new_policy::load(context, &client, &new, agent.as_deref(), &target).await?;
            let agent = agent.unwrap_or_else(|| new.package.runefile.name.to_string());
            let calls = calls(context, &client, &agent, &target, since).await?;
            let compared = new.policies.compare(&new.package, &target.namespace, calls);
            report(context, &compared, &agent, since)
        }
    }
}

async fn explain(context: &Context, client: &Client, request: &str) -> Outcome {
    let query = [("request", request)];
    let rows = client.list(Api::Gateway, "/v1/policy-verdicts", &query, MAX_VERDICTS);
    let rows = rows.await?;
    context.output.data(&Value::from(rows.clone()), |_| {
        if rows.is_empty() {
            return format!("policy decided nothing about request {request}");
        }
        let rows: Vec<Value> = rows.iter().map(explained).collect();
        let columns = [
            ("SEQ", "/seq"),
            ("ACTION", "/action"),
            ("RESOURCE", "/resource"),
            ("VERDICT", "/verdict"),
            ("POLICIES", "/policies"),
            ("REASON", "/reason"),
            ("ARGUMENTS", "/arguments"),
        ];
        table(&rows, &columns)
    })?;
    Ok(Exit::Ok)
}

fn explained(row: &Value) -> Value {
    let mut row = row.clone();
    let policies = row["policies"].as_array().into_iter().flatten();
    let policies: Vec<&str> = policies.filter_map(Value::as_str).collect();
    row["policies"] = policies.join(", ").into();
    if row["verdict"] != row["by_policy"] {
        let word = |name: &str| row[name].as_str().unwrap_or("?").to_owned();
        row["verdict"] = format!("{} (policy: {})", word("verdict"), word("by_policy")).into();
    }
    if !row["arguments"].is_null() {
        row["arguments"] = shortened(&row["arguments"].to_string(), ARGUMENTS_CHARS).into();
    }
    row
}

/// The calls of the journal about which policy decided.
async fn calls(
    context: &Context,
    client: &Client,
    agent: &str,
    target: &Target,
    since: Timestamp,
) -> Outcome<Vec<JournaledCall>> {
    let since = since.to_string();
    let query = [
        ("agent", agent),
        ("ns", &target.namespace),
        ("since", &since),
        ("undecided", "true"),
    ];
    let rows = client.list(Api::Gateway, "/v1/policy-verdicts", &query, MAX_CALLS);
    let rows = rows.await?;
    if rows.len() == MAX_CALLS {
        let message = format!("only the newest {MAX_CALLS} decisions are looked at");
        context.output.note(&message);
    }
    rows.iter()
        .map(|row| {
            call(row).ok_or_else(|| {
                let message = format!("the gateway lists a decision that is not one: {row}");
                Failure::new(Exit::Failed, message)
            })
        })
        .collect()
}

fn call(row: &Value) -> Option<JournaledCall> {
    let text = |name: &str| row[name].as_str();
    Some(JournaledCall {
        request_id: text("request_id")?.parse().ok()?,
        call_id: text("call_id").map(str::to_owned),
        caller: text("caller")?.to_owned(),
        resource: JournaledResource::of(
            text("action")?,
            text("resource")?,
            &row["attributes"],
            &row["arguments"],
        )?,
        verdict: Some(Verdict::parse(text("by_policy")?)?),
    })
}

fn report(
    context: &Context,
    compared: &PolicyComparison,
    agent: &str,
    since: Timestamp,
) -> Outcome {
    let value = json!({
        "agent": agent,
        "since": since.to_string(),
        "calls": compared.calls,
        "unchanged": compared.is_unchanged(),
        "newly_denied": compared.newly_denied,
        "newly_asked": compared.newly_asked,
        "newly_allowed": compared.newly_allowed,
    });
    context.output.data(&value, |_| {
        let kinds = [
            ("newly denied", &compared.newly_denied),
            ("newly asked", &compared.newly_asked),
            ("newly allowed", &compared.newly_allowed),
        ];
        let counts = kinds.map(|(kind, changes)| format!("{} {kind}", changes.len()));
        let counts = counts.join(", ");
        let mut text = format!(
            "{} calls of {agent} since {since}: {counts}",
            compared.calls
        );
        for (kind, changes) in kinds {
            text.push_str(&examples(kind, changes));
        }
        text
    })?;
    Ok(if compared.is_unchanged() {
        Exit::Ok
    } else {
        Exit::Failed
    })
}

fn examples(kind: &str, changes: &[PolicyChange]) -> String {
    if changes.is_empty() {
        return String::new();
    }
    let shown = changes.iter().take(SHOWN_EXAMPLES);
    let rows: Vec<Value> = shown.map(example).collect();
    let columns = [
        ("ACTION", "/action"),
        ("RESOURCE", "/resource"),
        ("WAS", "/was"),
        ("REASON", "/reason"),
        ("ARGUMENTS", "/arguments"),
        ("REQUEST", "/request"),
    ];
    let mut text = format!("\n\n{kind}:\n{}", table(&rows, &columns));
    if let Some(more) = changes.len().checked_sub(SHOWN_EXAMPLES).filter(|n| *n > 0) {
        text.push_str(&format!("\nand {more} more (`-o json` lists them)"));
    }
    text
}

fn example(change: &PolicyChange) -> Value {
    let arguments = match &change.arguments {
        Value::Null => String::new(),
        arguments => shortened(&arguments.to_string(), ARGUMENTS_CHARS),
    };
    json!({
        "action": change.action,
        "resource": change.resource,
        "was": change.before.as_str(),
        "reason": change.after.reason,
        "arguments": arguments,
        "request": change.request_id.to_string(),
    })
}
