//! `rune tool run`

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use rune_runtime::{Agent, RequestEvent};
use rune_store_runtime::{DecideApproval, SpilledOutput};
use serde_json::{Value, json};

use crate::cli::Target;
use crate::client::Event;
use crate::commands::embedded::{self, Embedded, store_failure};
use crate::commands::run::{invocation, variable};
use crate::commands::validate::agent_dir;
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome, chain};
use crate::interrupt::Interrupt;
use crate::output::printable;
use crate::terminal::{Answers, Terminal};

/// Largest input, in bytes.
const MAX_INPUT: u64 = 1024 * 1024;

/// What `rune tool run` takes.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The tool, as in the toolset or as the model sees it
    name: String,
    /// Its input, a JSON object; `-` reads it from standard input [default: {}]
    input: Option<String>,
    /// Read the input from this file
    #[arg(long, value_name = "FILE", conflicts_with = "input")]
    file: Option<PathBuf>,
    /// The agent directory, or its Runefile
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// The namespace in which the tool runs: its workspace, its secrets
    #[arg(long, visible_alias = "ns", default_value = "dev")]
    namespace: String,
    /// A variable for the agent's `${VAR}` and `env:` grants, over the environment's own
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Approve the call where the policy asks
    #[arg(long, short = 'y')]
    yes: bool,
}

pub(super) fn run(context: &Context, args: &RunArgs) -> Outcome {
    let input = input(args)?;
    embedded::quiet(context)?;
    context.block_on(async {
        let mut interrupt = Interrupt::listen()?;
        let mut embedded = Embedded::open(context)?;
        let said = Arc::new(Mutex::new(String::new()));
        let listener = Arc::clone(&said);
        embedded.listen(Arc::new(move |text| {
            let mut said = listener.lock().unwrap_or_else(PoisonError::into_inner);
            said.push_str(text);
        }));
        // Whatever is under way, also a question to the person: Ctrl-C ends it.
        let called = tokio::select! {
            called = called(context, &mut embedded, args, &input) => called,
            () = interrupt.next() => Err(Failure::new(Exit::Interrupted, "cancelled")),
        };
        embedded.close().await;
        let said = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
        report(context, &called?, &said)
    })
}

async fn called(
    context: &Context,
    embedded: &mut Embedded<'_>,
    args: &RunArgs,
    input: &Value,
) -> Outcome<Called> {
    let dir = agent_dir(&args.dir);
    let package = embedded::caller(embedded::load(context, &dir)?, &args.name);
    let target = Target {
        namespace: args.namespace.clone(),
        ..embedded::target()
    };
    let env: BTreeMap<String, String> = args.env.iter().cloned().collect();
    let deployed = embedded.deploy_caller(&dir, package, &target, &env);
    let agent = deployed.await?;
    let mut called = call(context, embedded, &agent, &target, args, input).await?;
    // All of it, also where a model would be shown a part.
    if let Some(spilled) = &called.spilled {
        called.output = embedded.spilled(spilled).await?;
    }
    Ok(called)
}

/// The input of the call.
fn input(args: &RunArgs) -> Outcome<Value> {
    let read = |what: &str, from: &mut dyn std::io::Read| {
        let mut text = String::new();
        let read = from.take(MAX_INPUT + 1).read_to_string(&mut text);
        read.map_err(|error| Failure::usage(format!("cannot read {what}: {error}")))?;
        Ok::<_, Failure>(text)
    };
    let text = match (&args.file, args.input.as_deref()) {
        (Some(path), _) => {
            let shown = path.display().to_string();
            let mut file = std::fs::File::open(path)
                .map_err(|error| Failure::usage(format!("cannot read {shown}: {error}")))?;
            read(&shown, &mut file)?
        }
        (None, Some("-")) => read("standard input", &mut std::io::stdin().lock())?,
        (None, Some(text)) => text.to_owned(),
        (None, None) => "{}".to_owned(),
    };
    if text.len() as u64 > MAX_INPUT {
        return Err(Failure::usage(format!(
            "the input has more than {MAX_INPUT} bytes"
        )));
    }
    let example = format!("rune tool run {} '{{\"key\": \"value\"}}'", args.name);
    match serde_json::from_str(&text) {
        Ok(input @ Value::Object(_)) => Ok(input),
        Ok(_) => Err(Failure::usage("the input is not a JSON object").help(example)),
        Err(error) => Err(Failure::usage(format!("the input is not JSON: {error}")).help(example)),
    }
}

