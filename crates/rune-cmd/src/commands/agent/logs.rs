//! `rune agent logs`: the journals of an agent's requests as log lines.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::Value;

use super::Named;
use crate::client::{Api, Client, Event, Follow};
use crate::context::Context;
use crate::failure::{Exit, Outcome};
use crate::output::{Output, one_line, shortened};

/// How often new requests are looked for.
const POLL: Duration = Duration::from_millis(500);
/// Longest line.
const LINE_CHARS: usize = 400;

pub(super) async fn run(
    context: &Context,
    client: &Client,
    named: &Named,
    follow: bool,
    tail: usize,
) -> Outcome {
    let output = context.output;
    let mut known = HashSet::new();
    let mut open = FuturesUnordered::new();
    let mut rows = requests(client, named, tail).await?;
    rows.reverse();
    for row in rows {
        let id = row["id"].as_str().unwrap_or_default().to_owned();
        known.insert(id.clone());
        if follow && !is_ended(&row) {
            open.push(print(output, client, id, None));
        } else {
            // Up to what was there: the journal of a running request does not end by itself.
            let until = row["last_seq"].as_u64().unwrap_or_default();
            print(output, client, id, Some(until)).await?;
        }
    }
    if !follow {
        return Ok(Exit::Ok);
    }
    let mut look = tokio::time::interval(POLL);
    loop {
        tokio::select! {
            Some(ended) = open.next(), if !open.is_empty() => ended?,
            _ = look.tick() => {
                for row in requests(client, named, tail.max(1)).await?.into_iter().rev() {
                    let id = row["id"].as_str().unwrap_or_default().to_owned();
                    if known.insert(id.clone()) {
                        open.push(print(output, client, id, None));
                    }
                }
            }
        }
    }
}

/// The newest requests of the agent, newest first.
async fn requests(client: &Client, named: &Named, max: usize) -> Outcome<Vec<Value>> {
    let query = [
        ("agent", named.name.as_str()),
        ("ns", named.target.namespace.as_str()),
    ];
    client.list(Api::Gateway, "/v1/requests", &query, max).await
}

fn is_ended(row: &Value) -> bool {
    matches!(
        row["status"].as_str(),
        Some("completed" | "failed" | "cancelled")
    )
}

/// Prints the journal of a request, up to an entry or to its end.
async fn print(output: Output, client: &Client, id: String, until: Option<u64>) -> Outcome<()> {
    let mut events = Follow::request(client.clone(), Some(id.clone()), 0);
    while let Some(event) = events.next().await? {
        if event.seq.is_some() {
            output.text(&line(output, &id, &event))?;
        }
        if until.is_some_and(|until| event.seq.is_some_and(|seq| seq >= until)) {
            return Ok(());
        }
    }
    Ok(())
}

fn line(output: Output, id: &str, event: &Event) -> String {
    if output.is_machine() {
        let mut value = crate::events::as_line(event);
        value["request_id"] = id.into();
        return value.to_string();
    }
    let seq = event.seq.unwrap_or_default();
    let text = match event.name.as_str() {
        "done" => event.data["output"].to_string(),
        _ => event.data.to_string(),
    };
    shortened(
        &one_line(&format!("{id} {seq:>4} {:<16} {text}", event.name)),
        LINE_CHARS,
    )
}
