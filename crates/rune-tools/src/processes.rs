//! Processes that go on while the conversation that started them does.
//!
//! Such a process is started as the command of one call is, with the same limits and the same end: when the daemon ends, so
//! does it. Two named pipes in the workspace stand for its terminal, so that it can be written to and its output is read
//! while it runs.

mod output;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rune_store_runtime::{DeploymentFilter, MemoryScope, PageRequest, SessionId, Store, Timestamp};
use rustix::fs::{Mode, OFlags, mkfifoat, openat};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::builtin::exit_code;
use crate::process::{
    Ending, Finished, Job, Keep, Launcher, Reach, base_environment, find_program, run,
};
use crate::workspace::Workspace;
use crate::{ToolContext, ToolError, blocking};
use output::Output;
pub(crate) use output::Part;

/// Running processes of one conversation, at the most.
const MAX_PER_SESSION: usize = 8;
/// Running processes of all of them, at the most.
const MAX_RUNNING: usize = 64;
/// Ended processes whose output is kept.
const MAX_ENDED: usize = 64;
/// The longest that a process runs.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a process may not read what is written to it.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether a process still belongs to anybody.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bytes kept of what the shell says that starts a command.
const SHELL_BYTES: usize = 4096;
/// Where the pipes are, below the workspace.
const PIPES: &str = ".rune/processes";
/// Connects the pipes and becomes the command.
const CONNECT: &str = "exec 0<\"$1\" 1>\"$2\" 2>&1; exec \"$3\" -c \"$4\"";

/// The processes of a daemon. Dropped, it ends them.
pub(crate) struct Processes {
    search_path: String,
    launcher: Launcher,
    table: Mutex<BTreeMap<String, Arc<Process>>>,
    tasks: Mutex<JoinSet<()>>,
}

/// One of them.
pub(crate) struct Process {
    pub(crate) id: String,
    pub(crate) command: String,
    pub(crate) started_at: Timestamp,
    session: SessionId,
    scope: MemoryScope,
    output: Mutex<Output>,
    end: Mutex<Option<End>>,
    input: tokio::sync::Mutex<Option<pipe::Sender>>,
    kill: CancellationToken,
    changed: Notify,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    /// As a shell reports it; none where it was stopped.
    pub(crate) exit_code: Option<i32>,
    /// For a person.
    pub(crate) reason: String,
}

impl Processes {
    pub(crate) fn new(search_path: String, launcher: Launcher) -> Self {
        Self {
            search_path,
            launcher,
            table: Mutex::default(),
            tasks: Mutex::default(),
        }
    }

    /// Starts a command in a directory of the workspace.
    pub(crate) async fn start(
        &self,
        context: &ToolContext,
        id: String,
        command: String,
        cwd: PathBuf,
    ) -> Result<Arc<Process>, ToolError> {
        self.check_room(context)?;
        let search_path = self.search_path.clone();
        let shell = find_program("sh", &search_path).ok_or_else(|| {
            ToolError::unavailable(format!("`sh` is not installed in {search_path}"))
        })?;
        let pipes = Pipes::create(&context.workspace, &id).await?;
        let keep = Keep {
            head: 0,
            tail: SHELL_BYTES,
            total: u64::MAX,
        };
        let args: [PathBuf; 7] = [
            "-c".into(),
            CONNECT.into(),
            "sh".into(),
            pipes.dir.join("in"),
            pipes.dir.join("out"),
            shell.clone(),
            command.clone().into(),
        ];
        let mut env = base_environment(context, &self.search_path);
        env.push(("TERM".to_owned(), "dumb".to_owned()));
        let job = Job {
            program: shell,
            args: args.into(),
            env,
            cwd,
            account: None,
            stdin: Vec::new(),
            stdout: keep,
            stderr: keep,
            timeout: MAX_LIFETIME,
            reach: Reach::workspace(context),
        };
        let process = Arc::new(Process {
            id: id.clone(),
            command,
            started_at: context.store.now(),
            session: context.session_id.clone(),
            scope: context.scope.clone(),
            output: Mutex::default(),
            end: Mutex::default(),
            input: tokio::sync::Mutex::new(Some(pipes.input)),
            kill: CancellationToken::new(),
            changed: Notify::new(),
        });
        lock(&self.table).insert(id, Arc::clone(&process));
        let running = Running {
            process: Arc::clone(&process),
            output: pipes.output,
            workspace: context.workspace.clone(),
            store: context.store.clone(),
        };
        let launcher = self.launcher.clone();
        let mut tasks = lock(&self.tasks);
        // Those that have ended.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move { running.supervise(launcher, job).await });
        Ok(process)
    }

