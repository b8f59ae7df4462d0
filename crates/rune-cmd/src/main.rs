//! `rune`: the command line, the daemon and nothing else. Commands print, the crates below do the work.
//!
//! * [`cli`] is what can be typed; [`commands`] has one file per verb.
//! * [`daemon`] wires the engine, the gateway and the control plane into one process.
//! * [`client`] talks to a daemon, [`output`] and [`failure`] are how everything is printed and ended.
//!
//! Invariants: data goes to stdout and everything else to stderr; an error says what failed, where, and the command
//! that helps; the exit code is one of [`failure::Exit`].

mod artifact;
mod cli;
mod client;
mod commands;
mod context;
mod daemon;
mod events;
mod failure;
mod interrupt;
mod keys;
mod output;
mod progress;
mod prompt;
mod source;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|verb| verb == cli::LAUNCH_VERB)
    {
        return rune_tools::serve_launch();
    }
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let style = output::Style::detect(cli.global.no_color);
    match commands::run(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print(style);
            failure.exit.into()
        }
    }
}

/// Prints what clap has to say: help and versions are answers, everything else is a usage error.
fn usage(error: &clap::Error) -> ExitCode {
    let exit = if error.use_stderr() {
        failure::Exit::Usage
    } else {
        failure::Exit::Ok
    };
    // Nobody reads it: nothing is left to do.
    let _ = error.print();
    exit.into()
}
