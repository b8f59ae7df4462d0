//! Rollouts of agents that are asked all the time: one suite for every backend, and what does not depend on where replicas are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rune_testkit::{TestDaemon, TestDaemonBuilder};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::backends::rig::{Rig, is_here};
use crate::home::{RUNE, Served};
use crate::wire::{Api, LIMIT, POLL, answer, spawn};

/// Between two requests: 50 a second.
const PACE: Duration = Duration::from_millis(20);
/// Requests at a time: a machine that is busy with something else is not asked for more than it can answer.
const CLIENTS: usize = 16;

/// Writes a version of the agent `bot`, whose model plays a rule.
fn write(served: &Served, version: &str, rule: &str) {
    let dir = served.0.home().join("bot");
    std::fs::create_dir_all(&dir).unwrap();
    let runefile = format!(
        "name: bot\nversion: {version}\ninstructions: Answer.\ndefault_model: default\n\
         runtime: {{startup_timeout_ms: 60000}}\n\
         models:\n  providers: [offline]\n  model_mapping: {{default: offline}}\n"
    );
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    std::fs::write(dir.join("script.yaml"), format!("rules:\n  - {rule}\n")).unwrap();
}

/// A daemon with version 1.0.0 of `bot`, which answers `one`.
async fn deployed(backend: &'static str, replicas: u32) -> Rig {
    deployed_by(backend, TestDaemon::builder(RUNE), replicas).await
}

async fn deployed_by(backend: &'static str, builder: TestDaemonBuilder, replicas: u32) -> Rig {
    let rig = Rig::daemon(backend, builder).await;
    write(&rig.served, "1.0.0", "{ respond: one, delay_ms: 30 }");
    let replicas = replicas.to_string();
    rig.served
        .rune(&["run", "bot", "--replicas", &replicas])
        .ok();
    rig.mark("bot");
    rig
}

