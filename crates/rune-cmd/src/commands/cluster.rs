//! `rune cluster`

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::{Api, Client};
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{Column, Output, table};
use crate::progress::Progress;

const COLUMNS: [Column; 9] = [
    ("NODE", "/node"),
    ("ADDRESS", "/addr"),
    ("ROLE", "/role"),
    ("VERSION", "/version"),
    ("LAST", "/last"),
    ("APPLIED", "/applied"),
    ("SNAPSHOT", "/snapshot"),
    ("LAG", "/lag"),
    ("STATE", "/state"),
];

/// How often what is under way is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How long something may be under way without coming further.
const STALL: Duration = Duration::from_secs(120);

/// Begin a cluster, take nodes in and out, look at it.
///
/// A cluster is at least three daemons that keep the same data: each was started with `--node-id`, `--raft-addr` and
/// `--peers`, and has the same RUNE_CLUSTER_SECRET. Any of them can be asked, whoever leads.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Begin the cluster, once, on one of its first nodes
    ///
    /// Every first node runs already and is in no cluster. Without --member they are those that the asked one was
    /// started with: itself and its --peers.
    #[command(after_help = "Examples:\n  rune cluster init\n  \
rune cluster init --member 1@10.0.0.1:9000 --member 2@10.0.0.2:9000 --member 3@10.0.0.3:9000")]
    Init(InitArgs),
    /// Take a new node in, without a vote, and wait until it has everything
    ///
    /// The node runs already, with an empty data directory and a number that no node of this cluster ever had. It gets a vote with
    /// `rune cluster change-membership`.
    #[command(after_help = "Examples:\n  rune cluster add-learner 4 10.0.0.4:9000")]
    AddLearner(AddLearnerArgs),
    /// Say which members have a vote
    ///
    /// Those that are not named stay as learners; `rune cluster remove` takes a node out. Refused where no majority of the new
    /// voters answers.
    #[command(
        after_help = "Examples:\n  rune cluster change-membership 1 2 4\n  rune cluster change-membership 1,2,4"
    )]
    ChangeMembership(VotersArgs),
    /// Show the cluster: who leads, and how every member is
    #[command(after_help = "Examples:\n  rune cluster status\n  rune cluster status -o json")]
    Status,
    /// Have the asked node take a snapshot now and shorten its log
    #[command(after_help = "Examples:\n  rune cluster snapshot")]
    Snapshot,
    /// Take a node out for good, whether it runs or not
    ///
    /// Its number is never used again: a machine that comes back joins under a new one, with an empty data directory.
    #[command(after_help = "Examples:\n  rune cluster remove 3")]
    Remove(NodeArgs),
    /// Have another voter lead, as before a restart of the one that does
    #[command(after_help = "Examples:\n  rune cluster transfer-leader 2")]
    TransferLeader(NodeArgs),
}

/// What `rune cluster init` takes.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// A first member, the asked node among them; once for each [default: what the node was started with]
    #[arg(long = "member", value_name = "ID@HOST:PORT", value_parser = member)]
    members: Vec<(u64, String)>,
}

/// What `rune cluster add-learner` takes.
#[derive(Debug, Args)]
pub(crate) struct AddLearnerArgs {
    /// The number of the new node
    #[arg(value_name = "ID")]
    node: u64,
    /// Where the other nodes reach it
    #[arg(value_name = "HOST:PORT")]
    addr: String,
}

/// What `rune cluster change-membership` takes.
#[derive(Debug, Args)]
pub(crate) struct VotersArgs {
    /// The members with a vote
    #[arg(value_name = "ID", required = true, value_delimiter = ',')]
    voters: Vec<u64>,
}

/// One member.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// The number of the node
    #[arg(value_name = "ID")]
    node: u64,
}

