//! `rune status`

use clap::Args;
use serde_json::{Value, json};

use crate::client::{Api, Client};
use crate::context::Context;
use crate::daemon::instance::Address;
use crate::failure::{Exit, Outcome};
use crate::output::table;

/// Most deployments that are shown.
const MAX_DEPLOYMENTS: usize = 1000;
/// Most running requests that are counted.
const MAX_RUNNING: usize = 1000;

/// Shows the daemon and what is deployed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  rune status\n  rune status -o json")]
pub(crate) struct StatusArgs {}

pub(crate) async fn run(context: &Context) -> Outcome {
    let client = context.client()?;
    let deployments = deployments(&client).await?;
    let running = client
        .list(
            Api::Gateway,
            "/v1/requests",
            &[("status", "running")],
            MAX_RUNNING,
        )
        .await?;
    let address = Address::read(context.data_dir());
    let data = json!({
        "daemon": {
            "gateway": client.base(Api::Gateway),
            "control_plane": client.base(Api::ControlPlane),
            "pid": address.as_ref().map(|address| address.pid),
            "version": address.as_ref().map(|address| address.version.clone()),
            "started_at": address.map(|address| address.started_at),
        },
        "deployments": deployments,
        "running_requests": running.len(),
    });
    context.output.data(&data, text)?;
    Ok(Exit::Ok)
}

/// Every deployment.
pub(crate) async fn deployments(client: &Client) -> Outcome<Vec<Value>> {
    client
        .list(Api::ControlPlane, "/v1/deployments", &[], MAX_DEPLOYMENTS)
        .await
}

fn text(data: &Value) -> String {
    let daemon = &data["daemon"];
    let word = |field: &str| daemon[field].as_str().unwrap_or("-").to_owned();
    let pid = daemon["pid"]
        .as_u64()
        .map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let mut text = format!(
        "gateway        {}\ncontrol plane  {}\npid            {pid}\nstarted        {}\nrunning        {} requests\n\n",
        word("gateway"),
        word("control_plane"),
        word("started_at"),
        data["running_requests"],
    );
    let rows = data["deployments"].as_array().cloned().unwrap_or_default();
    if rows.is_empty() {
        text.push_str("nothing is deployed; `rune run DIR` deploys an agent");
    } else {
        text.push_str(&table(&rows, &super::agent::DEPLOYMENT_COLUMNS));
    }
    text
}
