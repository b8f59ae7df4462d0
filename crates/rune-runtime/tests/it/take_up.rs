//! How interrupted requests are taken up again: how many, when, and in which order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rune_env::RecoveryConfig;
use rune_runtime::{Engine, Invocation, RequestEvent};
use rune_store_runtime::{
    BlobStore, Entry, EntryBody, IdempotencyKey, RequestId, RequestRow, RequestStatus, SessionId,
    StoreError,
};
use rune_testkit::{ModelServer, Protocol, Reply};
use serde_json::json;

use super::harness::{Bot, Ended, HANG, Rig, call, kinds, script, soon, until};
use super::recovery::assert_whole;

/// A pause that no test waits out.
const LONG: Duration = Duration::from_hours(10);

fn recovery(rig: &mut Rig, edit: impl FnOnce(&mut RecoveryConfig)) {
    let mut config = RecoveryConfig::default();
    edit(&mut config);
    rig.engine = rig.engine.clone().with_recovery(config);
}

/// The beginning of a journal whose request crashed this often.
fn crashed(whole: &Ended, times: u32) -> Vec<Entry> {
    let mut journal = vec![whole.journal[0].clone()];
    for n in 1..=times {
        let mut started = whole.journal[1].clone();
        if let EntryBody::Started { attempt, .. } = &mut started.body {
            *attempt = n;
        }
        journal.push(started);
    }
    journal
}

/// A request that crashed this often, and nothing that runs yet.
async fn after_crashes(times: u32, edit: impl FnOnce(&mut RecoveryConfig)) -> (Rig, RequestRow) {
    let rig = Rig::new(Bot::new()).await;
    let whole = rig.ask("go").await;
    let journal = crashed(&whole, times);
    let mut next = rig.cut(&whole.row, &journal, journal.len()).await;
    recovery(&mut next, edit);
    (next, whole.row)
}

async fn ended(rig: &Rig, id: RequestId) -> RequestRow {
    let events = rig.engine.events(id, 0).await.unwrap();
    soon("the request", events.ending()).await.unwrap();
    rig.engine.request(id).await.unwrap()
}

#[tokio::test]
async fn what_crashed_again_and_again_waits_and_says_so() {
    let (rig, row) = after_crashes(2, |config| {
        config.backoff = LONG;
        config.max_backoff = LONG;
    })
    .await;
    assert_eq!(rig.engine.recover().await.unwrap(), 1);
    let mut events = rig.engine.events(row.id, 3).await.unwrap();
    let event = soon("the notice", events.next()).await.unwrap().unwrap();
    let RequestEvent::Notice { code, message } = event.event else {
        panic!("{:?}", event.event);
    };
    assert_eq!(code, "backed_off");
    let waiting = rig.engine.waiting(row.id).unwrap();
    assert_eq!(waiting.reason, message);
    let until = waiting.until.unwrap();
    assert!(until.since(rig.store.now()) > LONG - HANG);
    assert!(
        message.contains("ended 2 times") && message.contains(&until.to_string()),
        "{message}"
    );
    // The others do not wait for it, not even those of its session.
    rig.assert_usable(&row.session_id).await;
    let row = soon("cancel", rig.engine.cancel(row.id, "test"))
        .await
        .unwrap();
    assert_eq!(row.status, RequestStatus::Cancelled);
    assert_eq!(rig.engine.active(), 0);
    let last = soon("the follower", async {
        let mut last = None;
        while let Some(event) = events.next().await.unwrap() {
            last = Some(event.event.name());
        }
        last
    });
    assert_eq!(last.await, Some("error"));
    assert_whole(&rig.journal(row.id).await);
}

#[tokio::test]
async fn what_waited_is_taken_up() {
    let (rig, row) = after_crashes(3, |config| config.backoff = Duration::from_millis(20)).await;
    assert_eq!(rig.engine.recover().await.unwrap(), 1);
    let row = ended(&rig, row.id).await;
    assert_eq!((row.output, row.attempts), (Some(json!("Echo: go")), 4));
    assert!(rig.engine.waiting(row.id).is_none());
    let kinds = kinds(&rig.journal(row.id).await);
    assert_eq!(kinds[4..6], ["notice", "started"]);
}

