//! `rune dev`: a daemon in the foreground that follows the files of an agent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use rune_env::Overrides;
use rune_spec::package::{FileStamp, stamps};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use super::agent::logs::{Watched, show};
use super::daemon::{Role, StartOptions};
use super::rm;
use super::run::{Packed, apply, variable, wait};
use super::validate::agent_dir;
use crate::cli::{Global, Target};
use crate::client::Client;
use crate::context::Context;
use crate::daemon::{launch, process};
use crate::failure::{Failure, Outcome};
use crate::progress::Line;
use crate::source::Found;

/// How often the files are looked at.
const POLL: Duration = Duration::from_millis(250);

/// Runs a daemon in the foreground, deploys the agent of DIR, and deploys it again whenever one of its files changes.
///
/// A change that is not valid is reported and the agent stays as it was. The data is in a temporary directory unless
/// --data-dir names another; the log goes to daemon.log in it. Ctrl-C ends it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune dev hello\n  rune dev hello --gateway-addr 127.0.0.1:0 --control-plane-addr 127.0.0.1:0\n  rune dev hello --data-dir ./data --env REGION=eu"
)]
pub(crate) struct DevArgs {
    /// The agent directory, or its Runefile
    #[arg(default_value = ".")]
    dir: PathBuf,
    #[command(flatten)]
    target: Target,
    /// A variable for the agent's `${VAR}`, over the environment
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    #[command(flatten)]
    options: StartOptions,
}

impl DevArgs {
    /// The configuration keys that its flags set.
    pub(crate) fn overrides(&self) -> Overrides {
        self.options.overrides()
    }
}

/// A data directory of its own, where none is given.
pub(crate) fn own_data_dir(global: &mut Global) -> Outcome<Option<TempDir>> {
    if global.data_dir.is_some() {
        return Ok(None);
    }
    let dir = tempfile::Builder::new()
        .prefix("rune-dev-")
        .tempdir()
        .map_err(|error| Failure::because("cannot make a temporary directory", &error))?;
    global.data_dir = Some(dir.path().to_owned());
    Ok(Some(dir))
}

pub(crate) fn run(context: &Context, args: &DevArgs) -> Outcome {
    let dir = agent_dir(&args.dir);
    if !dir.is_dir() {
        let message = format!("there is no agent at `{}`", args.dir.display());
        return Err(Failure::usage(message).help("`rune init NAME` makes one"));
    }
    let is_inside = |data_dir: &Path| {
        let dir = dir.canonicalize().ok();
        let data_dir = std::path::absolute(data_dir).ok();
        dir.zip(data_dir)
            .is_some_and(|(dir, data)| data.starts_with(dir))
    };
    if is_inside(context.data_dir()) {
        // What the daemon writes would be a change of the agent.
        let message = format!(
            "the data directory {} is inside the agent directory",
            context.data_dir().display()
        );
        return Err(Failure::usage(message).help("name one outside of it with --data-dir"));
    }
    if !matches!(args.options.role, None | Some(Role::All)) {
        return Err(Failure::usage(
            "`rune dev` runs a whole daemon, so it takes no other `--role` than `all`",
        ));
    }
    let log = launch::log_file(context.data_dir(), &args.options);
    let options = StartOptions {
        log_file: Some(log.clone()),
        ..args.options.clone()
    };
    process::run_with(context, &options, false, async |address| {
        let gateway = address.gateway.clone().unwrap_or_default();
        let control_plane = &address.control_plane;
        context.output.note(&format!(
            "gateway {gateway}  control plane {control_plane}  log {}",
            log.display()
        ));
        let client = Client::new(gateway.clone(), control_plane.clone(), &context.config)?;
        let mut follow = Follower {
            context,
            client: client.clone(),
            dir,
            target: args.target.clone(),
            env: args.env.iter().cloned().collect(),
            gateway,
            last: None,
        };
        let every = [Watched::default()];
        tokio::select! {
            ended = show(context, &client, &every, true, 0) => ended,
            never = follow.run() => match never {},
        }
    })
}

/// Deploys a directory whenever it changes.
struct Follower<'a> {
    context: &'a Context,
    client: Client,
    dir: PathBuf,
    target: Target,
    env: BTreeMap<String, String>,
    gateway: String,
    last: Option<Last>,
}

/// What was deployed last.
struct Last {
    digest: String,
    agent: String,
    deployment: String,
}

/// The files as they were found, or why they could not be.
#[derive(PartialEq, Eq)]
struct Seen(Result<Vec<FileStamp>, String>);

impl Seen {
    fn of(dir: &Path) -> Self {
        Self(stamps(dir).map_err(|error| error.to_string()))
    }
}

impl Follower<'_> {
    async fn run(&mut self) -> std::convert::Infallible {
        let mut look = tokio::time::interval(POLL);
        let mut seen = None;
        loop {
            look.tick().await;
            let mut now = Seen::of(&self.dir);
            if seen.as_ref() == Some(&now) {
                continue;
            }
            // An editor writes in several steps: what stays the same for a moment is whole.
            while seen.is_some() {
                look.tick().await;
                let later = Seen::of(&self.dir);
                if later == now {
                    break;
                }
                now = later;
            }
            seen = Some(now);
            if let Err(failure) = self.deploy().await {
                failure.print(self.context.output.style);
                self.context.output.note(match &self.last {
                    Some(_) => "not deployed: the agent stays as it was; waiting for a change",
                    None => "not deployed; waiting for a change",
                });
            }
        }
    }

    async fn deploy(&mut self) -> Outcome<()> {
        let started = Instant::now();
        let packed = Packed::load(self.context, &Found::from(self.dir.clone()))?;
        let is_same = |last: &Last| last.digest == packed.digest;
        if self.last.as_ref().is_some_and(is_same) {
            return Ok(());
        }
        if let Some(last) = &mut self.last {
            // From here on it is not known to run.
            last.digest.clear();
        }
        let row = self.apply(&packed).await?;
        let before = self.last.replace(Last {
            digest: packed.digest.clone(),
            agent: packed.name.clone(),
            deployment: row["id"].as_str().unwrap_or_default().to_owned(),
        });
        let renamed = |before: &&Last| before.agent != packed.name;
        if let Some(before) = before.as_ref().filter(renamed) {
            rm::remove(&self.client, &before.deployment).await?;
        }
        self.report(&packed, &row, started.elapsed(), before.is_none());
        Ok(())
    }

    async fn apply(&self, packed: &Packed) -> Outcome<Value> {
        let line = Line::hidden(self.context.output);
        let version = packed.upload(&self.client, &line).await?;
        let body = json!({
            "agent_version": version["id"],
            "namespace": self.target.namespace,
            "alias": self.target.alias,
            "env": self.env,
        });
        let row = apply(&self.client, &body, &line).await?;
        wait(&self.client, row, packed.patience()).await
    }

    fn report(&self, packed: &Packed, row: &Value, took: Duration, is_first: bool) {
        let output = self.context.output;
        let Target { namespace, alias } = &self.target;
        let (name, version) = (&packed.name, &packed.version);
        let place = format!("{namespace}/{name}:{alias}");
        let generation = &row["generation"];
        let millis = took.as_millis();
        output.ok(&format!(
            "{place} {version} is {} (change {generation}, {millis} ms)",
            row["state"].as_str().unwrap_or_default()
        ));
        if is_first {
            let gateway = &self.gateway;
            output.note(&format!(
                "ask it: rune run --agent {name} --ns {namespace} --alias {alias} --gateway {gateway} \"Hello\""
            ));
        }
    }
}
