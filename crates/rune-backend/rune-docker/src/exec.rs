//! `rune@docker-exec`: runs a command line in a container that is there.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use bollard::exec::{CreateExecOptions, StartExecResults};
use rune_tools::{BuiltinTool, Keep, ToolContext, ToolError, ToolErrorKind};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::DockerError;
use crate::engine::{DockerEngine, status};
use crate::output::Ends;
use crate::owner;

/// Room in an answer for everything but the output.
const ENVELOPE_BYTES: usize = 1024;
/// More output than this on one stream stops the command.
const TOTAL_OUTPUT_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of output shown in the error of a command that was stopped.
const SHOWN_BYTES: usize = 2048;
/// Longest wait for the end of a command that is killed; what takes longer goes on in the background.
const KILL_GRACE: Duration = Duration::from_millis(600);
/// How long the engine may take to start a command that was stopped before.
const START_GRACE: Duration = Duration::from_secs(1);
/// The variable by which the processes of a command are known: `DAEMON/PROCESS/ID;`, as the labels of a container name
/// these.
const MARK: &str = "RUNE_EXEC_ID";
/// Kills what has the mark in its environment, until there is nothing left. The shell drops the zero bytes between the
/// variables.
const KILL: &str = r#"for round in 1 2 3 4 5; do
  found=
  for dir in /proc/[0-9]*; do
    case $(cat "$dir/environ" 2>/dev/null) in
      *"RUNE_EXEC_ID=$1"*) kill -9 "${dir#/proc/}" 2>/dev/null && found=1 ;;
    esac
  done
  [ -n "$found" ] || exit 0
done"#;

/// Says the marks that there are and begin like this.
const FIND: &str = r#"for dir in /proc/[0-9]*; do
  text=$(cat "$dir/environ" 2>/dev/null)
  case $text in
    *"RUNE_EXEC_ID=$1"*) text=${text#*"RUNE_EXEC_ID=$1"}; echo "$1${text%%;*};" ;;
  esac
done"#;
/// Bytes of marks that are looked at.
const MARKS_BYTES: usize = 64 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    container: String,
    command: String,
    #[serde(default = "default_timeout")]
    timeout_ms: u64,
    cwd: Option<String>,
}

const fn default_timeout() -> u64 {
    60_000
}

/// Runs `sh -c` in a container that the operator has opened to agents. An exit code other than 0 is a result; a command
/// that has to be stopped is killed with its children and is an error that shows the output so far.
pub struct DockerExec(DockerEngine);

/// How a command came to its end.
enum Ending {
    Exited(Option<i64>),
    Timeout,
    Cancelled,
    TooMuchOutput,
}

/// A command of which nothing is left when this is gone.
struct Running {
    engine: DockerEngine,
    container: String,
    mark: String,
    /// Whether it was seen to end, and what it started was killed.
    done: bool,
    /// Whether it was seen to end. One that was not may have been about to start.
    ended: bool,
}

impl DockerExec {
    /// The tool on this engine.
    #[must_use]
    pub const fn new(engine: DockerEngine) -> Self {
        Self(engine)
    }

    /// The id of a container by its name, where it is open to agents and running.
    async fn container(&self, name: &str) -> Result<String, ToolError> {
        let open = &self.0.config().exec_containers;
        if !open.iter().any(|one| one == name) {
            let listed = match open.as_slice() {
                [] => "none is".to_owned(),
                open => format!("these are: {}", open.join(", ")),
            };
            let message = format!(
                "the container `{name}` is not open to agents; {listed} (the operator names them in \
                 tools.docker_exec_containers)"
            );
            return Err(ToolError::new(ToolErrorKind::Denied, message));
        }
        let missing = || {
            let message = format!("there is no container `{name}`");
            ToolError::new(ToolErrorKind::NotFound, message)
        };
        let found = self.0.client().await?.inspect_container(name, None).await;
        let found = found.map_err(|error| match status(&error) {
            Some(404) => missing(),
            _ => self.0.error("look at a container", &error).into(),
        })?;
        // The engine takes the beginning of another one's id for a name, too.
        if found.name.as_deref().map(|it| it.trim_start_matches('/')) != Some(name) {
            return Err(missing());
        }
        let is_running = found.state.and_then(|state| state.running) == Some(true);
        match found.id {
            Some(id) if is_running => Ok(id),
            _ => Err(ToolError::new(
                ToolErrorKind::Unavailable,
                format!("the container `{name}` is not running"),
            )),
        }
    }

    async fn attempt(
        &self,
        input: &Input,
        context: &ToolContext,
        running: &mut Option<Running>,
        ends: &mut Ends,
    ) -> Result<Ending, ToolError> {
        let container = self.container(&input.container).await?;
        let docker = self.0.client().await?;
        let mark = self.0.mark();
        let variables = context.variables();
        let variables = variables
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"));
        let options = CreateExecOptions {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            env: Some(variables.chain([format!("{MARK}={mark}")]).collect()),
            cmd: Some(shell(&input.command)),
            working_dir: input.cwd.clone(),
            ..CreateExecOptions::default()
        };
        let refused = |error| self.0.error("run a command", &error);
        let exec = docker.create_exec(&container, options).await;
        let exec = exec.map_err(refused)?.id;
        *running = Some(Running {
            engine: self.0.clone(),
            container,
            mark,
            done: false,
            ended: false,
        });
        let started = docker.start_exec(&exec, None).await.map_err(refused)?;
        if let StartExecResults::Attached { output, input } = started {
            let over = ends.fill(output).await;
            drop(input);
            if over {
                return Ok(Ending::TooMuchOutput);
            }
        }
        let found = docker.inspect_exec(&exec).await.map_err(refused)?;
        if let Some(running) = running {
            running.ended = found.running == Some(false);
        }
        Ok(Ending::Exited(found.exit_code))
    }
}

