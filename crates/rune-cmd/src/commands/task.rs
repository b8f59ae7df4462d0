//! `rune task`

use clap::Subcommand;

use crate::client::Api;
use crate::context::Context;
use crate::failure::{Exit, Outcome};
use crate::output::Column;

const COLUMNS: [Column; 8] = [
    ("ID", "/id"),
    ("QUEUE", "/queue"),
    ("TITLE", "/title"),
    ("STATE", "/state"),
    ("PRIORITY", "/priority"),
    ("POSTED BY", "/posted_by"),
    ("HELD BY", "/held_by"),
    ("CREATED", "/created_at"),
];

/// Tasks that agents leave for each other.
#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// List tasks, newest first
    #[command(
        after_help = "Examples:\n  rune task ls\n  rune task ls --queue mail --state open -o json"
    )]
    Ls {
        /// Only of this namespace
        #[arg(long, visible_alias = "ns")]
        namespace: Option<String>,
        /// Only of this queue
        #[arg(long)]
        queue: Option<String>,
        /// Only in this state
        #[arg(long, value_parser = ["open", "claimed", "done", "failed"])]
        state: Option<String>,
        /// Rows at the most
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
}

pub(crate) async fn run(context: &Context, command: TaskCommand) -> Outcome {
    let TaskCommand::Ls {
        namespace,
        queue,
        state,
        limit,
    } = command;
    let filters = [("ns", namespace), ("queue", queue), ("state", state)];
    let query: Vec<(&str, &str)> = filters
        .iter()
        .filter_map(|(name, value)| Some((*name, value.as_deref()?)))
        .collect();
    let client = context.client()?;
    let rows = client
        .list(Api::Gateway, "/v1/tasks", &query, limit)
        .await?;
    let nothing = "there are no tasks; agents post them with rune@task-post";
    context.output.list_or(&rows, &COLUMNS, nothing)?;
    Ok(Exit::Ok)
}
