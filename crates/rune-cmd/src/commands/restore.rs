//! `rune restore`

use std::path::Path;

use clap::Args;
use rune_storage::RestoreTarget;
use serde_json::json;

use super::backup::{Chosen, described, failure, only_for_the_owner, tell};
use crate::context::Context;
use crate::daemon::node::{Place, secret_key};
use crate::failure::{Exit, Failure, Outcome};
use crate::progress::Progress;

/// Makes a data directory from a backup: its database and its objects.
///
/// Nothing is overwritten: there must be no database yet, and no daemon. What was unfinished when the backup was made is
/// taken up again by the next `rune daemon start`, so do not start it while the daemon that was backed up still runs.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune restore /srv/backups/rune --data-dir /var/lib/rune\n  \
rune restore /srv/backups/rune --backup ID"
)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    chosen: Chosen,
}

pub(crate) async fn run(context: &Context, args: &RestoreArgs) -> Outcome {
    only_for_the_owner();
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
    let mut data = described(&manifest);
    data["database"] = json!(place.database);
    context.output.data(&data, |_| {
        format!(
            "[ok] restored backup {} to {}",
            manifest.id,
            place.database.display()
        )
    })?;
    let own = secret_key(&context.config).fingerprint().await;
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
