//! `rune backup`

use async_trait::async_trait;
use clap::{Args, Subcommand};
use rune_cluster::Member;
use rune_storage::{
    BackupError, BackupManifest, BackupProgress, BackupSource, BackupStore, Digest, Elsewhere,
    ObjectStore, StorageError,
};
use rune_store_runtime::{Clock as _, SystemClock};
use rustix::fs::Mode;
use serde_json::{Value, json};

use crate::client::{Api, Client};
use crate::context::Context;
use crate::daemon::listeners::already_running;
use crate::daemon::node::Place;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{Column, Output};
use crate::progress::{Line, Progress};

/// Objects that the daemon is asked at once to take from other nodes, 64 MiB each at the most.
const ASKED_AT_ONCE: usize = 16;

const COLUMNS: [Column; 6] = [
    ("BACKUP", "/backup"),
    ("CREATED", "/created_at"),
    ("DATABASE", "/database_bytes"),
    ("OBJECTS", "/objects"),
    ("RUNE", "/rune"),
    ("STATE", "/state"),
];

/// Backs up the database and the objects of a data directory, whether the daemon runs or not.
///
/// The backup is of one moment. What an earlier backup in the same place has is not written again. The key of the
/// secrets is not in it: keep that elsewhere.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  rune backup /srv/backups/rune\n  rune backup verify /srv/backups/rune\n  \
rune backup ls /srv/backups/rune\n  rune backup s3://acme-backups/rune\n  rune restore /srv/backups/rune --data-dir /var/lib/rune"
)]
pub(crate) struct BackupArgs {
    #[command(subcommand)]
    command: Option<BackupCommand>,
    /// A directory for backups, which is made where it is missing, or the URL of a bucket (s3:, gs:, az:)
    #[arg(value_name = "TARGET", required = true)]
    target: Option<String>,
}

#[derive(Debug, Subcommand)]
enum BackupCommand {
    /// Read a whole backup and compare it with its digests
    #[command(
        after_help = "Examples:\n  rune backup verify /srv/backups/rune\n  rune backup verify /srv/backups/rune --backup ID"
    )]
    Verify(Chosen),
    /// List the backups in a place, oldest first
    #[command(after_help = "Examples:\n  rune backup ls /srv/backups/rune")]
    Ls {
        /// Where the backups are
        #[arg(value_name = "TARGET")]
        target: String,
    },
}

/// One of the backups in a place.
#[derive(Debug, Args)]
pub(crate) struct Chosen {
    /// Where the backups are
    #[arg(value_name = "TARGET")]
    pub(crate) target: String,
    /// Which one [default: the newest]
    #[arg(long, value_name = "ID")]
    backup: Option<String>,
}

impl Chosen {
    /// Where it is, and what it consists of.
    pub(crate) async fn open(&self, context: &Context) -> Outcome<(BackupStore, BackupManifest)> {
        let variables = context.config.object_store_variables();
        let failed = |error| failure(&format!("cannot read {}", shown(&self.target)), &error);
        let store = BackupStore::open(&self.target, &variables).map_err(failed)?;
        let manifest = store.manifest(self.backup.as_deref()).await;
        Ok((store, manifest.map_err(failed)?))
    }
}

pub(crate) async fn run(context: &Context, args: BackupArgs) -> Outcome {
    match (args.command, args.target) {
        (Some(BackupCommand::Verify(chosen)), _) => verify(context, &chosen).await,
        (Some(BackupCommand::Ls { target }), _) => list(context, &target).await,
        (None, Some(target)) => create(context, &target).await,
        (None, None) => Err(Failure::usage("say where the backup is to be")),
    }
}

async fn create(context: &Context, target: &str) -> Outcome {
    only_for_the_owner();
    let place = Place::configured(&context.config)?;
    let failed = |error| failure(&format!("cannot back up to {}", shown(target)), &error);
    let store = BackupStore::open_or_create(target, &place.object_variables).map_err(failed)?;
    let objects = place.open_objects()?;
    // A copy of the database needs room for a moment: beside the backup, and not on the disk that the daemon works with.
    let directory = ObjectStore::directory(target);
    let nodes = OtherNodes::of(context, &place)?;
    let source = BackupSource {
        database: &place.database,
        objects: &objects,
        elsewhere: nodes.as_ref().map(|nodes| nodes as &dyn Elsewhere),
        scratch: directory.as_deref().unwrap_or(context.data_dir()),
        now: SystemClock.now(),
        rune: env!("CARGO_PKG_VERSION"),
    };
    let progress = Progress::new(context.output);
    let line = progress.line("");
    let made = store.create(source, &|step| tell(&line, step)).await;
    let (manifest, written) = made.map_err(failed)?;
    drop(line);
    if !manifest.lost.is_empty() {
        let lost: Vec<String> = manifest.lost.iter().map(ToString::to_string).collect();
        context.output.note(&format!(
            "{} {} in the object store and so in no backup: {}",
            context.output.style.warn("warning:"),
            match lost.len() {
                1 => "an object is missing or damaged".to_owned(),
                count => format!("{count} objects are missing or damaged"),
            },
            lost.join(", ")
        ));
    }
    let mut data = described(&manifest);
    data["target"] = json!(target);
    data["written_parts"] = json!(written.parts);
    data["written_bytes"] = json!(written.bytes);
    context.output.data(&data, |_| {
        format!(
            "[ok] backup {} in {target}\ndatabase  {}\nobjects   {}\nwritten   {} in {} new parts",
            manifest.id,
            size(manifest.database.bytes),
            manifest.objects.len(),
            size(written.bytes),
            written.parts,
        )
    })?;
    Ok(Exit::Ok)
}

