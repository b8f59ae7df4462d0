//! A `rune` daemon as a child process.

mod log;

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::TestkitError;

/// How long a daemon may take to become ready, and to end.
const LIMIT: Duration = Duration::from_secs(30);
/// The flag of where the control plane listens: a free port, unless a test says where.
const CONTROL_PLANE: &str = "--control-plane-addr";
/// How often its state is looked at.
const POLL: Duration = Duration::from_millis(10);
/// Where a daemon finds the tools it runs; nothing else of the environment is handed on.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A running `rune daemon` with a home directory of its own, killed and removed when dropped.
///
/// Its log goes to a file; it is printed when the value is dropped in a test that fails.
#[derive(Debug)]
pub struct TestDaemon {
    settings: TestDaemonBuilder,
    home: TempDir,
    client: reqwest::Client,
    child: Option<Child>,
    address: Address,
}

/// What a [`TestDaemon`] is started with.
#[derive(Debug, Clone)]
pub struct TestDaemonBuilder {
    binary: PathBuf,
    env: Vec<(OsString, OsString)>,
    args: Vec<OsString>,
    /// Where it says with 200 that it has started.
    started: &'static str,
    settled: bool,
}

/// What the daemon writes to `daemon.json` when it listens.
#[derive(Debug, Clone, Default, Deserialize)]
struct Address {
    pid: u32,
    gateway: Option<String>,
    control_plane: String,
}

impl TestDaemonBuilder {
    /// Sets a variable of the otherwise clean environment (`HOME`, `PATH` and `TMPDIR` are there already).
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Adds an argument after those of `daemon start`.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Takes it for started as soon as it lives, and not only when every part of it is ready: as a node of a cluster that is
    /// not there yet.
    #[must_use]
    pub const fn started_when_alive(mut self) -> Self {
        self.started = "/health";
        self
    }

    /// The control plane is after a restart where it was before: at the port that the first start was given.
    #[must_use]
    pub const fn settled(mut self) -> Self {
        self.settled = true;
        self
    }

    /// Starts the daemon and waits until it is ready.
    ///
    /// # Errors
    /// [`TestkitError::DaemonEnded`] or [`TestkitError::DaemonStuck`] with the log when it does not become ready,
    /// [`TestkitError::File`] when its home or binary cannot be used.
    pub async fn start(self) -> Result<TestDaemon, TestkitError> {
        let file_error = |path: &Path| {
            let path = path.to_owned();
            move |source| TestkitError::File { path, source }
        };
        let home = TempDir::with_prefix("rune-test-")
            .map_err(file_error(Path::new("the temporary directory")))?;
        let tmp = home.path().join("tmp");
        std::fs::create_dir(&tmp).map_err(file_error(&tmp))?;
        let client = reqwest::Client::new();
        let mut daemon = TestDaemon {
            settings: self,
            home,
            client,
            child: None,
            address: Address::default(),
        };
        daemon.start().await?;
        Ok(daemon)
    }
}

impl TestDaemon {
    /// Prepares a daemon of the `rune` binary at `binary` (in a test: `env!("CARGO_BIN_EXE_rune")`).
    #[must_use]
    pub fn builder(binary: impl AsRef<Path>) -> TestDaemonBuilder {
        TestDaemonBuilder {
            binary: binary.as_ref().to_owned(),
            env: Vec::new(),
            args: Vec::new(),
            started: "/ready",
            settled: false,
        }
    }

    /// The base URL of the gateway, without a slash at the end. It changes with a restart. Empty where the daemon has none.
    #[must_use]
    pub fn gateway(&self) -> &str {
        self.address.gateway.as_deref().unwrap_or_default()
    }

    /// The base URL of the control plane, without a slash at the end. It changes with a restart, unless it is
    /// [`TestDaemonBuilder::settled`].
    #[must_use]
    pub fn control_plane(&self) -> &str {
        &self.address.control_plane
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The daemon's `HOME`.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The data directory, `.rune` in the home. It outlives [`TestDaemon::kill9`] and [`TestDaemon::restart`].
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join(".rune")
    }