pub(crate) async fn run(context: &Context, command: ClusterCommand) -> Outcome {
    let client = context.client()?;
    let output = context.output;
    match command {
        ClusterCommand::Init(args) => {
            let members = args.members.into_iter();
            let members = members.map(|(node, addr)| json!({"node": node, "addr": addr}));
            let body = json!({ "members": members.collect::<Vec<_>>() });
            let cluster = post(&client, "init", &body).await?;
            let count = rows(&cluster).len();
            done(
                output,
                &cluster,
                &format!("the cluster has begun, with {count} nodes"),
            )
        }
        ClusterCommand::AddLearner(args) => add_learner(context, &client, &args).await,
        ClusterCommand::ChangeMembership(args) => {
            let body = json!({ "voters": args.voters });
            let cluster = post(&client, "change-membership", &body).await?;
            let voters = rows(&cluster).iter();
            let voters = voters.filter(|row| row["role"] != "learner").count();
            done(output, &cluster, &format!("{voters} members have a vote"))
        }
        ClusterCommand::Status => status(context, &client).await,
        ClusterCommand::Snapshot => snapshot(context, &client).await,
        ClusterCommand::Remove(args) => {
            let cluster = post(&client, "remove", &json!({ "node": args.node })).await?;
            done(
                output,
                &cluster,
                &format!("node {} is removed for good", args.node),
            )
        }
        ClusterCommand::TransferLeader(args) => {
            let body = json!({ "node": args.node });
            let cluster = post(&client, "transfer-leader", &body).await?;
            done(output, &cluster, &format!("node {} leads", args.node))
        }
    }
}

async fn post(client: &Client, what: &str, body: &Value) -> Outcome<Value> {
    let path = format!("/v1/cluster/{what}");
    let answer = client.post(Api::ControlPlane, &path, body).await;
    answer.map_err(helped)
}

async fn look(client: &Client) -> Outcome<Value> {
    let answer = client.get(Api::ControlPlane, "/v1/cluster/status").await;
    answer.map_err(helped)
}

/// The message says what to do; what the client adds is about daemons.
fn helped(failure: Failure) -> Failure {
    match failure.code() {
        Some(_) => Failure::new(failure.exit, failure.message())
            .help("`rune cluster status` shows the members and how they are"),
        None => failure,
    }
}

async fn add_learner(context: &Context, client: &Client, args: &AddLearnerArgs) -> Outcome {
    let node = args.node;
    let body = json!({ "node": node, "addr": args.addr });
    let mut cluster = post(client, "add-learner", &body).await?;
    // What the others have by now is what it has to get: they go on meanwhile.
    let target = last(&cluster).unwrap_or(0);
    let progress = Progress::new(context.output);
    let line = progress.line("");
    line.step(&format!("node {node} is a member, and is sent everything"));
    let mut stalled = Instant::now();
    let mut best = None;
    loop {
        let row = rows(&cluster).iter().find(|row| row["node"] == node);
        let Some(row) = row else {
            let message = format!("node {node} was removed again");
            return Err(Failure::new(Exit::Failed, message));
        };
        // Without a leader nobody knows how far it is.
        let lag = row["lag"].as_u64();
        let reached = last(&cluster).zip(lag);
        let reached = reached.and_then(|(last, lag)| last.checked_sub(lag));
        if row["role"] != "learner" || reached >= Some(target) {
            drop(line);
            return done(
                context.output,
                &cluster,
                &format!("node {node} has everything"),
            );
        }
        if reached > best {
            best = reached;
            stalled = Instant::now();
        }
        if stalled.elapsed() > STALL {
            let state = row["state"].as_str().unwrap_or_default();
            let message = format!(
                "node {node} has got nothing for {} s ({state})",
                STALL.as_secs()
            );
            return Err(Failure::new(Exit::Unavailable, message).help(
                "it stays a member, and `rune cluster status` shows when it comes further; `rune cluster remove` takes it out",
            ));
        }
        if let Some(lag) = lag {
            line.progress(&format!("node {node}: {lag} entries behind"));
        }
        tokio::time::sleep(LOOK).await;
        cluster = look(client).await?;
    }
}

