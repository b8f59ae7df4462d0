//! `rune completions`

use std::io::Write;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::failure::{Exit, Outcome};

/// Prints the completions of a shell.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune completions bash > ~/.local/share/bash-completion/completions/rune\n  rune completions zsh > ~/.zfunc/_rune"
)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "rune", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(Exit::Ok)
}
