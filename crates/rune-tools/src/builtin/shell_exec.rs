//! `rune@shell-exec`: runs a command line.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ENVELOPE_BYTES, parse};
use crate::process::{
    Ending, Job, Keep, Launcher, Reach, base_environment, find_program, refusal, run,
};
use crate::workspace::{Workspace, io_error};
use crate::{BuiltinTool, ToolContext, ToolError, ToolErrorKind, blocking};

/// More output than this on one stream stops the command.
const TOTAL_OUTPUT_BYTES: u64 = 64 * 1024 * 1024;

/// Bytes of output shown in the error of a command that was stopped.
const SHOWN_BYTES: usize = 2048;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    command: String,
    #[serde(default = "default_timeout")]
    timeout_ms: u64,
    #[serde(default = "here")]
    cwd: String,
}

fn default_timeout() -> u64 {
    60_000
}

pub(super) fn here() -> String {
    ".".to_owned()
}

/// Runs `sh -c` in the workspace. An exit code other than 0 is a result; a command
/// that has to be stopped is an error that shows the output so far.
pub(crate) struct ShellExec {
    search_path: String,
    launcher: Launcher,
}

impl ShellExec {
    pub(crate) fn new(search_path: String, launcher: Launcher) -> Self {
        Self {
            search_path,
            launcher,
        }
    }
}

#[async_trait]
impl BuiltinTool for ShellExec {
    fn name(&self) -> &'static str {
        "shell-exec"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        if input.command.contains('\0') {
            return Err(ToolError::invalid("the command contains a NUL byte"));
        }
        if context.cancel.is_cancelled() {
            return Err(ToolError::cancelled());
        }
        let workspace = context.workspace.clone();
        let search_path = self.search_path.clone();
        let (shell, cwd) = blocking(move || {
            let shell = find_program("sh", &search_path).ok_or_else(|| {
                ToolError::unavailable(format!("`sh` is not installed in {search_path}"))
            })?;
            Ok((shell, directory(&workspace, &input.cwd)?))
        })
        .await?;
        let limit = Duration::from_millis(input.timeout_ms).min(context.timeout);
        // Each stream gets half of the answer.
        let budget = context.output_limit.saturating_sub(ENVELOPE_BYTES) / 2;
        let keep = Keep {
            head: budget / 2,
            tail: budget / 2,
            total: TOTAL_OUTPUT_BYTES,
        };
        let mut env = base_environment(context, &self.search_path);
        env.push(("TERM".to_owned(), "dumb".to_owned()));
        let job = Job {
            program: shell,
            args: vec!["-c".into(), input.command.into()],
            env,
            cwd,
            account: None,
            stdin: Vec::new(),
            stdout: keep,
            stderr: keep,
            timeout: limit,
            reach: Reach::workspace(context),
        };
        let finished = run(&self.launcher, job, &context.cancel)
            .await
            .map_err(|error| ToolError::failed(format!("`sh` cannot be started: {error}")))?;
        let so_far = || {
            let (stdout, _) = finished.stdout.to_text(SHOWN_BYTES);
            let (stderr, _) = finished.stderr.to_text(SHOWN_BYTES);
            format!("\nstandard output:\n{stdout}\nstandard error:\n{stderr}")
        };
        match finished.ending {
            Ending::Exited(status) => {
                let (stdout, stdout_cut) = finished.stdout.to_text(budget);
                let (stderr, stderr_cut) = finished.stderr.to_text(budget);
                Ok(json!({
                    "exit_code": exit_code(status),
                    "stdout": stdout,
                    "stderr": stderr,
                    "truncated": stdout_cut || stderr_cut,
                }))
            }
            Ending::Timeout => Err(ToolError::timeout(format!(
                "the command did not end within {} ms and was stopped{}",
                limit.as_millis(),
                so_far()
            ))),
            Ending::LimitExceeded(what) => Err(ToolError::new(
                ToolErrorKind::LimitExceeded,
                format!(
                    "sandbox: the command used {what} and was stopped{}",
                    so_far()
                ),
            )),
            Ending::Refused(why) => Err(refusal(&why)),
            Ending::Cancelled => Err(ToolError::cancelled()),
            Ending::TooMuchOutput => Err(ToolError::too_large(format!(
                "the command wrote more than {TOTAL_OUTPUT_BYTES} bytes and was stopped{}",
                so_far()
            ))),
        }
    }
}

pub(super) fn directory(workspace: &Path, cwd: &str) -> Result<PathBuf, ToolError> {
    let inside = Workspace::open(workspace)?;
    let target = inside.target(cwd)?;
    let meta = inside
        .root()
        .metadata(&target)
        .map_err(|error| io_error("use", cwd, &error))?;
    if meta.is_dir() {
        Ok(workspace.join(target))
    } else {
        Err(ToolError::invalid(format!("`{cwd}` is not a directory")))
    }
}

/// The code as a shell reports it: 128 and the signal for a command that was killed.
pub(crate) fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(-1)
}