/// A call that has ended.
struct Called {
    tool: String,
    output: Value,
    error: Option<rune_store_runtime::Failure>,
    spilled: Option<Box<SpilledOutput>>,
    images: usize,
    duration_ms: u64,
}

async fn call(
    context: &Context,
    embedded: &Embedded<'_>,
    agent: &Arc<Agent>,
    target: &Target,
    args: &RunArgs,
    input: &Value,
) -> Outcome<Called> {
    let engine = &embedded.node.engine;
    let tool = embedded::tool_named(&agent.now(), &args.name)?;
    let asked = invocation(agent.name(), target, embedded::call(&tool, input));
    let invoked = engine.invoke(asked).await;
    let invoked = invoked.map_err(|error| crate::client::of_api(error.code(), &chain(&error)))?;
    let mut events = invoked.events;
    let mut terminal = Terminal::open(args.yes);
    loop {
        let next = events.next().await.map_err(|error| store_failure(&error))?;
        let Some(sequenced) = next else {
            return Err(Failure::new(
                Exit::Failed,
                "the call stopped without an end",
            ));
        };
        match sequenced.event {
            RequestEvent::ToolDone {
                name,
                output,
                error,
                spilled,
                images,
                duration_ms,
                ..
            } => {
                return Ok(Called {
                    tool: name,
                    output: output.unwrap_or_default(),
                    error,
                    spilled,
                    images: images.len(),
                    duration_ms,
                });
            }
            RequestEvent::Error { code, message, .. } => {
                return Err(Failure::new(Exit::of(code), message));
            }
            RequestEvent::Done { output, .. } => {
                let message = format!("the tool was not called: {output}");
                return Err(Failure::new(Exit::Failed, message));
            }
            RequestEvent::ApprovalRequired {
                approval_id,
                ref tool,
                ..
            } => {
                let message = format!("`{tool}` needs an approval");
                let data = serde_json::to_value(&sequenced.event)
                    .map_err(|error| Failure::because("cannot print an event", &error))?;
                let event = Event {
                    seq: sequenced.seq,
                    name: sequenced.event.name().to_owned(),
                    data,
                };
                let decided = terminal.decide(context.output, &event, Answers::Once);
                let Some(decided) = decided.await? else {
                    return Err(Failure::new(Exit::Approval, message)
                        .help("run it in a terminal, or with --yes to approve the call"));
                };
                let decision = DecideApproval {
                    approval_id,
                    decision: decided.decision,
                    by: "cli".to_owned(),
                    remember: None,
                    note: None,
                };
                let decided = engine.decide(decision).await;
                decided.map_err(|error| Failure::because("cannot decide the approval", &error))?;
            }
            _ => {}
        }
    }
}

fn report(context: &Context, called: &Called, said: &str) -> Outcome {
    let Called {
        tool,
        output,
        error,
        duration_ms,
        ..
    } = called;
    // A tool that ran and failed is no fault of the command line.
    let exit = error
        .as_ref()
        .map_or(Exit::Ok, |error| Exit::of(error.code));
    if context.output.is_machine() {
        context.output.object(&json!({
            "tool": tool,
            "output": output,
            "error": error,
            "images": called.images,
            "stderr": said,
            "duration_ms": duration_ms,
        }))?;
        return Ok(exit);
    }
    if !said.is_empty() {
        context.output.note(printable(said).trim_end());
    }
    if let Some(error) = error {
        let message = format!("`{tool}` failed after {duration_ms} ms: {}", error.message);
        return Err(Failure::new(exit, printable(&message)));
    }
    context.output.text(&printable(&format!("{output:#}")))?;
    if let Some(spilled) = &called.spilled {
        context.output.note(&format!(
            "the output has {} bytes: a model is shown its beginning and its end",
            spilled.bytes
        ));
    }
    context.output.ok(&format!("{tool} took {duration_ms} ms"));
    Ok(exit)
}
