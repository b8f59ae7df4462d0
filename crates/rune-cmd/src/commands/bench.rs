//! `rune bench`

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use rune_bench::{BenchConfig, BenchError, Part};
use rune_raft::NodeConfig;

use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome, chain};

/// Measures this Rune on this machine, beside the floors of the same run.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune bench\n  rune bench --clients 64 --seconds 10 --rounds 5\n  rune bench --only latency,starts\n  rune bench --only failover --rounds 50\n  RUNE_REPLICA_IMAGE=rune:0.1.0 rune bench --only cold\n  rune bench -o json > bench.json"
)]
pub(crate) struct BenchArgs {
    /// What to measure
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "throughput,latency,starts,memory,parked,cold,cluster,failover"
    )]
    only: Vec<Figures>,
    /// Clients of the throughput runs, one run each
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    clients: Vec<usize>,
    /// Length of one throughput run
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Rounds per figure; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// Idle sessions whose memory is measured
    #[arg(long, default_value_t = 10_000)]
    sessions: usize,
    /// Parked requests whose memory is measured
    #[arg(long, default_value_t = 10_000)]
    parked: usize,
    /// Directory on the disk to measure [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Serve a part of the benchmark: axum | axum-sqlite FILE | proxy URL | proxy-sqlite URL FILE | model MILLIS
    #[arg(long, num_args = 1..=3, hide = true)]
    serve: Vec<String>,
}

/// Figures that are measured together.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Figures {
    /// Durable invokes per second, and that nothing is lost by kill -9
    Throughput,
    /// Latency added to a model, and the first token
    Latency,
    /// Start to ready, warm and fresh
    Starts,
    /// Idle memory, and what idle sessions add
    Memory,
    /// What requests that wait for a person hold
    Parked,
    /// From no replica to the first token, in the daemon and in containers (RUNE_REPLICA_IMAGE)
    Cold,
    /// What a write costs on three nodes, over one daemon
    Cluster,
    /// From the loss of a leader, and from a planned transfer, to the next write
    Failover,
}

impl From<Figures> for Part {
    fn from(figures: Figures) -> Self {
        match figures {
            Figures::Throughput => Self::Throughput,
            Figures::Latency => Self::Latency,
            Figures::Starts => Self::Starts,
            Figures::Memory => Self::Memory,
            Figures::Parked => Self::Parked,
            Figures::Cold => Self::Cold,
            Figures::Cluster => Self::Cluster,
            Figures::Failover => Self::Failover,
        }
    }
}

pub(crate) fn run(context: &Context, args: BenchArgs) -> Outcome {
    // Load and floors use every core, as the daemon does.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because("cannot start the runtime", &error))?;
    if args.serve.is_empty() {
        runtime.block_on(measure(context, args))
    } else {
        runtime
            .block_on(rune_bench::serve(&args.serve))
            .map_err(|e| failed(&e))?;
        Ok(Exit::Ok)
    }
}

async fn measure(context: &Context, args: BenchArgs) -> Outcome {
    let rune = std::env::current_exe()?;
    let config = BenchConfig {
        parts: args.only.into_iter().map(Part::from).collect(),
        rune,
        dir: args.dir.unwrap_or_else(std::env::temp_dir),
        clients: args.clients,
        duration: Duration::from_secs(args.seconds),
        rounds: usize::try_from(args.rounds).unwrap_or(1),
        starts: STARTS,
        sessions: args.sessions,
        parked: args.parked,
        docker_host: context.config.tools.docker_host.clone(),
        replica_image: context.config.runtime.replica_image.clone(),
        election_timeout: NodeConfig::default().election * 2,
    };
    let output = context.output;
    let mut progress = |what: &str| output.note(&format!("measuring {what}"));
    let report = rune_bench::run(&config, &mut progress)
        .await
        .map_err(|e| failed(&e))?;
    let value = serde_json::to_value(&report)
        .map_err(|error| Failure::because("cannot print the report", &error))?;
    output.data(&value, |_| report.to_string())?;
    Ok(Exit::Ok)
}

/// Starts per kind of start.
const STARTS: usize = 20;

fn failed(error: &BenchError) -> Failure {
    Failure::new(Exit::Failed, chain(error))
}