/// Makes the tests of the suite for a backend.
macro_rules! rollout_suite {
    ($($backend:ident),+ $(,)?) => {$(
        mod $backend {
            const BACKEND: &str = stringify!($backend);

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_rolling_update_under_load_fails_no_request() {
                if super::is_here(BACKEND) {
                    super::rolls_under_load(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_version_whose_requests_fail_is_rolled_back_by_itself() {
                if super::is_here(BACKEND) {
                    super::rolls_back(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_version_that_does_not_start_never_takes_over() {
                if super::is_here(BACKEND) {
                    super::never_takes_over(BACKEND).await;
                }
            }
        }
    )+};
}

rollout_suite!(wasm, process, docker, kubernetes, real_cluster);

fn status(served: &Served) -> Value {
    let args = ["rollout", "status", "bot", "-o", "json"];
    served.rune(&args).json()
}

/// Looks at the rollout until it is as wanted.
async fn until(served: &Served, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let looking = async {
        loop {
            let row = status(served);
            if is(&row) {
                return row;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let found = tokio::time::timeout(LIMIT, looking).await;
    assert!(
        found.is_ok(),
        "{what}: {}\n{}",
        status(served),
        served.0.log()
    );
    found.unwrap()
}

/// Asks in a new session, or goes on with one, and answers what `bot` says.
async fn say(api: &Api, session: Option<&str>) -> (String, String) {
    let mut body = json!({"input": "Hello"});
    if let Some(session) = session {
        body["session_id"] = session.into();
    }
    let (status, body) = api.ask("bot", &body).await;
    assert_eq!(status, 200, "{body}");
    let word = |field: &str| body[field].as_str().unwrap().to_owned();
    (word("session_id"), word("output"))
}

/// Asks again and again, whatever becomes of the answers.
struct Load {
    ends: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    task: JoinHandle<Vec<(u16, Value)>>,
    began: Instant,
}

impl Load {
    fn begin(api: &Api) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let (api, end, count) = (api.clone(), Arc::clone(&ends), Arc::clone(&answered));
        let task = spawn(async move {
            let mut pace = tokio::time::interval(PACE);
            // What a busy moment held up is asked after it, so that the load is what it is to be over all.
            pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let clients = Arc::new(Semaphore::new(CLIENTS));
            let mut asked = Vec::new();
            while !end.load(Ordering::Relaxed) {
                pace.tick().await;
                let client = Arc::clone(&clients).acquire_owned().await.unwrap();
                let (request, count) = (
                    api.invoke("bot", &json!({"input": "Hello"})),
                    Arc::clone(&count),
                );
                asked.push(spawn(async move {
                    let answer = answer(request).await;
                    drop(client);
                    count.fetch_add(1, Ordering::Relaxed);
                    answer.unwrap_or((0, Value::Null))
                }));
            }
            let mut answers = Vec::new();
            for answer in asked {
                answers.push(answer.await.unwrap());
            }
            answers
        });
        Self {
            ends,
            answered,
            task,
            began: Instant::now(),
        }
    }

    /// Waits for so many more answers.
    async fn goes_on(&self, more: usize) {
        let until = self.answered.load(Ordering::Relaxed) + more;
        let answered = async {
            while self.answered.load(Ordering::Relaxed) < until {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(LIMIT, answered).await.unwrap();
    }

    /// Every answer in the order of the questions: what was said, or what went wrong.
    #[expect(clippy::print_stdout, reason = "the rate is for who runs the test")]
    async fn end(self) -> Vec<String> {
        self.ends.store(true, Ordering::Relaxed);
        let answers = self.task.await.unwrap();
        let (count, took) = (answers.len(), self.began.elapsed());
        println!(
            "{count} requests in {took:.1?}: {:.0} a second",
            count as f64 / took.as_secs_f64()
        );
        let said = answers.into_iter().map(|(status, body)| match status {
            200 => body["output"].as_str().unwrap().to_owned(),
            status => format!("{status}: {body}"),
        });
        said.collect()
    }
}

fn counts(answers: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.as_str()).or_default() += 1;
    }
    counts
}

async fn rolls_under_load(backend: &'static str) {
    let rig = deployed(backend, 3).await;
    let served = &rig.served;
    let load = Load::begin(&Api::of(&served.0));
    load.goes_on(50).await;
    write(served, "2.0.0", "{ respond: two, delay_ms: 30 }");
    served.rune(&["run", "bot", "--replicas", "3"]).ok();
    load.goes_on(100).await;
    let row = status(served);
    assert_eq!(row["version"], "2.0.0");
    assert_eq!(row["rollout"]["state"], "completed");
    let text = served.rune(&["rollout", "undo", "bot"]).ok();
    assert!(
        text.contains("1.0.0") && text.contains("rolled_back"),
        "{text}"
    );
    load.goes_on(100).await;
    let answers = load.end().await;
    let counts = counts(&answers);
    assert_eq!(
        counts.keys().copied().collect::<Vec<_>>(),
        ["one", "two"],
        "{counts:?}"
    );
    assert!(counts["two"] >= 50, "{counts:?}");
    assert_eq!(
        (answers.first().unwrap(), answers.last().unwrap()),
        (&"one".to_owned(), &"one".to_owned())
    );
}

async fn rolls_back(backend: &'static str) {
    let rig = deployed(backend, 1).await;
    let served = &rig.served;
    let load = Load::begin(&Api::of(&served.0));
    load.goes_on(50).await;
    write(
        served,
        "2.0.0",
        "{ error: { kind: refused, message: broken } }",
    );
    // Whether that is seen before or after it has taken over.
    let _ = served.rune(&["run", "bot"]);
    let row = until(served, "rolled back", |row| {
        row["rollout"]["state"] == "rolled_back" && row["state"] == "ready" && row["reason"] != ""
    })
    .await;
    assert_eq!(row["version"], "1.0.0");
    let reason = row["rollout"]["reason"].as_str().unwrap().to_owned();
    assert!(
        reason.starts_with("2.0.0: ") && reason.contains("requests failed"),
        "{reason}"
    );
    assert_eq!(row["reason"], format!("rolled back: {reason}"));
    load.goes_on(300).await;
    let answers = load.end().await;
    let last = &answers[answers.len() - 50..];
    assert!(last.iter().all(|answer| answer == "one"), "{last:?}");
    let failed = answers.iter().filter(|answer| *answer != "one").count();
    assert!(failed >= 20, "{:?}", counts(&answers));

    let table = served.rune(&["status"]).ok();
    assert!(table.contains(&reason), "{table}");
    let audit = served.0.control_plane().to_owned();
    let url = format!("{audit}/v1/audit?kind=deployment.rollback");
    let audit: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    let row = &audit["items"][0];
    assert_eq!(
        (&row["caller"], &row["resource"]),
        (&json!("rune"), &json!("dev/bot:stable"))
    );
    assert_eq!(row["reason"], reason);
    let events = [
        "event",
        "ls",
        "--topic",
        "rollout.rolled_back",
        "-o",
        "json",
    ];
    let events = served.rune(&events).json();
    assert_eq!(events[0]["payload"]["agent"], "bot");
    assert_eq!(events[0]["payload"]["reason"], reason);
}

async fn never_takes_over(backend: &'static str) {
    let rig = deployed(backend, 2).await;
    let served = &rig.served;
    let load = Load::begin(&Api::of(&served.0));
    load.goes_on(20).await;
    write(served, "2.0.0", "{ respond: two }");
    let path = served.0.home().join("bot/Runefile");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("Answer.", "\"Answer ${WHO}.\"")).unwrap();
    let ran = served.rune(&["run", "bot", "--replicas", "2"]).ends(1);
    assert!(
        ran.stderr.contains("went back") && ran.stderr.contains("WHO"),
        "{}",
        ran.stderr
    );
    let row = status(served);
    assert_eq!(
        (&row["version"], &row["ready_replicas"]),
        (&json!("1.0.0"), &json!(2))
    );
    assert_eq!(row["rollout"]["state"], "rolled_back");
    let ran = served.rune(&["deploy", "bot", "--weight", "20"]).ends(1);
    assert!(ran.stderr.contains("WHO"), "{}", ran.stderr);
    load.goes_on(20).await;
    let answers = load.end().await;
    assert_eq!(counts(&answers).into_keys().collect::<Vec<_>>(), ["one"]);
    served.rune(&["run", "bot", "--env", "WHO=me"]).ok();
    assert_eq!(say(&Api::of(&served.0), None).await.1, "two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_gets_its_share_and_keeps_its_sessions() {
    const SESSIONS: usize = 400;
    let mut rig = deployed("wasm", 2).await;
    let served = &mut rig.served;
    let api = Api::of(&served.0);
    write(served, "2.0.0", "{ respond: two }");
    let text = served.rune(&["deploy", "bot", "--weight", "25"]).ok();
    assert!(text.contains("canary, 25 %"), "{text}");
    let mut sessions = Vec::new();
    while sessions.len() < SESSIONS {
        let asked = (0..20).map(|_| {
            let api = api.clone();
            spawn(async move { say(&api, None).await })
        });
        for asked in asked.collect::<Vec<_>>() {
            sessions.push(asked.await.unwrap());
        }
    }
    // 100 are expected; five standard deviations are 43.
    let new = sessions.iter().filter(|(_, said)| said == "two").count();
    assert!((57..=143).contains(&new), "{new} of {SESSIONS}");

    // More of the new sessions; the others stay where they are, also after a crash.
    served
        .rune(&["deploy", "bot", "--version", "2.0.0", "--weight", "100"])
        .ok();
    served.0.kill9().unwrap();
    served.0.restart().await.unwrap();
    let row = until(served, "both versions run", |row| {
        row["ready_replicas"] == 2 && row["rollout"]["ready_replicas"] == 2
    })
    .await;
    assert_eq!(
        (&row["state"], &row["version"]),
        (&json!("ready"), &json!("1.0.0"))
    );
    assert_eq!(
        (&row["rollout"]["state"], &row["rollout"]["weight"]),
        (&json!("progressing"), &json!(100))
    );
    let api = Api::of(&served.0);
    for (session, said) in sessions.iter().step_by(8) {
        assert_eq!(say(&api, Some(session)).await.1, *said, "{session}");
    }
    for _ in 0..10 {
        assert_eq!(say(&api, None).await.1, "two");
    }
    let ran = served
        .rune(&["deploy", "bot", "--version", "1.0.0"])
        .ends(1);
    assert!(
        ran.stderr.contains("promote it or roll it back"),
        "{}",
        ran.stderr
    );
    served.rune(&["rollout", "promote", "bot"]).ok();
    let row = status(served);
    assert_eq!(
        (&row["version"], &row["rollout"]["state"]),
        (&json!("2.0.0"), &json!("completed"))
    );
    assert_eq!(row["releases"][0]["version"], "1.0.0");
    let old = sessions.iter().find(|(_, said)| said == "one").unwrap();
    assert_eq!(
        say(&api, Some(&old.0)).await.1,
        "two",
        "the old version is gone"
    );
    served.rune(&["rollout", "promote", "bot"]).ends(1);
    served.rune(&["rollout", "undo", "bot"]).ok();
    assert_eq!(say(&api, None).await.1, "one");
    let ran = served.rune(&["rollout", "undo", "bot"]).ends(1);
    assert!(ran.stderr.contains("no earlier release"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_goes_on_after_the_daemon_was_killed_in_its_middle() {
    // Its replicas go on, and find it again.
    let mut rig = deployed_by("process", TestDaemon::builder(RUNE), 6).await;
    let served = &mut rig.served;
    write(served, "2.0.0", "{ respond: two }");
    let mut deploying = served
        .command(&["run", "bot", "--replicas", "6"])
        .spawn()
        .unwrap();
    until(served, "the middle", |row| {
        let new = row["rollout"]["ready_replicas"].as_u64();
        row["rollout"]["state"] == "progressing" && new.is_some_and(|new| new > 0)
    })
    .await;
    served.0.kill9().unwrap();
    deploying.wait().unwrap();
    served.0.restart().await.unwrap();
    let row = until(served, "the end", |row| row["state"] == "ready").await;
    assert_eq!(
        (&row["version"], &row["ready_replicas"]),
        (&json!("2.0.0"), &json!(6))
    );
    assert_eq!(row["rollout"]["state"], "completed");
    assert_eq!(say(&Api::of(&served.0), None).await.1, "two");
}