async fn snapshot(context: &Context, client: &Client) -> Outcome {
    let asked = post(client, "snapshot", &json!({})).await?;
    let (node, wanted) = (&asked["node"], asked["wanted"].as_u64());
    let progress = Progress::new(context.output);
    let line = progress.line("");
    line.step(&format!("node {node} takes a snapshot"));
    let begun = Instant::now();
    loop {
        let cluster = look(client).await?;
        let row = rows(&cluster).iter().find(|row| row["node"] == *node);
        let row = row.cloned().unwrap_or_default();
        if row["snapshot"].as_u64() >= wanted {
            drop(line);
            let data = json!({
                "node": node, "snapshot": row["snapshot"], "purged": row["purged"], "last": row["last"],
            });
            context.output.data(&data, |data| {
                format!(
                    "[ok] the snapshot of node {node} holds everything up to entry {}",
                    data["snapshot"]
                )
            })?;
            return Ok(Exit::Ok);
        }
        if begun.elapsed() > STALL {
            let message = format!("there is no snapshot after {} s", STALL.as_secs());
            return Err(Failure::new(Exit::Unavailable, message).help(
                "it goes on; `rune cluster status` shows the snapshots, the log of the node says what failed",
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn status(context: &Context, client: &Client) -> Outcome {
    let cluster = look(client).await?;
    context.output.data(&cluster, text)?;
    match cluster["trouble"].as_str() {
        None => Ok(Exit::Ok),
        Some(trouble) => Err(Failure::new(Exit::Unavailable, trouble)),
    }
}

fn done(output: Output, cluster: &Value, what: &str) -> Outcome {
    output.data(cluster, text)?;
    output.ok(what);
    Ok(Exit::Ok)
}

fn rows(cluster: &Value) -> &[Value] {
    let members = cluster["members"].as_array();
    members.map(Vec::as_slice).unwrap_or_default()
}

/// The last entry of the leader.
fn last(cluster: &Value) -> Option<u64> {
    let leader = rows(cluster).iter().find(|row| row["role"] == "leader");
    leader?["last"].as_u64()
}

fn text(cluster: &Value) -> String {
    let number = |field: &str| {
        let number = cluster[field].as_u64();
        number.map_or_else(|| "-".to_owned(), |number| number.to_string())
    };
    let mut text = format!(
        "cluster  {}\nasked    node {}\nleader   node {}, term {}\nquorum   {}\n",
        cluster["cluster"].as_str().unwrap_or("-"),
        number("node"),
        number("leader"),
        number("term"),
        match cluster["quorum"].as_bool() {
            Some(true) => "yes",
            _ => "no",
        },
    );
    if cluster["changing"] == true {
        text.push_str("voters   are being changed; the same change again ends it\n");
    }
    text.push('\n');
    text.push_str(&table(rows(cluster), &COLUMNS));
    text
}

fn member(text: &str) -> Result<(u64, String), String> {
    let expected = || "expected ID@HOST:PORT such as 1@10.0.0.1:9000".to_owned();
    let (node, addr) = text.split_once('@').ok_or_else(expected)?;
    let node = node.parse().map_err(|_| expected())?;
    if addr.is_empty() {
        return Err(expected());
    }
    Ok((node, addr.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_a_number_and_a_place() {
        let place = |text: &str| member(text).ok();
        let first = Some((1, "node-1.rune:9000".to_owned()));
        assert_eq!(place("1@node-1.rune:9000"), first);
        for wrong in ["", "1", "1@", "@a:1", "x@a:1", "-1@a:1"] {
            assert_eq!(place(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_table_names_the_leader_and_what_is_wrong() {
        let cluster = json!({
            "cluster": "c", "node": 1, "term": 3, "leader": 2, "quorum": true, "changing": false,
            "members": [
                {"node": 1, "addr": "a:1", "role": "voter", "state": "ok", "lag": 0},
                {"node": 2, "addr": "b:1", "role": "leader", "state": "the disk is full", "lag": 0},
            ],
        });
        let text = text(&cluster);
        assert!(text.contains("leader   node 2, term 3"), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[5].starts_with("NODE"), "{text}");
        assert!(
            lines[7].contains("leader") && lines[7].ends_with("the disk is full"),
            "{text}"
        );
    }
}
