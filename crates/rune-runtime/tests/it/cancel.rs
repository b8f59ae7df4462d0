//! Cancel ends a request wherever it is, soon and completely.

use std::time::{Duration, Instant};

use rune_runtime::Invoked;
use rune_store_runtime::RequestStatus;
use rune_testkit::{Fault, ModelScript, ModelServer, Protocol, Reply};
use serde_json::json;

use super::harness::{Bot, Ended, Rig, script, soon, until};

/// What is promised, and some for a busy machine.
const BOUND: Duration = Duration::from_millis(1500);

fn stalling() -> ModelScript {
    script()
        .on_text("stall")
        .fault_first(Fault::stall_after(1).always())
        .reply(Reply::text(["one ", "two"]))
}

async fn cancel(rig: &Rig, invoked: Invoked) -> Ended {
    let started = Instant::now();
    let row = soon("cancel", rig.engine.cancel(invoked.request_id, "test"))
        .await
        .unwrap();
    assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
    assert_eq!(row.status, RequestStatus::Cancelled);
    let ended = rig.end(invoked).await;
    assert_eq!(ended.event_names().last(), Some(&"error"));
    assert_contiguous(&ended);
    ended
}

/// The follower saw every entry once, in order.
fn assert_contiguous(ended: &Ended) {
    let seen: Vec<u64> = ended.events.iter().filter_map(|event| event.seq).collect();
    let stored: Vec<u64> = ended.journal.iter().map(|entry| entry.seq).collect();
    assert_eq!(seen, stored);
}

#[tokio::test]
async fn while_the_model_stalls() {
    for protocol in Protocol::ALL {
        let server = ModelServer::start(stalling()).await.unwrap();
        let rig = Rig::new(Bot::on(&[(&server, protocol)])).await;
        let mut invoked = rig.invoke("stall").await;
        soon("the first text", async {
            while let Some(event) = invoked.events.next().await.unwrap() {
                if event.event.name() == "token" {
                    break;
                }
            }
        })
        .await;
        let id = invoked.request_id;
        invoked.events = rig.engine.events(id, 0).await.unwrap();
        let ended = cancel(&rig, invoked).await;
        server.wait_for_open_streams(0).await.unwrap();
        rig.assert_usable(&ended.row.session_id).await;
    }
}

#[tokio::test]
async fn while_a_tool_sleeps_no_process_is_left() {
    let bot = Bot::new()
        .tool(
            "nap",
            &json!({}),
            "cat >/dev/null; sleep 60 & echo $! >> pids; echo $$ >> pids; wait; echo 1\n",
        )
        .script(&json!([
            {"match": {"contains": "nap", "step": 1}, "tool_calls": [{"name": "nap", "input": {}}]},
            {"respond": "Echo: {{ input }}"},
        ]));
    let rig = Rig::new(bot).await;
    let invoked = rig.invoke("nap").await;
    until("the tool", || rig.file("pids").lines().count() == 2).await;
    let ended = cancel(&rig, invoked).await;
    let expected = [
        "accepted",
        "started",
        "model_reply",
        "policy_verdict",
        "tool_intent",
        "cancel_requested",
        "tool_result",
        "finished",
    ];
    assert_eq!(ended.kinds(), expected);
    for pid in rig.file("pids").lines() {
        let path = format!("/proc/{pid}/stat");
        until("the process", || {
            std::fs::read_to_string(&path).is_ok_and(|stat| stat.contains(") Z "))
                || !std::path::Path::new(&path).exists()
        })
        .await;
    }
    rig.assert_usable(&ended.row.session_id).await;
}

