//! Replicas in containers: what their image has, whom they run as, and whom they reach.

mod images;

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use rune_testkit::{TestDaemon, TestDaemonBuilder, TestDocker};
use serde_json::json;

use crate::backends::containers::{image, label_of, of_agent, remove};
use crate::home::{RUNE, Served};
use crate::wire::{Api, LIMIT, POLL, answer};

/// An image in which `app` is another name of root.
const NAMED: &str = "rune-test-named-root:1";

/// A daemon whose replicas are containers, with the agent `worker`, one of whose tools is a program in Python.
struct Rig {
    served: Served,
    api: Api,
    /// What its containers and networks are labelled with.
    label: String,
}

impl Rig {
    async fn start() -> Option<Self> {
        Self::start_with(TestDaemon::builder(RUNE)).await
    }

    async fn start_with(builder: TestDaemonBuilder) -> Option<Self> {
        let builder = builder.arg("--backend").arg("docker");
        let builder = builder.env("RUNE_REPLICA_IMAGE", image()?);
        let served = Served(builder.start().await.unwrap());
        let api = Api::of(&served.0);
        let label = String::new();
        let mut rig = Self { served, api, label };
        let dir = rig.agent("worker", "");
        std::fs::create_dir_all(dir.join("tools")).unwrap();
        let yaml = "name: count\ndescription: Counts words.\nmodule: tools/count.py\n";
        std::fs::write(dir.join("tools/count.yaml"), yaml).unwrap();
        let program = "import json, sys\n\
                       words = json.load(sys.stdin)['text'].split()\n\
                       json.dump({'words': len(words)}, sys.stdout)\n";
        std::fs::write(dir.join("tools/count.py"), program).unwrap();
        rig.served.rune(&["run", "worker"]).ok();
        rig.label = label_of(&rig.containers("worker")[0]);
        Some(rig)
    }

    fn containers(&self, agent: &str) -> Vec<String> {
        of_agent(&self.served.0.data_dir(), agent)
    }

    /// Asks an agent, which answers.
    async fn hello(&self, agent: &str) {
        let hello = json!({"input": "hello"});
        let (status, body) = answer(self.api.invoke(agent, &hello)).await.unwrap();
        assert_eq!(status, 200, "{body}\n{}", self.served.0.log());
    }

    /// Waits until something holds.
    async fn until(&self, what: &str, is: impl AsyncFn() -> bool) {
        let reached = async {
            while !is().await {
                tokio::time::sleep(POLL).await;
            }
        };
        let reached = tokio::time::timeout(LIMIT, reached).await;
        assert!(reached.is_ok(), "not so: {what}\n{}", self.served.0.log());
    }

