//! `rune agent logs`: what an agent's replicas have logged, and the journals of its requests as log lines.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};

use super::Named;
use crate::client::{Api, Client, Event, Follow, part};
use crate::context::Context;
use crate::failure::{Exit, Outcome};
use crate::output::{Output, one_line, shortened};

/// How often new requests are looked for.
const POLL: Duration = Duration::from_millis(500);
/// How many requests are looked at each time.
const LOOK: usize = 200;
/// Replicas whose logs are shown at the most.
const MAX_REPLICAS: usize = 1000;
/// Lines of a replica's log at the most.
const MAX_LINES: usize = 10_000;
/// Longest line.
const LINE_CHARS: usize = 400;

/// Whose requests are shown.
#[derive(Default)]
pub(crate) struct Watched {
    /// What the gateway is asked for.
    query: Vec<(&'static str, String)>,
    deployment: Option<String>,
    prefix: Option<(String, usize)>,
}

impl Watched {
    /// Those of an agent; every agent's by default.
    pub(crate) fn agent(name: &str, namespace: &str) -> Self {
        Self {
            query: vec![("agent", name.to_owned()), ("ns", namespace.to_owned())],
            ..Self::default()
        }
    }

    /// Only those of a deployment.
    #[must_use]
    pub(crate) fn of_deployment(self, id: &str) -> Self {
        Self {
            deployment: Some(id.to_owned()),
            ..self
        }
    }

    /// What every line begins with, in one of several colours.
    #[must_use]
    pub(crate) fn with_prefix(self, prefix: String, colour: usize) -> Self {
        Self {
            prefix: Some((prefix, colour)),
            ..self
        }
    }
}

pub(super) async fn run(
    context: &Context,
    client: &Client,
    named: &Named,
    follow: bool,
    tail: usize,
) -> Outcome {
    replicas(context, client, named, tail).await?;
    let watched = Watched::agent(&named.name, &named.target.namespace);
    show(context, client, &[watched], follow, tail).await
}

/// Prints the last lines that each replica has logged, where it has a log of its own.
async fn replicas(context: &Context, client: &Client, named: &Named, tail: usize) -> Outcome<()> {
    if tail == 0 {
        return Ok(());
    }
    let Some(deployment) = super::find(client, named).await? else {
        // Its requests stay readable.
        return Ok(());
    };
    let query = [("deployment", super::id_of(&deployment))];
    let rows = client.list(Api::ControlPlane, "/v1/replicas", &query, MAX_REPLICAS);
    for row in rows.await? {
        let id = super::id_of(&row);
        let lines = tail.min(MAX_LINES);
        let path = format!("/v1/replicas/{}/logs?lines={lines}", part(id));
        let log = match client.get(Api::ControlPlane, &path).await {
            Ok(log) => log,
            // It may have ended since; the others, and the journals, are there.
            Err(failure) => {
                let why = failure.message();
                context.output.note(&format!("no log of {id}: {why}"));
                continue;
            }
        };
        for line in log["lines"].as_array().into_iter().flatten() {
            let line = line.as_str().unwrap_or_default();
            let line = match context.output.is_machine() {
                true => json!({"replica_id": id, "agent": &named.name, "line": line}).to_string(),
                false => shortened(&one_line(&format!("{id} {line}")), LINE_CHARS),
            };
            context.output.text(&line)?;
        }
    }
    Ok(())
}

/// Prints the journals of the newest `tail` requests of each, oldest first, and with `follow` those of every later one.
pub(crate) async fn show(
    context: &Context,
    client: &Client,
    watched: &[Watched],
    follow: bool,
    tail: usize,
) -> Outcome {
    let output = context.output;
    let mut known = HashSet::new();
    let mut open = FuturesUnordered::new();
    let max = if follow { tail.max(LOOK) } else { tail };
    for found in requests(client, watched, max).await? {
        known.insert(found.id.clone());
        if found.rank >= tail {
            continue;
        }
        if follow && !is_ended(&found.row) {
            open.push(print(output, client, found, None));
        } else {
            // Up to what was there: the journal of a running request does not end by itself.
            let until = found.row["last_seq"].as_u64().unwrap_or_default();
            print(output, client, found, Some(until)).await?;
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
                for found in requests(client, watched, LOOK).await? {
                    if known.insert(found.id.clone()) {
                        open.push(print(output, client, found, None));
                    }
                }
            }
        }
    }
}

/// A request that was found.
struct Found<'a> {
    of: &'a Watched,
    id: String,
    row: Value,
    /// How many newer ones there are.
    rank: usize,
}

/// The newest requests of each, oldest first: ids are in the order of time.
async fn requests<'a>(
    client: &Client,
    watched: &'a [Watched],
    max: usize,
) -> Outcome<Vec<Found<'a>>> {
    let mut all = Vec::new();
    for of in watched {
        let query: Vec<(&str, &str)> = of.query.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let rows = client
            .list(Api::Gateway, "/v1/requests", &query, max)
            .await?;
        let deployment = of.deployment.as_deref();
        let rows = rows
            .into_iter()
            .filter(|row| deployment.is_none_or(|id| row["deployment_id"] == id));
        all.extend(rows.enumerate().map(|(rank, row)| Found {
            of,
            id: row["id"].as_str().unwrap_or_default().to_owned(),
            row,
            rank,
        }));
    }
    all.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(all)
}

fn is_ended(row: &Value) -> bool {
    matches!(
        row["status"].as_str(),
        Some("completed" | "failed" | "cancelled")
    )
}

/// Prints the journal of a request, up to an entry or to its end.
async fn print(
    output: Output,
    client: &Client,
    found: Found<'_>,
    until: Option<u64>,
) -> Outcome<()> {
    let mut events = Follow::request(client.clone(), Some(found.id.clone()), 0);
    while let Some(event) = events.next().await? {
        if event.seq.is_some() {
            output.text(&line(output, &found, &event))?;
        }
        if until.is_some_and(|until| event.seq.is_some_and(|seq| seq >= until)) {
            return Ok(());
        }
    }
    Ok(())
}

fn line(output: Output, found: &Found<'_>, event: &Event) -> String {
    let id = &found.id;
    if output.is_machine() {
        let mut value = crate::events::as_line(event);
        value["request_id"] = id.as_str().into();
        value["agent"] = found.row["agent"].clone();
        return value.to_string();
    }
    let seq = event.seq.unwrap_or_default();
    let text = match event.name.as_str() {
        "done" => event.data["output"].to_string(),
        _ => event.data.to_string(),
    };
    let line = one_line(&format!("{id} {seq:>4} {:<16} {text}", event.name));
    let line = shortened(&line, LINE_CHARS);
    match &found.of.prefix {
        Some((prefix, colour)) => format!("{} {line}", output.data_style.label(*colour, prefix)),
        None => line,
    }
}
