//! `rune stop`

use clap::Args;
use serde_json::{Value, json};

use crate::client::{Api, Client, part};
use crate::context::Context;
use crate::failure::{Exit, Outcome};

/// Scales a deployment to 0 replicas. Running requests end; new ones are refused until it is scaled up.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune stop dep_0198c0ffee0198c0ffee0198c0ffee01\n  rune agent stop hello                  by name"
)]
pub(crate) struct StopArgs {
    /// The deployment
    deployment_id: String,
}

pub(crate) async fn run(context: &Context, args: &StopArgs) -> Outcome {
    let client = context.client()?;
    let row = scale_to_zero(&client, &args.deployment_id).await?;
    report(context, &row)
}

/// How long a stop waits for the requests under way; what takes longer ends by itself.
const WAIT_MS: u32 = 5000;

/// Scales a deployment to 0 and answers its row, once no replica takes requests any more.
pub(crate) async fn scale_to_zero(client: &Client, id: &str) -> Outcome<Value> {
    let path = format!(
        "/v1/deployments/{}/scale?wait=ready&timeout_ms={WAIT_MS}",
        part(id)
    );
    client
        .post(Api::ControlPlane, &path, &json!({ "replicas": 0 }))
        .await
}

/// Says that a deployment is stopped.
pub(crate) fn report(context: &Context, row: &Value) -> Outcome {
    context.output.data(row, |row| {
        let word = |field: &str| row[field].as_str().unwrap_or("?").to_owned();
        format!(
            "stopped {}/{}:{}",
            word("namespace"),
            word("agent"),
            word("alias")
        )
    })?;
    Ok(Exit::Ok)
}