    /// The networks that an agent's container is in.
    fn joined(&self, agent: &str) -> String {
        let format = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}";
        let docker = TestDocker::find().unwrap();
        let found = self.containers(agent);
        let joined = docker.run(&["inspect", "--format", format, &found[0]]);
        joined.unwrap().trim().to_owned()
    }

    /// The names of the networks that the daemon has made, without what they have in common.
    fn networks(&self) -> Vec<String> {
        let id = self.label.split_once('=').unwrap().1;
        let filter = format!("label={}", self.label);
        let docker = TestDocker::find().unwrap();
        let args = [
            "network",
            "ls",
            "--format",
            "{{.Name}}",
            "--filter",
            &filter,
        ];
        let listed = docker.run(&args).unwrap();
        let names = listed.lines();
        let names = names.map(|name| name.strip_prefix(&format!("rune-{id}")).unwrap().to_owned());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// Writes an agent; `worker` has a tool, and `guest` one that has a use for a network.
    fn agent(&self, name: &str, more: &str) -> PathBuf {
        let dir = self.served.0.home().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let toolset = match name {
            "worker" => "[count]",
            _ if name.starts_with("guest") => "[rune@web-fetch]",
            _ => "[]",
        };
        let runefile = format!(
            "name: {name}\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: default\ntoolset: {toolset}\n\
             models:\n  providers: [offline]\n  model_mapping: {{default: offline}}\n{more}"
        );
        std::fs::write(dir.join("Runefile"), runefile).unwrap();
        dir
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Whether it still runs or not.
        let _ = self.served.0.kill9();
        if !self.label.is_empty() {
            remove(&self.label);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stock_image_runs_tools_in_python() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let body = json!({"input": "/tool count {\"text\": \"one two three\"}"});
    let (status, body) = answer(rig.api.invoke("worker", &body)).await.unwrap();
    assert_eq!(status, 200, "{body}");
    let id = body["request_id"].as_str().unwrap();
    let row = rig.api.request(id).await;
    assert_eq!(row["tools"][0]["state"], "succeeded", "{row}");
    assert!(body["output"].to_string().contains("words"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_may_call_root_by_another_name_is_refused() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let docker = TestDocker::find().unwrap();
    let context = tempfile::tempdir().unwrap();
    let file = format!(
        "FROM {}\nUSER root\nRUN echo 'app:x:0:0::/:/bin/sh' >> /etc/passwd\nUSER app\n",
        image().unwrap()
    );
    std::fs::write(context.path().join("Dockerfile"), file).unwrap();
    let dir = context.path().to_str().unwrap();
    docker
        .run(&["build", "--quiet", "--tag", NAMED, dir])
        .unwrap();
    rig.agent("boxed", &format!("runtime: {{image: \"{NAMED}\"}}\n"));
    let ran = rig.served.rune(&["run", "boxed"]);
    let told = format!("{}{}", ran.stdout, ran.stderr);
    assert!(
        told.contains("`app`") && told.contains("USER 65532:65532"),
        "{told}"
    );
    let ancestor = format!("ancestor={NAMED}");
    let made = docker.run(&["ps", "--all", "--quiet", "--filter", &ancestor]);
    assert_eq!(made.unwrap().trim(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_are_kept_for_the_next_replica_and_removed_by_the_next_daemon() {
    let Some(mut rig) = Rig::start().await else {
        return;
    };
    // None of them has a use for one, whatever it says.
    rig.agent("hermit", "networks: []\n");
    rig.served.rune(&["run", "hermit"]).ok();
    rig.hello("hermit").await;
    assert_eq!(rig.joined("hermit"), "none");
    assert_eq!(rig.joined("worker"), "none");
    assert_eq!(rig.networks(), [""; 0]);

    rig.agent("guest", "networks: [outside]\n");
    rig.served.rune(&["run", "guest"]).ok();
    rig.hello("guest").await;
    assert!(rig.joined("guest").ends_with("-outside"));
    assert_eq!(rig.networks(), ["-outside"]);

    rig.served.rune(&["agent", "stop", "guest"]).ok();
    rig.until("it is gone", async || rig.containers("guest").is_empty())
        .await;
    assert_eq!(rig.networks(), ["-outside"]);
    rig.served.0.restart().await.unwrap();
    assert_eq!(rig.networks(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_reach_those_that_share_a_network_and_nobody_else() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    for (name, networks) in [
        ("left", "[left]"),
        ("both", "[left, right]"),
        ("right", "[right]"),
    ] {
        let name = format!("guest-{name}");
        rig.agent(&name, &format!("networks: {networks}\n"));
        rig.served.rune(&["run", &name]).ok();
    }
    assert_eq!(rig.networks(), ["-left", "-right"]);
    let docker = TestDocker::find().unwrap();
    // The container of an agent, with its address in each network.
    let found = |agent: &str| {
        let container = rig.containers(agent).remove(0);
        let format =
            "{{range $name, $it := .NetworkSettings.Networks}}{{$name}} {{$it.IPAddress}}\n{{end}}";
        let joined = docker
            .run(&["inspect", "--format", format, &container])
            .unwrap();
        let joined = joined.lines().filter_map(|line| line.split_once(' '));
        let of = |(network, addr): (&str, &str)| {
            let network = network.rsplit('-').next().unwrap().to_owned();
            (network, addr.to_owned())
        };
        (
            container,
            joined.map(of).collect::<BTreeMap<String, String>>(),
        )
    };
    let (left, left_at) = found("guest-left");
    let (both, both_at) = found("guest-both");
    let (right, right_at) = found("guest-right");
    let names = |at: &BTreeMap<String, String>| at.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&left_at), ["left"]);
    assert_eq!(names(&both_at), ["left", "right"]);
    assert_eq!(names(&right_at), ["right"]);
    // A replica itself listens at no address.
    for container in [&left, &both, &right] {
        let serve = [
            "exec",
            "--detach",
            container,
            "python3",
            "-m",
            "http.server",
            "9000",
            "--directory",
            "/tmp",
        ];
        docker.run(&serve).unwrap();
    }
    let reaches = |from: &str, addr: &str| {
        let program =
            format!("import socket\nsocket.create_connection(('{addr}', 9000), timeout=2).close()");
        docker
            .run(&["exec", from, "python3", "-c", &program])
            .is_ok()
    };
    // Once each serves, those who share a network reach each other in it.
    let pairs = [
        (&left, &both_at["left"]),
        (&both, &left_at["left"]),
        (&both, &right_at["right"]),
        (&right, &both_at["right"]),
    ];
    for (from, addr) in pairs {
        rig.until("it is reached", async || reaches(from, addr))
            .await;
    }
    // Who shares none has no way there, not by one that is in both.
    for (from, addr) in [
        (&left, &right_at["right"]),
        (&right, &left_at["left"]),
        (&left, &both_at["right"]),
        (&right, &both_at["left"]),
    ] {
        assert!(!reaches(from, addr), "{addr}");
    }
    // One that has no network reaches nobody.
    let worker = rig.containers("worker").remove(0);
    assert!(!reaches(&worker, &left_at["left"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_cannot_touch_the_socket_of_the_daemon() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let container = &rig.containers("worker")[0];
    let docker = TestDocker::find().unwrap();
    let inside = |command: &str| docker.run(&["exec", container, "sh", "-c", command]);
    let sockets = inside("find /run/rune -type s").unwrap();
    let mut sockets: Vec<&str> = sockets.lines().collect();
    sockets.sort_unstable();
    assert_eq!(
        sockets,
        [
            "/run/rune/daemon/daemon.sock",
            "/run/rune/replica/replica.sock"
        ]
    );
    for command in [
        "rm /run/rune/daemon/daemon.sock",
        "mv /run/rune/daemon/daemon.sock /run/rune/replica/",
        "touch /run/rune/daemon/more",
        "ln /run/rune/daemon/daemon.sock /run/rune/replica/own.sock",
        "touch /run/rune/more",
    ] {
        assert!(inside(command).is_err(), "{command}");
    }
    rig.hello("worker").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_follows_no_link_in_the_directory_of_a_replica() {
    let Some(mut rig) = Rig::start().await else {
        return;
    };
    // Somebody else's socket on the machine, which the user of the container may name.
    let elsewhere = rig.served.0.home().join("elsewhere.sock");
    let other = UnixListener::bind(&elsewhere).unwrap();
    other.set_nonblocking(true).unwrap();
    let first = rig.containers("worker");
    let link = format!(
        "cd /run/rune/replica && rm replica.sock && ln -s {} replica.sock",
        elsewhere.display()
    );
    let docker = TestDocker::find().unwrap();
    docker.run(&["exec", &first[0], "sh", "-c", &link]).unwrap();
    rig.served.0.kill9().unwrap();
    rig.served.0.restart().await.unwrap();
    rig.api = Api::of(&rig.served.0);
    // It cannot be reached, so there is another one in its place.
    rig.until("it was replaced", async || {
        let now = rig.containers("worker");
        now.len() == 1 && now != first
    })
    .await;
    rig.hello("worker").await;
    let nobody = other.accept().unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}
