//! `rune debug`

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};

use super::daemon::{self, StartOptions, StopArgs};
use crate::context::Context;
use crate::daemon::instance::Address;
use crate::daemon::launch;
use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::output::printable;

/// How often the log is looked at.
const POLL: Duration = Duration::from_millis(200);
/// How much of the log's end is searched for the lines to begin with.
const TAIL_BYTES: u64 = 256 * 1024;

/// Follows the daemon's log, or restarts the daemon with another log level.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune debug\n  rune debug --no-follow --lines 200\n  rune debug --restart --log-level rune_runtime=trace"
)]
pub(crate) struct DebugArgs {
    /// Restart the daemon with another log level
    #[arg(long)]
    restart: bool,
    /// The log level, as in RUST_LOG [default: debug]
    #[arg(long, requires = "restart", value_name = "FILTER")]
    log_level: Option<String>,
    /// Lines to begin with
    #[arg(long, default_value_t = 50, conflicts_with = "restart")]
    lines: usize,
    /// Do not wait for new lines
    #[arg(long, conflicts_with = "restart")]
    no_follow: bool,
}

pub(crate) fn run(context: &Context, args: &DebugArgs) -> Outcome {
    if args.restart {
        let level = args.log_level.clone().unwrap_or_else(|| "debug".to_owned());
        let options = StartOptions {
            log_level: Some(level),
            ..StartOptions::default()
        };
        return context.block_on(daemon::restart(context, options, &StopArgs::DEFAULT));
    }
    let options = Address::read(context.data_dir()).map(|address| address.options);
    let path = launch::log_file(context.data_dir(), &options.unwrap_or_default());
    context.block_on(tail(context, &path, args))
}

async fn tail(context: &Context, path: &Path, args: &DebugArgs) -> Outcome {
    let unreadable = |error: &std::io::Error| {
        Failure::because(format!("cannot read the log {}", path.display()), error)
            .help("a daemon that runs in the foreground logs to its terminal; `rune daemon start` starts one with a log")
    };
    let mut interrupt = Interrupt::listen()?;
    let mut file = File::open(path).await.map_err(|error| unreadable(&error))?;
    let length = file
        .metadata()
        .await
        .map_err(|error| unreadable(&error))?
        .len();
    let start = SeekFrom::Start(length.saturating_sub(TAIL_BYTES));
    file.seek(start).await.map_err(|error| unreadable(&error))?;
    let mut text = read(&mut file).await.map_err(|error| unreadable(&error))?;
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(args.lines);
    for line in lines.iter().skip(first) {
        context.output.text(line)?;
    }
    if args.no_follow {
        return Ok(Exit::Ok);
    }
    let mut look = tokio::time::interval(POLL);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = interrupt.next() => return Ok(Exit::Ok),
        }
        // In this order, so that nothing is written to the file between its last read and the look.
        let next = successor(&file, path).await;
        text = read(&mut file).await.map_err(|error| unreadable(&error))?;
        context.output.raw(&text)?;
        if let Some(next) = next {
            file = next;
        }
    }
}

/// The file that has taken the place of the one that is open, which was put aside.
async fn successor(open: &File, path: &Path) -> Option<File> {
    let next = File::open(path).await.ok()?;
    let (old, new) = (open.metadata().await.ok()?, next.metadata().await.ok()?);
    let is_same = (old.dev(), old.ino()) == (new.dev(), new.ino());
    (!is_same).then_some(next)
}

async fn read(file: &mut File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).await?;
    Ok(printable(&String::from_utf8_lossy(&bytes)))
}
