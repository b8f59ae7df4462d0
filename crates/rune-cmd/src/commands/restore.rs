//! `rune restore`

use std::path::Path;

use clap::Args;
use rune_cluster::Member;
use rune_storage::RestoreTarget;
use serde_json::json;

use super::backup::{Chosen, described, failure, only_for_the_owner, tell};
use crate::context::Context;
use crate::daemon::cluster::{of_cluster, secret};
use crate::daemon::node::{Place, secret_key};
use crate::failure::{Exit, Failure, Outcome};
use crate::progress::Progress;

/// Makes a data directory from a backup: its database and its objects.
///
/// Nothing is overwritten: there must be no database yet, and no daemon. What was unfinished when the backup was made is
/// taken up again by the next `rune daemon start`, so do not start it while the daemon that was backed up still runs.
///
/// With --node-id it is the data directory of the first node of a new cluster, which has begun when that node is started; its
/// secret is RUNE_CLUSTER_SECRET, or cluster.secret in the data directory. Others are taken in with `rune cluster add-learner`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune restore /srv/backups/rune --data-dir /var/lib/rune\n  \
rune restore /srv/backups/rune --backup ID\n  \
rune restore /srv/backups/rune --node-id 1 --raft-addr 10.0.0.1:9000"
)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    chosen: Chosen,
    /// Number of the node that begins a new cluster with it
    #[arg(long, value_name = "N", requires = "raft_addr", value_parser = clap::value_parser!(u64).range(1..))]
    node_id: Option<u64>,
    /// Where other nodes will reach that node
    #[arg(long, value_name = "HOST:PORT", requires = "node_id", value_parser = place)]
    raft_addr: Option<String>,
}

pub(crate) async fn run(context: &Context, args: &RestoreArgs) -> Outcome {
    only_for_the_owner();
    let founds = args.node_id.zip(args.raft_addr.as_deref());
    // What is missing is said before anything is written.
    let secret = founds.map(|_| secret(&context.config)).transpose()?;
    let (store, manifest) = args.chosen.open(context).await?;
    let place = Place::configured(&context.config)?;
    let failed = |error| failure(&format!("cannot restore backup {}", manifest.id), &error);
    let objects = place.open_objects()?;
    let target = RestoreTarget {
        database: &place.database,
        objects: &objects,
    };
    let progress = Progress::new(context.output);
    let line = progress.line("");
    let told = |step| tell(&line, step);
    let restored = store.restore(&manifest, target, &told).await;
    restored.map_err(failed)?;
    drop(line);
    if let (Some((node, addr)), Some(secret)) = (founds, &secret) {
        Member::found(secret, node, addr, &place.database).map_err(|error| {
            Failure::because("the backup is restored, but it is no node", &error).help(format!(
                "remove {} and restore it again",
                place.database.display()
            ))
        })?;
    }
    let mut data = described(&manifest);
    data["database"] = json!(place.database);
    if let Some(node) = args.node_id {
        data["node"] = json!(node);
    }
    context.output.data(&data, |_| {
        format!(
            "[ok] restored backup {} to {}",
            manifest.id,
            place.database.display()
        )
    })?;
    // A node has one that follows from the secret of its cluster, where none is set.
    let config = match &secret {
        Some(secret) => &of_cluster(&context.config, secret),
        None => &context.config,
    };
    let own = secret_key(config).fingerprint().await;
    let own =
        own.map_err(|error| Failure::because("cannot read the key of the secrets", &error))?;
    let missing = manifest
        .secret_keys
        .iter()
        .filter(|key| own.as_ref() != Some(key));
    let missing: Vec<&str> = missing.map(String::as_str).collect();
    if !missing.is_empty() {
        remind_of_keys(context, &place.database, &missing, own.as_deref());
    }
    Ok(Exit::Ok)
}

fn place(text: &str) -> Result<String, String> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match port.map(|(_, port)| port.parse::<u16>()) {
        Some(Ok(1..)) => Ok(text.to_owned()),
        _ => Err("expected HOST:PORT such as 10.0.0.1:9000".to_owned()),
    }
}

/// The secrets of the backup are of use with their keys only, which are not in it.
fn remind_of_keys(context: &Context, database: &Path, missing: &[&str], own: Option<&str>) {
    let here = match own {
        Some(own) => format!("and the key that is there is {own}"),
        None => "which no backup holds".to_owned(),
    };
    context.output.note(&format!(
        "{} {} holds secrets that are encrypted with the key {}, {here}: put it at {}, or set RUNE_SECRET_KEY, \
         before the daemon is started",
        context.output.style.warn("warning:"),
        database.display(),
        missing.join(" and "),
        context.config.storage.secret_key_file().display()
    ));
}
