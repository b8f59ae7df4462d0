//! A daemon with one agent on one backend, and what runs its replicas.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use rune_testkit::{TestDaemon, TestDaemonBuilder, TestDocker};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::containers;
use super::real::{Place, RealCluster, SKIPPED};
use crate::home::{RUNE, Served, replica_pids};
use crate::wire::{Api, Event, Events, LIMIT, POLL, answer, lines_of};

const RUNEFILE: &str = "name: worker\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: default\n\
                        toolset: [mark, slow, once, reveal, ask, rune@memory-store, rune@memory-recall, rune@agent-send, rune@agent-list, \
                        rune@schedule-create, rune@task-post, rune@canvas-present, rune@event-publish]\n\
                        policy: {ask: [ask]}\n\
                        models:\n  providers: [offline]\n  model_mapping: {default: offline}\n";

/// Tools: name, more of the description, script.
const TOOLS: [(&str, &str, &str); 5] = [
    (
        "mark",
        "capabilities: [filesystem]\n",
        "echo \"$RUNE_REQUEST_ID\" >> marks\necho '\"marked\"'\n",
    ),
    (
        "slow",
        "capabilities: [filesystem]\ntimeout_ms: 60000\nidempotent: true\n",
        "echo up >> started\nn=0\nwhile [ ! -e go ] && [ $n -lt 500 ]; do sleep 0.1; n=$((n+1)); done\necho '\"slept\"'\n",
    ),
    (
        "once",
        "capabilities: [filesystem]\ntimeout_ms: 60000\n",
        "echo up >> once\nsleep 50\necho '\"done\"'\n",
    ),
    (
        "reveal",
        "capabilities: [\"secret:TOKEN\"]\n",
        "printf '{\"length\": %s}' \"${#TOKEN}\"\n",
    ),
    (
        "ask",
        "capabilities: [filesystem]\n",
        "echo \"$RUNE_REQUEST_ID\" >> asked\necho '\"done\"'\n",
    ),
];

/// What the offline model does beside what it is told: `/tool slow {"then": "publish"}` publishes an event once it has slept.
const SCRIPT: &str = "rules:\n  - match: {contains: '\"then\": \"publish\"', after_tool: slow}\n    \
                      tool_calls: [{name: rune__event-publish, input: {topic: t, payload: {}}}]\n";

/// A daemon with one agent on one backend.
pub(crate) struct Rig {
    pub(crate) served: Served,
    pub(crate) api: Api,
    backend: &'static str,
    /// What everything of it is labelled with in Docker Engine.
    label: OnceLock<String>,
    /// Where the pods are: a cluster of the test kit, or a real one.
    pub(super) cluster: Option<Cluster>,
    pub(super) real: Option<RealCluster>,
}

