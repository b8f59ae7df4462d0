//! `rune deploy`

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::agent::{self, Named};
use super::rollout;
use super::run::{Packed, Patience, READY_MARGIN, apply, find, wait};
use crate::cli::Target;
use crate::client::{Api, Client};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::progress::Progress;
use crate::source::Sources;

/// Rolls out another version of a deployed agent.
///
/// SPEC is what `rune run` takes. With --version a version that is published already is rolled out, and SPEC is the name of
/// its agent. A canary gets a share of the new sessions until `rune rollout promote` or `rune rollout undo`; everything else
/// takes the place of what runs, replica by replica. A version whose replicas do not start, or whose requests fail much more
/// often, is rolled back by itself.
#[derive(Debug, Args)]
#[command(
    disable_version_flag = true,
    override_usage = "rune deploy SPEC [--strategy rolling|canary] [--weight PERCENT] [--namespace NS] [--alias ALIAS]\n       rune deploy NAME --version VERSION [--strategy rolling|canary] [--weight PERCENT]",
    after_help = "Examples:\n  rune deploy ./hello                                 replica by replica\n  rune deploy ./hello --weight 10                     a canary with a tenth of the new sessions\n  rune deploy hello --version 0.2.0 --weight 50       more of them\n  rune rollout promote hello                          all of them"
)]
pub(crate) struct DeployArgs {
    /// The agent directory or what else `rune run` takes; with --version the name of the agent
    spec: String,
    /// A published version: semantic version, digest or id
    #[arg(long)]
    version: Option<String>,
    /// How it takes the place of what runs [default: canary with --weight, else rolling]
    #[arg(long, value_enum)]
    strategy: Option<Strategy>,
    /// Percent of the new sessions that a canary gets [default: 10]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    weight: Option<u32>,
    #[command(flatten)]
    target: Target,
}

/// How a version takes the place of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Strategy {
    /// Replica by replica, to the end
    Rolling,
    /// Beside it, until it is promoted
    Canary,
}

impl DeployArgs {
    fn is_canary(&self) -> Outcome<bool> {
        match (self.strategy, self.weight) {
            (Some(Strategy::Rolling), Some(_)) => Err(Failure::usage(
                "--weight is that of a canary: leave it out, or use --strategy canary",
            )),
            (Some(Strategy::Canary), _) | (None, Some(_)) => Ok(true),
            (Some(Strategy::Rolling), None) | (None, None) => Ok(false),
        }
    }

    fn body(&self, version: &Value, is_canary: bool) -> Value {
        match (is_canary, self.weight) {
            (false, _) => json!({"version": version, "strategy": "rolling"}),
            (true, None) => json!({"version": version, "strategy": "canary"}),
            (true, Some(weight)) => {
                json!({"version": version, "strategy": "canary", "weight": weight})
            }
        }
    }
}

pub(crate) fn run(context: &Context, args: &DeployArgs) -> Outcome {
    let is_canary = args.is_canary()?;
    context.block_on(async {
        let client = context.client()?;
        let row = match &args.version {
            Some(version) => {
                let named = Named {
                    name: args.spec.clone(),
                    target: args.target.clone(),
                };
                let row = agent::deployment(&client, &named).await?;
                let body = args.body(&json!(version), is_canary);
                begin(&client, &row, &body, Patience::Still(READY_MARGIN)).await?
            }
            None => deploy(context, &client, args, is_canary).await?,
        };
        rollout::show(context, &client, row).await
    })
}

/// Publishes what SPEC is and rolls it out.
async fn deploy(
    context: &Context,
    client: &Client,
    args: &DeployArgs,
    is_canary: bool,
) -> Outcome<Value> {
    let mut sources = Sources::default();
    let found = find(context, &mut sources, &args.spec).await?;
    let packed = Packed::load(context, &found)?;
    let patience = packed.patience();
    let line = Progress::new(context.output).line("");
    let named = Named {
        name: packed.name.clone(),
        target: args.target.clone(),
    };
    // Where it is not known whether one is there, none is made: that would change how the one that is there runs.
    let there = agent::find(client, &named).await?;
    if there.is_none() && is_canary {
        return Err(agent::absent(&named).help(format!(
            "there is nothing to be a canary beside: rune run {}",
            args.spec
        )));
    }
    let version = packed.upload(client, &line).await?["id"].clone();
    match there {
        Some(row) => begin(client, &row, &args.body(&version, is_canary), patience).await,
        None => {
            let body = json!({
                "agent_version": version,
                "namespace": args.target.namespace,
                "alias": args.target.alias,
            });
            let row = apply(client, &body, &line).await?;
            wait(client, row, patience).await
        }
    }
}

/// Begins a rollout and answers the deployment once it has come as far as it comes by itself.
async fn begin(client: &Client, row: &Value, body: &Value, patience: Patience) -> Outcome<Value> {
    let path = rollout::path(row, "rollout");
    let begun = client.post(Api::ControlPlane, &path, body).await?;
    wait(client, begun, patience).await
}
