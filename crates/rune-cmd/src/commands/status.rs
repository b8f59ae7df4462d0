//! `rune status`

use clap::Args;
use serde_json::{Value, json};

use crate::client::{Api, Client};
use crate::context::Context;
use crate::daemon::instance::Address;
use crate::failure::{Exit, Outcome};

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
    let query = [("status", "running")];
    let running = client
        .list(Api::Gateway, "/v1/requests", &query, MAX_RUNNING)
        .await;
    let running = match running {
        Ok(rows) => Some(rows.len()),
        // A control plane has no gateway of its own where those are apart from it.
        Err(failure) if failure.exit == Exit::Unavailable => {
            let why = failure.message();
            context
                .output
                .note(&format!("running requests are not counted: {why}"));
            None
        }
        Err(failure) => return Err(failure),
    };
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
        "running_requests": running,
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
    let running = data["running_requests"]
        .as_u64()
        .map_or_else(|| "-".to_owned(), |running| format!("{running} requests"));
    let mut text = format!(
        "gateway        {}\ncontrol plane  {}\npid            {pid}\nstarted        {}\nrunning        {running}\n\n",
        word("gateway"),
        word("control_plane"),
        word("started_at"),
    );
    let rows = data["deployments"].as_array().cloned().unwrap_or_default();
    if rows.is_empty() {
        text.push_str("nothing is deployed; `rune run DIR` deploys an agent");
    } else {
        text.push_str(&super::agent::deployments_table(&rows));
    }
    text
}