    /// How many run.
    pub(crate) fn running(&self) -> usize {
        let table = lock(&self.table);
        table.values().filter(|it| it.end().is_none()).count()
    }

    /// A process of the conversation.
    pub(crate) fn find(&self, context: &ToolContext, id: &str) -> Option<Arc<Process>> {
        let table = lock(&self.table);
        let found = table.get(id).filter(|process| process.belongs_to(context));
        found.cloned()
    }

    /// The processes of the conversation, oldest first.
    pub(crate) fn list(&self, context: &ToolContext) -> Vec<Arc<Process>> {
        let table = lock(&self.table);
        let own = table.values().filter(|process| process.belongs_to(context));
        let mut own: Vec<_> = own.cloned().collect();
        own.sort_by_key(|process| process.started_at);
        own
    }

    fn check_room(&self, context: &ToolContext) -> Result<(), ToolError> {
        let mut table = lock(&self.table);
        let mut ended: Vec<_> = table
            .values()
            .filter(|process| process.end().is_some())
            .map(|process| (process.started_at, process.id.clone()))
            .collect();
        ended.sort();
        let surplus = ended.len().saturating_sub(MAX_ENDED);
        for (_, id) in ended.drain(..surplus) {
            table.remove(&id);
        }
        let running = table.values().filter(|process| process.end().is_none());
        let (mut all, mut own) = (0, 0);
        for process in running {
            all += 1;
            own += usize::from(process.belongs_to(context));
        }
        if own >= MAX_PER_SESSION {
            return Err(ToolError::failed(format!(
                "{MAX_PER_SESSION} processes of this conversation run, which is the most; end one with process-kill"
            )));
        }
        if all >= MAX_RUNNING {
            return Err(ToolError::unavailable(format!(
                "{MAX_RUNNING} processes run, which is the most of this daemon; try again later"
            )));
        }
        Ok(())
    }
}

impl Process {
    fn belongs_to(&self, context: &ToolContext) -> bool {
        self.session == context.session_id && self.scope == context.scope
    }

    /// How it ended, if it has.
    pub(crate) fn end(&self) -> Option<End> {
        lock(&self.end).clone()
    }

    /// Output from an offset on.
    pub(crate) fn output(&self, offset: u64, max: usize) -> Part {
        lock(&self.output).read(offset, max)
    }

    /// Returns once there is output behind an offset, or the process has ended.
    pub(crate) async fn news(&self, offset: u64) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.end().is_some() || lock(&self.output).total() > offset {
                return;
            }
            changed.await;
        }
    }

    /// Writes to its standard input.
    pub(crate) async fn write(&self, text: &[u8], close: bool) -> Result<(), ToolError> {
        let mut input = self.input.lock().await;
        let Some(pipe) = input.as_mut().filter(|_| self.end().is_none()) else {
            return Err(ToolError::failed(
                "its standard input is closed, or the process has ended",
            ));
        };
        match timeout(WRITE_PATIENCE, pipe.write_all(text)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                return Err(ToolError::failed(format!(
                    "it cannot be written to: {error}"
                )));
            }
            Err(_) => {
                return Err(ToolError::timeout(format!(
                    "the process has not read its input for {} ms",
                    WRITE_PATIENCE.as_millis()
                )));
            }
        }
        if close {
            *input = None;
        }
        Ok(())
    }

    /// Ends it and everything it started; returns once it has ended.
    pub(crate) async fn kill(&self) {
        self.kill.cancel();
        // Output that comes meanwhile does not count.
        self.news(u64::MAX).await;
    }

    fn add(&self, bytes: &[u8]) {
        lock(&self.output).push(bytes);
        self.changed.notify_waiters();
    }

    fn finish(&self, end: End) {
        *lock(&self.end) = Some(end);
        self.changed.notify_waiters();
    }
}

/// The ends of the pipes of a process, opened so that neither side waits for the other.
struct Pipes {
    dir: PathBuf,
    input: pipe::Sender,
    output: pipe::Receiver,
}

impl Pipes {
    async fn create(workspace: &Path, id: &str) -> Result<Self, ToolError> {
        let (root, inside) = (workspace.to_owned(), Path::new(PIPES).join(id));
        let dir = workspace.join(&inside);
        let [input, output] = blocking(move || {
            // No link that the agent has made leads out of the workspace.
            let inside = Workspace::open(&root)?.make_dir(&inside)?;
            make(&inside).map_err(|error| no_pipes(&error))
        })
        .await?;
        Ok(Self {
            input: pipe::Sender::from_owned_fd(input).map_err(|error| no_pipes(&error))?,
            output: pipe::Receiver::from_owned_fd(output).map_err(|error| no_pipes(&error))?,
            dir,
        })
    }
}

