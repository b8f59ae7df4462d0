//! Replicas outside the daemon: what they are given of it, when they end, and whom they run as.

mod containers;
mod handed;
mod held;
mod orphans;
mod others;
mod starts;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};

use rune_testkit::{TestDaemon, TestDaemonBuilder};
use rustix::process::Pid;
use serde_json::Value;

use crate::home::{RUNE, Served};
use crate::wire::{Api, LIMIT, POLL};

/// A daemon whose replicas are processes.
struct Rig {
    served: Served,
    api: Api,
}

/// The process of a replica.
struct Process {
    pid: Pid,
    /// Its environment.
    env: BTreeMap<String, String>,
}

/// The process of a replica that no daemon has started; it ends with this value.
struct Killed(Child);

impl Killed {
    /// How it ends by itself.
    async fn ended(&mut self) -> ExitStatus {
        let ended = async {
            loop {
                if let Some(status) = self.0.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(LIMIT, ended).await.unwrap()
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn builder() -> TestDaemonBuilder {
    let builder = TestDaemon::builder(RUNE).arg("--backend").arg("process");
    builder.env("RUNE_ALLOW_PRIVATE", "127.0.0.1")
}

impl Rig {
    async fn start(builder: TestDaemonBuilder) -> Self {
        let served = Served(builder.start().await.unwrap());
        let api = Api::of(&served.0);
        Self { served, api }
    }

    /// The directory with the records and the logs of replicas.
    fn dir(&self) -> PathBuf {
        self.served.0.data_dir().join("replicas")
    }

    /// The processes of replicas, by their ids.
    fn processes(&self) -> BTreeMap<String, Process> {
        let entries = std::fs::read_dir(self.dir()).into_iter().flatten();
        let paths = entries.map(|entry| entry.unwrap().path());
        let paths = paths.filter(|path| path.extension().is_some_and(|it| it == "json"));
        let processes = paths.filter_map(|path| Some((stem(&path), process(&path)?)));
        processes.collect()
    }

    /// The only one.
    fn process(&self) -> Process {
        let mut processes = self.processes();
        assert_eq!(processes.len(), 1, "{}", self.served.0.log());
        processes.pop_first().unwrap().1
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_str().unwrap().to_owned()
}

/// The process of a record, where it is still there.
fn process(record: &Path) -> Option<Process> {
    let record: Value = serde_json::from_slice(&std::fs::read(record).ok()?).ok()?;
    let pid = Pid::from_raw(i32::try_from(record["pid"].as_i64()?).ok()?)?;
    let path = format!("/proc/{}/environ", pid.as_raw_nonzero());
    let env = String::from_utf8(std::fs::read(path).ok()?).ok()?;
    let env = env.split('\0').filter_map(|pair| pair.split_once('='));
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Some(Process {
        pid,
        env: env.collect(),
    })
}
