//! A tool that is an image.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use bollard::container::AttachContainerResults;
use bollard::models::{
    ContainerCreateBody, ContainerState, HealthConfig, HostConfig, HostConfigLogConfig,
    ResourcesUlimits,
};
use rune_spec::{Limits, ToolDescriptor};
use rune_tools::{Keep, ToolContext, ToolError, ToolErrorKind, parse_answer, said, says_crowded};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep_until, timeout};

use crate::DockerError;
use crate::container::Container;
use crate::engine::DockerEngine;
use crate::grants::{Grants, PROGRAM_DIR, WORKSPACE};
use crate::image::Image;
use crate::mounts::{Hidden, Opened, bind};
use crate::output::Ends;

/// Memory of a container whose description does not say, in MiB, and the least that the engine gives.
const DEFAULT_MEMORY_MB: u64 = 512;
const LEAST_MEMORY_MB: u64 = 6;
/// Processes and threads of a container whose description does not say.
const DEFAULT_PROCESSES: u64 = 128;
/// Processors, in billionths.
const PROCESSORS: i64 = 1_000_000_000;
/// Files that a process may have open.
const OPEN_FILES: i64 = 1024;
/// What `/tmp` and each volume of the image may hold; it counts as memory, too.
const SCRATCH: &str = "rw,noexec,nosuid,nodev,mode=1777,size=67108864";
/// What processes may share, in bytes.
const SHARED_MEMORY: i64 = 16 * 1024 * 1024;
/// Two clocks that were set at the same time are as far apart at the most.
const SAME_TIME: Duration = Duration::from_millis(50);
/// How long the output is read after the container has ended.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// A tool that is an image: each call in a container of its own.
pub struct ContainerTool {
    name: String,
    engine: DockerEngine,
    image: String,
    /// A program of the package that is run in place of the image's.
    program: Option<Program>,
    grants: Grants,
    limits: Bounds,
    found: OnceCell<Image>,
}

/// A program of the package.
struct Program {
    source: PathBuf,
    target: String,
    command: Vec<String>,
}

/// What a container may use.
struct Bounds {
    memory: u64,
    processes: u64,
    processor: Option<Duration>,
}

/// How a container came to its end.
enum Ending {
    Exited(ContainerState),
    TooMuchOutput,
    TooMuchProcessor,
    Timeout,
    Cancelled,
}

