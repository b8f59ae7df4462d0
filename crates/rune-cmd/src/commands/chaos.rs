//! `rune chaos`: a cluster on this machine that things happen to, and what must hold of it all the same.
//!
//! [`nodes`] are the daemons and [`links`] what is between them; [`agent`] is what clients ask. [`faults`] draws what happens and
//! has it happen, while [`clients`] ask. What was seen is the [`history`], which [`check`] holds to the invariants;
//! [`report`] is what came of it.

mod agent;
mod check;
mod clients;
mod faults;
mod history;
mod links;
mod nodes;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use fastrand::Rng;
use rune_runtime::Tasks;
use rune_storage::DatabaseDigest;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::duration::duration;
use crate::client::{Api, Client, Follow};
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::output::Output;
use clients::{Asking, entries};
use history::{FaultKind, Found, History, Operation};
use nodes::Nodes;
use report::Report;

/// How long clients have for their last answers, and the nodes to have the same rows, once everything is as before.
const SETTLE: Duration = Duration::from_secs(60);
/// How often what changes by itself is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long the proxies have to end.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Runs faults against a cluster on this machine, and checks that nothing was lost or done twice.
///
/// Starts daemons of this binary in a temporary directory, has clients ask them all the time, and kills, stops, restarts and
/// cuts off nodes meanwhile. Then everything is made as before, and what every client was told is compared with what the
/// nodes have. Ctrl-C ends it early, with a report of what there is. No daemon of yours is touched.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune chaos\n  rune chaos --duration 10m --seed 42\n  rune chaos --faults kill,partition --nodes 5\n  rune chaos -o json > chaos.json\n\nExit codes: 0 every invariant held, 1 one was violated; its data and logs are kept."
)]
pub(crate) struct ChaosArgs {
    /// How long things happen, such as 90s or 10m
    #[arg(long, default_value = "60s", value_parser = duration)]
    duration: Duration,
    /// What happens is drawn from this number [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
    /// What happens
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "kill,pause,partition,slow,transfer,restart"
    )]
    faults: Vec<FaultKind>,
    /// Daemons in the cluster
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=7))]
    nodes: u8,
    /// Clients that ask, spread over the nodes
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=256))]
    clients: u16,
    /// Directory in which that of the cluster is made [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) async fn run(context: &Context, args: ChaosArgs) -> Outcome {
    let mut interrupt = Interrupt::listen()?;
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = TempDir::with_prefix_in("rune-chaos-", &parent).map_err(|error| {
        let what = format!("cannot make a directory in {}", parent.display());
        Failure::because(what, &error).help("choose another one with --dir")
    })?;
    let tasks = Tasks::new();
    let stop = CancellationToken::new();
    let ran = {
        let run = measure(context, &args, dir.path(), &tasks, &stop);
        tokio::pin!(run);
        tokio::select! {
            ran = &mut run => ran,
            () = interrupt.next() => {
                context.output.note("ending: the cluster is healed and looked at; Ctrl-C again ends at once");
                stop.cancel();
                tokio::select! {
                    ran = run => ran,
                    () = interrupt.next() => Err(Failure::silent(Exit::Interrupted)),
                }
            }
        }
    };
    tasks.stop(STOP_GRACE).await;
    let report = match ran {
        Ok(report) => report,
        Err(failure) if failure.exit == Exit::Interrupted => return Err(failure),
        // What its help points to is there.
        Err(failure) => {
            kept(context.output, dir);
            return Err(failure);
        }
    };
    let value = serde_json::to_value(&report)
        .map_err(|error| Failure::because("cannot print the report", &error))?;
    context.output.data(&value, |_| report.to_string())?;
    match report.violated() {
        0 => Ok(Exit::Ok),
        violated => {
            kept(context.output, dir);
            let message = format!("{violated} invariants were violated");
            Err(Failure::new(Exit::Failed, message))
        }
    }
}

fn kept(output: Output, dir: TempDir) {
    let dir = dir.keep();
    output.note(&format!(
        "data and logs of the nodes are in {}",
        dir.display()
    ));
}

