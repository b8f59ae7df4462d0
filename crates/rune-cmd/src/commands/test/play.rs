//! Playing cassettes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rune_runtime::{Agent, Cassette, Played};
use rune_spec::CassetteFile;

use super::{TestArgs, exit, report};
use crate::commands::embedded::{self, Embedded};
use crate::commands::validate::invalid;
use crate::context::Context;
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
    embedded::quiet(context)?;
    let results = context.block_on(async {
        // What the tools do is not the agent's own.
        let mut embedded = Embedded::apart(context)?;
        if !args.live_tools {
            embedded.forgive_missing_variables();
        }
        let played = play(context, &mut embedded, dir, cases, args.live_tools).await;
        embedded.close().await;
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
    embedded: &mut Embedded<'_>,
    dir: &Path,
    cases: &[Case],
    live_tools: bool,
) -> Outcome<Vec<Played>> {
    let mut results = Vec::with_capacity(cases.len());
    let mut loaded: Option<(String, Arc<Agent>)> = None;
    for case in cases {
        let namespace = &case.cassette.file().namespace;
        let agent = match &loaded {
            Some((known, agent)) if known == namespace => Arc::clone(agent),
            _ => {
                let agent = load(context, embedded, dir, namespace)?;
                if live_tools {
                    let connected = agent.connect().await;
                    connected.map_err(|error| Failure::new(Exit::Unavailable, chain(&error)))?;
                }
                agent
            }
        };
        loaded = Some((namespace.clone(), Arc::clone(&agent)));
        let engine = &embedded.node.engine;
        let played = engine.play(&case.cassette, agent, live_tools).await;
        results.push(played.map_err(|error| {
            Failure::because(format!("{} cannot be played", case.name), &error)
        })?);
    }
    Ok(results)
}

fn load(
    context: &Context,
    embedded: &mut Embedded<'_>,
    dir: &Path,
    namespace: &str,
) -> Outcome<Arc<Agent>> {
    let package = embedded::load(context, dir)?;
    if package.workflow.is_some() {
        return Err(
            Failure::usage("an agent with a workflow cannot be tested with cassettes")
                .help("test the agents of its steps"),
        );
    }
    if package.runefile.entrypoint.is_some() {
        return Err(Failure::usage(
            "an agent with an `entrypoint` cannot be tested with cassettes",
        )
        .help("rune requests replay ID runs its component over a journal"));
    }
    let agent = embedded.make(package, namespace, &BTreeMap::new())?;
    embedded::make_workspace(&agent)?;
    Ok(agent)
}
