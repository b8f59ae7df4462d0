//! `rune tool`

mod audit;
mod new;
mod run;

use std::path::PathBuf;

use clap::Subcommand;

use crate::context::Context;
use crate::failure::Outcome;

/// The tools of agents.
#[derive(Debug, Subcommand)]
pub(crate) enum ToolCommand {
    /// Print what a WebAssembly module imports, and what the tool or the agent it belongs to is granted
    #[command(
        after_help = "Examples:\n  rune tool audit my-agent/tools/shout.wasm\n  rune tool audit tools/fetch.wat -o json\n  rune tool audit my-agent/agent.wasm\n\nThe description is the file of the agent's tools/ that names the module, or the Runefile whose `entrypoint` it is.\nExit codes: 0 it can be loaded, 2 it cannot."
    )]
    Audit {
        /// The module: .wasm, or .wat
        module: PathBuf,
    },
    /// Make a new tool of an agent: its description, its source and an eval
    #[command(
        after_help = "Examples:\n  rune tool new word-count --lang python\n  rune tool new price --lang rust --dir my-agent\n\nLanguages:\n  python  a process, run with python3\n  js      a process, run with node\n  rust    a WASI command, built with cargo for wasm32-wasip1\n  wasm    WebAssembly in its text form\n\nThe tool is added to `toolset` of the Runefile. Files that are there are never overwritten."
    )]
    New(new::NewArgs),
    /// Run one tool of an agent directory as its requests would, without a model and without a daemon
    #[command(
        after_help = "Examples:\n  rune tool run word-count '{\"text\": \"one two\"}'\n  rune tool run word-count --file input.json --dir my-agent\n  echo '{}' | rune tool run rune@system-time - -o json\n\nThe output goes to standard output, what the tool writes to standard error and the time it took to standard error.\nThe input is checked against the tool's schema, the policy of the agent holds, and so do the sandbox and the limits.\nExit codes: 0 it worked, 1 the tool failed, 2 the input or a file is not valid, 3 denied, 4 a limit, 5 it needs an\napproval, 6 something it needs does not answer."
    )]
    Run(run::RunArgs),
}

pub(crate) fn run(context: &Context, command: ToolCommand) -> Outcome {
    match command {
        ToolCommand::Audit { module } => context.block_on(audit::run(context, &module)),
        ToolCommand::New(args) => new::run(context, &args),
        ToolCommand::Run(args) => run::run(context, &args),
    }
}
