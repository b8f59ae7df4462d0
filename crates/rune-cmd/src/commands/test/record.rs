//! Recording runs of an agent.

use std::collections::BTreeMap;
use std::path::Path;

use rune_runtime::{RequestEvent, RequestEvents};
use rune_store_runtime::{ApprovalDecision, DecideApproval, RequestId};
use serde_json::{Value, json};

use super::{TestArgs, write};
use crate::commands::embedded::{self, Embedded, store_failure};
use crate::commands::known_secrets::Secrets;
use crate::commands::run::invocation;
use crate::context::Context;
use crate::daemon::node::Node;
use crate::failure::{Exit, Failure, Outcome, chain};

/// Runs the agent once for each input and writes what happened.
pub(super) fn run(
    context: &Context,
    dir: &Path,
    evals: &write::Place<'_>,
    secrets: &Secrets,
    args: &TestArgs,
) -> Outcome {
    embedded::quiet(context)?;
    context.block_on(async {
        let mut embedded = Embedded::open(context)?;
        let recorded = record(context, &mut embedded, dir, evals, secrets, args).await;
        embedded.close().await;
        let (written, skipped) = recorded?;
        write::print(context, &written, &skipped)
    })
}

type Recorded = (Vec<Value>, Vec<(String, String)>);

async fn record(
    context: &Context,
    embedded: &mut Embedded<'_>,
    dir: &Path,
    evals: &write::Place<'_>,
    secrets: &Secrets,
    args: &TestArgs,
) -> Outcome<Recorded> {
    let target = embedded::target();
    let package = embedded::load(context, dir)?;
    let env = BTreeMap::new();
    let agent = embedded.deploy(dir, package, &target, &env).await?;
    let node = &embedded.node;
    let (mut written, mut skipped) = (Vec::new(), Vec::new());
    for input in &args.record {
        let asked = crate::prompt::input(input, args.json)?;
        let asked = invocation(agent.name(), &target, asked);
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
    evals: &write::Place<'_>,
    secrets: &Secrets,
) -> Result<std::path::PathBuf, write::Problem> {
    let recorded = node.engine.record(id).await;
    let file = recorded.map_err(|error| write::Problem::Case(chain(&error)))?;
    write::write(evals, secrets, &file)
}

/// Follows a request to its end.
async fn follow(node: &Node, mut events: RequestEvents, approve: bool) -> Outcome<()> {
    while let Some(sequenced) = events.next().await.map_err(|error| store_failure(&error))? {
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
