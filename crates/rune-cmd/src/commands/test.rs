//! `rune test`: plays cassettes to an agent, and makes them.

mod collect;
mod play;
mod record;
mod report;
mod write;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use rune_spec::{AgentPackage, EvalFile};

use super::eval::files::is_data;
use super::known_secrets::Secrets;
use super::validate::{agent_dir, invalid};
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};

/// Plays the cassettes in `evals/` to the agent as it is now, and says which runs are not as they were recorded.
///
/// The models are answered from the cassettes: no network, no key and no daemon are needed.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune test hello                                          play hello/evals/*.yaml\n  rune test hello --live-tools --junit report.xml          run the tools for real\n  rune test hello --from-requests agent=hello since=24h    play what the daemon has run\n  rune test hello --from-requests req_0198c0ffee0198c0ffee0198c0ffee01 --write\n  rune test hello --record \"What time is it?\"               run once for real, and write a cassette\n\nExit codes: 0 every case passed, 1 one did not, 2 a file is not valid."
)]
pub(crate) struct TestArgs {
    /// The agent directory, or its Runefile
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Run the tools for real instead of answering them from the cassettes
    #[arg(long)]
    live_tools: bool,
    /// Write the results as JUnit XML, too
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Take requests of the daemon: ids, or filters `agent=NAME`, `ns=NAME`, `status=STATE`, `since=7d`, `limit=N`
    #[arg(long, num_args = 1.., value_name = "ID|FILTER")]
    from_requests: Vec<collect::Which>,
    /// Run the agent once for each of these inputs, for real, and write cassettes
    #[arg(long, num_args = 1.., value_name = "INPUT", conflicts_with = "from_requests")]
    record: Vec<String>,
    /// The inputs are JSON
    #[arg(long, requires = "record")]
    json: bool,
    /// Approve every tool call that the policy asks about while recording
    #[arg(long, short = 'y', requires = "record")]
    yes: bool,
    /// Write the cassettes to this directory instead of playing them [default: evals of the agent]
    #[arg(long, num_args = 0..=1, value_name = "DIR")]
    write: Option<Option<PathBuf>>,
}

pub(crate) fn run(context: &Context, args: &TestArgs) -> Outcome {
    let dir = agent_dir(&args.dir);
    let package = AgentPackage::load(&dir).map_err(|errors| invalid(context.output, &errors))?;
    let evals = match &args.write {
        Some(Some(named)) => write::Place {
            dir: named.clone(),
            package: None,
        },
        _ => write::Place {
            dir: dir.join("evals"),
            package: Some(&package),
        },
    };
    let secrets = || Secrets::of(context, &[&package], &BTreeMap::new());
    if !args.record.is_empty() {
        let secrets = secrets();
        return record::run(context, &dir, &evals, &secrets, args);
    }
    if args.from_requests.is_empty() {
        if args.write.is_some() {
            return Err(Failure::usage("--write needs --from-requests or --record"));
        }
        let (cases, skipped) = (from_files(context, &package)?, Vec::new());
        return play::run(context, &dir, &cases, skipped, args);
    }
    let found = context.block_on(collect::collect(context, &args.from_requests))?;
    if args.write.is_some() {
        return write::all(context, &evals, &secrets(), found);
    }
    let (mut cases, mut skipped) = (Vec::new(), Vec::new());
    for collected in found {
        match collected {
            collect::Collected::Recorded(file) => cases.push(play::Case::recorded(&file)?),
            collect::Collected::Skipped { id, reason } => skipped.push((id, reason)),
        }
    }
    play::run(context, &dir, &cases, skipped, args)
}

/// The cassettes of a package.
fn from_files(context: &Context, package: &AgentPackage) -> Outcome<Vec<play::Case>> {
    let mut cases = Vec::new();
    for relative in package.evals.iter().filter(|path| is_data(path)) {
        let text = package.text(relative);
        let text = text.map_err(|error| Failure::usage(error.to_string()))?;
        // Those are for `rune eval`.
        if !EvalFile::is_one(&text) {
            cases.push(play::Case::parse(context, relative, &text)?);
        }
    }
    if cases.is_empty() {
        let dir = package.dir.display();
        return Err(Failure::usage(format!("{dir} has no cassettes in evals/"))
            .help("make one: rune test DIR --record \"INPUT\", or rune test DIR --from-requests agent=NAME --write"));
    }
    Ok(cases)
}

/// How a run of cases ends.
const fn exit(failed: usize) -> Exit {
    if failed == 0 { Exit::Ok } else { Exit::Failed }
}
