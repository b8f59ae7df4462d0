//! What is stored when, and what happens where the caller or the store goes away.

use std::time::Duration;

use rune_runtime::Invocation;
use rune_store_runtime::{IdempotencyKey, PageRequest, RequestFilter, RequestRow, RequestStatus};
use rune_testkit::{Fault, ModelScript, ModelServer, Protocol, Reply};
use serde_json::json;

use super::harness::{Bot, Rig, call, soon, until};

fn keyed(input: &str) -> Invocation {
    Invocation {
        idempotency: Some(IdempotencyKey {
            scope: "test".to_owned(),
            key: "k".to_owned(),
            fingerprint: input.to_owned(),
        }),
        ..call(input)
    }
}

fn two_steps() -> Bot {
    Bot::new().tool("step", &json!({}), "cat >/dev/null; echo 1\n").script(&json!([
        {"match": {"contains": "go", "step": 1}, "tool_calls": [{"name": "step"}, {"name": "step"}]},
        {"match": {"contains": "go"}, "respond": "done"},
        {"respond": "Echo: {{ input }}"},
    ]))
}

async fn all(rig: &Rig) -> Vec<RequestRow> {
    let page = PageRequest::first(PageRequest::MAX_LIMIT);
    let found = rig.store.requests(&RequestFilter::default(), &page).await;
    found.unwrap().items
}

#[tokio::test]
async fn a_request_runs_whatever_its_caller_does() {
    for invocation in [call("go"), keyed("go")] {
        let mut complete = false;
        for polls in 1..200 {
            let rig = Rig::new(two_steps()).await;
            rig.spy.slow(2);
            {
                let invoking = rig.engine.invoke(invocation.clone());
                tokio::pin!(invoking);
                for _ in 0..polls {
                    complete = futures_util::poll!(&mut invoking).is_ready();
                    if complete {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            rig.idle().await;
            let rows = all(&rig).await;
            assert_eq!(rows.len(), 1);
            assert_eq!(rows[0].status, RequestStatus::Completed);
            if complete {
                break;
            }
        }
        assert!(complete);
    }
}

#[tokio::test]
async fn a_key_makes_one_request_of_two() {
    let rig = Rig::new(two_steps()).await;
    rig.spy.slow(5);
    let (one, two) = tokio::join!(
        rig.engine.invoke(keyed("go")),
        rig.engine.invoke(keyed("go"))
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.request_id, two.request_id);
    assert_eq!(one.session_id, two.session_id);
    let (one, two) = (rig.end(one).await, rig.end(two).await);
    assert_eq!((one.output(), two.output()), ("done", "done"));
    assert_eq!(one.kinds(), two.kinds());
    assert_eq!(all(&rig).await.len(), 1);
    let error = rig.engine.invoke(Invocation {
        idempotency: keyed("other").idempotency,
        ..call("go")
    });
    assert_eq!(error.await.err().unwrap().code().as_str(), "conflict");
    rig.idle().await;
}

#[tokio::test]
async fn on_finish_stores_the_beginning_and_the_end() {
    let bot = two_steps().set_in("runtime", "checkpoint_policy", json!("on_finish"));
    let rig = Rig::new(bot).await;
    let ended = rig.ask("go").await;
    assert_eq!(ended.output(), "done");
    assert_eq!(rig.spy.commands(), ["AcceptRequest", "AppendEntries"]);
    let seen: Vec<u64> = ended.events.iter().filter_map(|event| event.seq).collect();
    assert_eq!(seen, (1..=ended.row.last_seq).collect::<Vec<_>>());
    rig.assert_usable(&ended.row.session_id).await;
}

#[tokio::test]
async fn never_stores_nothing() {
    let bot = two_steps().set_in("runtime", "checkpoint_policy", json!("never"));
    let rig = Rig::new(bot).await;
    let mut invoked = rig.invoke("go").await;
    let mut names = Vec::new();
    while let Some(event) = soon("events", invoked.events.next()).await.unwrap() {
        names.push(event.event.name());
    }
    assert_eq!(
        (names.first(), names.last()),
        (Some(&"accepted"), Some(&"done"))
    );
    assert!(rig.spy.commands().is_empty());
    rig.idle().await;
    assert!(rig.engine.request(invoked.request_id).await.is_err());
}

#[tokio::test]
async fn a_key_is_refused_where_nothing_is_kept() {
    let bot = two_steps().set_in("runtime", "checkpoint_policy", json!("never"));
    let rig = Rig::new(bot).await;
    let error = rig.engine.invoke(keyed("go")).await.err().unwrap();
    assert_eq!(error.code().as_str(), "invalid_input");
    assert!(error.to_string().contains("checkpoint_policy"), "{error}");
    assert!(rig.spy.commands().is_empty());
    assert_eq!(rig.engine.active(), 0);
}

#[tokio::test]
async fn a_store_that_fails_once_leaves_no_request_behind() {
    for applied in [false, true] {
        for index in 0.. {
            let rig = Rig::new(two_steps()).await;
            rig.spy.fail(index, applied);
            match soon("invoke", rig.engine.invoke(call("go"))).await {
                Ok(invoked) => drop(rig.end(invoked).await),
                Err(error) => assert_eq!(error.code().as_str(), "unavailable"),
            }
            rig.idle().await;
            let reached = rig.spy.commands().len() > index;
            rig.spy.reset();
            rig.engine.recover().await.unwrap();
            rig.idle().await;
            for row in all(&rig).await {
                assert_eq!(
                    row.status,
                    RequestStatus::Completed,
                    "command {index}: {:?}",
                    row.failure
                );
                rig.assert_usable(&row.session_id).await;
            }
            if !reached {
                break;
            }
        }
    }
}

#[tokio::test]
async fn drain_waits_for_what_ends_in_time() {
    let server = ModelServer::start(ModelScript::new().latency(Duration::from_millis(100)))
        .await
        .unwrap();
    let rig = Rig::new(Bot::on(&[(&server, Protocol::Openai)])).await;
    let invoked = rig.invoke("hello").await;
    assert!(rig.engine.drain(super::harness::HANG).await);
    let error = rig.engine.invoke(call("late")).await.err().unwrap();
    assert_eq!(error.code().as_str(), "unavailable");
    assert_eq!(rig.end(invoked).await.output(), "Echo: hello");
}

#[tokio::test]
async fn what_does_not_end_in_time_is_taken_up_by_the_next_start() {
    let script = ModelScript::new()
        .on_text("stall")
        .fault_first(Fault::stall_after(1))
        .reply(Reply::text(["o", "k"]));
    let server = ModelServer::start(script).await.unwrap();
    let rig = Rig::new(Bot::on(&[(&server, Protocol::Openai)])).await;
    let invoked = rig.invoke("stall").await;
    until("the start", || rig.spy.commands().len() == 2).await;
    assert!(!rig.engine.drain(Duration::from_millis(10)).await);
    // It is stopped at once: nothing is left that the process would have to wait for.
    assert_eq!(rig.engine.active(), 0);
    server.wait_for_open_streams(0).await.unwrap();
    let next = rig.restarted();
    assert_eq!(next.engine.recover().await.unwrap(), 1);
    let events = next.engine.events(invoked.request_id, 0).await.unwrap();
    soon("the end", events.ending()).await.unwrap();
    next.idle().await;
    let row = next.engine.request(invoked.request_id).await.unwrap();
    assert_eq!((row.status, row.attempts), (RequestStatus::Completed, 2));
    assert_eq!(row.output, Some(json!("ok")));
}
