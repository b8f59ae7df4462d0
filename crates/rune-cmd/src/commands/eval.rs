//! `rune eval`: tries an agent on cases.

pub(crate) mod files;
mod judge;
mod report;
mod trial;

use std::path::PathBuf;

use clap::Args;
use rune_spec::AgentPackage;

use super::validate::{agent_dir, invalid};
use crate::context::Context;
use crate::daemon::telemetry;
use crate::failure::{Exit, Failure, Outcome};

/// Tries an agent, and its tools, on the cases in `evals/`, and compares what comes of them with what they expect.
///
/// Every case runs for real, in an engine, a store and a workspace of its own that are thrown away.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune eval                              every case of the agent here\n  rune eval my-agent --filter counts     those whose file or name has `counts`\n  rune eval my-agent --offline           with the offline model and its script.yaml\n  rune eval my-agent --update            write the golden files anew\n  rune eval my-agent -o json\n\n`rune tool new` makes a file of cases; `rune schema eval` prints what one may hold.\nExit codes: 0 every case passed, 1 one did not, 2 a file is not valid."
)]
pub(crate) struct EvalArgs {
    /// The agent directory, or its Runefile
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Only the cases whose file or name has this text
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Write golden files that are missing or differ
    #[arg(long)]
    update: bool,
    /// Ask the offline model, whatever the Runefile and the cases say
    #[arg(long)]
    offline: bool,
    /// Another agent that the cases may call; may be given several times
    #[arg(long, value_name = "DIR")]
    with: Vec<PathBuf>,
    /// A variable for the agent's `${VAR}` and `env:` grants, over the environment's own
    #[arg(long, value_name = "NAME=VALUE", value_parser = super::run::variable)]
    env: Vec<(String, String)>,
}

pub(crate) fn run(context: &Context, args: &EvalArgs) -> Outcome {
    let dir = agent_dir(&args.dir);
    let package = AgentPackage::load(&dir).map_err(|errors| invalid(context.output, &errors))?;
    let files = files::load(&dir, &package).map_err(|errors| files::invalid(context, &errors))?;
    let mut cases: Vec<files::Case> = files.cases;
    if cases.is_empty() {
        let message = format!("{} has no cases in evals/", dir.display());
        return Err(Failure::usage(message).help(
            "`rune tool new` makes a file of cases, `rune schema eval` prints what one may hold; `rune test` plays cassettes",
        ));
    }
    if let Some(filter) = &args.filter {
        cases.retain(|case| case.title().contains(filter));
        if cases.is_empty() {
            return Err(Failure::usage(format!(
                "no case has `{filter}` in its file or name"
            )));
        }
    }
    telemetry::start(&telemetry::quiet(context.verbose), None)?;
    let trial = trial::Trial {
        context,
        dir: &dir,
        package: &package,
        offline: args.offline,
        others: args.with.iter().map(|dir| agent_dir(dir)).collect(),
        env: args.env.iter().cloned().collect(),
    };
    let golden = judge::Golden {
        dir: package.dir.join(rune_spec::GOLDEN_DIR),
        update: args.update,
        secrets: super::test::write::Secrets::of(context, &package),
    };
    let mut results = Vec::with_capacity(cases.len());
    for case in &cases {
        let run = trial.run(case)?;
        let verdict = judge::judge(&case.case.expect, &run, &golden)?;
        results.push((case, run, verdict));
    }
    let failed = report::print(context, &results)?;
    Ok(if failed == 0 { Exit::Ok } else { Exit::Failed })
}
