//! `rune compose down`

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::order::{Ended, in_order};
use super::project::{Deployed, Project};
use crate::client::{Api, Client};
use crate::commands::{rm, stop};
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::progress::{Line, Progress};

/// How often replicas that end are looked at.
const POLL: Duration = Duration::from_millis(50);
/// Time beyond the drain in which a replica ends.
const STOP_MARGIN: Duration = Duration::from_secs(15);

pub(super) async fn run(
    context: &Context,
    project: &Project,
    timeout: Option<Duration>,
) -> Outcome {
    let mut interrupt = Interrupt::listen()?;
    tokio::select! {
        ended = down(context, project, timeout) => ended,
        () = interrupt.next() => {
            Err(Failure::new(Exit::Interrupted, "stopped; what was not removed stays")
                .help("`rune compose ps` shows it, `rune compose down` goes on"))
        }
    }
}

async fn down(context: &Context, project: &Project, timeout: Option<Duration>) -> Outcome {
    let client = context.client()?;
    let deployed = project.deployed(&client).await?;
    let limit = timeout.unwrap_or_else(|| stop_margin(context));
    let progress = Progress::new(context.output);
    let dependents = dependents(project, &deployed);
    let ended = in_order(&dependents, |index| {
        let row = &deployed[index];
        let line = progress.line(row.name());
        let client = &client;
        async move { remove(client, row, &line, limit).await }
    })
    .await;
    drop(progress);
    report(context, project, &deployed, &ended)
}

/// For each deployment those that have to go before it. What the file does not name goes at once.
fn dependents(project: &Project, deployed: &[Deployed]) -> Vec<Vec<usize>> {
    let dependencies = project.dependencies();
    let position = |row: &Deployed| project.position(row.name());
    deployed
        .iter()
        .map(|row| {
            let Some(own) = position(row) else {
                return Vec::new();
            };
            let depends = |other: &Deployed| {
                position(other).is_some_and(|other| dependencies[other].contains(&own))
            };
            (0..deployed.len())
                .filter(|&other| depends(&deployed[other]))
                .collect()
        })
        .collect()
}

/// How long the requests of an agent may take to end.
pub(super) fn stop_margin(context: &Context) -> Duration {
    context.config.runtime.drain_grace + STOP_MARGIN
}

/// Stops a deployment, waits until its replicas have ended, and removes it.
pub(super) async fn remove(
    client: &Client,
    row: &Deployed,
    line: &Line,
    limit: Duration,
) -> Outcome<()> {
    line.step("stopping");
    stop::scale_to_zero(client, row.id()).await?;
    let deadline = Instant::now() + limit;
    let mut look = tokio::time::interval(POLL);
    loop {
        look.tick().await;
        let query = [("deployment", row.id())];
        let left = client
            .list(Api::ControlPlane, "/v1/replicas", &query, 1)
            .await?;
        if left.is_empty() {
            break;
        }
        if Instant::now() >= deadline {
            let message = format!(
                "requests of {} still run after {} s",
                row.place(),
                limit.as_secs()
            );
            return Err(Failure::new(Exit::Failed, message)
                .help("wait for them, or cancel them (`rune requests ls`), and run `rune compose down` again"));
        }
    }
    rm::remove(client, row.id()).await?;
    line.step("removed");
    Ok(())
}

fn report(
    context: &Context,
    project: &Project,
    deployed: &[Deployed],
    ended: &[Ended<()>],
) -> Outcome {
    let name = project.name();
    let mut removed = Vec::new();
    let mut left = Vec::new();
    for (row, ended) in deployed.iter().zip(ended) {
        match ended {
            Ended::Done(()) => removed.push(row.place()),
            Ended::Failed(failure) => left.push((row.place(), failure.message().to_owned())),
            Ended::Skipped(other) => {
                let reason = format!("{} is still there", deployed[*other].place());
                left.push((row.place(), reason));
            }
        }
    }
    let rows: Vec<_> = left
        .iter()
        .map(|(place, reason)| json!({ "deployment": place, "reason": reason }))
        .collect();
    let data = json!({ "project": name, "removed": removed, "left": rows });
    context.output.data(&data, |_| {
        let mut lines: Vec<String> = left
            .iter()
            .map(|(place, reason)| format!("[failed] {place}: {reason}"))
            .collect();
        lines.push(if deployed.is_empty() {
            format!("nothing of {name} is deployed")
        } else {
            format!(
                "[ok] removed {} of {} agents of {name}",
                removed.len(),
                deployed.len()
            )
        });
        lines.join("\n")
    })?;
    if left.is_empty() {
        return Ok(Exit::Ok);
    }
    let message = format!("{} agents of `{name}` are still there", left.len());
    Err(Failure::new(Exit::Failed, message).help("`rune compose down` goes on"))
}
