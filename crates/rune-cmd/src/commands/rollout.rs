//! `rune rollout`

use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::agent::{Named, deployment, id_of};
use super::run::{Patience, READY_MARGIN, wait, wait_unchanged};
use crate::client::{Api, Client, part};
use crate::context::Context;
use crate::failure::{Exit, Outcome};
use crate::output::fields;

/// How long the daemon waits before it answers the deployment as it is, in milliseconds.
const FIRST_WAIT_MS: u32 = 1000;
/// How long replicas are waited for: the agent's own limit is not known here.
const PATIENCE: Patience = Patience::Still(READY_MARGIN.saturating_add(Duration::from_secs(300)));
/// Most replicas that are counted.
const MAX_REPLICAS: usize = 1000;

/// How the version of an agent is replaced by another one.
#[derive(Debug, Subcommand)]
pub(crate) enum RolloutCommand {
    /// Show which versions run, with how many replicas, how their requests end, and why a rollout was rolled back
    #[command(
        after_help = "Examples:\n  rune rollout status hello\n  rune rollout status hello --ns prod -o json"
    )]
    Status(Named),
    /// Have a canary take the place of what runs, replica by replica
    #[command(after_help = "Examples:\n  rune rollout promote hello")]
    Promote(Named),
    /// End a rollout without its version; where none is under way, go back to the release before
    #[command(
        after_help = "Examples:\n  rune rollout undo hello\n  rune rollout undo hello --ns prod"
    )]
    Undo(Named),
}

pub(crate) async fn run(context: &Context, command: RolloutCommand) -> Outcome {
    let client = context.client()?;
    match command {
        RolloutCommand::Status(named) => {
            let row = deployment(&client, &named).await?;
            show(context, &client, row).await
        }
        RolloutCommand::Promote(named) => {
            let row = deployment(&client, &named).await?;
            let path = path(&row, "promote");
            let row = client.post(Api::ControlPlane, &path, &json!({})).await?;
            let row = wait(&client, row, PATIENCE).await?;
            show(context, &client, row).await
        }
        RolloutCommand::Undo(named) => {
            let row = deployment(&client, &named).await?;
            let path = path(&row, "rollback");
            let row = client.post(Api::ControlPlane, &path, &json!({})).await?;
            let row = wait_unchanged(&client, row, PATIENCE).await?;
            show(context, &client, row).await
        }
    }
}

/// Where a deployment is told about its rollout; it is answered once the daemon has looked.
pub(crate) fn path(row: &Value, action: &str) -> String {
    let id = part(id_of(row));
    format!("/v1/deployments/{id}/{action}?wait=ready&timeout_ms={FIRST_WAIT_MS}")
}

/// Prints how a deployment stands, with its versions by name and their replicas.
pub(crate) async fn show(context: &Context, client: &Client, mut row: Value) -> Outcome {
    let query = [("deployment", id_of(&row))];
    let replicas = client
        .list(Api::ControlPlane, "/v1/replicas", &query, MAX_REPLICAS)
        .await?;
    let ready = |version: &Value| {
        let of = |it: &&Value| it["state"] == "ready" && it["version_id"] == *version;
        replicas.iter().filter(of).count()
    };
    row["version"] = named(client, &row["version_id"]).await?;
    row["ready_replicas"] = ready(&row["version_id"]).into();
    if row["rollout"].is_object() {
        let rollout = &row["rollout"];
        let (new, old) = (&rollout["version_id"], &rollout["from_version_id"]);
        let (version, from) = (named(client, new).await?, named(client, old).await?);
        let count = ready(new);
        row["rollout"]["version"] = version;
        row["rollout"]["from_version"] = from;
        row["rollout"]["ready_replicas"] = count.into();
    }
    for n in 0..row["releases"].as_array().map_or(0, Vec::len) {
        row["releases"][n]["version"] = named(client, &row["releases"][n]["version_id"]).await?;
    }
    context.output.data(&row, text)?;
    Ok(Exit::Ok)
}

/// The semantic version of a version.
async fn named(client: &Client, id: &Value) -> Outcome<Value> {
    let id = id.as_str().unwrap_or_default();
    let path = format!("/v1/agent-versions/{}", part(id));
    let mut version = client.get(Api::ControlPlane, &path).await?;
    Ok(version["version"].take())
}

fn text(row: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let version = |of: &Value| format!("{} ({})", word(&of["version"]), word(&of["version_id"]));
    let mut shown = json!({
        "deployment": format!(
            "{}/{}:{} ({})",
            word(&row["namespace"]), word(&row["agent"]), word(&row["alias"]), word(&row["id"])
        ),
        "state": row["state"],
        "reason": row["reason"],
        "version": version(row),
        "replicas": format!("{} ready, {} wanted", row["ready_replicas"], row["replicas"]),
    });
    let rollout = &row["rollout"];
    if rollout.is_object() {
        let tally = |of: &Value| format!("{} of the last {} failed", of["failed"], of["ended"]);
        let canary = rollout["strategy"] == "canary";
        let share = if canary {
            format!(", {} %", rollout["weight"])
        } else {
            String::new()
        };
        shown["rollout"] = format!(
            "{}: {} from {} ({}{share})",
            word(&rollout["state"]),
            version(rollout),
            word(&rollout["from_version"]),
            word(&rollout["strategy"]),
        )
        .into();
        shown["rollout reason"] = rollout["reason"].clone();
        shown["new replicas"] = format!("{} ready", rollout["ready_replicas"]).into();
        shown["new requests"] = tally(&rollout["requests"]).into();
        shown["old requests"] = tally(&rollout["from_requests"]).into();
    }
    let releases = row["releases"].as_array();
    let releases: Vec<String> = releases
        .into_iter()
        .flatten()
        .map(|it| word(&it["version"]))
        .collect();
    shown["earlier"] = releases.join(", ").into();
    fields(&shown)
}
