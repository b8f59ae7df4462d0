//! `rune run SPEC PROMPT`: the embedded mode for the length of one request.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rune_runtime::{Invocation, RequestEvent, RequestEvents, SequencedEvent};
use rune_store_runtime::{DecideApproval, RequestId};
use serde_json::Value;

use crate::cli::Target;
use crate::client::Event;
use crate::commands::embedded::{self, Embedded, store_failure};
use crate::context::Context;
use crate::daemon::node::Node;
use crate::events::EventPrinter;
use crate::failure::{Exit, Failure, Outcome, chain};
use crate::interrupt::Interrupt;
use crate::terminal::{Answers, Terminal};

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
    embedded::quiet(context)?;
    context.block_on(async {
        let mut embedded = Embedded::open(context)?;
        let ended = async {
            for other in others {
                let package = embedded::load(context, other)?;
                embedded.deploy(other, package, target, env).await?;
            }
            ask(context, &mut embedded, dir, target, env, what).await
        };
        let ended = ended.await;
        embedded.close().await;
        ended
    })
}

async fn ask(
    context: &Context,
    embedded: &mut Embedded<'_>,
    dir: &Path,
    target: &Target,
    env: &BTreeMap<String, String>,
    what: Ask,
) -> Outcome {
    let mut interrupt = Interrupt::listen()?;
    let package = embedded::load(context, dir)?;
    let agent = embedded.deploy(dir, package, target, env).await?;
    let node = &embedded.node;
    let invoked = node
        .engine
        .invoke(invocation(agent.name(), target, what.input))
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
            let Some(decided) = terminal
                .decide(printer.output(), &event, Answers::Remembered)
                .await?
            else {
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
