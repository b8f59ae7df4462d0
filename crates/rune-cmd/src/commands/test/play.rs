//! Playing cassettes.

use std::path::Path;
use std::sync::Arc;

use rune_runtime::{AgentError, Cassette, Played};
use rune_spec::CassetteFile;

use super::{TestArgs, exit, report};
use crate::cli::Target;
use crate::commands::embedded;
use crate::commands::validate::invalid;
use crate::context::Context;
use crate::daemon::node::{Node, Place};
use crate::daemon::telemetry;
use crate::failure::{Exit, Failure, Outcome, chain};

/// One cassette.
pub(super) struct Case {
    /// The file, or the request.
    pub(super) name: String,
    pub(super) cassette: Cassette,
}

impl Case {
    /// Reads a file, printing what is wrong with it.
    pub(super) fn parse(context: &Context, path: &Path, text: &str) -> Outcome<Self> {
        let cassette =
            Cassette::parse(path, text).map_err(|errors| invalid(context.output, &errors))?;
        Ok(Self {
            name: path.display().to_string(),
            cassette,
        })
    }

    /// A request that the daemon has recorded.
    pub(super) fn recorded(file: &CassetteFile) -> Outcome<Self> {
        let name = file.request.clone().unwrap_or_default();
        let broken = |error: &dyn std::error::Error| {
            Failure::because(format!("the cassette of {name} cannot be read"), error)
        };
        let text = serde_json::to_string(file).map_err(|error| broken(&error))?;
        let cassette = Cassette::parse(Path::new(&name), &text).map_err(|error| broken(&error))?;
        Ok(Self { name, cassette })
    }
}

/// Plays the cases and reports them.
pub(super) fn run(
    context: &Context,
    dir: &Path,
    cases: &[Case],
    skipped: Vec<(String, String)>,
    args: &TestArgs,
) -> Outcome {
    telemetry::start(&telemetry::quiet(context.verbose), None)?;
    let temporary = tempfile::Builder::new()
        .prefix("rune-test-")
        .tempdir()
        .map_err(|error| Failure::because("cannot make a temporary directory", &error))?;
    let results = context.block_on(async {
        let mut config = context.config.clone();
        // What the tools do is not the agent's own.
        config.runtime.workspace_dir = temporary.path().join("workspaces");
        let mut node = Node::open(&config, &Place::temporary(&config, temporary.path())?)?;
        if !args.live_tools {
            embedded::forgive_missing_variables(&mut node, context);
        }
        let played = play(context, &node, dir, cases, args.live_tools).await;
        node.tasks.shutdown().cancel();
        // The store is thrown away: whether it closes well does not matter.
        let _ = node.database.close().await;
        played
    })?;
    let report = report::Report {
        cases,
        results,
        skipped,
    };
    if let Some(path) = &args.junit {
        report.write_junit(path)?;
    }
    report.print(context)?;
    Ok(exit(report.failed()))
}

async fn play(
    context: &Context,
    node: &Node,
    dir: &Path,
    cases: &[Case],
    live_tools: bool,
) -> Outcome<Vec<Played>> {
    let mut results = Vec::with_capacity(cases.len());
    let mut loaded: Option<(String, Arc<rune_runtime::Agent>)> = None;
    for case in cases {
        let namespace = &case.cassette.file().namespace;
        let agent = match &loaded {
            Some((known, agent)) if known == namespace => Arc::clone(agent),
            _ => {
                let agent = load(context, node, dir, namespace)?;
                if live_tools {
                    let connected = agent.connect().await;
                    connected.map_err(|error| Failure::new(Exit::Unavailable, chain(&error)))?;
                }
                Arc::new(agent)
            }
        };
        loaded = Some((namespace.clone(), Arc::clone(&agent)));
        let played = node.engine.play(&case.cassette, agent, live_tools).await;
        results.push(played.map_err(|error| {
            Failure::because(format!("{} cannot be played", case.name), &error)
        })?);
    }
    Ok(results)
}

fn load(
    context: &Context,
    node: &Node,
    dir: &Path,
    namespace: &str,
) -> Outcome<rune_runtime::Agent> {
    let env = std::collections::BTreeMap::new();
    let agent = node
        .loader
        .load(dir, namespace, &env)
        .map_err(|error| match &error {
            AgentError::Spec(errors) => invalid(context.output, errors),
            error => Failure::usage(format!("the agent cannot run: {}", chain(error))),
        })?;
    if agent.package().workflow.is_some() {
        return Err(
            Failure::usage("an agent with a workflow cannot be tested with cassettes")
                .help("test the agents of its steps"),
        );
    }
    if agent.component().is_some() {
        return Err(Failure::usage(
            "an agent with an `entrypoint` cannot be tested with cassettes",
        )
        .help("rune requests replay ID runs its component over a journal"));
    }
    rune_storage::create_private_dir(agent.workspace()).map_err(|error| {
        let what = format!("cannot make the workspace {}", agent.workspace().display());
        Failure::because(what, &error)
    })?;
    Ok(agent)
}

/// Where a recorded run belongs.
pub(super) fn target() -> Target {
    Target {
        namespace: "dev".to_owned(),
        alias: "stable".to_owned(),
    }
}
