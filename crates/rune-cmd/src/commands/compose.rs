//! `rune compose`: several agents deployed together.

mod config;
mod down;
mod logs;
mod order;
mod plan;
mod project;
mod ps;
mod up;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::context::Context;
use crate::failure::Outcome;
use project::{Project, Variables};

/// Agents that are deployed together, from a rune-compose.yml.
#[derive(Debug, Args)]
pub(crate) struct ComposeArgs {
    #[command(flatten)]
    file: FileArg,
    #[command(subcommand)]
    command: ComposeCommand,
}

/// Which compose file.
#[derive(Debug, Args)]
struct FileArg {
    /// The compose file [default: rune-compose.yml, else rune-compose.yaml]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum ComposeCommand {
    /// Deploy what differs from the file, dependencies first, and wait until it is ready
    #[command(
        after_help = "Examples:\n  rune compose up\n  rune compose up -f shop.yml --dry-run\n  rune compose up --remove-orphans"
    )]
    Up {
        #[command(flatten)]
        file: FileArg,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
        /// Remove what the project has deployed and the file does not name
        #[arg(long)]
        remove_orphans: bool,
        /// Longest wait for an agent, in seconds [default: its startup_timeout_ms and 20 more for each of its replicas]
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
    /// Remove what the project has deployed, dependents first; running requests end
    #[command(after_help = "Examples:\n  rune compose down\n  rune compose down --timeout 60")]
    Down {
        #[command(flatten)]
        file: FileArg,
        /// Longest wait for the running requests of an agent, in seconds [default: the drain time and 15 more]
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
    /// List the agents of the project
    #[command(after_help = "Examples:\n  rune compose ps\n  rune compose ps -o json")]
    Ps {
        #[command(flatten)]
        file: FileArg,
    },
    /// Print the journals of the agents' requests as log lines
    #[command(
        after_help = "Examples:\n  rune compose logs\n  rune compose logs -f front\n  rune compose logs -f shop.yml --follow"
    )]
    Logs(logs::LogsArgs),
    /// Check the file and print it with its defaults; the variables of agents stay as they are written
    #[command(
        after_help = "Examples:\n  rune compose config\n  rune compose config -f shop.yml -o json"
    )]
    Config {
        #[command(flatten)]
        file: FileArg,
    },
}

pub(crate) async fn run(context: &Context, args: ComposeArgs) -> Outcome {
    let outer = args.file.file;
    let load = |file: FileArg, variables| {
        let file = file.file.or(outer.clone());
        Project::load(context, file.as_deref(), variables)
    };
    match args.command {
        ComposeCommand::Up {
            file,
            dry_run,
            remove_orphans,
            timeout,
        } => {
            let options = up::Options {
                dry_run,
                remove_orphans,
                timeout: timeout.map(Duration::from_secs),
            };
            up::run(context, &load(file, Variables::Required)?, &options).await
        }
        ComposeCommand::Down { file, timeout } => {
            let project = load(file, Variables::Optional)?;
            down::run(context, &project, timeout.map(Duration::from_secs)).await
        }
        ComposeCommand::Ps { file } => ps::run(context, &load(file, Variables::Optional)?).await,
        ComposeCommand::Logs(args) => {
            let (file, args) = args.resolve();
            let file = file.as_deref().or(outer.as_deref());
            let project = Project::load(context, file, Variables::Optional)?;
            logs::run(context, &project, &args).await
        }
        ComposeCommand::Config { file } => config::run(context, &load(file, Variables::Required)?),
    }
}

/// How a person names a deployment.
fn place(namespace: &str, agent: &str, alias: &str) -> String {
    format!("{namespace}/{agent}:{alias}")
}

/// The directory that the paths of a file are relative to.
fn directory(file: &Path) -> &Path {
    file.parent().unwrap_or_else(|| Path::new(""))
}
