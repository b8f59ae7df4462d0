//! `rune event`

use clap::Subcommand;
use serde_json::{Value, json};

use crate::client::Api;
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::Column;

const COLUMNS: [Column; 6] = [
    ("ID", "/id"),
    ("NAMESPACE", "/namespace"),
    ("TOPIC", "/topic"),
    ("PUBLISHER", "/publisher"),
    ("REQUESTS", "/requests"),
    ("AT", "/at"),
];

/// Events that make requests of the schedules that are about them.
#[derive(Debug, Subcommand)]
pub(crate) enum EventCommand {
    /// List events, newest first
    #[command(
        after_help = "Examples:\n  rune event ls\n  rune event ls --topic order.paid -o json"
    )]
    Ls {
        /// Only of this namespace
        #[arg(long, visible_alias = "ns")]
        namespace: Option<String>,
        /// Only about this topic
        #[arg(long)]
        topic: Option<String>,
        /// Rows at the most
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Publish an event
    #[command(
        after_help = "Examples:\n  rune event publish order.paid '{\"total\": 7}'\n  rune event publish door.open --ns prod"
    )]
    Publish {
        /// What it is about
        topic: String,
        /// What is to be known of it, as JSON
        payload: Option<String>,
        /// Its namespace
        #[arg(long, visible_alias = "ns", default_value = "dev")]
        namespace: String,
    },
}

pub(crate) async fn run(context: &Context, command: EventCommand) -> Outcome {
    match command {
        EventCommand::Ls {
            namespace,
            topic,
            limit,
        } => ls(context, namespace, topic, limit).await,
        EventCommand::Publish {
            topic,
            payload,
            namespace,
        } => publish(context, &topic, payload.as_deref(), &namespace).await,
    }
}

async fn ls(
    context: &Context,
    namespace: Option<String>,
    topic: Option<String>,
    limit: usize,
) -> Outcome {
    let filters = [("ns", namespace), ("topic", topic)];
    let query: Vec<(&str, &str)> = filters
        .iter()
        .filter_map(|(name, value)| Some((*name, value.as_deref()?)))
        .collect();
    let client = context.client()?;
    let rows = client
        .list(Api::Gateway, "/v1/events", &query, limit)
        .await?;
    let nothing = "nothing was published; `rune event publish --help` shows how";
    context.output.list_or(&rows, &COLUMNS, nothing)?;
    Ok(Exit::Ok)
}

async fn publish(
    context: &Context,
    topic: &str,
    payload: Option<&str>,
    namespace: &str,
) -> Outcome {
    let payload: Value = serde_json::from_str(payload.unwrap_or("null"))
        .map_err(|error| Failure::usage(format!("the payload is not JSON: {error}")))?;
    let body = json!({"topic": topic, "payload": payload, "namespace": namespace});
    let client = context.client()?;
    let row = client.post(Api::Gateway, "/v1/events", &body).await?;
    context.output.data(&row, |row| {
        let id = row["id"].as_str().unwrap_or("?");
        format!("published {id}: {} requests", row["requests"])
    })?;
    Ok(Exit::Ok)
}