#[tokio::test]
async fn a_pause_counts_from_when_requests_are_taken_up() {
    let pause = Duration::from_millis(300);
    let (rig, row) = after_crashes(2, |config| config.backoff = pause).await;
    // As an engine that stands by until its node leads.
    tokio::time::sleep(2 * pause).await;
    rig.engine.recover().await.unwrap();
    let row = ended(&rig, row.id).await;
    assert_eq!(row.status, RequestStatus::Completed);
    let kinds = kinds(&rig.journal(row.id).await);
    assert_eq!(kinds[3..5], ["notice", "started"]);
}

#[tokio::test]
async fn one_crash_is_no_reason_to_wait() {
    let (rig, row) = after_crashes(1, |config| config.backoff = LONG).await;
    rig.engine.recover().await.unwrap();
    assert_eq!(ended(&rig, row.id).await.status, RequestStatus::Completed);
}

#[tokio::test]
async fn as_many_attempts_as_are_configured() {
    for (crashes, status) in [(1, RequestStatus::Completed), (2, RequestStatus::Failed)] {
        let (rig, row) = after_crashes(crashes, |config| config.max_attempts = 2).await;
        assert_eq!(rig.engine.recover().await.unwrap(), 1);
        let row = ended(&rig, row.id).await;
        assert_eq!(row.status, status);
        if let Some(failure) = row.failure {
            assert!(
                failure.message.contains("given up after 2 attempts"),
                "{failure}"
            );
        }
        rig.assert_usable(&row.session_id).await;
    }
}

#[tokio::test]
async fn what_waits_does_not_hold_up_the_end_of_the_daemon() {
    let (rig, row) = after_crashes(2, |config| {
        config.backoff = LONG;
        config.max_backoff = LONG;
    })
    .await;
    rig.engine.recover().await.unwrap();
    until("the notice", || rig.spy.commands().len() == 1).await;
    assert!(soon("drain", rig.engine.drain(HANG)).await);
    // It did not run, so nothing was interrupted, and it has crashed as often as before.
    let mut next = rig.restarted();
    recovery(&mut next, |config| config.max_attempts = 3);
    assert_eq!(kinds(&next.journal(row.id).await)[3..], ["notice"]);
    next.engine.recover().await.unwrap();
    assert_eq!(ended(&next, row.id).await.status, RequestStatus::Completed);
}

#[tokio::test]
async fn only_so_many_are_taken_up_at_a_time() {
    let server = ModelServer::start(script().on_text("go").reply(Reply::text("done")))
        .await
        .unwrap();
    server.hold();
    let rig = Rig::new(Bot::on(&[(&server, Protocol::Openai)])).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(rig.invoke("go").await.request_id);
    }
    server.wait_for_held(5).await.unwrap();
    // The first process is gone in the middle of its model calls.
    assert!(!rig.engine.drain(Duration::ZERO).await);
    server.wait_for_held(0).await.unwrap();
    let mut next = rig.restarted();
    recovery(&mut next, |config| config.parallelism = 2);
    assert_eq!(next.engine.recover().await.unwrap(), 5);
    server.wait_for_held(2).await.unwrap();
    let waiting = || ids.iter().filter(|id| next.engine.waiting(**id).is_some());
    until("the others", || waiting().count() == 3).await;
    assert_eq!(server.held(), 2);
    let reason = next.engine.waiting(ids[4]).unwrap().reason;
    assert!(reason.contains("recovery.parallelism"), "{reason}");
    // The oldest come first, and one that waits can be cancelled.
    assert!(next.engine.waiting(ids[0]).is_none() && next.engine.waiting(ids[1]).is_none());
    let row = soon("cancel", next.engine.cancel(ids[4], "test"))
        .await
        .unwrap();
    assert_eq!(row.status, RequestStatus::Cancelled);
    for held in [2, 1] {
        server.release(1);
        server.wait_for_held(held).await.unwrap();
    }
    server.release_all();
    for id in &ids[..4] {
        assert_eq!(ended(&next, *id).await.output, Some(json!("done")));
    }
}

