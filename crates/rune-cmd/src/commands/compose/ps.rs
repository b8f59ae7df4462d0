//! `rune compose ps`

use serde_json::{Value, json};

use super::project::{Deployed, Project};
use crate::client::{Api, Client, part};
use crate::context::Context;
use crate::failure::{Exit, Outcome};
use crate::output::Column;

/// Most replicas that are counted.
const MAX_REPLICAS: usize = 1000;

const COLUMNS: [Column; 7] = [
    ("AGENT", "/name"),
    ("NAMESPACE", "/namespace"),
    ("ALIAS", "/alias"),
    ("VERSION", "/version"),
    ("READY", "/ready"),
    ("STATE", "/state"),
    ("REASON", "/reason"),
];

pub(super) async fn run(context: &Context, project: &Project) -> Outcome {
    let client = context.client()?;
    let mut deployed = project.deployed(&client).await?;
    let mut rows = Vec::new();
    for agent in project.agents() {
        let found = deployed.iter().position(|row| {
            (row.name(), row.namespace(), row.alias())
                == (agent.name.as_str(), &agent.namespace, &agent.alias)
        });
        match found {
            Some(index) => rows.push(row(&client, &deployed.remove(index), true).await?),
            None => rows.push(json!({
                "name": agent.name.as_str(),
                "namespace": agent.namespace,
                "alias": agent.alias,
                "ready_replicas": 0,
                "replicas": agent.replicas.unwrap_or(1),
                "state": "missing",
                "reason": "not deployed",
                "in_file": true,
            })),
        }
    }
    for orphan in &deployed {
        rows.push(row(&client, orphan, false).await?);
    }
    for row in &mut rows {
        let ready = format!("{}/{}", row["ready_replicas"], row["replicas"]);
        if !context.output.is_machine() {
            row["ready"] = ready.into();
        }
    }
    context.output.list(&rows, &COLUMNS)?;
    Ok(Exit::Ok)
}

async fn row(client: &Client, deployed: &Deployed, in_file: bool) -> Outcome<Value> {
    let path = format!("/v1/agent-versions/{}", part(deployed.version_id()));
    let version = client.get(Api::ControlPlane, &path).await?;
    let query = [("deployment", deployed.id())];
    let replicas = client
        .list(Api::ControlPlane, "/v1/replicas", &query, MAX_REPLICAS)
        .await?;
    let ready = replicas
        .iter()
        .filter(|replica| replica["state"] == "ready")
        .count();
    let reason = match deployed.0["reason"].as_str() {
        Some("") | None if !in_file => "not in the file",
        reason => reason.unwrap_or_default(),
    };
    Ok(json!({
        "name": deployed.name(),
        "agent": deployed.agent(),
        "namespace": deployed.namespace(),
        "alias": deployed.alias(),
        "version": version["version"],
        "deployment": deployed.id(),
        "ready_replicas": ready,
        "replicas": deployed.0["replicas"],
        "state": deployed.0["state"],
        "reason": reason,
        "in_file": in_file,
    }))
}
