//! Agents with a range of replicas, in a daemon that decides quickly.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rune_testkit::{TestDaemon, TestDaemonBuilder};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::backends::rig::{self, is_here};
use crate::home::{RUNE, Served, write_plain};
use crate::wire::{Api, LIMIT, POLL, answer, spawn};

/// A daemon that lets replicas go after two seconds.
fn quick() -> TestDaemonBuilder {
    within("2")
}

/// A daemon that lets replicas go after so many seconds.
fn within(seconds: &str) -> TestDaemonBuilder {
    TestDaemon::builder(RUNE)
        .env("RUNE_SCALING_DOWN_AFTER_SECS", seconds)
        .env("RUNE_SCALING_ZERO_AFTER_SECS", seconds)
}

/// A daemon with one agent, one request of which a replica runs at a time.
struct Rig(rig::Rig);

impl Deref for Rig {
    type Target = rig::Rig;

    fn deref(&self) -> &rig::Rig {
        &self.0
    }
}

impl DerefMut for Rig {
    fn deref_mut(&mut self) -> &mut rig::Rig {
        &mut self.0
    }
}

impl Rig {
    async fn start(backend: &'static str, builder: TestDaemonBuilder) -> Self {
        Self(rig::Rig::daemon(backend, builder).await)
    }

    /// Writes a version of `bot` that answers a word, after a while.
    fn write(&self, version: &str, rule: &str, runtime: &str) {
        let dir = self.served.0.home().join("bot");
        std::fs::create_dir_all(&dir).unwrap();
        let runefile = format!(
            "name: bot\nversion: {version}\ninstructions: Answer.\ndefault_model: default\n\
             runtime: {{concurrency_limit: 1, {runtime}}}\n\
             models:\n  providers: [offline]\n  model_mapping: {{default: offline}}\n"
        );
        std::fs::write(dir.join("Runefile"), runefile).unwrap();
        std::fs::write(dir.join("script.yaml"), format!("rules:\n  - {rule}\n")).unwrap();
    }

    async fn deployed(
        backend: &'static str,
        builder: TestDaemonBuilder,
        runtime: &str,
        delay_ms: u32,
    ) -> Self {
        let rig = Self::start(backend, builder).await;
        let rule = format!("{{ respond: one, delay_ms: {delay_ms} }}");
        rig.write("1.0.0", &rule, runtime);
        rig.served.rune(&["run", "bot"]).ok();
        rig.mark("bot");
        rig
    }

    /// The deployment of `bot`.
    async fn row(&self) -> Value {
        self.row_of("bot").await
    }

    async fn row_of(&self, agent: &str) -> Value {
        let rows = self.list(&format!("/v1/deployments?agent={agent}")).await;
        rows[0].clone()
    }

    async fn list(&self, path: &str) -> Vec<Value> {
        let url = format!("{}{path}", self.served.0.control_plane());
        let response = reqwest::get(url).await.unwrap();
        let page: Value = response.json().await.unwrap();
        page["items"].as_array().unwrap().clone()
    }

    /// Replicas of `bot` that are there, in whichever state.
    async fn replicas(&self) -> usize {
        let id = self.row().await["id"].as_str().unwrap().to_owned();
        self.list(&format!("/v1/replicas?deployment={id}"))
            .await
            .len()
    }

    async fn scale(&self, replicas: u32) -> (u16, Value) {
        let id = self.row().await["id"].as_str().unwrap().to_owned();
        let url = format!(
            "{}/v1/deployments/{id}/scale",
            self.served.0.control_plane()
        );
        let body = json!({ "replicas": replicas });
        answer(reqwest::Client::new().post(url).json(&body))
            .await
            .unwrap()
    }

