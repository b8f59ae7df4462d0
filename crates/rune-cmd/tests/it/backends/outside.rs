//! What replicas outside the daemon have to stand: that one of the two is gone.

use rune_testkit::TestDaemon;
use serde_json::{Value, json};

use super::rig::{Rig, is_here};
use crate::home::RUNE;
use crate::readme::root;
use crate::wire::{Events, assert_no_panic};

/// An id that no deployment knows.
const ORPHAN: &str = "rep_019f000000007000800000000000000a";

/// Makes the tests of the suite for a backend whose replicas are outside the daemon.
macro_rules! outside_suite {
    ($($backend:ident),+ $(,)?) => {$(
        mod $backend {
            const BACKEND: &str = stringify!($backend);

            #[tokio::test(flavor = "multi_thread")]
            async fn a_request_goes_on_in_another_replica_when_its_own_is_killed() {
                if super::is_here(BACKEND) {
                    super::replica_killed(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn replicas_are_adopted_by_the_next_daemon_and_not_doubled() {
                if super::is_here(BACKEND) {
                    super::adopted(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_ended_while_the_daemon_was_down_is_known_afterwards() {
                if super::is_here(BACKEND) {
                    super::ended_meanwhile(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_belongs_to_no_deployment_is_removed() {
                if super::is_here(BACKEND) {
                    super::orphans(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_request_that_outlives_the_drain_time_of_a_rollout_goes_on_in_the_next_replica() {
                if super::is_here(BACKEND) {
                    super::outlives_its_drain(BACKEND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn the_example_with_a_python_tool_runs_where_the_replica_is() {
                if super::is_here(BACKEND) {
                    super::python(BACKEND).await;
                }
            }
        }
    )+};
}

outside_suite!(process, docker, kubernetes, real_cluster);

/// Asserts how a request ended, and in which of its attempts.
#[track_caller]
fn check_ended(rig: &Rig, row: &Value, attempts: u32) {
    assert_eq!(
        (&row["status"], &row["attempts"]),
        (&json!("completed"), &json!(attempts)),
        "{row}\n{}",
        rig.served.0.log()
    );
}

async fn replica_killed(backend: &'static str) {
    let rig = Rig::start(backend, "").await;
    let id = rig.slow().await;
    rig.begun(1).await;
    let first = rig.running();
    assert_eq!(first.len(), 1, "{first:?}");
    rig.kill(&first[0]);
    // The tool is idempotent, so it is run again.
    rig.begun(2).await;
    rig.go();
    check_ended(&rig, &rig.api.ended(&id).await, 2);
    rig.until("nothing is left of it", async || {
        let running = rig.running();
        running.len() == 1 && running != first
    })
    .await;

    // One that may have its effect once only is not run again, and what is not known is said.
    let id = rig.api.start("worker", "/tool once {}").await;
    rig.until("it has begun", async || rig.lines("once").len() == 1)
        .await;
    rig.kill(&rig.running()[0]);
    check_ended(&rig, &rig.api.ended(&id).await, 2);
    let events = rig.api.events(&id, 0).await.rest().await;
    let done = events.iter().find(|event| event.name == "tool_done");
    let said = done.unwrap().data.to_string();
    assert!(said.contains("unknown"), "{said}");
    assert_eq!(rig.lines("once").len(), 1);
    assert_no_panic(&rig.served);
}

async fn adopted(backend: &'static str) {
    let mut rig = Rig::settled(backend, 2).await;
    let id = rig.slow().await;
    rig.begun(1).await;
    let first = rig.running();
    assert_eq!(first.len(), 2, "{first:?}");
    rig.served.0.kill9().unwrap();
    rig.restart().await;
    rig.ready().await;
    assert_eq!(rig.running(), first, "{}", rig.served.0.log());
    rig.go();
    check_ended(&rig, &rig.api.ended(&id).await, 1);
    assert_eq!(rig.lines("started").len(), 1);
    // It takes new ones.
    let (status, body) = rig.api.ask("worker", &json!({"input": "hello"})).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(rig.running(), first, "{}", rig.served.0.log());
    assert_no_panic(&rig.served);
}

async fn ended_meanwhile(backend: &'static str) {
    let mut rig = Rig::settled(backend, 1).await;
    let id = rig.slow().await;
    rig.begun(1).await;
    rig.served.0.kill9().unwrap();
    rig.go();
    rig.restart().await;
    check_ended(&rig, &rig.api.ended(&id).await, 1);
    assert_eq!(rig.lines("started").len(), 1);
}

async fn orphans(backend: &'static str) {
    let mut rig = Rig::settled(backend, 1).await;
    let first = rig.running();
    rig.served.0.kill9().unwrap();
    // As a start that was cut short leaves it.
    let orphan = match backend {
        "process" => super::processes::plant(&rig, ORPHAN),
        "docker" => super::containers::plant(&first[0], ORPHAN),
        _ => super::pods::plant(&rig, ORPHAN).await,
    };
    rig.restart().await;
    rig.ready().await;
    rig.until("the orphan is gone", async || !orphan.is_there())
        .await;
    assert_eq!(rig.running(), first, "{}", rig.served.0.log());
}

async fn outlives_its_drain(backend: &'static str) {
    let builder = TestDaemon::builder(RUNE).env("RUNE_DRAIN_GRACE_SECS", "1");
    let rig = Rig::daemon(backend, builder).await;
    rig.deploy("", 1).await;
    let id = rig.slow().await;
    rig.begun(1).await;
    let first = rig.running();
    assert_eq!(first.len(), 1, "{first:?}");
    rig.roll_out("0.2.0");
    // Nobody lets it end, so it is cut off when its time is over; the tool is idempotent and runs again.
    rig.begun(2).await;
    rig.go();
    check_ended(&rig, &rig.api.ended(&id).await, 2);
    rig.until("the replica of the earlier version is gone", async || {
        let running = rig.running();
        running.len() == 1 && running != first
    })
    .await;
    assert_eq!(rig.lines("started").len(), 2);
    assert_no_panic(&rig.served);
}

/// A replica of no deployment; ended when dropped.
pub(super) struct Orphan {
    /// Whether it is there; ends it, where it is not to be.
    pub(super) look: Box<dyn Fn(bool) -> bool + Send + Sync>,
}

impl Orphan {
    fn is_there(&self) -> bool {
        (self.look)(false)
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        (self.look)(true);
    }
}

async fn python(backend: &'static str) {
    let rig = Rig::start(backend, "").await;
    let example = root().join("examples/python-tool");
    rig.served.rune(&["run", example.to_str().unwrap()]).ok();
    let body = json!({"input": "the quick brown fox", "stream": true});
    let response = rig.api.invoke("python-tool", &body).send().await.unwrap();
    let events = Events::of(response).rest().await;
    let last = events.last().unwrap();
    assert_eq!(
        last.data["output"],
        "Your text has 4 words and 19 characters.",
        "{events:?}\n{}",
        rig.served.0.log()
    );
    // The loop ran where the replica is, which is a process of its own.
    let request = events[0].data["request_id"].as_str().unwrap();
    let replica = rig.api.request(request).await["replica_id"].take();
    let programs = rig.programs("python-tool", replica.as_str().unwrap());
    let names = ["rune replica", "/proc/self/exe replica"];
    let is_loop = |program: &String| names.iter().any(|name| program.contains(name));
    assert!(programs.iter().any(is_loop), "{replica}: {programs:?}");
}
