//! Runs tools of the `process` runtime: JSON in, JSON out.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;

use serde_json::Value;

use super::exec::{Ending, Finished, Job, run};
use super::program::{base_environment, find_program, is_executable};
use super::{Keep, Launcher, ProcessLimits, ProcessTool};
use crate::answer::{says_crowded, says_out_of_memory};
use crate::egress::EgressPolicy;
use crate::{ToolContext, ToolError, ToolErrorKind, blocking, parse_answer, said};

/// Runs tools whose `runtime` is `process`.
///
/// A tool gets its input as one JSON value on standard input, answers one JSON value
/// on standard output and ends with exit code 0; standard error is diagnostics. It
/// runs in the workspace, in a process group of its own, with an environment that
/// holds only what it is granted. Nothing of the group outlives the call.
#[derive(Debug, Clone)]
pub struct ProcessRunner {
    search_path: String,
    launcher: Launcher,
    egress: Arc<EgressPolicy>,
}

impl ProcessRunner {
    /// A runner that looks for interpreters in these directories, separated by `:`;
    /// tools get the same value as their `PATH`.
    pub fn new(search_path: impl Into<String>) -> Self {
        Self {
            search_path: search_path.into(),
            launcher: Launcher::Direct,
            egress: Arc::default(),
        }
    }

    /// The same runner whose tools, where they are granted hosts, connect by this policy.
    #[must_use]
    pub fn with_egress(self, egress: EgressPolicy) -> Self {
        Self {
            egress: Arc::new(egress),
            ..self
        }
    }

    /// The same runner with another way to start processes.
    #[must_use]
    pub fn with_launcher(self, launcher: Launcher) -> Self {
        Self { launcher, ..self }
    }

    /// Runs a tool.
    ///
    /// # Errors
    /// [`ToolErrorKind::Failed`](crate::ToolErrorKind::Failed) with the end of standard
    /// error where the tool ends with another exit code or answers something else
    /// than one JSON value; `Timeout`, `Cancelled` and `OutputTooLarge` where it had to
    /// be stopped; `NotFound` or `Unavailable` where it cannot be started.
    pub async fn run(
        &self,
        tool: &ProcessTool,
        context: &ToolContext,
        input: &Value,
    ) -> Result<Value, ToolError> {
        if context.cancel.is_cancelled() {
            return Err(ToolError::cancelled());
        }
        let module = tool.module.clone();
        let search_path = self.search_path.clone();
        let reach = tool.reach(context, &self.egress)?;
        let sandbox = self.launcher.sandbox().cloned();
        let (program, args, reach) = blocking(move || {
            let (program, args) = command_for(&module, &search_path)?;
            if let Some(sandbox) = sandbox {
                reach.prepare(&sandbox.hidden)?;
            }
            Ok((program, args, reach))
        })
        .await?;
        let job = Job {
            program,
            args,
            env: self.environment(tool, context),
            cwd: context.workspace.clone(),
            account: None,
            stdin: input.to_string().into_bytes(),
            stdout: Keep::answer(context.output_limit),
            stderr: Keep::diagnostics(),
            timeout: context.timeout,
            reach,
        };
        let finished = run(&self.launcher, job, &context.cancel)
            .await
            .map_err(|error| cannot_start(&tool.module, &error))?;
        let answer = answer(tool, context, &finished);
        if self.launcher.sandbox().is_none() {
            return answer;
        }
        answer.map_err(|error| {
            let diagnostics = context.secrets.redact_tail(finished.stderr.diagnostics());
            explained(error, &tool.grants.limits, &diagnostics)
        })
    }

