//! `rune run SPEC PROMPT`: the embedded mode for the length of one request.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rune_runtime::{
    Agent, AgentError, Invocation, LocalReplica, RequestEvent, RequestEvents, SequencedEvent,
};
use rune_spec::AgentPackage;
use rune_storage::create_private_dir;
use rune_store_runtime::{
    ApplyDeployment, DecideApproval, DeploymentId, PublishVersion, ReplicaId, RequestId,
    StoreError, VersionId,
};
use serde_json::Value;

use crate::cli::Target;
use crate::client::Event;
use crate::commands::validate::invalid;
use crate::context::Context;
use crate::daemon::node::{Node, Place};
use crate::daemon::telemetry;
use crate::events::EventPrinter;
use crate::failure::{Exit, Failure, Outcome, chain};
use crate::interrupt::Interrupt;
use crate::terminal::Terminal;

/// How long what the request leaves to be cleaned up is waited for.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// What is asked, and how.
pub(crate) struct Ask {
    pub(crate) input: Value,
    pub(crate) stream: bool,
    pub(crate) approve_all: bool,
}

/// Asks the agent of `dir`; those of `others` can be called by it.
pub(crate) fn run(
    context: &Context,
    dir: &Path,
    others: &[PathBuf],
    target: &Target,
    env: &BTreeMap<String, String>,
    what: Ask,
) -> Outcome {
    telemetry::start(&telemetry::quiet(context.verbose), None)?;
    let temporary = tempfile::Builder::new()
        .prefix("rune-run-")
        .tempdir()
        .map_err(|error| Failure::because("cannot make a temporary directory", &error))?;
    context.block_on(async {
        let node = Node::open(
            &context.config,
            &Place::temporary(&context.config, temporary.path())?,
        )?;
        let ended = async {
            for other in others {
                deploy(context, &node, other, target, env).await?;
            }
            ask(context, &node, dir, target, env, what).await
        };
        let ended = ended.await;
        // Containers are removed by tasks.
        node.tasks.stop(STOP_GRACE).await;
        // The store is thrown away: whether it closes well does not matter.
        let _ = node.database.close().await;
        ended
    })
}

async fn ask(
    context: &Context,
    node: &Node,
    dir: &Path,
    target: &Target,
    env: &BTreeMap<String, String>,
    what: Ask,
) -> Outcome {
    let mut interrupt = Interrupt::listen()?;
    let agent = deploy(context, node, dir, target, env).await?;
    let invoked = node
        .engine
        .invoke(invocation(&agent, target, what.input))
        .await
        .map_err(|error| crate::client::of_api(error.code(), &chain(&error)))?;
    let mut printer = EventPrinter::new(context.output, what.stream, context.verbose);
    let request_id = invoked.request_id;
    let mut terminal = Terminal::open(what.approve_all);
    let follow = follow(node, invoked.events, &mut printer, &mut terminal);
    tokio::pin!(follow);
    tokio::select! {
        ended = &mut follow => ended,
        () = interrupt.next() => cancel(node, request_id).await,
    }
}

/// Deploys the agent of a directory and answers its name.
pub(crate) async fn deploy(
    context: &Context,
    node: &Node,
    dir: &Path,
    target: &Target,
    env: &BTreeMap<String, String>,
) -> Outcome<String> {
    let package = AgentPackage::load(dir).map_err(|errors| invalid(context.output, &errors))?;
    let agent = deploy_package(context, node, dir, package, target, env).await?;
    Ok(agent.name().to_owned())
}

