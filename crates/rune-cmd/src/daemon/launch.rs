//! Starting a daemon in the background.
//!
//! The same binary is started again in a session of its own. Its stderr is the log, its stdin is nothing, and its
//! stdout is a pipe on which it says one thing: that it is ready, or why it is not. So the command that starts it
//! waits for the event and not for the clock, and never says "started" of a daemon that is not.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::instance::{Address, Holder};
use super::listeners::already_running;
use super::log;
use crate::commands::daemon::StartOptions;
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};

/// Longest wait until the daemon is ready.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How often, and how many times, the data directory is looked at again while somebody holds it.
const RELEASE_POLL: Duration = Duration::from_millis(20);
const RELEASE_LOOKS: u32 = 15;
/// Name of the log in the data directory.
const LOG_FILE: &str = "daemon.log";

/// What a detached daemon says to whoever started it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    Ready,
    Failed {
        exit: u8,
        message: String,
        help: Option<String>,
    },
}

/// Where the log of a background daemon is.
pub(crate) fn log_file(data_dir: &Path, options: &StartOptions) -> PathBuf {
    options
        .log_file
        .clone()
        .unwrap_or_else(|| data_dir.join(LOG_FILE))
}

/// Starts a daemon and waits until it is ready.
pub(crate) async fn run(context: &Context, options: &StartOptions) -> Outcome {
    let data_dir = context.data_dir();
    if let Holder::Process(pid) = settled_holder(data_dir).await? {
        return Err(already_running(data_dir, pid));
    }
    let log_path = log_file(data_dir, options);
    let child = spawn(data_dir, options, log::open(&log_path)?)?;
    let failed = tokio::time::timeout(START_LIMIT, report(child, &log_path)).await;
    failed.map_err(|_| {
        let message = format!("the daemon is not ready after {} s", START_LIMIT.as_secs());
        Failure::new(Exit::Unavailable, message).help(format!(
            "its log is {}; `rune daemon stop` stops it",
            log_path.display()
        ))
    })??;
    let address = Address::read(data_dir).ok_or_else(|| {
        Failure::new(Exit::Unavailable, "the daemon has ended again")
            .help(format!("its log is {}", log_path.display()))
    })?;
    let data = json!({
        "pid": address.pid,
        "gateway": address.gateway,
        "control_plane": address.control_plane,
        "data_dir": data_dir,
        "log": log_path,
    });
    context.output.data(&data, |_| {
        let ok = "[ok]";
        let gateway = address.gateway.as_ref();
        let gateway = gateway.map(|url| format!("\n{ok} gateway {url}"));
        format!(
            "{ok} daemon started (pid {}){}\n{ok} control plane {}\n{ok} data {}\n{ok} log {}",
            address.pid,
            gateway.unwrap_or_default(),
            address.control_plane,
            data_dir.display(),
            log_path.display(),
        )
    })?;
    Ok(Exit::Ok)
}

/// Who holds the data directory, once a daemon that was killed a moment ago is gone.
async fn settled_holder(data_dir: &Path) -> Outcome<Holder> {
    let mut looks = 0;
    loop {
        let holder = Holder::of(data_dir)?;
        looks += 1;
        if holder == Holder::Nobody || looks > RELEASE_LOOKS {
            return Ok(holder);
        }
        tokio::time::sleep(RELEASE_POLL).await;
    }
}

fn spawn(data_dir: &Path, options: &StartOptions, log: File) -> Outcome<Child> {
    let cannot = |error: std::io::Error| Failure::because("cannot start the daemon", &error);
    let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
    command
        .args([
            "daemon",
            "start",
            "--foreground",
            "--detached",
            "--data-dir",
        ])
        .arg(data_dir);
    let mut flag = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            command.arg(name).arg(value);
        }
    };
    flag(
        "--gateway-addr",
        options.gateway_addr.map(|addr| addr.to_string()),
    );
    flag(
        "--control-plane-addr",
        options.control_plane_addr.map(|addr| addr.to_string()),
    );
    let role = options.role.and_then(|role| role.to_possible_value());
    flag("--role", role.map(|role| role.get_name().to_owned()));
    let backend = options
        .backend
        .and_then(|backend| backend.to_possible_value());
    flag(
        "--backend",
        backend.map(|backend| backend.get_name().to_owned()),
    );
    flag("--k8s-namespace", options.k8s_namespace.clone());
    flag("--node-id", options.node_id.map(|id| id.to_string()));
    flag(
        "--raft-addr",
        options.raft_addr.map(|addr| addr.to_string()),
    );
    let peers: Vec<String> = options.peers.iter().map(ToString::to_string).collect();
    flag("--peers", (!peers.is_empty()).then(|| peers.join(",")));
    flag("--database-url", options.database_url.clone());
    flag("--log-level", options.log_level.clone());
    for (name, path) in [
        ("--pid-file", &options.pid_file),
        ("--log-file", &options.log_file),
    ] {
        if let Some(path) = path {
            command
                .arg(name)
                .arg(std::path::absolute(path).map_err(cannot)?);
        }
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(cannot)
}

/// What the daemon reports.
async fn report(mut child: Child, log: &Path) -> Outcome<()> {
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        // A daemon that ends without a word has said nothing; its status says more.
        let _ = BufReader::new(stdout).read_line(&mut line).await;
    }
    match serde_json::from_str(&line) {
        Ok(Report::Ready) => Ok(()),
        Ok(Report::Failed {
            exit,
            message,
            help,
        }) => {
            let exit = match exit {
                code if code == Exit::Usage.code() => Exit::Usage,
                code if code == Exit::Unavailable.code() => Exit::Unavailable,
                _ => Exit::Failed,
            };
            let failure = Failure::new(exit, message);
            Err(match help {
                Some(help) => failure.help(help),
                None => failure,
            })
        }
        Err(_) => {
            let status = child
                .wait()
                .await
                .map(|status| status.to_string())
                .unwrap_or_default();
            let message = format!("the daemon ended before it was ready ({status})");
            Err(Failure::new(Exit::Failed, message).help(format!("its log is {}", log.display())))
        }
    }
}

/// The daemon's side of the pipe.
pub(super) struct Reporter {
    detached: bool,
}

impl Reporter {
    /// Becomes a daemon, where the process was started to be one.
    pub(super) fn new(detached: bool) -> Outcome<Self> {
        if detached {
            // Signals of the terminal this was started from are no longer meant for it.
            rustix::process::setsid()
                .map_err(|error| Failure::because("cannot detach", &std::io::Error::from(error)))?;
        }
        Ok(Self { detached })
    }

    /// Says that the daemon is ready, and says nothing any more.
    pub(super) fn ready(&mut self) {
        self.send(&Report::Ready);
    }

    /// Says why the daemon does not start.
    pub(super) fn failed(&mut self, failure: &Failure) {
        self.send(&Report::Failed {
            exit: failure.exit.code(),
            message: failure.message().to_owned(),
            help: failure.hint().map(str::to_owned),
        });
    }

    fn send(&mut self, report: &Report) {
        if !std::mem::take(&mut self.detached) {
            return;
        }
        let line = serde_json::to_string(report).unwrap_or_default();
        // Whoever started it may be gone; it runs all the same.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
        let _ = rustix::stdio::dup2_stdout(rustix::stdio::stderr());
    }
}