#[tokio::test]
async fn while_it_waits_for_a_replica_or_its_turn() {
    let server = ModelServer::start(stalling()).await.unwrap();
    let bot =
        Bot::on(&[(&server, Protocol::Openai)]).set_in("runtime", "concurrency_limit", json!(1));
    let rig = Rig::new(bot).await;
    let busy = rig.invoke("stall").await;
    let (id, session) = (busy.request_id, busy.session_id.clone());
    server.wait_for_requests(1).await.unwrap();
    let queued = rig.invoke("queued for a replica").await;
    let behind = rig.invoke_in(&session, "waits for its turn").await;
    for waiting in [queued, behind] {
        let ended = cancel(&rig, waiting).await;
        assert_eq!(ended.kinds(), ["accepted", "cancel_requested", "finished"]);
    }
    assert_eq!(rig.engine.active(), 1);
    rig.engine.cancel(id, "test").await.unwrap();
    rig.assert_usable(&session).await;
}

#[tokio::test]
async fn twice_at_once_and_after_the_end() {
    let server = ModelServer::start(stalling()).await.unwrap();
    let rig = Rig::new(Bot::on(&[(&server, Protocol::Openai)])).await;
    let invoked = rig.invoke("stall").await;
    let id = invoked.request_id;
    let (one, two) = tokio::join!(rig.engine.cancel(id, "a"), rig.engine.cancel(id, "b"));
    assert_eq!(one.unwrap().status, RequestStatus::Cancelled);
    assert_eq!(two.unwrap().status, RequestStatus::Cancelled);
    let ended = rig.end(invoked).await;
    assert_contiguous(&ended);
    let asked = ended
        .kinds()
        .iter()
        .filter(|kind| **kind == "cancel_requested")
        .count();
    assert_eq!(asked, 1);
    let again = rig.engine.cancel(id, "c").await.unwrap();
    assert_eq!(again.last_seq, ended.row.last_seq);

    let done = rig.ask("hello").await;
    let row = rig.engine.cancel(done.row.id, "late").await.unwrap();
    assert_eq!(row.status, RequestStatus::Completed);
}

#[tokio::test]
async fn by_a_caller_that_goes_away() {
    let server = ModelServer::start(stalling()).await.unwrap();
    for polls in 0..4 {
        let rig = Rig::new(Bot::on(&[(&server, Protocol::Openai)])).await;
        let invoked = rig.invoke("stall").await;
        rig.spy.slow(3);
        {
            let cancelling = rig.engine.cancel(invoked.request_id, "test");
            tokio::pin!(cancelling);
            for _ in 0..=polls {
                let _ = futures_util::poll!(&mut cancelling);
                tokio::task::yield_now().await;
            }
        }
        let ended = rig.end(invoked).await;
        assert_eq!(ended.row.status, RequestStatus::Cancelled);
        assert_contiguous(&ended);
    }
}

#[tokio::test]
async fn where_the_store_does_not_say_that_it_was_recorded() {
    for applied in [false, true] {
        let server = ModelServer::start(stalling()).await.unwrap();
        let rig = Rig::new(Bot::on(&[(&server, Protocol::Openai)])).await;
        let invoked = rig.invoke("stall").await;
        until("the start", || rig.spy.commands().len() == 2).await;
        rig.spy.fail(2, applied);
        let cancelled = soon("cancel", rig.engine.cancel(invoked.request_id, "test")).await;
        assert_eq!(cancelled.unwrap_err().code().as_str(), "unavailable");
        // It has ended all the same, and its followers miss nothing.
        let ended = rig.end(invoked).await;
        assert_eq!(ended.row.status, RequestStatus::Cancelled);
        assert_eq!(ended.event_names().last(), Some(&"error"));
        assert_contiguous(&ended);
        assert_eq!(ended.kinds().contains(&"cancel_requested"), applied);
    }
}

#[tokio::test]
async fn one_that_is_never_stored_says_how_it_ended() {
    let server = ModelServer::start(stalling()).await.unwrap();
    let bot = Bot::on(&[(&server, Protocol::Openai)]).set_in(
        "runtime",
        "checkpoint_policy",
        json!("never"),
    );
    let rig = Rig::new(bot).await;
    let invoked = rig.invoke("stall").await;
    let row = soon("cancel", rig.engine.cancel(invoked.request_id, "test"))
        .await
        .unwrap();
    assert_eq!(row.status, RequestStatus::Cancelled);
    assert!(rig.spy.commands().is_empty());
}
