//! Running the binary.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rune_testkit::TestDaemon;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// The binary under test.
pub(crate) const RUNE: &str = env!("CARGO_BIN_EXE_rune");

/// A home directory without anything in it.
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(RUNE);
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.path())
            .current_dir(self.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn rune(&self, args: &[&str]) -> Ran {
        Ran::new(self.command(args))
    }

    /// Where the gateway of the daemon that runs here says it listens.
    pub(crate) fn gateway(&self) -> String {
        let text = std::fs::read(self.path().join(".rune/daemon.json")).unwrap();
        let address: serde_json::Value = serde_json::from_slice(&text).unwrap();
        address["gateway"].as_str().unwrap().to_owned()
    }
}

/// A command that has ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn new(mut command: Command) -> Self {
        command.output().unwrap().into()
    }

    /// Runs a command with this text on its stdin.
    pub(crate) fn with_input(command: Command, input: &str) -> Self {
        Self::with_bytes(command, input.as_bytes())
    }

    /// The same with bytes.
    pub(crate) fn with_bytes(mut command: Command, input: &[u8]) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap().into()
    }

    /// It worked; answers what it printed.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        self.ends(0).stdout
    }

    /// It ended with this code.
    #[track_caller]
    pub(crate) fn ends(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self
    }

    /// It worked and printed JSON.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let stdout = self.ok();
        let value = serde_json::from_str(&stdout);
        assert!(value.is_ok(), "{stdout}");
        value.unwrap()
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A daemon and the commands against it. Nothing of it is left: neither are processes of replicas, which go on for a while when
/// a daemon is killed.
pub(crate) struct Served(pub(crate) TestDaemon);

impl Served {
    /// A daemon with the agent `plain` deployed, which has no script: the offline model echoes and calls tools.
    pub(crate) async fn with_plain() -> Self {
        let served = Self(TestDaemon::builder(RUNE).start().await.unwrap());
        write_plain(&served.0.home().join("plain"));
        served.rune(&["run", "plain"]).ok();
        served
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.0.command();
        command.args(args);
        command
    }

    pub(crate) fn rune(&self, args: &[&str]) -> Ran {
        Ran::new(self.command(args))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Whether it still runs or not: from now on it starts none.
        let _ = self.0.kill9();
        for pid in replica_pids(&self.0.data_dir()) {
            // It may have ended by now.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The processes of replicas that the daemon of a data directory has noted.
pub(crate) fn replica_pids(data_dir: &Path) -> Vec<Pid> {
    let entries = std::fs::read_dir(data_dir.join("replicas")).into_iter();
    let paths = entries.flatten().map(|entry| entry.unwrap().path());
    let records = paths.filter(|path| path.extension().is_some_and(|it| it == "json"));
    let pids = records.filter_map(|record| {
        let record: Value = serde_json::from_slice(&std::fs::read(record).ok()?).ok()?;
        Pid::from_raw(i32::try_from(record["pid"].as_i64()?).ok()?)
    });
    pids.collect()
}

/// Writes an agent without a script and with a slow tool of its own.
pub(crate) fn write_plain(dir: &Path) {
    std::fs::create_dir_all(dir.join("tools")).unwrap();
    let runefile = "name: plain\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: default\n\
                    toolset: [rune@system-time, wait]\n\
                    models:\n  providers: [offline]\n  model_mapping: {default: offline}\n";
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    let tool = "name: wait\ndescription: Waits.\nmodule: tools/wait.sh\ntimeout_ms: 60000\n";
    std::fs::write(dir.join("tools/wait.yaml"), tool).unwrap();
    std::fs::write(dir.join("tools/wait.sh"), "sleep 50\necho '{}'\n").unwrap();
}
