//! `rune compose up`

use std::time::Duration;

use serde_json::Value;

use super::down::{remove, stop_margin};
use super::order::{Ended, in_order};
use super::plan::{Action, Plan, Step};
use super::project::{Deployed, Project};
use crate::client::Client;
use crate::commands::run::{Patience, apply, wait, wait_unchanged};
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::progress::Progress;

/// How it is done.
pub(super) struct Options {
    pub(super) dry_run: bool,
    pub(super) remove_orphans: bool,
    pub(super) timeout: Option<Duration>,
}

pub(super) async fn run(context: &Context, project: &Project, options: &Options) -> Outcome {
    let mut interrupt = Interrupt::listen()?;
    tokio::select! {
        ended = up(context, project, options) => ended,
        () = interrupt.next() => {
            Err(Failure::new(Exit::Interrupted, "stopped; what was deployed stays")
                .help("`rune compose ps` shows it, `rune compose up` goes on"))
        }
    }
}

async fn up(context: &Context, project: &Project, options: &Options) -> Outcome {
    let client = context.client()?;
    let plan = Plan::make(context, &client, project).await?;
    let output = context.output;
    if options.dry_run {
        output.data(&plan.as_json(project.name()), |_| {
            plan.text(output.style, options.remove_orphans)
        })?;
        return Ok(Exit::Ok);
    }
    let removes = options.remove_orphans && !plan.orphans.is_empty();
    if !(plan.is_unchanged() && plan.orphans.is_empty()) {
        output.note(&plan.text(output.style, options.remove_orphans));
    }
    let progress = Progress::new(output);
    let ended = in_order(&project.dependencies(), |index| {
        deploy(&client, &plan.steps[index], &progress, options.timeout)
    })
    .await;
    let is_up = ended.iter().all(|ended| matches!(ended, Ended::Done(_)));
    if is_up && removes {
        let wait = options.timeout.unwrap_or_else(|| stop_margin(context));
        for orphan in &plan.orphans {
            remove(&client, orphan, &progress.line(orphan.name()), wait).await?;
        }
    }
    drop(progress);
    report(context, project, &plan, &ended, removes)
}

/// Makes one agent what the file says, and answers its deployment once it is ready.
async fn deploy(
    client: &Client,
    step: &Step,
    progress: &Progress,
    timeout: Option<Duration>,
) -> Outcome<Value> {
    let patience = timeout.map_or_else(|| step.patience(), Patience::Whole);
    if step.action == Action::Unchanged {
        return wait_unchanged(client, step.deployment.clone(), patience).await;
    }
    let line = progress.line(&step.name);
    if step.is_new_version() {
        step.packed.upload(client, &line).await?;
    }
    let deployment = apply(client, &step.body(), &line).await?;
    let ready = wait(client, deployment, patience).await?;
    drop(line);
    progress.note(&format!("{}: ready", step.name));
    Ok(ready)
}

/// Says what is up and what is not.
fn report(
    context: &Context,
    project: &Project,
    plan: &Plan,
    ended: &[Ended<Value>],
    removed: bool,
) -> Outcome {
    let output = context.output;
    let mut data = plan.as_json(project.name());
    for (row, ended) in data["agents"]
        .as_array_mut()
        .into_iter()
        .flatten()
        .zip(ended)
    {
        let (state, reason) = match ended {
            Ended::Done(deployment) => {
                row["deployment"] = deployment["id"].clone();
                ("ready", String::new())
            }
            Ended::Failed(failure) => ("failed", failure.message().to_owned()),
            Ended::Skipped(other) => ("skipped", format!("needs `{}`", plan.steps[*other].name)),
        };
        row["state"] = state.into();
        row["reason"] = reason.into();
    }
    data["orphans_removed"] = removed.into();
    output.data(&data, |_| summary(project, plan, ended, removed))?;
    if !(removed || plan.orphans.is_empty()) {
        let names: Vec<String> = plan.orphans.iter().map(Deployed::place).collect();
        output.note(&format!(
            "{} not in the file any more: {}; `rune compose up --remove-orphans` removes it",
            output.style.warn("warning:"),
            names.join(", ")
        ));
    }
    failure(project, plan, ended)
}

fn summary(project: &Project, plan: &Plan, ended: &[Ended<Value>], removed: bool) -> String {
    let mut lines = Vec::new();
    for (step, ended) in plan.steps.iter().zip(ended) {
        let (name, place) = (&step.name, step.place());
        match ended {
            Ended::Done(_) => {}
            Ended::Failed(failure) => {
                lines.push(format!("[failed] {name} ({place}): {}", failure.message()));
            }
            Ended::Skipped(other) => {
                let other = &plan.steps[*other].name;
                lines.push(format!("[skipped] {name} ({place}): it needs `{other}`"));
            }
        }
    }
    let all = ended.len();
    let up = ended
        .iter()
        .filter(|ended| matches!(ended, Ended::Done(_)))
        .count();
    let mut counts: Vec<String> = [
        (plan.count(Action::Create), "created"),
        (plan.count(Action::Change), "changed"),
        (plan.count(Action::Unchanged), "unchanged"),
        (if removed { plan.orphans.len() } else { 0 }, "removed"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, word)| format!("{count} {word}"))
    .collect();
    if plan.is_unchanged() && !removed {
        counts = vec!["everything unchanged".to_owned()];
    }
    let name = project.name();
    if up == all {
        lines.push(format!(
            "[ok] {name} is up: {all} agents ({})",
            counts.join(", ")
        ));
    } else {
        let names = plan.steps.iter().zip(ended);
        let names = names.filter(|(_, ended)| matches!(ended, Ended::Done(_)));
        let names: Vec<&str> = names.map(|(step, _)| step.name.as_str()).collect();
        let names = if names.is_empty() {
            "nothing".to_owned()
        } else {
            names.join(", ")
        };
        lines.push(format!("up: {names}"));
    }
    lines.join("\n")
}

fn failure(project: &Project, plan: &Plan, ended: &[Ended<Value>]) -> Outcome {
    let lost = ended
        .iter()
        .filter(|ended| !matches!(ended, Ended::Done(_)))
        .count();
    if lost == 0 {
        return Ok(Exit::Ok);
    }
    let hint = ended.iter().find_map(|ended| match ended {
        Ended::Failed(failure) => failure.hint(),
        Ended::Done(_) | Ended::Skipped(_) => None,
    });
    let message = format!(
        "{lost} of {} agents of `{}` are not up",
        plan.steps.len(),
        project.name()
    );
    let failure = Failure::new(Exit::Failed, message);
    Err(failure.help(match hint {
        Some(hint) => format!("{hint}; `rune compose up` goes on"),
        None => "repair it and run `rune compose up` again: it goes on".to_owned(),
    }))
}
