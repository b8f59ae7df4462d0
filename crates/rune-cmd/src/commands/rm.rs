//! `rune rm`

use clap::Args;
use serde_json::json;

use crate::client::{Api, Client, part};
use crate::context::Context;
use crate::failure::{Exit, Outcome};

/// Removes a deployment. Its sessions and requests stay readable.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune rm dep_0198c0ffee0198c0ffee0198c0ffee01\n  rune agent rm hello                    by name"
)]
pub(crate) struct RmArgs {
    /// The deployment
    deployment_id: String,
}

pub(crate) async fn run(context: &Context, args: &RmArgs) -> Outcome {
    let client = context.client()?;
    remove(&client, &args.deployment_id).await?;
    report(context, &args.deployment_id)
}

/// Removes a deployment.
pub(crate) async fn remove(client: &Client, id: &str) -> Outcome<()> {
    let path = format!("/v1/deployments/{}", part(id));
    client.delete(Api::ControlPlane, &path).await.map(|_| ())
}

/// Says that something was removed.
pub(crate) fn report(context: &Context, what: &str) -> Outcome {
    context
        .output
        .data(&json!({ "removed": what }), |_| format!("removed {what}"))?;
    Ok(Exit::Ok)
}
