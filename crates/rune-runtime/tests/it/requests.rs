//! A request from its acceptance to its end.

use rune_runtime::Ending;
use rune_store_runtime::{EntryBody, RequestStatus, SessionId};
use rune_testkit::{ModelScript, ModelServer, Protocol, Reply, ToolCall};
use serde_json::json;

use super::harness::{Bot, HANG, Rig, soon};

const ADD: &str =
    "import json, sys\nd = json.load(sys.stdin)\nprint(json.dumps({'sum': d['a'] + d['b']}))\n";

#[tokio::test]
async fn a_plain_request_takes_two_commands() {
    let rig = Rig::new(Bot::new()).await;
    let ended = rig.ask("hello").await;
    assert_eq!(ended.output(), "Echo: hello");
    assert_eq!(rig.spy.commands(), ["AcceptRequest", "AppendEntries"]);
    assert_eq!(
        ended.kinds(),
        ["accepted", "started", "model_reply", "finished"]
    );
    let names = ended.event_names();
    assert_eq!(
        (names.first(), names.last()),
        (Some(&"accepted"), Some(&"done"))
    );
    assert_eq!(ended.text(), "Echo: hello");
    assert_eq!(ended.row.status, RequestStatus::Completed);
}

#[tokio::test]
async fn the_model_is_asked_while_the_acceptance_is_committed() {
    let server = ModelServer::start(ModelScript::new()).await.unwrap();
    let rig = Rig::new(Bot::on(&[(&server, Protocol::Openai)])).await;
    let free = rig.spy.hold(0);
    let engine = rig.engine.clone();
    let call = super::harness::call("hello");
    let invoking = rig
        .tasks
        .spawn("invoke", async move { engine.invoke(call).await });
    server.wait_for_requests(1).await.unwrap();
    server.wait_for_open_streams(0).await.unwrap();
    assert!(!invoking.is_finished());
    free.cancel();
    let invoked = soon("invoke", invoking).await.unwrap().unwrap().unwrap();
    let ended = rig.end(invoked).await;
    assert_eq!(ended.event_names()[0], "accepted");
    assert_eq!(ended.text(), "Echo: hello");
}

