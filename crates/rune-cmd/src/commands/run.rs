//! `rune run`: deploy, ask a deployed agent, or ask one without a daemon.

mod deploy;
mod invoke;
mod one_shot;
mod wait;

pub(crate) use deploy::{Packed, READY_MARGIN, apply, deploy};
pub(crate) use invoke::{Question, ask, drive};
pub(crate) use one_shot::{Ask, invocation, run as one_shot};
pub(crate) use wait::{Patience, wait, wait_unchanged};

use std::collections::BTreeMap;
use std::path::Path;

use clap::Args;

use rune_spec::{AgentPackage, ComposeSource};

use super::validate::{checked, invalid};
use crate::cli::Target;
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::source::{Found, Sources, shown};

/// Deploys an agent, asks a deployed one, or asks one without a daemon.
///
/// SPEC is a directory, a Runefile, an OCI layout, git://REPOSITORY[#SUBDIR], which is cloned with the installed git, or a reference of a registry (HOST/REPOSITORY:TAG). With SPEC alone the agent is deployed to the daemon. With SPEC and PROMPT it answers at once: no daemon is needed.
/// With --agent and PROMPT a deployed agent answers.
#[derive(Debug, Args)]
#[command(
    override_usage = "rune run SPEC [--namespace NS] [--alias ALIAS] [--replicas N] [--env K=V]...\n       rune run SPEC PROMPT [--stream]\n       rune run --agent NAME PROMPT [--stream] [--session-id ID] [--background]",
    after_help = "Examples:\n  rune run ./hello                                    deploy\n  rune run git://https://example.org/agents.git#hello  deploy from a repository\n  rune run ghcr.io/acme/hello:1.0.0                    deploy from a registry\n  rune run ./hello \"What time is it?\" --stream        one answer without a daemon\n  rune run --agent hello \"What time is it?\"           ask the deployed agent\n  rune run --agent hello \"And now?\" --session-id s1   go on with a conversation"
)]
pub(crate) struct RunArgs {
    /// The agent directory, its Runefile or its OCI layout, git://REPOSITORY[#SUBDIR], or a reference of a registry
    #[arg(required_unless_present = "agent")]
    spec: Option<String>,
    /// What to ask
    prompt: Option<String>,
    /// Ask this deployed agent
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Print the answer while it is made
    #[arg(long)]
    stream: bool,
    /// The prompt is JSON, for agents with an `input_schema`
    #[arg(long)]
    json: bool,
    /// Go on with this conversation, or begin it
    #[arg(long, requires = "agent", value_name = "ID")]
    session_id: Option<String>,
    /// Do not wait for the answer: print the request's id
    #[arg(long, requires = "agent", conflicts_with = "stream")]
    background: bool,
    /// Approve every tool call that the policy asks about
    #[arg(long, short = 'y', conflicts_with = "background")]
    yes: bool,
    #[command(flatten)]
    target: Target,
    /// How many replicas to deploy; by default the `min_replicas` of the Runefile, at least 1
    #[arg(long, conflicts_with_all = ["agent", "prompt"], value_name = "N")]
    replicas: Option<u32>,
    /// A variable for the agent's `${VAR}`, over the daemon's own
    #[arg(long, conflicts_with = "agent", value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
}

pub(crate) fn run(context: &Context, args: RunArgs) -> Outcome {
    let RunArgs {
        spec,
        prompt,
        agent,
        stream,
        json,
        target,
        ..
    } = args;
    let env: BTreeMap<String, String> = args.env.into_iter().collect();
    if let Some(agent) = agent {
        // With --agent the first word is the prompt.
        let prompt = match (spec, prompt) {
            (Some(prompt), None) => prompt,
            (Some(_), Some(_)) => {
                return Err(Failure::usage("--agent takes one PROMPT and no SPEC")
                    .help("quote the prompt: rune run --agent NAME \"What time is it?\""));
            }
            (None, _) => {
                return Err(Failure::usage("there is no PROMPT")
                    .help(format!("rune run --agent {agent} \"What time is it?\"")));
            }
        };
        let question = invoke::Question {
            agent,
            target,
            input: crate::prompt::input(&prompt, json)?,
            session_id: args.session_id,
        };
        return context.block_on(async {
            if args.background {
                invoke::background(context, &question).await
            } else {
                invoke::run(context, &question, stream, args.yes).await
            }
        });
    }
    let spec = spec.ok_or_else(|| Failure::usage("there is no SPEC"))?;
    let mut sources = Sources::default();
    let found = context.block_on(find(context, &mut sources, &spec))?;
    match prompt {
        Some(prompt) => {
            let input = crate::prompt::input(&prompt, json)?;
            let ask = one_shot::Ask {
                input,
                stream,
                approve_all: args.yes,
            };
            one_shot::run(context, &found.dir, &[], &target, &env, ask)
        }
        None if stream || json => {
            let flag = if stream { "--stream" } else { "--json" };
            Err(Failure::usage(format!("{flag} needs a PROMPT"))
                .help(format!("rune run {spec} \"What time is it?\" {flag}")))
        }
        None => context.block_on(deploy::run(context, &found, &target, args.replicas, env)),
    }
}

/// The agent a SPEC names.
pub(crate) async fn find(context: &Context, sources: &mut Sources, spec: &str) -> Outcome<Found> {
    let here = Path::new("");
    let remote = ["git://", "oci://"]
        .iter()
        .any(|scheme| spec.starts_with(scheme));
    let source: Option<ComposeSource> = match spec.parse() {
        Ok(source) => Some(source),
        Err(error) if remote => return Err(Failure::usage(error.to_string())),
        Err(_) => None,
    };
    let source = source.filter(|source| match source {
        ComposeSource::Git { .. } => true,
        // What is there is meant before what has its name elsewhere.
        ComposeSource::Oci(_) => remote || (!spec.contains("://") && !Path::new(spec).exists()),
        ComposeSource::Path(_) => false,
    });
    if let Some(source) = source {
        let mut interrupt = Interrupt::listen()?;
        return tokio::select! {
            found = sources.find(context, &source, here) => found,
            () = interrupt.next() => Err(Failure::silent(Exit::Interrupted)),
        };
    }
    if spec.contains("://") {
        let message = format!(
            "cannot deploy from `{}`: it is neither a directory, git://REPOSITORY[#SUBDIR] nor a reference of a registry",
            shown(spec)
        );
        return Err(Failure::usage(message).help(
            "for a repository write git:// before its URL: rune run git://https://HOST/PATH",
        ));
    }
    let source = ComposeSource::Path(spec.into());
    let found = sources.find(context, &source, here).await;
    found.map_err(|failure| {
        failure.help(format!(
            "`rune init NAME` makes one; to ask a deployed agent: rune run --agent {spec} \"…\""
        ))
    })
}

/// Loads the agent of a directory, printing what is wrong with it.
fn load(context: &Context, dir: &Path) -> Outcome<AgentPackage> {
    checked(context, dir).map_err(|errors| invalid(context.output, &errors))
}

pub(crate) fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}
