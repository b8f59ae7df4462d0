//! Replicas in containers: what their image has, and whom they run as.

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
        Self::of(TestDaemon::builder(RUNE)).await
    }

    async fn of(builder: TestDaemonBuilder) -> Option<Self> {
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

    /// Writes an agent; only `worker` has a tool.
    fn agent(&self, name: &str, more: &str) -> PathBuf {
        let dir = self.served.0.home().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let toolset = if name == "worker" { "[count]" } else { "[]" };
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
async fn a_control_plane_at_every_address_is_the_one_that_containers_reach() {
    let builder = TestDaemon::builder(RUNE).arg("--control-plane-addr");
    let builder = builder.arg("0.0.0.0:0").env("RUNE_API_KEY", "a-key");
    let Some(rig) = Rig::of(builder).await else {
        return;
    };
    let body = json!({"input": "hello"});
    let asked = rig.api.invoke("worker", &body).bearer_auth("a-key");
    let (status, body) = answer(asked).await.unwrap();
    assert_eq!(status, 200, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_are_kept_for_the_next_replica_and_removed_by_the_next_daemon() {
    let Some(mut rig) = Rig::start().await else {
        return;
    };
    rig.agent("hermit", "networks: []\n");
    rig.served.rune(&["run", "hermit"]).ok();
    // One that is in no network reaches the daemon all the same.
    let hello = json!({"input": "hello"});
    let (status, body) = answer(rig.api.invoke("hermit", &hello)).await.unwrap();
    assert_eq!(status, 200, "{body}");
    let format = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}";
    let docker = TestDocker::find().unwrap();
    let found = rig.containers("hermit");
    let joined = docker
        .run(&["inspect", "--format", format, &found[0]])
        .unwrap();
    assert!(!joined.contains("bridge"), "{joined}");
    assert_eq!(rig.networks(), ["", "-bridge"]);

    rig.served.rune(&["agent", "stop", "worker"]).ok();
    let gone = async {
        while !rig.containers("worker").is_empty() {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.unwrap();
    assert_eq!(rig.networks(), ["", "-bridge"]);
    rig.served.0.restart().await.unwrap();
    assert_eq!(rig.networks(), [""]);
}
