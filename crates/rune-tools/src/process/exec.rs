//! Runs one process to its end, within its time and output limits.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::capture::{Captured, Keep};
use super::group::{ProcessGroup, TERMINATE_GRACE};
use super::launcher::{Launched, Launcher, Said};
use super::proxy::{self, Filter};
use super::reach::Reach;

/// How long the pipes are read after the group has ended. Only a process that left
/// the group can hold them open for longer.
const DRAIN_GRACE: Duration = Duration::from_millis(200);

/// A process to run.
pub(crate) struct Job {
    /// The program, as an absolute path.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) args: Vec<PathBuf>,
    /// Its whole environment.
    pub(crate) env: Vec<(String, String)>,
    /// The directory it runs in.
    pub(crate) cwd: PathBuf,
    /// The account it runs in, where that is another than the daemon's.
    pub(crate) account: Option<u32>,
    /// What it can read on its standard input.
    pub(crate) stdin: Vec<u8>,
    /// How much of its standard output is kept.
    pub(crate) stdout: Keep,
    /// How much of its standard error is kept.
    pub(crate) stderr: Keep,
    /// The longest it may run.
    pub(crate) timeout: Duration,
    /// What it may reach, where the launcher confines it.
    pub(crate) reach: Reach,
}

/// How a process came to its end.
#[derive(Debug)]
pub(crate) enum Ending {
    /// It ended by itself.
    Exited(ExitStatus),
    /// It was stopped because its time was over.
    Timeout,
    /// It was stopped because the request was cancelled.
    Cancelled,
    /// It was stopped because it wrote too much.
    TooMuchOutput,
    /// It was stopped because it used up what is limited; what and how much.
    LimitExceeded(String),
    /// It was not started because it cannot be confined.
    Refused(String),
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) ending: Ending,
    pub(crate) stdout: Captured,
    pub(crate) stderr: Captured,
    /// Connections that were refused.
    pub(crate) refused: Vec<String>,
}

/// Runs a process. When this returns, or its future is dropped, nothing of the
/// process's group is running any more.
pub(crate) async fn run(
    launcher: &Launcher,
    job: Job,
    cancel: &CancellationToken,
) -> io::Result<Finished> {
    let mut stdout = Captured::new(job.stdout);
    let mut stderr = Captured::new(job.stderr);
    let Launched {
        mut group,
        input,
        mut reports,
        stdout: output,
        stderr: errors,
    } = launcher.start(&job).await?;
    let mut filter = Filter::of(&job.reach, launcher.sandbox(), None);
    let ending = {
        let pump = read_and_feed(
            overflow(stdout.fill(output), stderr.fill(errors)),
            feed(input, &job.stdin),
        );
        let supervised = supervise(&mut group, pump, job.timeout, cancel);
        tokio::select! {
            ending = supervised => ending?,
            never = proxy::serve(filter.as_mut(), reports.as_mut()) => match never {},
        }
    };
    let ending = match (ending, reports) {
        (Ending::Exited(status), Some(mut reports)) => match reports.end(status).await? {
            Said::Status(status) => Ending::Exited(status),
            Said::Stopped(what) => Ending::LimitExceeded(what),
            Said::Refused(why) => Ending::Refused(why),
        },
        (ending, _) => ending,
    };
    Ok(Finished {
        ending,
        stdout,
        stderr,
        refused: filter.map(|filter| filter.refused()).unwrap_or_default(),
    })
}

async fn supervise(
    group: &mut ProcessGroup,
    pump: impl Future<Output = bool>,
    limit: Duration,
    cancel: &CancellationToken,
) -> io::Result<Ending> {
    let mut pump = pin!(pump);
    let mut deadline = pin!(sleep(limit));
    let mut pumped = false;
    let ending = loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => break Ending::Cancelled,
            () = &mut deadline => break Ending::Timeout,
            over = &mut pump, if !pumped => {
                if over {
                    break Ending::TooMuchOutput;
                }
                pumped = true;
            }
            status = group.wait() => break Ending::Exited(status?),
        }
    };
    match ending {
        Ending::Exited(status) => {
            let over = !pumped && timeout(DRAIN_GRACE, pump).await.unwrap_or(false);
            Ok(if over {
                Ending::TooMuchOutput
            } else {
                Ending::Exited(status)
            })
        }
        Ending::TooMuchOutput => {
            group.stop(Duration::ZERO).await;
            Ok(Ending::TooMuchOutput)
        }
        stopped => {
            group.stop(TERMINATE_GRACE).await;
            Ok(stopped)
        }
    }
}

/// Reads both outputs; ends early, with `true`, once one of them exceeds its total.
/// A pipe that cannot be read counts as closed.
async fn overflow(
    stdout: impl Future<Output = io::Result<bool>>,
    stderr: impl Future<Output = io::Result<bool>>,
) -> bool {
    let mut stdout = pin!(stdout);
    let mut stderr = pin!(stderr);
    tokio::select! {
        over = &mut stdout => over.unwrap_or(false) || stderr.await.unwrap_or(false),
        over = &mut stderr => over.unwrap_or(false) || stdout.await.unwrap_or(false),
    }
}

/// Reads the outputs while the input is written. Ends with the outputs: a process
/// that never reads its input must not hold the call.
async fn read_and_feed(read: impl Future<Output = bool>, feed: impl Future<Output = ()>) -> bool {
    let mut read = pin!(read);
    tokio::select! {
        over = &mut read => over,
        () = feed => read.await,
    }
}

/// Writes the input and closes it. A process that does not read it is not at fault, so a broken pipe is no error.
async fn feed(mut input: pipe::Sender, bytes: &[u8]) {
    if let Err(error) = input.write_all(bytes).await {
        tracing::debug!(%error, "the process did not read its whole input");
    }
}