impl ContainerTool {
    /// The tool that a description of runtime `container` describes. `module` is the file of the program it names;
    /// `lookup` knows the values of variables. The engine is not asked.
    ///
    /// # Errors
    /// A [`DockerError`] that says which capability or limit cannot be kept.
    pub fn new(
        engine: DockerEngine,
        descriptor: &ToolDescriptor,
        image: &str,
        module: Option<&Path>,
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, DockerError> {
        let image = rune_spec::interpolate(image, lookup);
        let image =
            image.map_err(|error| ToolError::new(ToolErrorKind::Unavailable, error.to_string()))?;
        Ok(Self {
            name: descriptor.name.clone(),
            engine,
            image,
            program: module.map(Program::new),
            grants: Grants::new(&descriptor.capabilities, lookup)?,
            limits: Bounds::new(&descriptor.limits)?,
            found: OnceCell::new(),
        })
    }

    /// Whether its containers see files of the agent's workspace.
    #[must_use]
    pub fn sees_workspace(&self) -> bool {
        let mut directories = self.grants.directories.iter();
        directories.any(|one| Path::new(&one.path).is_relative())
    }

    /// Looks for the image, once; later calls use that very one.
    ///
    /// # Errors
    /// A [`DockerError`] where the engine does not answer or has no such image.
    pub async fn prepare(&self) -> Result<(), DockerError> {
        self.image().await.map(|_| ())
    }

    async fn image(&self) -> Result<&Image, DockerError> {
        let find = || async {
            let image = Image::find(&self.engine, &self.image).await?;
            if self.program.is_none() && !image.starts {
                return Err(DockerError::NoProgram(self.image.clone()));
            }
            Ok(image)
        };
        self.found.get_or_try_init(find).await
    }

    /// Runs the tool: in a container of its own, which is killed when this returns or its future is dropped, and removed
    /// soon after.
    ///
    /// # Errors
    /// [`ToolErrorKind::Failed`] with the end of standard error where the program ends with another exit code than 0 or
    /// answers something else than one JSON value; `Timeout`, `Cancelled`, `OutputTooLarge` and `LimitExceeded` where it
    /// had to be stopped; `Unavailable` where the engine does not answer.
    pub async fn run(&self, context: &ToolContext, input: &Value) -> Result<Value, ToolError> {
        let keep = Keep::answer(context.output_limit);
        let mut ends = Ends::new(keep, Keep::diagnostics());
        let mut container = Container::new(&self.engine);
        // Whether it has been seen with all the processes that it may have.
        let mut crowded = false;
        let deadline = Instant::now() + context.timeout;
        let ended = tokio::select! {
            biased;
            () = sleep_until(deadline) => Ok(Ending::Timeout),
            // Whoever waits for the call keeps the same time, and may be the first to notice.
            () = context.cancel.cancelled() => Ok(if Instant::now() + SAME_TIME >= deadline {
                Ending::Timeout
            } else {
                Ending::Cancelled
            }),
            ended = self.attempt(&mut container, context, input, &mut ends, &mut crowded) => ended,
        };
        container.kill().await;
        let outcome = ended.and_then(|ending| self.answer(&ending, context, &ends, crowded));
        outcome.map_err(|error| ToolError::new(error.kind, context.secrets.redact(error.message)))
    }

    async fn attempt(
        &self,
        container: &mut Container,
        context: &ToolContext,
        input: &Value,
        ends: &mut Ends,
        crowded: &mut bool,
    ) -> Result<Ending, ToolError> {
        if let Err(error) = self.engine.sweep().await {
            tracing::debug!(%error, "what was left behind cannot be looked for");
        }
        let image = self.image().await?;
        let directories = self.directories(context, image).await?;
        let body = self.body(context, image, &directories);
        container.create(body, &self.image).await?;
        let AttachContainerResults { output, input: to } = container.attach().await?;
        container.start().await?;
        let directories: Vec<Opened> = directories.into_iter().filter(Opened::is_movable).collect();
        if !directories.is_empty() {
            let pid = container.inspect().await?.pid.filter(|pid| *pid > 0);
            off_the_reactor(move || directories.iter().try_for_each(|one| one.check(pid))).await?;
        }
        let feed = async {
            let mut to = to;
            let text = input.to_string();
            // A program that does not read its input is not at fault.
            let fed = async {
                to.write_all(text.as_bytes()).await?;
                to.shutdown().await
            };
            if let Err(error) = fed.await {
                tracing::debug!(%error, "the tool did not read its whole input");
            }
            to
        };
        {
            let watch = container.watch(|usage| {
                *crowded |= usage.processes >= self.limits.processes;
                let limit = self.limits.processor;
                limit.is_some_and(|limit| usage.processor > limit)
            });
            let (mut watch, mut ended) = (pin!(watch), pin!(container.ended()));
            let (mut feed, mut read) = (pin!(feed), pin!(ends.fill(output)));
            // The way in stays open until the end: closing it is not what ends a program.
            let mut way_in = None;
            let mut has_read = false;
            loop {
                tokio::select! {
                    over = &mut read, if !has_read => {
                        if over {
                            return Ok(Ending::TooMuchOutput);
                        }
                        has_read = true;
                    }
                    to = &mut feed, if way_in.is_none() => way_in = Some(to),
                    () = &mut watch => return Ok(Ending::TooMuchProcessor),
                    done = &mut ended => {
                        done?;
                        if !has_read && timeout(DRAIN_GRACE, &mut read).await.unwrap_or(false) {
                            return Ok(Ending::TooMuchOutput);
                        }
                        break;
                    }
                }
            }
        }
        container.has_ended();
        Ok(Ending::Exited(container.inspect().await?))
    }

    async fn directories(
        &self,
        context: &ToolContext,
        image: &Image,
    ) -> Result<Vec<Opened>, ToolError> {
        if self.grants.directories.is_empty() {
            return Ok(Vec::new());
        }
        let (granted, owner) = (self.grants.directories.clone(), image.user.ids());
        let (engine, workspace) = (self.engine.clone(), context.workspace.clone());
        off_the_reactor(move || {
            let hidden = Hidden::new(&engine, &workspace);
            let open = |one| Opened::new(one, &workspace, &hidden, owner);
            granted.iter().map(open).collect()
        })
        .await
    }

    /// The container as the engine is asked for it.
    fn body(
        &self,
        context: &ToolContext,
        image: &Image,
        directories: &[Opened],
    ) -> ContainerCreateBody {
        let own = context.variables();
        let own = own.iter().map(|(name, value)| format!("{name}={value}"));
        let granted = self.grants.env.iter();
        let granted = granted.map(|(name, value)| format!("{name}={value}"));
        let secrets = context.secrets.iter();
        let env = granted.chain(secrets.map(|(name, value)| format!("{name}={value}")));
        let mut labels = self.engine.labels();
        labels.insert("rune.request".to_owned(), context.request_id.to_string());
        labels.insert("rune.agent".to_owned(), context.scope.agent.clone());
        labels.insert("rune.tool".to_owned(), self.name.clone());
        let in_workspace = directories.iter().any(Opened::is_in_workspace);
        ContainerCreateBody {
            image: Some(image.id.clone()),
            user: Some(image.user.to_argument()),
            env: Some(env.chain(own).collect()),
            // An image's own command would be its argument.
            entrypoint: self.program.as_ref().map(|it| it.command.clone()),
            cmd: self.program.as_ref().map(|_| Vec::new()),
            working_dir: in_workspace.then(|| WORKSPACE.to_owned()),
            labels: Some(labels),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            open_stdin: Some(true),
            stdin_once: Some(true),
            tty: Some(false),
            healthcheck: Some(HealthConfig {
                test: Some(vec!["NONE".to_owned()]),
                ..HealthConfig::default()
            }),
            host_config: Some(self.confined(image, directories)),
            ..ContainerCreateBody::default()
        }
    }

    fn confined(&self, image: &Image, directories: &[Opened]) -> HostConfig {
        let program = self.program.iter();
        let program = program.map(|it| bind(&it.source, &it.target, true));
        let mounts = directories.iter().map(Opened::mount).chain(program);
        // What an image declares as a volume would be written to the machine's disk.
        let scratch = image.volumes.iter().map(String::as_str).chain(["/tmp"]);
        // The image's directory decides about the mode.
        let owner = image.user.ids().map_or_else(String::new, |(user, group)| {
            format!(",uid={user},gid={group}")
        });
        let scratch = scratch.map(|path| (path.to_owned(), format!("{SCRATCH}{owner}")));
        let network = if self.grants.network {
            "bridge"
        } else {
            "none"
        };
        let ulimit = |name: &str, most: i64| ResourcesUlimits {
            name: Some(name.to_owned()),
            soft: Some(most),
            hard: Some(most),
        };
        HostConfig {
            network_mode: Some(network.to_owned()),
            readonly_rootfs: Some(true),
            tmpfs: Some(scratch.collect::<HashMap<_, _>>()),
            mounts: Some(mounts.collect()),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
            privileged: Some(false),
            ipc_mode: Some("private".to_owned()),
            shm_size: Some(SHARED_MEMORY),
            pids_limit: i64::try_from(self.limits.processes).ok(),
            memory: i64::try_from(self.limits.memory).ok(),
            // With as much swap as memory there is none.
            memory_swap: i64::try_from(self.limits.memory).ok(),
            nano_cpus: Some(PROCESSORS),
            ulimits: Some(vec![ulimit("nofile", OPEN_FILES), ulimit("core", 0)]),
            // The engine would keep what a tool writes on the machine's disk, without a limit.
            log_config: Some(HostConfigLogConfig {
                typ: Some("none".to_owned()),
                config: None,
            }),
            // Why it ended is asked afterwards.
            auto_remove: Some(false),
            ..HostConfig::default()
        }
    }

    fn answer(
        &self,
        ending: &Ending,
        context: &ToolContext,
        ends: &Ends,
        crowded: bool,
    ) -> Result<Value, ToolError> {
        let diagnostics = context.secrets.redact_tail(ends.stderr.diagnostics());
        let said = said(&diagnostics);
        let stop = |kind, message: String| Err(ToolError::new(kind, message));
        let limit = self.limits.processes;
        let crowd = format!(
            "; it had all the {limit} processes and threads that it may have (`limits.processes`)"
        );
        let crowd = if crowded { crowd.as_str() } else { "" };
        match ending {
            Ending::Cancelled => stop(
                ToolErrorKind::Cancelled,
                "the request was cancelled; the tool was stopped".to_owned(),
            ),
            Ending::Timeout => {
                let time = context.timeout.as_millis();
                let message =
                    format!("the tool did not end within {time} ms and was stopped{crowd}{said}");
                stop(ToolErrorKind::Timeout, message)
            }
            Ending::TooMuchOutput => {
                let limit = context.output_limit;
                let message = format!("the tool wrote more than {limit} bytes and was stopped");
                stop(ToolErrorKind::OutputTooLarge, message)
            }
            Ending::TooMuchProcessor => {
                let limit = self.limits.processor.unwrap_or_default().as_millis();
                let message = format!(
                    "the tool used more than {limit} ms of processor time (`limits.cpu_ms`) and was stopped{said}"
                );
                stop(ToolErrorKind::LimitExceeded, message)
            }
            Ending::Exited(state) => self.exited(state, context, ends, crowd, &diagnostics),
        }
    }

    fn exited(
        &self,
        state: &ContainerState,
        context: &ToolContext,
        ends: &Ends,
        crowd: &str,
        diagnostics: &str,
    ) -> Result<Value, ToolError> {
        let code = state.exit_code.unwrap_or(-1);
        let parsed = if code == 0 {
            parse_answer(ends.stdout.head(), diagnostics, |text| {
                context.secrets.redact(text)
            })
        } else {
            let ended = describe(code);
            let message = format!("the tool {ended}{}", said(diagnostics));
            Err(ToolError::new(ToolErrorKind::Failed, message))
        };
        let Err(error) = parsed else {
            context.diagnostics.take(&self.name, diagnostics);
            return parsed;
        };
        if state.oom_killed == Some(true) {
            let limit = self.limits.memory;
            let message = format!(
                "the tool ran out of memory: it may have {limit} bytes (`limits.memory_mb`); {}",
                error.message
            );
            return Err(ToolError::new(ToolErrorKind::LimitExceeded, message));
        }
        if !crowd.is_empty() || says_crowded(diagnostics) {
            let limit = self.limits.processes;
            let message = format!(
                "the tool could not start another process: it may have {limit} processes and threads \
                 (`limits.processes`); {}",
                error.message
            );
            return Err(ToolError::new(ToolErrorKind::LimitExceeded, message));
        }
        Err(error)
    }
}

impl Program {
    fn new(module: &Path) -> Self {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        let target = format!("{PROGRAM_DIR}/{name}");
        let interpreter = match module.extension().and_then(|it| it.to_str()) {
            Some("py") => Some("python3"),
            Some("js" | "mjs") => Some("node"),
            Some("sh") => Some("sh"),
            _ => None,
        };
        let words = interpreter.into_iter().chain([target.as_str()]);
        Self {
            source: module.to_owned(),
            command: words.map(str::to_owned).collect(),
            target,
        }
    }
}

impl Bounds {
    fn new(limits: &Limits) -> Result<Self, DockerError> {
        let refuse = |message: String| Err(DockerError::Limit(message));
        if limits.fuel.is_some() {
            let message =
                "`limits.fuel` counts what WebAssembly does; a container has `limits.cpu_ms`";
            return refuse(message.to_owned());
        }
        let megabytes = limits.memory_mb.unwrap_or(DEFAULT_MEMORY_MB);
        let bytes = megabytes.checked_mul(1 << 20);
        let Some(memory) = bytes.filter(|bytes| i64::try_from(*bytes).is_ok()) else {
            return refuse(format!(
                "`limits.memory_mb` is {megabytes}, more than there is"
            ));
        };
        if megabytes < LEAST_MEMORY_MB {
            return refuse(format!(
                "`limits.memory_mb` is {megabytes}; a container can have {LEAST_MEMORY_MB} and more"
            ));
        }
        Ok(Self {
            memory,
            processes: limits.processes.unwrap_or(DEFAULT_PROCESSES),
            processor: limits.cpu_ms.map(Duration::from_millis),
        })
    }
}

/// The exit code as a shell reports it: 128 and the signal for a program that was killed.
fn describe(code: i64) -> String {
    match code {
        129..=192 => format!("was killed by signal {}", code - 128),
        code => format!("ended with exit code {code}"),
    }
}

/// Runs what blocks.
async fn off_the_reactor<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ToolError> + Send + 'static,
) -> Result<T, ToolError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(ToolError::new(ToolErrorKind::Failed, error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_run_by_what_its_name_says() {
        for (module, command) in [
            ("/pkg/tools/a.py", "python3 /rune/a.py"),
            ("/pkg/tools/a.mjs", "node /rune/a.mjs"),
            ("/pkg/tools/a.sh", "sh /rune/a.sh"),
            ("/pkg/tools/a", "/rune/a"),
        ] {
            assert_eq!(Program::new(Path::new(module)).command.join(" "), command);
        }
    }

    #[test]
    fn refuses_limits_that_cannot_be_kept() {
        let with = |limits: Limits| Bounds::new(&limits).map(|_| ()).map_err(|e| e.to_string());
        let none = Limits::default();
        assert_eq!(with(none), Ok(()));
        for (limits, part) in [
            (
                Limits {
                    fuel: Some(1),
                    ..none
                },
                "limits.cpu_ms",
            ),
            (
                Limits {
                    memory_mb: Some(5),
                    ..none
                },
                "6 and more",
            ),
            (
                Limits {
                    memory_mb: Some(u64::MAX),
                    ..none
                },
                "more than there is",
            ),
        ] {
            assert!(with(limits).unwrap_err().contains(part), "{limits:?}");
        }
    }

    #[test]
    fn names_a_signal() {
        assert_eq!(describe(137), "was killed by signal 9");
        assert_eq!(describe(3), "ended with exit code 3");
    }
}
