//! A process that is written to and read from while it runs.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::process::{ChildStderr, ChildStdout};

use super::group::ProcessGroup;
use super::launcher::{LaunchSpec, Launched, Launcher, Reports, Said};
use super::proxy::{self, Filter};
use super::reach::Reach;
use super::runner::refusal;
use crate::egress::RefusalSink;
use crate::{ToolError, ToolErrorKind, blocking};

/// Why a program may not be there for a process that is confined.
const NOT_SEEN: &str =
    "; its sandbox has the system's programs, the package and what `filesystem:ro:PATH` grants";

/// What [`Launcher::start_live`](crate::Launcher::start_live) starts.
pub struct LiveJob {
    /// The program, as an absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// The directory it runs in, where it may reach that.
    pub cwd: PathBuf,
    /// What it may reach, where the launcher confines it.
    pub reach: Reach,
    /// Is told of connections that were refused.
    pub refused: RefusalSink,
}

/// A process that runs. Dropped, it ends with everything that it has started.
pub struct LiveProcess {
    group: ProcessGroup,
    reports: Option<Reports>,
    filter: Option<Filter>,
    is_confined: bool,
}

/// What a [`LiveProcess`] is spoken to by.
#[derive(Debug)]
pub struct LivePipes {
    /// Its standard input.
    pub input: pipe::Sender,
    /// Its standard output.
    pub output: ChildStdout,
    /// Its standard error.
    pub errors: ChildStderr,
}

impl Launcher {
    /// Starts a process that is written to while it runs, or what will start it.
    ///
    /// # Errors
    /// [`ToolErrorKind::Denied`] and `Unavailable` for a grant that cannot be kept; `Failed` where it cannot be started. With
    /// a launcher a program that is not there shows as a process that ends at once.
    pub async fn start_live(&self, job: LiveJob) -> Result<(LiveProcess, LivePipes), ToolError> {
        let mut spec = LaunchSpec {
            program: job.program.into_os_string(),
            args: job.args.into_iter().map(OsString::from).collect(),
            env: job.env,
            cwd: job.cwd.into_os_string(),
            account: None,
            confinement: None,
        };
        let sandbox = self.sandbox().cloned();
        if let Some(sandbox) = &sandbox {
            let (reach, hidden) = (job.reach.clone(), sandbox.hidden.clone());
            blocking(move || reach.prepare(&hidden)).await?;
            spec.confine(&job.reach, sandbox);
        }
        let filter = Filter::of(&job.reach, sandbox.as_ref(), Some(job.refused));
        let launched = self.launch(&spec).await;
        let Launched {
            group,
            input,
            reports,
            stdout,
            stderr,
        } = launched.map_err(|error| not_started(&error))?;
        let no_pipe = || not_started(&io::Error::other("the new process has no pipes"));
        let pipes = LivePipes {
            input,
            output: stdout.ok_or_else(no_pipe)?,
            errors: stderr.ok_or_else(no_pipe)?,
        };
        let process = LiveProcess {
            group,
            reports,
            filter,
            is_confined: sandbox.is_some(),
        };
        Ok((process, pipes))
    }
}

impl LiveProcess {
    /// Waits for its end, and meanwhile lets its connections through. May be dropped and called again.
    ///
    /// # Errors
    /// [`ToolErrorKind::Denied`] where it was not started because it cannot be confined, the missing part named;
    /// `LimitExceeded` where it was stopped because it used up what is limited; `Failed` where it could not be started.
    pub async fn ended(&mut self) -> Result<ExitStatus, ToolError> {
        let serving = proxy::serve(self.filter.as_mut(), self.reports.as_mut());
        let status = tokio::select! {
            status = self.group.wait() => status.map_err(|error| not_started(&error))?,
            never = serving => match never {},
        };
        let Some(reports) = &mut self.reports else {
            return Ok(status);
        };
        match reports.end(status).await {
            Ok(Said::Status(status)) => Ok(status),
            Ok(Said::Stopped(what)) => Err(ToolError::new(
                ToolErrorKind::LimitExceeded,
                format!("sandbox: it used {what} and was stopped"),
            )),
            Ok(Said::Refused(why)) => Err(refusal(&why)),
            Err(error) if self.is_confined && error.kind() == io::ErrorKind::NotFound => {
                let mut error = not_started(&error);
                error.message.push_str(NOT_SEEN);
                Err(error)
            }
            Err(error) => Err(not_started(&error)),
        }
    }

    /// Ends it and everything it started: politely first where `grace` is not zero.
    pub async fn stop(&mut self, grace: Duration) {
        self.group.stop(grace).await;
    }
}

fn not_started(error: &io::Error) -> ToolError {
    ToolError::failed(format!("it cannot be started: {error}"))
}