    /// Everything the daemon has written to stdout and stderr, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        log::read(self.home.path())
    }

    /// A command of the same binary with the same clean environment, for instance to use the CLI against the daemon.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.settings.binary);
        command
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", self.home.path())
            .env("TMPDIR", self.home.path().join("tmp"))
            .envs(self.settings.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.home.path())
            .stdin(Stdio::null());
        command
    }

    /// Kills the daemon at once, as a crash would, and reaps it. It stays down until [`TestDaemon::restart`].
    ///
    /// # Errors
    /// [`TestkitError::DaemonDown`] when it does not run, [`TestkitError::Process`] when it cannot be killed.
    pub fn kill9(&mut self) -> Result<ExitStatus, TestkitError> {
        let mut child = self.child.take().ok_or(TestkitError::DaemonDown)?;
        child
            .kill()
            .and_then(|()| child.wait())
            .map_err(TestkitError::Process)
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    /// [`TestkitError::DaemonDown`] when it does not run, [`TestkitError::DaemonStuck`] when it does not end within
    /// 30 seconds, [`TestkitError::Process`] when the signal cannot be sent.
    pub async fn terminate(&mut self) -> Result<ExitStatus, TestkitError> {
        let child = self.child.as_mut().ok_or(TestkitError::DaemonDown)?;
        kill_process(Pid::from_child(child), Signal::TERM)
            .map_err(|error| TestkitError::Process(error.into()))?;
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(self.stuck("end after SIGTERM"));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Starts the daemon again on the same data directory, after SIGTERM if it still runs.
    ///
    /// # Errors
    /// As [`TestDaemon::terminate`] and [`TestDaemonBuilder::start`].
    pub async fn restart(&mut self) -> Result<(), TestkitError> {
        if self.child.is_some() {
            self.terminate().await?;
        }
        self.start().await
    }

    async fn start(&mut self) -> Result<(), TestkitError> {
        let (stdout, stderr) = log::open(self.home.path())?;
        let mut command = self.command();
        command
            .args(["daemon", "start", "--foreground"])
            .args(["--gateway-addr", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(&self.settings.args)
            .stdout(stdout)
            .stderr(stderr);
        if !self.settings.args.iter().any(|arg| arg == CONTROL_PLANE) {
            let earlier = self.address.control_plane.strip_prefix("http://");
            let earlier = earlier.filter(|_| self.settings.settled);
            command.args([CONTROL_PLANE, earlier.unwrap_or("127.0.0.1:0")]);
        }
        let spawned = command.spawn();
        let child = spawned.map_err(|source| TestkitError::File {
            path: self.settings.binary.clone(),
            source,
        })?;
        let pid = child.id();
        self.child = Some(child);
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(address) = self.ready(pid).await {
                self.address = address;
                return Ok(());
            }
            if let Some(status) = self.ended()? {
                return Err(TestkitError::DaemonEnded {
                    status,
                    log: log::tail(self.home.path()),
                });
            }
            if Instant::now() >= deadline {
                return Err(self.stuck("become ready"));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The address, once the process `pid` (not a predecessor) has written it and answers there that it has started.
    async fn ready(&self, pid: u32) -> Option<Address> {
        let text = std::fs::read(self.data_dir().join("daemon.json")).ok()?;
        let address: Address = serde_json::from_slice(&text).ok()?;
        if address.pid != pid {
            return None;
        }
        let own = address.gateway.as_ref().unwrap_or(&address.control_plane);
        let answer = self
            .client
            .get(format!("{own}{}", self.settings.started))
            .timeout(LIMIT)
            .send()
            .await
            .ok()?;
        (answer.status() == reqwest::StatusCode::OK).then_some(address)
    }

    /// The status of a daemon that has ended by now.
    fn ended(&mut self) -> Result<Option<ExitStatus>, TestkitError> {
        let child = self.child.as_mut().ok_or(TestkitError::DaemonDown)?;
        let status = child.try_wait().map_err(TestkitError::Process)?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    fn stuck(&self, what: &'static str) -> TestkitError {
        TestkitError::DaemonStuck {
            what,
            waited: LIMIT,
            log: log::tail(self.home.path()),
        }
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        if self.child.is_some() {
            // Nobody is left to tell.
            let _ = self.kill9();
        }
        if std::thread::panicking() {
            log::print(self.home.path());
        }
    }
}