#[tokio::test]
async fn requests_of_a_session_are_taken_up_in_their_order() {
    let server = ModelServer::start(script()).await.unwrap();
    server.hold();
    let rig = Rig::new(Bot::on(&[(&server, Protocol::Openai)])).await;
    let session = SessionId::generate();
    let mut ids = Vec::new();
    for input in ["one", "two", "three"] {
        ids.push(rig.invoke_in(&session, input).await.request_id);
    }
    server.wait_for_held(1).await.unwrap();
    assert!(!rig.engine.drain(Duration::ZERO).await);
    server.wait_for_held(0).await.unwrap();
    let asked = server.requests().len();
    let mut next = rig.restarted();
    recovery(&mut next, |config| config.parallelism = 2);
    next.engine.recover().await.unwrap();
    server.release_all();
    for id in ids {
        assert_eq!(ended(&next, id).await.status, RequestStatus::Completed);
    }
    let last = |body: &serde_json::Value| {
        body["messages"].as_array().unwrap().last().unwrap()["content"].clone()
    };
    let said: Vec<_> = server.requests()[asked..]
        .iter()
        .map(|request| last(&request.body))
        .collect();
    assert_eq!(said, ["one", "two", "three"]);
}

#[tokio::test(start_paused = true)]
async fn a_busy_agent_ends_no_request_that_is_taken_up() {
    let slow = json!([{"match": {"contains": "slow"}, "delay_ms": 100_000, "respond": "late"}]);
    let bot = Bot::new()
        .set_in("runtime", "concurrency_limit", json!(1))
        .script(&slow);
    let rig = Rig::new(bot).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(rig.engine.invoke(call("slow")).await.unwrap().request_id);
    }
    assert!(!rig.engine.drain(Duration::ZERO).await);
    let next = rig.restarted();
    assert_eq!(next.engine.recover().await.unwrap(), 3);
    for id in ids {
        let events = next.engine.events(id, 0).await.unwrap();
        events.ending().await.unwrap();
        let row = next.engine.request(id).await.unwrap();
        assert_eq!(row.output, Some(json!("late")), "{:?}", row.failure);
    }
}

/// Panics so often before it gives an image.
struct Fragile(AtomicU32);

#[async_trait]
impl BlobStore for Fragile {
    async fn put(&self, _: Bytes) -> Result<String, StoreError> {
        Ok(format!("sha256:{}", "0".repeat(64)))
    }

    async fn get(&self, _: &str) -> Result<Bytes, StoreError> {
        let left = self.0.fetch_sub(1, Ordering::Relaxed);
        assert!(left == 0, "a fault of the program");
        Ok(Bytes::from_static(b"image"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_panics_is_tried_again_and_given_up_in_the_end() {
    for (panics, status) in [(2, RequestStatus::Completed), (100, RequestStatus::Failed)] {
        let rig = Rig::new(Bot::new()).await;
        let engine = Engine::new(rig.store.clone(), rig.router.clone(), rig.tasks.clone())
            .with_blobs(Arc::new(Fragile(AtomicU32::new(panics))));
        rig.tasks.spawn("retake", engine.clone().retake());
        let image =
            json!({"type": "image", "media_type": "image/png", "data": "iVBO".repeat(1 << 20)});
        let invocation = Invocation {
            input: json!([{"type": "text", "text": "look"}, image]),
            // With a key it is accepted before it runs.
            idempotency: Some(IdempotencyKey {
                scope: "test".to_owned(),
                key: "k".to_owned(),
                fingerprint: "look".to_owned(),
            }),
            ..call("")
        };
        let id = engine.invoke(invocation).await.unwrap().request_id;
        let row = soon("the end", async {
            loop {
                let row = engine.request(id).await.unwrap();
                if row.status.is_terminal() {
                    break row;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let row = row.await;
        assert_eq!(row.status, status, "{:?}", row.failure);
        if let Some(failure) = row.failure {
            assert!(
                failure.message.contains("given up after 5 attempts"),
                "{failure}"
            );
        }
        rig.tasks.shutdown().cancel();
    }
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_no_crash() {
    let rig = Rig::new(Bot::new()).await;
    let whole = rig.ask("go").await;
    let mut next = rig.cut(&whole.row, &whole.journal, 1).await;
    recovery(&mut next, |config| config.max_attempts = 2);
    for _ in 0..4 {
        next.spy.reset();
        // That it was taken up is stored, its end is not.
        next.spy.fail(1, false);
        assert_eq!(next.engine.recover().await.unwrap(), 1);
        next.idle().await;
    }
    next.spy.reset();
    assert_eq!(next.engine.recover().await.unwrap(), 1);
    let row = ended(&next, whole.row.id).await;
    assert_eq!((row.status, row.attempts), (RequestStatus::Completed, 5));
}