/// Deploys the agent of a package; `dir` is what messages call it.
pub(crate) async fn deploy_package(
    context: &Context,
    node: &Node,
    dir: &Path,
    package: AgentPackage,
    target: &Target,
    env: &BTreeMap<String, String>,
) -> Outcome<Arc<Agent>> {
    let agent =
        node.loader
            .make(package, &target.namespace, env)
            .map_err(|error| match &error {
                AgentError::Spec(errors) => invalid(context.output, errors),
                error => Failure::usage(format!("the agent cannot run: {}", chain(error))),
            })?;
    agent
        .prepare()
        .await
        .map_err(|error| Failure::usage(format!("the agent cannot run: {}", chain(&error))))?;
    create_private_dir(agent.workspace()).map_err(|error| {
        let what = format!("cannot make the workspace {}", agent.workspace().display());
        Failure::because(what, &error)
    })?;
    agent.connect().await.map_err(|error| {
        Failure::new(Exit::Unavailable, chain(&error)).help(format!(
            "`rune mcp test {}` shows its servers",
            dir.display()
        ))
    })?;
    let spec = agent.spec();
    let name = spec.name.as_str().to_owned();
    let publish = PublishVersion {
        version_id: VersionId::generate(),
        agent: name.clone(),
        version: spec.version.to_string(),
        description: spec.description.clone().unwrap_or_default(),
        // The package is used where it lies and never stored.
        digest: rune_spec::package::digest(&[]),
        size: 0,
        image: None,
        signature: None,
    };
    let version = node
        .store
        .write(publish)
        .await
        .map_err(|error| store_failure(&error))?;
    let apply = ApplyDeployment {
        deployment_id: DeploymentId::generate(),
        namespace: target.namespace.clone(),
        agent: name,
        alias: target.alias.clone(),
        version_id: version.id,
        replicas: 1,
        env: BTreeMap::new(),
        project: None,
    };
    let deployment = node
        .store
        .write(apply)
        .await
        .map_err(|error| store_failure(&error))?;
    let agent = Arc::new(agent);
    let replica = LocalReplica::new(
        ReplicaId::generate(),
        deployment.id,
        version.id,
        Arc::clone(&agent),
    );
    node.router.set_deployment(deployment);
    node.router.add_replica(replica);
    Ok(agent)
}

/// A request of the command line, of a conversation of its own.
pub(crate) fn invocation(agent: &str, target: &Target, input: Value) -> Invocation {
    Invocation {
        namespace: target.namespace.clone(),
        agent: agent.to_owned(),
        alias: target.alias.clone(),
        input,
        session_id: None,
        follows: None,
        metadata: BTreeMap::new(),
        caller: "cli".to_owned(),
        idempotency: None,
    }
}

fn store_failure(error: &StoreError) -> Failure {
    Failure::because("cannot use the temporary store", error)
}

async fn follow(
    node: &Node,
    mut events: RequestEvents,
    printer: &mut EventPrinter,
    terminal: &mut Terminal,
) -> Outcome {
    while let Some(sequenced) = events.next().await.map_err(|error| store_failure(&error))? {
        let event = as_event(&sequenced)?;
        if let Some(exit) = printer.print(&event)? {
            return Ok(exit);
        }
        if let RequestEvent::ApprovalRequired { approval_id, .. } = sequenced.event {
            let Some(decided) = terminal.decide(printer.output(), &event).await? else {
                let message = format!("`{}` needs an approval", event.text("tool"));
                return Err(Failure::new(Exit::Approval, message).help(
                    "run it in a terminal, or with --yes to approve every call; a deployed agent waits: rune run SPEC",
                ));
            };
            let decision = DecideApproval {
                approval_id,
                decision: decided.decision,
                by: "cli".to_owned(),
                remember: decided.remember,
                note: None,
            };
            node.engine
                .decide(decision)
                .await
                .map_err(|error| Failure::because("cannot decide the approval", &error))?;
        }
    }
    Err(
        Failure::new(Exit::Failed, "the request stopped without an end")
            .help("run it again with -v to see why"),
    )
}

/// The event as a client of the gateway sees it.
fn as_event(event: &SequencedEvent) -> Outcome<Event> {
    let data = serde_json::to_value(&event.event)
        .map_err(|error| Failure::because("cannot print an event", &error))?;
    Ok(Event {
        seq: event.seq,
        name: event.event.name().to_owned(),
        data,
    })
}

async fn cancel(node: &Node, request_id: RequestId) -> Outcome {
    node.engine
        .cancel(request_id, "Ctrl-C")
        .await
        .map_err(|error| Failure::because("cannot cancel the request", &error))?;
    Err(Failure::new(Exit::Interrupted, "cancelled"))
}