#[tokio::test]
async fn two_parallel_tools_work_over_every_protocol() {
    for protocol in Protocol::ALL {
        let script = ModelScript::new()
            .on_text("sum")
            .reply(Reply::calls([
                ToolCall::new("add", json!({"a": 2, "b": 3})),
                ToolCall::new("rune__system-time", json!({"timezone": "UTC"})),
            ]))
            .then(Reply::text("It is 5."));
        let server = ModelServer::start(script).await.unwrap();
        let bot = Bot::on(&[(&server, protocol)])
            .tool("add", &json!({}), ADD)
            .builtin("rune@system-time");
        let rig = Rig::new(bot).await;
        let ended = rig.ask("the sum, please").await;
        assert_eq!(ended.output(), "It is 5.", "{:?}", ended.row.failure);
        let kinds = ended.kinds();
        let expected = [
            "accepted",
            "started",
            "model_reply",
            "policy_verdict",
            "tool_intent",
            "policy_verdict",
            "tool_intent",
            "tool_result",
            "tool_result",
            "model_reply",
            "finished",
        ];
        assert_eq!(kinds, expected, "{protocol:?}");
        let mut results = ended.results();
        results.sort();
        assert_eq!(results[0], ("add".to_owned(), r#"{"sum":5}"#.to_owned()));
        // The next turn carries the history, and the server accepts it.
        rig.assert_usable(&ended.row.session_id).await;
        let last = server.requests().pop().unwrap();
        assert_eq!(last.status, Some(200));
        let body = last.body.to_string();
        assert!(
            body.contains("the sum, please") && body.contains("It is 5."),
            "{body}"
        );
    }
}

#[tokio::test]
async fn the_next_turn_waits_for_the_one_before_it_and_sees_it() {
    let server = ModelServer::start(ModelScript::new()).await.unwrap();
    let rig = Rig::new(Bot::on(&[(&server, Protocol::Anthropic)])).await;
    let first = rig.invoke("one").await;
    let session = first.session_id.clone();
    let mut rest = Vec::new();
    for text in ["two", "three", "four"] {
        rest.push(rig.invoke_in(&session, text).await);
    }
    assert_eq!(rig.end(first).await.output(), "Echo: one");
    for (invoked, text) in rest.into_iter().zip(["two", "three", "four"]) {
        assert_eq!(rig.end(invoked).await.output(), format!("Echo: {text}"));
    }
    let texts: Vec<String> = server
        .requests()
        .iter()
        .map(|r| r.body["messages"].to_string())
        .collect();
    assert_eq!(texts.len(), 4);
    for (index, text) in texts.iter().enumerate() {
        let seen: Vec<bool> = ["one", "two", "three", "four"]
            .iter()
            .map(|word| text.contains(&format!("Echo: {word}")))
            .collect();
        let expected: Vec<bool> = (0..4).map(|turn| turn < index).collect();
        assert_eq!(seen, expected, "turn {index}: {text}");
    }
}

/// The next turn begins as soon as the last event of the one before is seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_turn_is_missing_from_the_history() {
    let server = ModelServer::start(ModelScript::new()).await.unwrap();
    let rig = Rig::new(Bot::on(&[(&server, Protocol::Openai)])).await;
    let mut invoked = rig.invoke("turn").await;
    let session = invoked.session_id.clone();
    for _ in 1..19 {
        let ending = soon("the turn", invoked.events.ending()).await.unwrap();
        assert!(matches!(ending, Ending::Ended(last) if last.name() == "done"));
        invoked = rig.invoke_in(&session, "turn").await;
    }
    rig.end(invoked).await;
    for (index, request) in server.requests().iter().enumerate() {
        let messages = request.body["messages"].as_array().unwrap();
        let users = messages.iter().filter(|message| message["role"] == "user");
        assert_eq!(users.count(), index + 1);
    }
}

#[tokio::test]
async fn an_input_that_breaks_the_schema_is_refused() {
    let rig = Rig::new(Bot::new().set("input_schema", json!({"type": "object"}))).await;
    let error = rig
        .engine
        .invoke(super::harness::call("text"))
        .await
        .err()
        .unwrap();
    assert_eq!(error.code().as_str(), "invalid_input");
    assert!(rig.spy.commands().is_empty());
}

#[tokio::test]
async fn a_reply_that_the_store_refuses_fails_the_request() {
    let reply = "x".repeat((1 << 20) + 10);
    let script = ModelScript::new()
        .on_text("much")
        .reply(Reply::text(reply.as_str()));
    let server = ModelServer::start(script).await.unwrap();
    let rig = Rig::new(Bot::on(&[(&server, Protocol::Openai)])).await;
    let ended = rig.ask("much").await;
    assert_eq!(ended.row.status, RequestStatus::Failed);
    assert!(matches!(
        ended.journal.last().unwrap().body,
        EntryBody::Finished { .. }
    ));
    assert_eq!(ended.event_names().last(), Some(&"error"));
    rig.assert_usable(&ended.row.session_id).await;
}

#[tokio::test]
async fn a_session_in_use_keeps_its_replica_however_many_there_are() {
    let rig = Rig::new(Bot::new()).await;
    rig.add_replica();
    let lease = async |name: &str| {
        let session: SessionId = name.parse().unwrap();
        let lease = rig.router.lease(rig.deployment.id, &session, None, HANG);
        lease.await.unwrap()
    };
    // From now on the other replica is the less loaded one.
    let held = lease("kept").await;
    for n in 0..25_000 {
        drop(lease(&format!("s-{n}")).await);
        if n % 1_000 == 0 {
            assert_eq!(lease("kept").await.replica().id(), held.replica().id());
        }
    }
}