/// Both pipes, opened for reading and writing: whoever opens the other side does not wait, and none of them is at its end
/// before the process is.
fn make(dir: &cap_std::fs::Dir) -> std::io::Result<[OwnedFd; 2]> {
    let open = |name: &str| -> std::io::Result<OwnedFd> {
        mkfifoat(dir, name, Mode::RUSR | Mode::WUSR)?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(openat(dir, name, flags, Mode::empty())?)
    };
    Ok([open("in")?, open("out")?])
}

fn no_pipes(error: &std::io::Error) -> ToolError {
    ToolError::failed(format!("no pipes for the process: {error}"))
}

/// What attends to a process.
struct Running {
    process: Arc<Process>,
    output: pipe::Receiver,
    workspace: PathBuf,
    store: Store,
}

impl Running {
    async fn supervise(mut self, launcher: Launcher, job: Job) {
        let process = Arc::clone(&self.process);
        let mut buffer = vec![0; 16 * 1024];
        let mut stopped: Option<&'static str> = None;
        let finished = {
            let ran = run(&launcher, job, &process.kill);
            let store = self.store.clone();
            let abandoned = abandoned(store, &process.session, &process.scope);
            tokio::pin!(ran, abandoned);
            loop {
                tokio::select! {
                    finished = &mut ran => break finished,
                    reason = &mut abandoned, if stopped.is_none() => {
                        stopped = Some(reason);
                        process.kill.cancel();
                    }
                    read = self.output.read(&mut buffer) => {
                        if let Ok(count) = read {
                            process.add(&buffer[..count]);
                        }
                    }
                }
            }
        };
        while let Ok(count @ 1..) = self.output.try_read(&mut buffer) {
            process.add(&buffer[..count]);
        }
        let (workspace, id) = (self.workspace, process.id.clone());
        let removed =
            blocking(move || Workspace::open(&workspace)?.remove_dir(&Path::new(PIPES).join(id)));
        if let Err(error) = removed.await {
            tracing::debug!(process = process.id, %error, "the pipes of a process stay");
        }
        *process.input.lock().await = None;
        process.finish(end_of(&process, finished, stopped));
    }
}

fn end_of(
    process: &Process,
    finished: std::io::Result<Finished>,
    stopped: Option<&'static str>,
) -> End {
    let finished = match finished {
        Ok(finished) => finished,
        Err(error) => {
            return End {
                exit_code: None,
                reason: format!("it cannot be started: {error}"),
            };
        }
    };
    // What the shell said before the command had its pipes.
    for said in [&finished.stdout, &finished.stderr] {
        let (text, _) = said.to_text(SHELL_BYTES);
        process.add(text.as_bytes());
    }
    let (exit_code, reason) = match finished.ending {
        Ending::Exited(status) => (Some(exit_code(status)), "it ended".to_owned()),
        Ending::Cancelled => (None, stopped.unwrap_or("it was killed").to_owned()),
        Ending::Timeout => (None, "it was stopped after a day".to_owned()),
        Ending::TooMuchOutput => (None, "it was stopped because it wrote too much".to_owned()),
        Ending::LimitExceeded(what) => (None, format!("sandbox: it used {what} and was stopped")),
        Ending::Refused(why) => (None, format!("sandbox: it was not started: {why}")),
    };
    End { exit_code, reason }
}

/// Returns once the session of a process is deleted, or its agent is not deployed any more. What was never stored cannot be
/// missed.
pub(crate) async fn abandoned(
    store: Store,
    session: &SessionId,
    scope: &MemoryScope,
) -> &'static str {
    let mut looks = interval(LOOK_EVERY);
    let (mut had_session, mut had_agent) = (false, false);
    loop {
        looks.tick().await;
        match store.session(session).await {
            Ok(Some(_)) => had_session = true,
            Ok(None) if had_session => return "its session was deleted",
            Ok(None) | Err(_) => {}
        }
        match is_deployed(&store, scope).await {
            Some(true) => had_agent = true,
            Some(false) if had_agent => return "its agent was stopped",
            Some(false) | None => {}
        }
    }
}

async fn is_deployed(store: &Store, scope: &MemoryScope) -> Option<bool> {
    let filter = DeploymentFilter {
        namespace: Some(scope.namespace.clone()),
        agent: Some(scope.agent.clone()),
        ..DeploymentFilter::default()
    };
    let page = PageRequest::first(PageRequest::MAX_LIMIT);
    let rows = store.deployments(&filter, &page).await.ok()?.items;
    Some(rows.iter().any(|row| row.replicas > 0))
}

/// A table is one at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