#[async_trait]
impl BuiltinTool for DockerExec {
    fn name(&self) -> &'static str {
        "docker-exec"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = serde_json::from_value(input).map_err(|error| {
            let message = format!("the input is not valid: {error}");
            ToolError::new(ToolErrorKind::InvalidInput, message)
        })?;
        let limit = Duration::from_millis(input.timeout_ms).min(context.timeout);
        // Each stream gets half of the answer.
        let budget = context.output_limit.saturating_sub(ENVELOPE_BYTES) / 2;
        let keep = Keep {
            head: budget / 2,
            tail: budget / 2,
            total: TOTAL_OUTPUT_BYTES,
        };
        let mut ends = Ends::new(keep, keep);
        let mut running = None;
        let ended = tokio::select! {
            biased;
            () = context.cancel.cancelled() => Ok(Ending::Cancelled),
            () = sleep(limit) => Ok(Ending::Timeout),
            ended = self.attempt(&input, context, &mut running, &mut ends) => ended,
        };
        if let Some(running) = &mut running {
            running.kill().await;
        }
        let so_far = || {
            let (stdout, _) = ends.stdout.to_text(SHOWN_BYTES);
            let (stderr, _) = ends.stderr.to_text(SHOWN_BYTES);
            format!("\nstandard output:\n{stdout}\nstandard error:\n{stderr}")
        };
        match ended? {
            Ending::Exited(code) => {
                let (stdout, stdout_cut) = ends.stdout.to_text(budget);
                let (stderr, stderr_cut) = ends.stderr.to_text(budget);
                Ok(json!({
                    "exit_code": code,
                    "stdout": stdout,
                    "stderr": stderr,
                    "truncated": stdout_cut || stderr_cut,
                }))
            }
            Ending::Timeout => Err(ToolError::new(
                ToolErrorKind::Timeout,
                format!(
                    "the command did not end within {} ms and was stopped{}",
                    limit.as_millis(),
                    so_far()
                ),
            )),
            Ending::Cancelled => Err(ToolError::new(
                ToolErrorKind::Cancelled,
                "the request was cancelled; the command was stopped",
            )),
            Ending::TooMuchOutput => Err(ToolError::new(
                ToolErrorKind::OutputTooLarge,
                format!(
                    "the command wrote more than {TOTAL_OUTPUT_BYTES} bytes and was stopped{}",
                    so_far()
                ),
            )),
        }
    }
}

impl Running {
    /// Kills the command and everything that it started.
    async fn kill(&mut self) {
        let killed = timeout(KILL_GRACE, kill(&self.engine, &self.container, &self.mark)).await;
        match killed {
            Ok(Ok(())) => self.done = self.ended,
            Ok(Err(error)) => tracing::warn!(%error, "a command in a container was not killed"),
            Err(_) => tracing::debug!("killing a command in a container takes long"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let engine = self.engine.clone();
        let container = std::mem::take(&mut self.container);
        let mark = std::mem::take(&mut self.mark);
        let spawn = self.engine.clone();
        spawn.spawn(Box::pin(async move {
            sleep(START_GRACE).await;
            if let Err(error) = kill(&engine, &container, &mark).await {
                tracing::warn!(%error, "a command in a container was not killed");
            }
        }));
    }
}

/// The engine has no way to end a command, so another one does it from inside.
async fn kill(engine: &DockerEngine, container: &str, mark: &str) -> Result<(), DockerError> {
    inside(engine, container, KILL, mark).await.map(drop)
}

/// Kills what commands of processes of this data directory that are gone have left in a container.
pub(crate) async fn sweep(engine: &DockerEngine, container: &str) -> Result<(), DockerError> {
    let own = engine.mark_of_daemon();
    let marks = inside(engine, container, FIND, &own).await?;
    let marks: BTreeSet<&str> = marks.lines().collect();
    for mark in marks {
        let process = mark
            .strip_prefix(&own)
            .and_then(|rest| rest.split('/').next());
        if process.is_none_or(owner::is_alive) {
            continue;
        }
        tracing::info!(container, "a command was left behind; it is killed");
        kill(engine, container, mark).await?;
    }
    Ok(())
}

/// What a script with one argument says inside of a container.
async fn inside(
    engine: &DockerEngine,
    container: &str,
    script: &str,
    argument: &str,
) -> Result<String, DockerError> {
    let docker = engine.client().await?;
    let mut command = shell(script);
    command.extend(["sh".to_owned(), argument.to_owned()]);
    let options = CreateExecOptions {
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(command),
        ..CreateExecOptions::default()
    };
    let refused = |error| engine.error("look after a command", &error);
    let exec = docker.create_exec(container, options).await;
    let exec = exec.map_err(refused)?.id;
    let started = docker.start_exec(&exec, None).await.map_err(refused)?;
    if let StartExecResults::Attached { output, input } = started {
        let mut ends = Ends::new(Keep::answer(MARKS_BYTES), Keep::diagnostics());
        ends.fill(output).await;
        drop(input);
        return Ok(String::from_utf8_lossy(ends.stdout.head()).into_owned());
    }
    Ok(String::new())
}

fn shell(command: &str) -> Vec<String> {
    ["sh", "-c", command].map(str::to_owned).into()
}