/// What the daemon calls the backend of a suite.
pub(super) fn platform(backend: &'static str) -> &'static str {
    match backend {
        "real_cluster" => "kubernetes",
        other => other,
    }
}

/// Whether this machine has what a backend needs; says what is missing.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
pub(crate) fn is_here(backend: &str) -> bool {
    match backend {
        "real_cluster" => {
            let is_here = Place::real().is_some();
            if !is_here {
                eprintln!("{SKIPPED}");
            }
            is_here
        }
        "docker" => containers::image().is_some(),
        "kubernetes" => containers::image().is_some() && Cluster::is_here(),
        _ => true,
    }
}

impl Rig {
    /// An agent on a backend, with more in its Runefile.
    pub(super) async fn start(backend: &'static str, more: &str) -> Self {
        Self::with_replicas(backend, more, 1).await
    }

    /// As many replicas of it.
    pub(super) async fn with_replicas(backend: &'static str, more: &str, replicas: u32) -> Self {
        let rig = Self::daemon(backend, TestDaemon::builder(RUNE)).await;
        rig.deploy(more, replicas).await;
        rig
    }

    /// An agent whose daemon is restarted later: its log says more.
    pub(super) async fn settled(backend: &'static str, replicas: u32) -> Self {
        Self::settled_with(backend, "", replicas).await
    }

    /// The same, with more in its Runefile.
    pub(super) async fn settled_with(backend: &'static str, more: &str, replicas: u32) -> Self {
        let builder = TestDaemon::builder(RUNE).env("RUST_LOG", "info,rune_runtime=debug");
        let rig = Self::daemon(backend, builder).await;
        rig.deploy(more, replicas).await;
        rig
    }

    /// A daemon without an agent.
    pub(crate) async fn daemon(backend: &'static str, builder: TestDaemonBuilder) -> Self {
        let cluster = match backend {
            "kubernetes" => Some(Cluster::start().await),
            _ => None,
        };
        let real = (backend == "real_cluster").then(RealCluster::start);
        let builder = builder.arg("--backend").arg(platform(backend));
        let builder = match (backend, &cluster) {
            (_, Some(cluster)) => cluster.configure(builder),
            ("real_cluster", None) => real.iter().fold(builder, |it, real| real.configure(it)),
            ("docker", None) => builder.env("RUNE_REPLICA_IMAGE", containers::image().unwrap()),
            _ => builder,
        };
        let served = Served(builder.start().await.unwrap());
        if let Some(cluster) = &cluster {
            // What pods have of the workspaces is where the workspaces of other backends are.
            let dir = served.0.data_dir().join("workspaces");
            std::os::unix::fs::symlink(cluster.workspaces(), dir).unwrap();
        }
        let api = Api::of(&served.0);
        Self {
            served,
            api,
            backend,
            label: OnceLock::new(),
            cluster,
            real,
        }
    }

    /// The lines of a file of its workspace.
    pub(super) fn lines(&self, file: &str) -> Vec<String> {
        match &self.real {
            Some(real) => real.lines(file),
            None => lines_of(&self.served, "worker", file),
        }
    }

    /// Whose the pods are.
    pub(super) fn id(&self) -> String {
        let id = std::fs::read_to_string(self.served.0.data_dir().join("daemon.id"));
        id.unwrap().trim().to_owned()
    }

    /// Deploys the agent, with more in its Runefile.
    pub(super) async fn deploy(&self, more: &str, replicas: u32) {
        let dir = self.served.0.home().join("worker");
        std::fs::create_dir_all(dir.join("tools")).unwrap();
        std::fs::write(dir.join("Runefile"), format!("{RUNEFILE}{more}")).unwrap();
        std::fs::write(dir.join("script.yaml"), SCRIPT).unwrap();
        for (name, yaml, script) in TOOLS {
            let head = format!("name: {name}\ndescription: A tool.\nmodule: tools/{name}.sh\n");
            std::fs::write(dir.join(format!("tools/{name}.yaml")), head + yaml).unwrap();
            std::fs::write(dir.join(format!("tools/{name}.sh")), script).unwrap();
        }
        let command = self.served.command(&["secret", "set", "TOKEN"]);
        crate::home::Ran::with_input(command, "a-long-secret").ok();
        let replicas = replicas.to_string();
        self.served
            .rune(&["run", "worker", "--replicas", &replicas])
            .ok();
        self.ready().await;
        self.mark("worker");
    }

    /// Deploys it as another version, which takes over.
    pub(super) fn roll_out(&self, version: &str) {
        let runefile = self.served.0.home().join("worker/Runefile");
        let text = std::fs::read_to_string(&runefile).unwrap();
        let version = format!("version: {version}");
        std::fs::write(&runefile, text.replace("version: 0.1.0", &version)).unwrap();
        self.served.rune(&["run", "worker"]).ok();
    }

    /// Notes what is removed at the end, by an agent that runs.
    pub(crate) fn mark(&self, agent: &str) {
        if self.backend == "docker" {
            let running = containers::of_agent(&self.served.0.data_dir(), agent);
            self.label.get_or_init(|| containers::label_of(&running[0]));
        }
    }

    /// Starts the daemon again, however it ended.
    pub(super) async fn restart(&mut self) {
        self.served.0.restart().await.unwrap();
        self.api = Api::of(&self.served.0);
    }

    /// Waits until the deployment has as many replicas as it wants.
    pub(super) async fn ready(&self) {
        let waiting = async {
            loop {
                let (status, agent) = answer(self.api.get("/v1/agents/worker")).await.unwrap();
                if status == 200 && agent["state"] == "ready" {
                    return;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let ready = tokio::time::timeout(LIMIT, waiting).await;
        assert!(ready.is_ok(), "{}", self.served.0.log());
    }

    pub(super) async fn tool(&self, tool: &str, input: Value) -> Vec<Event> {
        let body = json!({"input": format!("/tool {tool} {input}"), "stream": true});
        let response = self.api.invoke("worker", &body).send().await.unwrap();
        Events::of(response).rest().await
    }

    /// What a tool answers that must work.
    pub(super) async fn output(&self, tool: &str, input: Value) -> Value {
        let events = self.tool(tool, input).await;
        let done = events.iter().find(|event| event.name == "tool_done");
        assert!(
            done.is_some_and(|done| done.data["error"].is_null()),
            "{events:?}\n{}",
            self.served.0.log()
        );
        done.unwrap().data["output"].clone()
    }

    pub(super) async fn slow(&self) -> String {
        self.api.start("worker", "/tool slow {}").await
    }

    /// Waits until the slow tool has begun so often.
    pub(super) async fn begun(&self, times: usize) {
        let begun = async {
            while self.lines("started").len() < times {
                tokio::time::sleep(POLL).await;
            }
        };
        let begun = tokio::time::timeout(LIMIT, begun).await;
        assert!(begun.is_ok(), "{}", self.served.0.log());
    }

    /// Lets the slow tool end.
    pub(super) fn go(&self) {
        if let Some(real) = &self.real {
            return real.make("go");
        }
        let dir = self.served.0.data_dir().join("workspaces/dev/worker");
        std::fs::write(dir.join("go"), "").unwrap();
    }

    /// What its replicas are on their platform, sorted: processes, or containers.
    pub(super) fn running(&self) -> Vec<String> {
        let mut running = match self.backend {
            "real_cluster" => self.real.as_ref().unwrap().running(&self.id()),
            "process" => {
                let pids = self.pids().into_iter();
                pids.map(|pid| pid.as_raw_nonzero().to_string()).collect()
            }
            _ => containers::of_agent(&self.served.0.data_dir(), "worker"),
        };
        running.sort();
        running
    }

    /// The command lines of what runs where a replica of an agent is.
    pub(super) fn programs(&self, agent: &str, replica: &str) -> Vec<String> {
        let dir = self.served.0.data_dir();
        if self.backend == "process" {
            let record = std::fs::read(dir.join(format!("replicas/{replica}.json"))).unwrap();
            let record: Value = serde_json::from_slice(&record).unwrap();
            let line = std::fs::read(format!("/proc/{}/cmdline", record["pid"])).unwrap();
            return vec![String::from_utf8_lossy(&line).replace('\0', " ")];
        }
        if let Some(real) = &self.real {
            return vec![real.command(replica)];
        }
        let docker = TestDocker::find().unwrap();
        let containers = containers::of_agent(&dir, agent).into_iter();
        let its = containers.filter(|it| docker.run(&["inspect", it]).unwrap().contains(replica));
        its.flat_map(|it| {
            let listed = docker.run(&["top", &it, "-eo", "pid,args"]).unwrap();
            listed.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
    }

    /// Kills what a replica is.
    pub(super) fn kill(&self, running: &str) {
        if self.backend == "process" {
            let pid = Pid::from_raw(running.parse().unwrap()).unwrap();
            kill_process(pid, Signal::KILL).unwrap();
            return;
        }
        if let Some(real) = &self.real {
            return real.kill(running);
        }
        let killed = Command::new("docker")
            .args(["kill", "--signal", "KILL", running])
            .output();
        let killed = killed.unwrap();
        assert!(killed.status.success(), "{killed:?}");
    }

    /// Waits until something holds.
    pub(super) async fn until(&self, what: &str, is: impl AsyncFn() -> bool) {
        let reached = async {
            while !is().await {
                tokio::time::sleep(POLL).await;
            }
        };
        let reached = tokio::time::timeout(LIMIT, reached).await;
        assert!(reached.is_ok(), "not so: {what}\n{}", self.served.0.log());
    }

    /// What the daemon knows of the processes of its replicas.
    pub(super) fn records(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.served.0.data_dir().join("replicas"));
        let paths = entries
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.extension().is_some_and(|it| it == "json"))
            .collect()
    }

    /// The processes of its replicas.
    pub(super) fn pids(&self) -> Vec<Pid> {
        replica_pids(&self.served.0.data_dir())
    }

    pub(super) async fn replicas(&self) -> Vec<Value> {
        let url = format!("{}/v1/replicas", self.served.0.control_plane());
        let page: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        page["items"].as_array().unwrap().clone()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Whether it still runs or not.
        let _ = self.served.0.kill9();
        if let Some(label) = self.label.get() {
            containers::remove(label);
        }
        if let Some(real) = &self.real {
            real.clear(&self.id());
        }
    }
}
