//! Recording runs of an agent.

use std::collections::BTreeMap;
use std::path::Path;

use rune_runtime::{RequestEvent, RequestEvents};
use rune_store_runtime::{ApprovalDecision, DecideApproval, RequestId};
use serde_json::{Value, json};

use super::{TestArgs, play, write};
use crate::commands::run::{deploy_embedded, invocation};
use crate::context::Context;
use crate::daemon::node::{Node, Place};
use crate::daemon::telemetry;
use crate::failure::{Exit, Failure, Outcome, chain};

/// Runs the agent once for each input and writes what happened.
pub(super) fn run(
    context: &Context,
    dir: &Path,
    evals: &Path,
    secrets: &write::Secrets,
    args: &TestArgs,
) -> Outcome {
    telemetry::start(&telemetry::quiet(context.verbose), None)?;
    let temporary = tempfile::Builder::new()
        .prefix("rune-test-")
        .tempdir()
        .map_err(|error| Failure::because("cannot make a temporary directory", &error))?;
    context.block_on(async {
        let node = Node::open(
            &context.config,
            &Place::temporary(&context.config, temporary.path())?,
        )?;
        let recorded = record(context, &node, dir, evals, secrets, args).await;
        node.tasks.shutdown().cancel();
        // The store is thrown away: whether it closes well does not matter.
        let _ = node.database.close().await;
        let (written, skipped) = recorded?;
        write::print(context, &written, &skipped)
    })
}

type Recorded = (Vec<Value>, Vec<(String, String)>);

async fn record(
    context: &Context,
    node: &Node,
    dir: &Path,
    evals: &Path,
    secrets: &write::Secrets,
    args: &TestArgs,
) -> Outcome<Recorded> {
    let target = play::target();
    let agent = deploy_embedded(context, node, dir, &target, &BTreeMap::new()).await?;
    let (mut written, mut skipped) = (Vec::new(), Vec::new());
    for input in &args.record {
        let asked = crate::prompt::input(input, args.json)?;
        let asked = invocation(&agent, &target, asked);
        let invoked = node.engine.invoke(asked).await;
        let invoked =
            invoked.map_err(|error| crate::client::of_api(error.code(), &chain(&error)))?;
        let id = invoked.request_id;
        context.output.note(&format!("recording {input:?}"));
        follow(node, invoked.events, args.yes).await?;
        match cassette(node, id, evals, secrets).await {
            Ok(path) => written.push(json!({ "request": id, "file": path })),
            Err(write::Problem::Case(reason)) => skipped.push((id.to_string(), reason)),
            Err(write::Problem::Fatal(failure)) => return Err(failure),
        }
    }
    Ok((written, skipped))
}

async fn cassette(
    node: &Node,
    id: RequestId,
    evals: &Path,
    secrets: &write::Secrets,
) -> Result<std::path::PathBuf, write::Problem> {
    let recorded = node.engine.record(id).await;
    let file = recorded.map_err(|error| write::Problem::Case(chain(&error)))?;
    write::write(evals, secrets, &file)
}

/// Follows a request to its end.
async fn follow(node: &Node, mut events: RequestEvents, approve: bool) -> Outcome<()> {
    let broken =
        |error: &dyn std::error::Error| Failure::because("cannot use the temporary store", error);
    while let Some(sequenced) = events.next().await.map_err(|error| broken(&error))? {
        let RequestEvent::ApprovalRequired {
            approval_id, tool, ..
        } = sequenced.event
        else {
            continue;
        };
        if !approve {
            let message = format!("`{tool}` needs an approval");
            return Err(Failure::new(Exit::Approval, message).help("--yes approves every call"));
        }
        let decision = DecideApproval {
            approval_id,
            decision: ApprovalDecision::Approve,
            by: "cli".to_owned(),
            remember: None,
            note: None,
        };
        let decided = node.engine.decide(decision).await;
        decided.map_err(|error| Failure::because("cannot decide the approval", &error))?;
    }
    Ok(())
}
