//! `rune eval`: tries an agent on cases.

pub(crate) mod files;
mod judge;
mod report;
mod trial;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use rune_spec::AgentPackage;

use super::embedded;
use super::known_secrets::Secrets;
use super::validate::{agent_dir, checked, invalid};
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::output::one_line;
use crate::progress::Progress;

/// Tries an agent, and its tools, on the cases in `evals/`, and compares what comes of them with what they expect.
///
/// Every case runs for real, in an engine, a store and a workspace of its own that are thrown away.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune eval                              every case of the agent here\n  rune eval my-agent --filter counts     those whose file or name has `counts`\n  rune eval my-agent --offline           with the offline model and its script.yaml\n  rune eval my-agent --update            write the golden files anew\n  rune eval my-agent -o json\n\n`rune tool new` makes a file of cases; `rune schema eval` prints what one may hold.\nCtrl-C ends it with what has come of the cases so far.\nExit codes: 0 every case passed, 1 one did not or could not be run, 2 a file is not valid, 130 Ctrl-C."
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
    /// Ask the offline model, whatever the Runefiles and the cases say
    #[arg(long)]
    offline: bool,
    /// Another agent that the cases may call; may be given several times
    #[arg(long, value_name = "DIR")]
    with: Vec<PathBuf>,
    /// A variable for the agent's `${VAR}` and `env:` grants, over the environment's own
    #[arg(long, value_name = "NAME=VALUE", value_parser = super::run::variable)]
    env: Vec<(String, String)>,
}

/// A case, and what came of it: an error where it could not be run.
struct Tried<'a> {
    case: &'a files::Case,
    ended: Outcome<(trial::Run, judge::Verdict)>,
}

pub(crate) fn run(context: &Context, args: &EvalArgs) -> Outcome {
    let dir = agent_dir(&args.dir);
    let load =
        |dir: &Path| checked(context, dir).map_err(|errors| invalid(context.output, &errors));
    let package = load(&dir)?;
    let mut others = Vec::with_capacity(args.with.len());
    for other in &args.with {
        let other = agent_dir(other);
        let package = load(&other)?;
        others.push((other, package));
    }
    let cases = cases(context, args, &dir, &package)?;
    let env: BTreeMap<String, String> = args.env.iter().cloned().collect();
    let trial = trial::Trial {
        context,
        dir: &dir,
        package: &package,
        offline: args.offline,
        others: &others,
        env: &env,
    };
    let mut packages = vec![&package];
    packages.extend(others.iter().map(|(_, package)| package));
    let golden = judge::Golden {
        package: &package,
        update: args.update,
        secrets: Secrets::of(context, &packages, &env),
    };
    embedded::quiet(context)?;
    let (results, is_interrupted) = context.block_on(async {
        let mut interrupt = Interrupt::listen()?;
        let line = Progress::new(context.output).line("");
        let mut results = Vec::with_capacity(cases.len());
        for (index, case) in cases.iter().enumerate() {
            let (number, total) = (index + 1, cases.len());
            line.step(&format!("{number} of {total}: {}", one_line(&case.title())));
            let ended = match trial.run(case, &mut interrupt).await {
                Ok(None) => return Ok((results, true)),
                Ok(Some(run)) => {
                    judge::judge(&case.case.expect, &run, &golden).map(|verdict| (run, verdict))
                }
                Err(failure) => Err(failure),
            };
            results.push(Tried { case, ended });
        }
        Ok((results, false))
    })?;
    let not_run = cases.len() - results.len();
    let passed = report::print(context, &results, not_run)?;
    if is_interrupted {
        return Err(Failure::silent(Exit::Interrupted));
    }
    let all = passed == cases.len();
    Ok(if all { Exit::Ok } else { Exit::Failed })
}

/// The cases that are wanted.
fn cases(
    context: &Context,
    args: &EvalArgs,
    dir: &Path,
    package: &AgentPackage,
) -> Outcome<Vec<files::Case>> {
    let files = files::load(dir, package).map_err(|errors| files::invalid(context, &errors))?;
    let mut cases = files.cases;
    if cases.is_empty() {
        let message = format!("{} has no cases in evals/", dir.display());
        return Err(Failure::usage(message).help(
            "`rune tool new` makes a file of cases, `rune schema eval` prints what one may hold; `rune test` plays cassettes",
        ));
    }
    if let Some(filter) = &args.filter {
        cases.retain(|case| case.title().contains(filter));
        if cases.is_empty() {
            let message = format!("no case has `{filter}` in its file or name");
            return Err(Failure::usage(message));
        }
    }
    Ok(cases)
}
