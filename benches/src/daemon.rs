//! The servers of a benchmark, each a process of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;

use crate::client::Connection;
use crate::error::BenchError;

/// Longest a server may take to answer.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How often a starting server is asked.
const POLL: Duration = Duration::from_millis(1);

/// A running server; killed when dropped.
pub(crate) struct Server {
    child: Child,
    /// `http://HOST:PORT`.
    pub(crate) base: String,
    /// From the start of the process to its first good answer.
    pub(crate) ready_after: Duration,
}

impl Server {
    /// Starts a part of the benchmark, which prints its address: `rune-floor` beside the
    /// binary, else the binary itself.
    pub(crate) async fn floor(rune: &Path, args: &[&str]) -> Result<Self, BenchError> {
        let started = Instant::now();
        let own = own_floor(rune);
        let mut command = Command::new(own.as_deref().unwrap_or(rune));
        if own.is_none() {
            command.args(["bench", "--serve"]);
        }
        let mut child = command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(BenchError::io("start a floor"))?;
        let line = first_line(&mut child)?;
        let mut server = Self {
            child,
            base: line.trim().to_owned(),
            ready_after: Duration::ZERO,
        };
        if args.first() != Some(&"model") {
            answers(&server.base, "/ready").await?;
        }
        server.ready_after = started.elapsed();
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program that serves the parts of the benchmark, where it was built.
pub(crate) fn own_floor(rune: &Path) -> Option<PathBuf> {
    Some(rune.with_file_name("rune-floor")).filter(|path| path.is_file())
}

/// A Rune daemon with a data directory of its own.
pub(crate) struct Daemon {
    child: Child,
    rune: PathBuf,
    data_dir: PathBuf,
    env: Vec<(String, String)>,
    args: Vec<String>,
    pub(crate) gateway: String,
    pub(crate) control_plane: String,
    /// From the start of the process to its first good answer.
    pub(crate) ready_after: Duration,
}

impl Daemon {
    pub(crate) async fn start(
        rune: &Path,
        data_dir: &Path,
        env: &[(&str, String)],
    ) -> Result<Self, BenchError> {
        Self::with(rune, data_dir, env, &[]).await
    }

    /// One with more options.
    pub(crate) async fn with(
        rune: &Path,
        data_dir: &Path,
        env: &[(&str, String)],
        args: &[&str],
    ) -> Result<Self, BenchError> {
        let env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let started = Instant::now();
        let mut daemon = Self::launch(rune.to_owned(), data_dir.to_owned(), env, args)?;
        daemon.ready().await?;
        daemon.ready_after = started.elapsed();
        Ok(daemon)
    }

    /// One that listens; a node of a cluster is not ready before the others are.
    pub(crate) fn launch(
        rune: PathBuf,
        data_dir: PathBuf,
        env: Vec<(String, String)>,
        args: Vec<String>,
    ) -> Result<Self, BenchError> {
        let mut command = Command::new(&rune);
        command
            // As `rune daemon start` starts it: it says on its stdout when it is ready.
            .args(["daemon", "start", "--foreground", "--detached"])
            .args([
                "--gateway-addr",
                "127.0.0.1:0",
                "--control-plane-addr",
                "127.0.0.1:0",
            ])
            .arg("--data-dir")
            .arg(&data_dir)
            .args(&args)
            .env_clear()
            .env("HOME", &data_dir)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let child = command
            .spawn()
            .map_err(BenchError::io("start the daemon"))?;
        let mut daemon = Self {
            child,
            rune,
            data_dir,
            env,
            args,
            gateway: String::new(),
            control_plane: String::new(),
            ready_after: Duration::ZERO,
        };
        (daemon.gateway, daemon.control_plane) = daemon.addresses()?;
        Ok(daemon)
    }

    /// Kills the daemon and starts it again on the same data.
    pub(crate) async fn kill_and_restart(mut self) -> Result<Self, BenchError> {
        self.relaunch()?;
        self.ready().await?;
        Ok(self)
    }

    /// The same, without waiting until it is ready.
    pub(crate) fn relaunch(&mut self) -> Result<(), BenchError> {
        self.kill();
        let (rune, data_dir) = (self.rune.clone(), self.data_dir.clone());
        *self = Self::launch(rune, data_dir, self.env.clone(), self.args.clone())?;
        Ok(())
    }

    /// Returns once the daemon is ready.
    pub(crate) async fn ready(&self) -> Result<(), BenchError> {
        answers(&self.gateway, "/ready").await
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(&mut self) {
        // SIGKILL; already gone is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What the daemon wrote about itself, once it says that it is ready.
    fn addresses(&mut self) -> Result<(String, String), BenchError> {
        let line = first_line(&mut self.child)?;
        let path = self.data_dir.join("daemon.json");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let info: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        if info["pid"].as_u64() != Some(u64::from(self.child.id())) {
            return Err(not_started("the daemon", line.trim()));
        }
        let url = |key: &str| info[key].as_str().unwrap_or_default().to_owned();
        Ok((url("gateway"), url("control_plane")))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a process says first; empty where it ends before.
fn first_line(child: &mut Child) -> Result<String, BenchError> {
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut line)
            .map_err(BenchError::io("read what a server says"))?;
    }
    Ok(line)
}

/// Asks until a server answers 200.
async fn answers(base: &str, path: &str) -> Result<(), BenchError> {
    let deadline = Instant::now() + START_DEADLINE;
    let mut last = String::new();
    while Instant::now() < deadline {
        let answer = match Connection::open(base).await {
            Ok(mut connection) => {
                connection
                    .send(Method::GET, path, Bytes::new(), |_| false)
                    .await
            }
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) if answer.status == 200 => return Ok(()),
            Ok(answer) => last = format!("{path} answers {}", answer.status),
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(POLL).await;
    }
    Err(not_started(base, &last))
}

fn not_started(what: &str, reason: &str) -> BenchError {
    BenchError::Start {
        what: what.to_owned(),
        reason: reason.to_owned(),
    }
}