/// The other nodes of the cluster of this one, asked by its daemon.
struct OtherNodes<'a> {
    client: Client,
    output: &'a Output,
}

impl<'a> OtherNodes<'a> {
    /// Those of the node whose data this is; nothing where it is that of no node, or all nodes have the same objects.
    fn of(context: &'a Context, place: &Place) -> Outcome<Option<Self>> {
        let log = place.database.with_file_name(Member::LOG_FILE);
        if place.object_url.is_some() || !log.exists() {
            return Ok(None);
        }
        Ok(Some(Self {
            client: context.client()?,
            output: &context.output,
        }))
    }
}

impl std::fmt::Debug for OtherNodes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OtherNodes")
    }
}

#[async_trait]
impl Elsewhere for OtherNodes<'_> {
    async fn bring(&self, missing: &[Digest]) {
        for digests in missing.chunks(ASKED_AT_ONCE) {
            let body = json!({ "digests": digests });
            let asked = self
                .client
                .post(Api::ControlPlane, "/v1/cluster/objects", &body);
            if let Err(failure) = asked.await {
                self.output.note(&format!(
                    "{} objects that this node lacks were not taken from other nodes: {}",
                    self.output.style.warn("warning:"),
                    failure.message()
                ));
                return;
            }
        }
    }
}

async fn verify(context: &Context, chosen: &Chosen) -> Outcome {
    let (store, manifest) = chosen.open(context).await?;
    let progress = Progress::new(context.output);
    let line = progress.line("");
    let verified = store.verify(&manifest, &|step| tell(&line, step)).await;
    verified.map_err(|error| {
        failure(&format!("backup {} is not whole", manifest.id), &error)
            .help("`rune backup ls` shows the others; a new backup writes that part again, in a bucket once what is altered is deleted")
    })?;
    drop(line);
    context.output.data(&described(&manifest), |_| {
        format!("[ok] backup {} is whole", manifest.id)
    })?;
    Ok(Exit::Ok)
}

async fn list(context: &Context, target: &str) -> Outcome {
    let failed = |error| failure(&format!("cannot read {}", shown(target)), &error);
    let store =
        BackupStore::open(target, &context.config.object_store_variables()).map_err(failed)?;
    let mut rows = Vec::new();
    for id in store.list().await.map_err(failed)? {
        rows.push(match store.manifest(Some(&id)).await {
            Ok(manifest) => described(&manifest),
            Err(error) => json!({ "backup": id, "state": failure("", &error).message() }),
        });
    }
    let nothing = "there are no backups here yet";
    context.output.list_or(&rows, &COLUMNS, nothing)?;
    Ok(Exit::Ok)
}

/// A backup as data.
pub(crate) fn described(manifest: &BackupManifest) -> Value {
    json!({
        "backup": manifest.id,
        "created_at": manifest.created_at,
        "rune": manifest.rune,
        "schema": manifest.database.schema,
        "database_bytes": manifest.database.bytes,
        "rows": manifest.database.rows,
        "tables": manifest.database.tables,
        "objects": manifest.objects.len(),
        "lost": manifest.lost,
        "secret_keys": manifest.secret_keys,
        "state": "ok",
    })
}

/// What is made from now on is for its owner only, whoever makes it.
pub(crate) fn only_for_the_owner() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Shows how far it has come.
pub(crate) fn tell(line: &Line, progress: BackupProgress) {
    let BackupProgress { what, done, total } = progress;
    match total {
        0 => line.progress(what),
        _ => line.progress(&format!("{what}: {done} of {total}")),
    }
}

/// A place as an error names it: of a URL nothing that may be a credential.
fn shown(target: &str) -> String {
    let Some((scheme, rest)) = target.split_once("://") else {
        return target.to_owned();
    };
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    let end = place.find(['?', '#']).unwrap_or(place.len());
    format!("{scheme}://{}", &place[..end])
}

/// The failure of a command, for an error of a backup.
pub(crate) fn failure(what: &str, error: &BackupError) -> Failure {
    match error {
        BackupError::Storage(StorageError::Locked { path, pid }) => already_running(path, *pid),
        _ => Failure::because(what, error),
    }
}

fn size(bytes: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    match bytes {
        0..KIB => format!("{bytes} B"),
        KIB..MIB => format!("{} KiB", bytes.div_ceil(KIB)),
        _ => format!("{} MiB", bytes.div_ceil(MIB)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_credential_of_a_url_is_shown() {
        for (target, seen) in [
            ("/srv/backups", "/srv/backups"),
            ("s3://acme/x", "s3://acme/x"),
            ("s3://AKID:SECRET@acme/x", "s3://acme/x"),
            ("s3://AKID:SEC/RET@acme/x", "s3://acme/x"),
            ("az://acme/x?sig=SECRET#SECRET", "az://acme/x"),
        ] {
            assert_eq!(shown(target), seen);
        }
    }
}