    /// Looks at the deployment until it is as wanted.
    async fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        self.until_of("bot", what, is).await
    }

    async fn until_of(&self, agent: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let looking = async {
            loop {
                let row = self.row_of(agent).await;
                if is(&row) {
                    return row;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let seen = tokio::time::timeout(LIMIT, looking).await.ok();
        assert!(
            seen.is_some(),
            "{what}: {}\n{}",
            self.row_of(agent).await,
            self.served.0.log()
        );
        seen.unwrap_or_default()
    }

    async fn scaled(&self, replicas: u32) -> Value {
        self.until(&format!("{replicas} replicas"), |row| {
            row["replicas"] == replicas
                && row["ready_replicas"] == replicas
                && row["state"] == "ready"
        })
        .await
    }

    /// Waits until nothing of it runs, not even what lets go, and it says so.
    async fn asleep(&self) -> Value {
        self.scaled(0).await;
        let says_so = |row: &Value| row["reason"].as_str().unwrap().starts_with("asleep");
        let row = self.until("asleep", says_so).await;
        let gone = async {
            while self.replicas().await > 0 {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(LIMIT, gone).await.unwrap();
        row
    }

    async fn says(&self) -> String {
        let (status, body) = self.api.ask("bot", &json!({"input": "Hello"})).await;
        assert_eq!(status, 200, "{body}\n{}", self.served.0.log());
        body["output"].as_str().unwrap().to_owned()
    }

    /// Asks so often at the same time.
    fn burst(&self, count: usize) -> JoinHandle<Vec<(u16, Value)>> {
        let api = self.api.clone();
        spawn(async move {
            let ask = |_| spawn(answer(api.invoke("bot", &json!({"input": "Hello"}))));
            let asked: Vec<_> = (0..count).map(ask).collect();
            let mut answers = Vec::new();
            for answer in asked {
                answers.push(answer.await.unwrap().unwrap_or((0, Value::Null)));
            }
            answers
        })
    }

    /// Asks so many at a time, again and again.
    fn load(&self, count: usize) -> Load {
        let ends = Arc::new(AtomicBool::new(false));
        let ask = |_| {
            let (api, ends) = (self.api.clone(), Arc::clone(&ends));
            spawn(async move {
                let mut answers = Vec::new();
                while !ends.load(Ordering::Relaxed) {
                    let asked = answer(api.invoke("bot", &json!({"input": "Hello"}))).await;
                    answers.push(asked.unwrap_or((0, Value::Null)));
                }
                answers
            })
        };
        let tasks = (0..count).map(ask).collect();
        Load { ends, tasks }
    }

    /// How often it was woken.
    async fn woken(&self) -> usize {
        let decisions = self.audit("deployment.autoscale").await;
        let woken = decisions.iter().filter(|it| it.starts_with("0 to "));
        woken.count()
    }

    async fn audit(&self, kind: &str) -> Vec<String> {
        let rows = self.list(&format!("/v1/audit?kind={kind}")).await;
        let reasons = rows.iter().map(|row| row["reason"].as_str().unwrap());
        reasons.map(str::to_owned).collect()
    }
}

struct Load {
    ends: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Vec<(u16, Value)>>>,
}

impl Load {
    async fn end(self) -> Vec<(u16, Value)> {
        self.ends.store(true, Ordering::Relaxed);
        let mut answers = Vec::new();
        for task in self.tasks {
            answers.extend(task.await.unwrap());
        }
        answers
    }
}

/// Every one was answered, with one of these words.
#[track_caller]
fn assert_answered(answers: &[(u16, Value)], words: &[&str]) {
    let is_good = |(status, body): &&(u16, Value)| {
        *status == 200 && words.iter().any(|word| body["output"] == *word)
    };
    let bad: Vec<_> = answers.iter().filter(|answer| !is_good(answer)).collect();
    assert!(bad.is_empty() && !answers.is_empty(), "{bad:?}");
}

/// Makes the tests of the suite for a backend.
macro_rules! scaling_suite {
    ($($backend:ident),+ $(,)?) => {$(
        mod $backend {
            const BACKEND: &str = stringify!($backend);

            #[tokio::test(flavor = "multi_thread")]
            async fn a_load_makes_it_grow_and_its_end_shrink() {
                if super::is_here(BACKEND) {
                    super::grows_and_shrinks(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_request_wakes_what_sleeps() {
                if super::is_here(BACKEND) {
                    super::sleeps_and_wakes(BACKEND).await;
                }
            }
        }
    )+};
}

scaling_suite!(wasm, process, docker, kubernetes, real_cluster);

/// A load makes it grow to its most, and it comes back to its fewest.
async fn grows_and_shrinks(backend: &'static str) {
    let rig = Rig::deployed(backend, quick(), "min_replicas: 1, max_replicas: 3", 200).await;
    rig.scaled(1).await;
    let load = rig.load(8);
    let row = rig.scaled(3).await;
    let reason = row["scaling"]["reason"].as_str().unwrap();
    assert!(reason.contains("need 3 of 1 to 3"), "{row}");
    let (_, metrics) = answer_text(&rig.api, "/metrics").await;
    let wanted = "rune_replicas_wanted{namespace=\"dev\",agent=\"bot\",alias=\"stable\"} 3";
    assert!(metrics.contains(wanted), "{metrics}");
    let text = rig.served.rune(&["agent", "ls"]).ok();
    assert!(text.contains("3/3") && text.contains("1-3"), "{text}");
    assert!(text.contains("need 3 of 1 to 3"), "{text}");
    assert_answered(&load.end().await, &["one"]);
    let row = rig.scaled(1).await;
    let reason = row["scaling"]["reason"].as_str().unwrap();
    assert!(reason.contains("were enough for 2 s"), "{row}");
    let decisions = rig.audit("deployment.autoscale").await;
    assert!(decisions.iter().all(|it| !it.contains("to 4 replicas")));
    assert!(
        decisions.iter().any(|it| it.contains("to 3 replicas: ")),
        "{decisions:?}"
    );
    let (_, events) = answer(rig.api.get("/v1/events?topic=deployment.scaled"))
        .await
        .unwrap();
    let last = &events["items"][0]["payload"];
    assert_eq!(
        (&last["to"], &last["max_replicas"]),
        (&json!(1), &json!(3)),
        "{events}"
    );
}

async fn answer_text(api: &Api, path: &str) -> (u16, String) {
    let response = api.get(path).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// Without anything to do nothing runs; requests are answered all the same, however many come at once.
async fn sleeps_and_wakes(backend: &'static str) {
    let rig = Rig::deployed(backend, quick(), "min_replicas: 0, max_replicas: 2", 100).await;
    assert_eq!(rig.says().await, "one");
    let row = rig.asleep().await;
    let reason = row["scaling"]["reason"].as_str().unwrap();
    assert_eq!(reason, "nothing to do for 2 s");
    let text = rig.served.rune(&["status"]).ok();
    assert!(text.contains("0/0") && text.contains("asleep"), "{text}");

    let burst = rig.burst(20);
    let mut most = 0;
    while !burst.is_finished() {
        most = most.max(rig.replicas().await);
        tokio::time::sleep(POLL).await;
    }
    assert_answered(&burst.await.unwrap(), &["one"]);
    assert!((1..=2).contains(&most), "{most}");
    rig.asleep().await;
    assert_eq!(rig.says().await, "one");
}

/// A request that was accepted while nothing ran is answered, although the daemon is killed before a replica runs it.
async fn wakes_over_a_kill(backend: &'static str) {
    let mut rig = Rig::deployed(backend, quick(), "min_replicas: 0, max_replicas: 2", 300).await;
    for _ in 0..2 {
        rig.asleep().await;
        // Also one that nobody has known awake since the start of the daemon.
        rig.served.0.kill9().unwrap();
        rig.served.0.restart().await.unwrap();
        rig.api = Api::of(&rig.served.0);
        let mut ids = Vec::new();
        for _ in 0..5 {
            ids.push(rig.api.start("bot", "Hello").await);
        }
        rig.served.0.kill9().unwrap();
        rig.served.0.restart().await.unwrap();
        rig.api = Api::of(&rig.served.0);
        for id in ids {
            let row = rig.api.ended(&id).await;
            assert_eq!(
                (&row["status"], &row["output"]),
                (&json!("completed"), &json!("one")),
                "{row}\n{}",
                rig.served.0.log()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_for_a_sleeper_survives_a_kill() {
    wakes_over_a_kill("wasm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_for_a_sleeper_survives_a_kill_with_processes() {
    wakes_over_a_kill("process").await;
}

/// Both versions are scaled while one takes over from the other, and what sleeps is not replaced unseen.
async fn rolls_out(backend: &'static str) {
    const RANGE: &str = "min_replicas: 0, max_replicas: 3";
    let rig = Rig::deployed(backend, quick(), RANGE, 200).await;
    let load = rig.load(6);
    rig.scaled(3).await;
    rig.write("2.0.0", "{ respond: two, delay_ms: 200 }", RANGE);
    rig.served.rune(&["run", "bot"]).ok();
    let row = rig.scaled(3).await;
    assert_eq!(row["rollout"]["state"], "completed", "{row}");
    assert_answered(&load.end().await, &["one", "two"]);
    assert_eq!(rig.says().await, "two");

    rig.asleep().await;
    rig.write("3.0.0", "{ respond: three }", RANGE);
    rig.served.rune(&["run", "bot"]).ok();
    let decisions = rig.audit("deployment.autoscale").await;
    let woken = |it: &String| it.starts_with("0 to 1 replicas: ") && it.contains("rolled out");
    assert!(decisions.iter().any(woken), "{decisions:?}");
    assert_eq!(rig.says().await, "three");
    rig.asleep().await;
    rig.write(
        "4.0.0",
        "{ respond: four }",
        &format!("{RANGE}, env: {{A: \"${{NOT_THERE}}\"}}"),
    );
    rig.served.rune(&["run", "bot"]).ends(1);
    assert_eq!(rig.says().await, "three");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_is_scaled_and_wakes_what_sleeps() {
    rolls_out("wasm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_is_scaled_and_wakes_what_sleeps_in_processes() {
    rolls_out("process").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_scales_within_the_range_and_stops_for_good() {
    // What is asked for is seen before it is let go.
    let rig = Rig::deployed("wasm", within("10"), "min_replicas: 1, max_replicas: 3", 10).await;
    let (status, refused) = rig.scale(4).await;
    assert_eq!(status, 400, "{refused}");
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains("must be 1 to 3"), "{message}");
    let (status, row) = rig.scale(3).await;
    assert_eq!((status, &row["replicas"]), (200, &json!(3)), "{row}");
    rig.scaled(3).await;
    // From there the daemon goes on.
    rig.scaled(1).await;
    // What is deployed again as it is changes nothing.
    let before = rig.row().await;
    rig.served.rune(&["run", "bot"]).ok();
    assert_eq!(rig.row().await["generation"], before["generation"]);

    rig.served.rune(&["agent", "stop", "bot"]).ok();
    rig.until("stopped", |row| row["state"] == "stopped").await;
    let (status, refused) = rig.api.ask("bot", &json!({"input": "Hello"})).await;
    assert_eq!(status, 503, "{refused}");
    assert!(refused.to_string().contains("stopped"), "{refused}");
    assert_eq!(rig.row().await["replicas"], 0, "nobody has woken it");
    let (status, row) = rig.scale(2).await;
    assert_eq!((status, &row["replicas"]), (200, &json!(2)), "{row}");
    assert_eq!(rig.says().await, "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_asks_wakes_what_sleeps_and_who_only_looks_does_not() {
    let rig = Rig::deployed("wasm", quick(), "min_replicas: 0, max_replicas: 2", 10).await;
    let boss = rig.served.0.home().join("boss");
    write_plain(&boss);
    let runefile = std::fs::read_to_string(boss.join("Runefile")).unwrap();
    let runefile = runefile.replace("plain", "boss");
    let toolset = "toolset: [rune@agent-send, rune@agent-list]\n";
    let own: Vec<&str> = runefile
        .lines()
        .filter(|line| !line.starts_with("toolset"))
        .collect();
    std::fs::write(
        boss.join("Runefile"),
        format!("{}\n{toolset}", own.join("\n")),
    )
    .unwrap();
    rig.served.rune(&["run", "boss"]).ok();

    let slept = rig.asleep().await;
    for path in [
        "/v1/agents",
        "/v1/agents/bot",
        "/v1/models",
        "/a2a/bot/.well-known/agent-card.json",
    ] {
        let (status, body) = answer_text(&rig.api, path).await;
        assert_eq!(status, 200, "{path}: {body}");
        assert!(body.contains("bot"), "{path}: {body}");
    }
    let (_, listed) = rig
        .api
        .ask("boss", &json!({"input": "/tool rune@agent-list {}"}))
        .await;
    assert!(listed.to_string().contains("dev/bot"), "{listed}");
    assert_eq!(
        rig.row().await["scaling"],
        slept["scaling"],
        "nothing was woken"
    );

    let says = json!({"model": "bot", "messages": [{"role": "user", "content": "Hello"}]});
    let (_, said) = answer(rig.api.post("/v1/chat/completions", &says))
        .await
        .unwrap();
    assert_eq!(said["choices"][0]["message"]["content"], "one", "{said}");

    rig.asleep().await;
    let message = json!({"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "Hello"}]});
    let call =
        json!({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}});
    let called = rig.api.post("/a2a/bot", &call).header("a2a-version", "1.0");
    let (_, said) = answer(called).await.unwrap();
    assert!(said.to_string().contains("\"one\""), "{said}");

    rig.asleep().await;
    let ask = "/tool rune@agent-send {\"agent\": \"bot\", \"message\": \"Hello\"}";
    let (_, said) = rig.api.ask("boss", &json!({ "input": ask })).await;
    assert!(said["output"].as_str().unwrap().contains("one"), "{said}");

    rig.asleep().await;
    let create = [
        "schedule", "create", "tick", "--agent", "bot", "--every", "1h", "Hello",
    ];
    rig.served.rune(&create).ok();
    let woken = rig.woken().await;
    rig.served.rune(&["schedule", "run", "tick"]).ok();
    let done = async {
        loop {
            let path = "/v1/requests?agent=bot&status=completed";
            let (_, page) = answer(rig.api.get(path)).await.unwrap();
            if page["items"].as_array().unwrap().len() == 4 {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, done).await.unwrap();
    assert_eq!(rig.woken().await, woken + 1, "the schedule wakes it");
}

/// Writes an agent that does what it is told and may sleep.
fn write_obedient(served: &Served, name: &str, toolset: &str) {
    let dir = served.0.home().join(name);
    std::fs::create_dir_all(&dir).unwrap();
    let runefile = format!(
        "name: {name}\nversion: 1.0.0\ninstructions: Answer.\ndefault_model: default\ntoolset: [{toolset}]\n\
         runtime: {{min_replicas: 0}}\n\
         models:\n  providers: [offline]\n  model_mapping: {{default: offline}}\n"
    );
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    served.rune(&["run", name]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_in_which_a_process_goes_on_is_kept() {
    let rig = Rig::start("process", quick()).await;
    write_obedient(&rig.served, "bot", "rune@process-start, rune@process-kill");
    write_obedient(&rig.served, "clock", "");
    let say = |input: String| {
        let (api, body) = (
            rig.api.clone(),
            json!({"input": input, "session_id": "one"}),
        );
        async move { api.ask("bot", &body).await }
    };
    let start = json!({"command": "sleep 1000"});
    let (status, started) = say(format!("/tool rune@process-start {start}")).await;
    assert_eq!(status, 200, "{started}");
    let output = started["output"].as_str().unwrap();
    let from = output.find("prc_").unwrap();
    let process: String = output[from..]
        .chars()
        .take_while(|it| it.is_ascii_alphanumeric() || *it == '_')
        .collect();
    // What has had something to do for as long as this one, and holds nothing, sleeps by now.
    let (status, _) = rig.api.ask("clock", &json!({"input": "Hello"})).await;
    assert_eq!(status, 200);
    rig.until_of("clock", "sleeps", |row| row["replicas"] == 0)
        .await;
    assert_eq!(rig.row().await["replicas"], 1);
    let kill = json!({ "process_id": process });
    let (status, killed) = say(format!("/tool rune@process-kill {kill}")).await;
    assert_eq!(status, 200, "{killed}");
    rig.until("sleeps", |row| row["replicas"] == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeper_that_cannot_be_loaded_at_a_restart_is_known_once_it_can() {
    let mut rig = Rig::deployed("wasm", quick(), "min_replicas: 0, max_replicas: 2", 10).await;
    rig.asleep().await;
    let woken = rig.woken().await;
    rig.served.0.terminate().await.unwrap();
    let packages = std::fs::read_dir(rig.served.0.data_dir().join("packages")).unwrap();
    let packages: Vec<_> = packages.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(packages.len(), 1);
    // Who looks at it waits until it is known, and wakes nothing.
    rig.served.0.restart().await.unwrap();
    rig.api = Api::of(&rig.served.0);
    let card = "/a2a/bot/.well-known/agent-card.json";
    let (status, body) = answer_text(&rig.api, card).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(rig.woken().await, woken);
    rig.served.0.terminate().await.unwrap();
    let file = packages[0].join("Runefile");
    let runefile = std::fs::read(&file).unwrap();
    std::fs::write(&file, "name: [").unwrap();
    rig.served.0.restart().await.unwrap();
    rig.api = Api::of(&rig.served.0);
    let (status, body) = answer_text(&rig.api, card).await;
    assert_ne!(status, 200, "{body}");
    std::fs::write(&file, runefile).unwrap();
    let known = async {
        while answer_text(&rig.api, card).await.0 != 200 {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, known).await.unwrap();
    assert_eq!(rig.says().await, "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_is_told_to_the_request_that_wakes_and_mended_by_itself() {
    let rig = Rig::start("wasm", quick()).await;
    rig.write(
        "1.0.0",
        "{ respond: one }",
        "min_replicas: 0, max_replicas: 2",
    );
    let file = rig.served.0.home().join("bot/Runefile");
    let runefile = std::fs::read_to_string(&file).unwrap();
    std::fs::write(file, format!("{runefile}timeout_ms: 3000\n")).unwrap();
    rig.served.rune(&["run", "bot"]).ok();
    rig.asleep().await;
    let workspaces = rig.served.0.data_dir().join("workspaces");
    let aside = rig.served.0.data_dir().join("aside");
    std::fs::rename(&workspaces, &aside).unwrap();
    std::fs::write(&workspaces, "in the way").unwrap();
    let (status, failed) = rig.api.ask("bot", &json!({"input": "Hello"})).await;
    assert_eq!(status, 504, "{failed}");
    assert!(
        failed.to_string().contains("cannot create workspace"),
        "{failed}"
    );
    std::fs::remove_file(&workspaces).unwrap();
    std::fs::rename(&aside, &workspaces).unwrap();
    rig.asleep().await;
    assert_eq!(rig.says().await, "one");
}