async fn measure(
    context: &Context,
    args: &ChaosArgs,
    dir: &Path,
    tasks: &Tasks,
    stop: &CancellationToken,
) -> Outcome<Report> {
    let output = context.output;
    let seed = args.seed.unwrap_or_else(|| Rng::new().u64(..));
    let size = usize::from(args.nodes);
    output.note(&format!("seed {seed}: {size} nodes in {}", dir.display()));
    let mut nodes = Nodes::begin(size, dir, &context.config, tasks).await?;
    let agent =
        agent::write(dir).map_err(|error| Failure::because("cannot write the agent", &error))?;
    nodes.rune(&["run", &agent.display().to_string()]).await?;

    let mut rng = Rng::with_seed(seed);
    let began = Instant::now();
    let (asked_enough, give_up) = (CancellationToken::new(), CancellationToken::new());
    let mut asking = JoinSet::new();
    for number in 0..usize::from(args.clients) {
        let client = Asking::new(number, nodes.clients(), rng.fork(), began);
        asking.spawn(client.run(asked_enough.clone(), give_up.clone()));
    }
    let ends = async {
        let time_is_over = tokio::time::sleep(args.duration);
        stop.run_until_cancelled(time_is_over).await;
        stop.cancel();
    };
    let tell =
        |what: &str| output.note(&format!("{:7.1} s  {what}", began.elapsed().as_secs_f64()));
    let faults = async {
        let faults = faults::run(&mut nodes, &args.faults, &mut rng, began, stop, tell);
        let injected = faults.await;
        // One that could not be undone is the last one.
        stop.cancel();
        injected
    };
    let (injected, ()) = tokio::join!(faults, ends);
    let injected = injected?;
    let duration = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);

    output.note("everything is made as before, and looked at");
    nodes.heal().await?;
    let mut history = History {
        injected,
        unready: nodes
            .ready()
            .await
            .err()
            .map(|failure| failure.message().to_owned()),
        ..History::default()
    };
    asked_enough.cancel();
    history.operations = answered(&mut asking, &give_up).await;
    look(&nodes, dir, &mut history).await?;
    Ok(Report::new(seed, size, duration, history))
}

/// What the clients asked, once they have their last answers, or do not wait for them any more.
async fn answered(
    asking: &mut JoinSet<Vec<Operation>>,
    give_up: &CancellationToken,
) -> Vec<Operation> {
    let mut operations = Vec::new();
    let until = tokio::time::sleep(SETTLE);
    tokio::pin!(until);
    loop {
        tokio::select! {
            client = asking.join_next() => match client {
                Some(client) => operations.extend(client.into_iter().flatten()),
                None => return operations,
            },
            () = &mut until, if !give_up.is_cancelled() => give_up.cancel(),
        }
    }
}

/// Looks at what there is in the end.
async fn look(nodes: &Nodes, dir: &Path, history: &mut History) -> Outcome<()> {
    settle(nodes).await;
    for client in nodes.clients() {
        // What a node does not say it does not have.
        history.found.push(found(&client).await.unwrap_or_default());
    }
    let followed = history
        .operations
        .iter()
        .filter(|asked| asked.events.is_some());
    let followed: BTreeSet<String> = followed.flat_map(|asked| asked.ids.clone()).collect();
    let clients = nodes.clients();
    for (at, id) in followed.into_iter().enumerate() {
        let client = clients[at % clients.len()].clone();
        let follow = Follow::request(client, Some(id.clone()), 0);
        if let Ok((entries, _)) = entries(follow, &mut BTreeSet::new()).await {
            history.journals.insert(id, entries);
        }
    }
    for tool in ["again", "once"] {
        history.effects.insert(tool, agent::read(dir, tool));
    }
    history.rows = rows(nodes).await?;
    history.panics = nodes.panics();
    Ok(())
}

/// Waits until no request is under way, as long as that may take.
async fn settle(nodes: &Nodes) {
    let path = "/v1/requests?status=accepted,running&limit=1";
    let settled = async {
        loop {
            for client in nodes.clients() {
                let page = client.get(Api::Gateway, path).await;
                let items = page.ok().and_then(|page| page["items"].as_array().cloned());
                if items.is_some_and(|items| items.is_empty()) {
                    return;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    // What has not ended by then is found.
    drop(tokio::time::timeout(SETTLE, settled).await);
}

/// Every request that a node has.
async fn found(client: &Client) -> Outcome<BTreeMap<String, Found>> {
    let rows = client.list(Api::Gateway, "/v1/requests", &[], usize::MAX);
    let rows = rows.await?.into_iter().filter_map(|mut row| {
        let id = row["id"].as_str()?.to_owned();
        let status = row["status"].as_str()?.to_owned();
        let output = row["output"].take();
        Some((id, Found { status, output }))
    });
    Ok(rows.collect())
}

/// What the tables of each node come to, once they are the same, or in the end.
async fn rows(nodes: &Nodes) -> Outcome<Vec<BTreeMap<String, String>>> {
    let begun = Instant::now();
    loop {
        let mut all = Vec::new();
        for node in nodes.iter() {
            let digest = DatabaseDigest::of(&node.data_dir.join("rune.db"));
            let digest = digest
                .map_err(|error| Failure::because("cannot read the rows of a node", &error))?;
            let tables = digest.tables.into_iter();
            let tables = tables.map(|(name, table)| (name, table.digest.to_string()));
            all.push(tables.collect::<BTreeMap<_, _>>());
        }
        if all.windows(2).all(|two| two[0] == two[1]) || begun.elapsed() > SETTLE {
            return Ok(all);
        }
        tokio::time::sleep(LOOK).await;
    }
}