    fn environment(&self, tool: &ProcessTool, context: &ToolContext) -> Vec<(String, String)> {
        let mut env = base_environment(context, &self.search_path);
        // Otherwise python writes `__pycache__` into the package.
        env.push(("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned()));
        env.extend(tool.grants.env.iter().cloned());
        let secrets = context.secrets.iter();
        env.extend(secrets.map(|(name, value)| (name.to_owned(), value.to_owned())));
        env
    }
}

/// The program and arguments that run a module.
fn command_for(module: &Path, search_path: &str) -> Result<(PathBuf, Vec<PathBuf>), ToolError> {
    let shown = module.display();
    if !module.is_absolute() {
        return Err(ToolError::failed(format!(
            "module {shown} is not an absolute path"
        )));
    }
    match std::fs::metadata(module) {
        Ok(meta) if meta.is_file() => {}
        Ok(_) => {
            return Err(ToolError::failed(format!(
                "module {shown} is not a regular file"
            )));
        }
        Err(error) => {
            return Err(ToolError::not_found(format!(
                "module {shown} cannot be read: {error}"
            )));
        }
    }
    let extension = module.extension().and_then(|extension| extension.to_str());
    let interpreter = match extension {
        Some("py") => "python3",
        Some("js" | "mjs") => "node",
        Some("sh") => "sh",
        _ if is_executable(module) => return Ok((module.to_owned(), Vec::new())),
        _ => {
            return Err(ToolError::failed(format!(
                "module {shown} is not executable; run `chmod +x` on it, or give it the extension \
                 .py, .js, .mjs or .sh"
            )));
        }
    };
    let program = find_program(interpreter, search_path).ok_or_else(|| {
        ToolError::unavailable(format!(
            "module {shown} needs `{interpreter}`, which is not installed in {search_path}"
        ))
    })?;
    Ok((program, vec![module.to_owned()]))
}

fn cannot_start(module: &Path, error: &io::Error) -> ToolError {
    // ENOEXEC: the kernel does not know the format of the file.
    let hint = match error.raw_os_error() {
        Some(8) => "; a script needs a `#!` line",
        Some(2) => "; the interpreter of its `#!` line or the workspace does not exist",
        _ => "",
    };
    ToolError::failed(format!(
        "module {} cannot be started: {error}{hint}",
        module.display()
    ))
}

fn answer(
    tool: &ProcessTool,
    context: &ToolContext,
    finished: &Finished,
) -> Result<Value, ToolError> {
    let diagnostics = context.secrets.redact_tail(finished.stderr.diagnostics());
    let diagnostics = diagnostics.as_str();
    match &finished.ending {
        Ending::Exited(status) if status.success() => {
            context
                .diagnostics
                .take(&tool.module.display(), diagnostics);
            parse_answer(finished.stdout.head(), diagnostics, |text| {
                context.secrets.redact(text)
            })
        }
        Ending::Exited(status) => Err(ToolError::failed(format!(
            "the tool {}{}{}",
            describe_exit(*status),
            refused(&finished.refused),
            said(diagnostics)
        ))),
        Ending::LimitExceeded(what) => Err(ToolError::new(
            ToolErrorKind::LimitExceeded,
            format!(
                "sandbox: the tool used {what} and was stopped{}",
                said(diagnostics)
            ),
        )),
        Ending::Refused(why) => Err(refusal(why)),
        Ending::Timeout => Err(ToolError::timeout(format!(
            "the tool did not end within {} ms and was stopped{}",
            context.timeout.as_millis(),
            said(diagnostics)
        ))),
        Ending::Cancelled => Err(ToolError::cancelled()),
        Ending::TooMuchOutput => Err(ToolError::too_large(format!(
            "the tool wrote more than {} bytes and was stopped",
            context.output_limit
        ))),
    }
}

/// The failure of a tool that says it ran into what the kernel refuses it.
fn explained(error: ToolError, limits: &ProcessLimits, diagnostics: &str) -> ToolError {
    if error.kind != ToolErrorKind::Failed {
        return error;
    }
    let limit = if says_crowded(diagnostics) {
        let most = limits.processes;
        format!(
            "the tool could not start another process: it may have {most} processes and threads \
             (`limits.processes`)"
        )
    } else if says_out_of_memory(diagnostics) {
        let most = limits.memory >> 20;
        format!("the tool got no more memory: it may have {most} MiB (`limits.memory_mb`)")
    } else {
        return error;
    };
    let message = format!("sandbox: {limit}; {}", error.message);
    ToolError::new(ToolErrorKind::LimitExceeded, message)
}

/// A process that cannot be confined, for the model and the operator.
pub(crate) fn refusal(why: &str) -> ToolError {
    ToolError::denied(format!("sandbox: it was not started: {why}"))
}

/// What the filter of connections did not let through.
fn refused(connections: &[String]) -> String {
    match connections {
        [] => String::new(),
        all => format!("; sandbox: {}", all.join("; ")),
    }
}

/// How a process ended: `ended with exit code 1`, `was killed by signal 9`.
#[must_use]
pub fn describe_exit(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => {
            let why = match signal {
                24 => "; sandbox: it used more CPU time than `limits.cpu_ms`",
                25 => "; sandbox: it wrote a file that is too large",
                31 => "; sandbox: it made a system call that is not allowed",
                _ => "",
            };
            format!("was killed by signal {signal}{why}")
        }
        (None, None) => "ended abnormally".to_owned(),
    }
}
