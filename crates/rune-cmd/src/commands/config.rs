//! `rune config`

use clap::Subcommand;
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::{Exit, Outcome};

/// The configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every key with its value and where it comes from; secrets are shown as ***
    #[command(
        after_help = "Examples:\n  rune config show\n  RUNE_LOG_FORMAT=json rune config show -o yaml"
    )]
    Show,
}

pub(crate) fn run(context: &Context, command: &ConfigCommand) -> Outcome {
    match command {
        ConfigCommand::Show => show(context),
    }
}

fn show(context: &Context) -> Outcome {
    let entries = context.config.redacted().iter().map(|entry| {
        json!({
            "key": entry.key,
            "value": entry.value,
            "origin": entry.origin.to_string(),
            "env": entry.env,
            "description": entry.description,
        })
    });
    let rows: Vec<Value> = entries.collect();
    let columns = [("KEY", "/key"), ("VALUE", "/value"), ("ORIGIN", "/origin")];
    context.output.list(&rows, &columns)?;
    Ok(Exit::Ok)
}
