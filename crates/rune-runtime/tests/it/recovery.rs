//! A request that was interrupted anywhere ends, and its effects are not repeated.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rune_store_runtime::{Block, Entry, EntryBody, Message, RequestStatus, Role};
use rune_testkit::{ModelServer, Protocol, Reply, ToolCall};
use serde_json::json;

use super::harness::{Bot, Ended, Rig, script, soon};

/// The effect of a tool: its key in a file.
fn effect(file: &str) -> String {
    format!("cat >/dev/null; echo $RUNE_IDEMPOTENCY_KEY >> {file}; echo '\"done\"'\n")
}

/// Five model turns with tools that may and may not be repeated.
fn five_steps() -> Bot {
    Bot::new()
        .tool("again", &json!({"idempotent": true}), &effect("again.log"))
        .tool("once", &json!({}), &effect("once.log"))
        .tool("slow", &json!({}), &format!("sleep 0.02; {}", effect("once.log")))
        .script(&json!([
            {"match": {"step": 1, "contains": "go"}, "tool_calls": [{"name": "again"}]},
            {"match": {"step": 2, "contains": "go"}, "tool_calls": [{"name": "once"}, {"name": "slow"}]},
            {"match": {"step": 3, "contains": "go"}, "tool_calls": [{"name": "nope"}, {"name": "again"}]},
            {"match": {"step": 4, "contains": "go"}, "tool_calls": [{"name": "once"}]},
            {"match": {"step": 5, "contains": "go"}, "respond": "done"},
            {"respond": "Echo: {{ input }}"},
        ]))
}

/// Takes up what `next` has and follows it to its end.
pub(crate) async fn recovered(next: &Rig, of: &Ended) -> Ended {
    assert_eq!(next.engine.recover().await.unwrap(), 1);
    let events = next.engine.events(of.row.id, 0).await.unwrap();
    soon("the recovered request", events.ending())
        .await
        .unwrap();
    next.idle().await;
    Ended {
        row: next.engine.request(of.row.id).await.unwrap(),
        events: Vec::new(),
        journal: next.journal(of.row.id).await,
    }
}

/// Every call has exactly one result, and nothing follows the end.
pub(crate) fn assert_whole(journal: &[Entry]) {
    let mut calls: BTreeMap<&str, u32> = BTreeMap::new();
    for entry in journal {
        match &entry.body {
            EntryBody::ModelReply(reply) => {
                for block in &reply.blocks {
                    if let Block::ToolCall { id, .. } = block {
                        assert!(calls.insert(id, 0).is_none());
                    }
                }
            }
            EntryBody::ToolResult(outcome) => {
                *calls.get_mut(outcome.call_id.as_str()).unwrap() += 1;
            }
            _ => {}
        }
    }
    assert!(calls.values().all(|results| *results == 1), "{calls:?}");
    assert_eq!(journal.last().unwrap().body.kind(), "finished");
}

#[tokio::test]
async fn a_request_cut_after_any_entry_ends_and_repeats_no_effect() {
    let rig = Rig::new(five_steps()).await;
    let whole = rig.ask("go").await;
    assert_eq!(whole.output(), "done", "{:?}", whole.row.failure);
    let length = whole.journal.len();
    assert!(length > 15);
    for cut in 1..length {
        rig.forget_file("again.log");
        rig.forget_file("once.log");
        let prefix = &whole.journal[..cut];
        // Every tool with an intent had its effect; only the result may be missing.
        let mut before = String::new();
        let mut open = Vec::new();
        for entry in prefix {
            match &entry.body {
                EntryBody::ToolIntent(intent) if !intent.idempotent => {
                    before.push_str(&format!("{}\n", intent.idempotency_key));
                    open.push(intent.call_id.clone());
                }
                EntryBody::ToolResult(outcome) => open.retain(|id| *id != outcome.call_id),
                _ => {}
            }
        }
        rig.write_file("once.log", &before);
        let next = rig.cut(&whole.row, &whole.journal, cut).await;
        let ended = recovered(&next, &whole).await;
        assert_eq!(
            ended.row.status,
            RequestStatus::Completed,
            "cut {cut}: {:?}",
            ended.row.failure
        );
        assert_eq!(ended.output(), "done");
        assert_whole(&ended.journal);
        let log = rig.file("once.log");
        let mut keys: Vec<&str> = log.lines().collect();
        keys.sort_unstable();
        let count = keys.len();
        keys.dedup();
        assert_eq!((keys.len(), count), (3, 3), "cut {cut}");
        let mut unknown: Vec<&str> = Vec::new();
        for entry in &ended.journal {
            if let EntryBody::ToolResult(outcome) = &entry.body
                && outcome.content.contains("unknown")
            {
                unknown.push(&outcome.call_id);
            }
        }
        assert_eq!(unknown, open, "cut {cut}");
        let started = prefix
            .iter()
            .filter(|entry| entry.body.kind() == "started")
            .count();
        assert_eq!(ended.row.attempts as usize, started + 1);
        // Where it was interrupted shows in its journal, so it can be replayed.
        let replayed = next.engine.replay(ended.row.id).await.unwrap();
        assert!(replayed.equal, "cut {cut}: {:?}", replayed.divergence);
        next.assert_usable(&whole.row.session_id).await;
    }
}

#[tokio::test]
async fn a_request_that_never_gets_through_is_given_up() {
    let rig = Rig::new(five_steps()).await;
    let whole = rig.ask("go").await;
    // accepted, then five starts, the first reply, its verdict and its intent.
    let mut journal = vec![whole.journal[0].clone()];
    for attempt in 1..=5 {
        let mut started = whole.journal[1].clone();
        if let EntryBody::Started { attempt: n, .. } = &mut started.body {
            *n = attempt;
        }
        journal.push(started);
    }
    journal.extend_from_slice(&whole.journal[2..5]);
    let next = rig.cut(&whole.row, &journal, journal.len()).await;
    let ended = recovered(&next, &whole).await;
    assert_eq!(
        ended.row.failure.as_ref().unwrap().code.as_str(),
        "internal"
    );
    assert_whole(&ended.journal);
    assert!(ended.results()[0].1.contains("unknown"));
    next.assert_usable(&whole.row.session_id).await;
}

#[tokio::test]
async fn crashes_count_where_nothing_is_stored_before_the_end() {
    let script = script()
        .on_text("go")
        .reply(Reply::echo().first_byte_after(super::harness::HANG * 10));
    let server = ModelServer::start(script).await.unwrap();
    let bot = Bot::on(&[(&server, Protocol::Openai)]).set_in(
        "runtime",
        "checkpoint_policy",
        json!("on_finish"),
    );
    let mut rig = Rig::new(bot).await;
    let id = rig.invoke("go").await.request_id;
    server.wait_for_requests(1).await.unwrap();
    // Each time the process is gone in the middle of the model call.
    for attempt in 1..=5 {
        rig = rig.restarted();
        assert_eq!(rig.engine.recover().await.unwrap(), 1);
        server.wait_for_requests(attempt + 1).await.unwrap();
        assert_eq!(
            rig.engine.request(id).await.unwrap().attempts as usize,
            attempt
        );
    }
    let last = rig.restarted();
    last.engine.recover().await.unwrap();
    let row = last.engine.request(id).await.unwrap();
    assert_eq!(row.status, RequestStatus::Failed);
    assert!(row.failure.unwrap().message.contains("given up"));
}

#[tokio::test]
async fn a_request_whose_deployment_is_gone_fails() {
    let rig = Rig::new(five_steps()).await;
    let whole = rig.ask("go").await;
    let next = rig.cut(&whole.row, &whole.journal, 3).await;
    next.router.remove_deployment(next.deployment.id);
    let ended = recovered(&next, &whole).await;
    assert_eq!(
        ended.row.failure.as_ref().unwrap().code.as_str(),
        "not_found"
    );
    assert_whole(&ended.journal);
}

#[tokio::test]
async fn a_request_is_taken_up_before_its_agent_is_loaded() {
    let rig = Rig::new(five_steps()).await;
    let whole = rig.ask("go").await;
    rig.forget_file("once.log");
    let next = rig.cut(&whole.row, &whole.journal, 2).await;
    let deployment = next.deployment.id;
    let loaded = next.router.replicas(deployment).remove(0);
    next.router.remove_replica(deployment, loaded.id());
    assert_eq!(next.engine.recover().await.unwrap(), 1);
    let events = next.engine.events(whole.row.id, 0).await.unwrap();
    assert_eq!(next.engine.active(), 1);
    next.add_replica();
    soon("the request", events.ending()).await.unwrap();
    next.idle().await;
    let row = next.engine.request(whole.row.id).await.unwrap();
    assert_eq!((row.output, row.attempts), (Some(json!("done")), 2));
    assert_whole(&next.journal(whole.row.id).await);
}

#[tokio::test]
async fn a_cancel_before_the_crash_is_kept() {
    let rig = Rig::new(five_steps()).await;
    let whole = rig.ask("go").await;
    let mut journal = whole.journal[..5].to_vec();
    journal.push(Entry {
        body: EntryBody::CancelRequested {
            reason: "test".to_owned(),
        },
        ..whole.journal[0].clone()
    });
    let next = rig.cut(&whole.row, &journal, 6).await;
    let ended = recovered(&next, &whole).await;
    assert_eq!(ended.row.status, RequestStatus::Cancelled);
    assert_whole(&ended.journal);
    assert!(
        ended.results()[0].1.contains("unknown"),
        "the tool may have run"
    );
}

#[tokio::test]
async fn cancel_ends_what_no_task_runs() {
    let rig = Rig::new(five_steps()).await;
    let whole = rig.ask("go").await;
    let next = rig.cut(&whole.row, &whole.journal, 3).await;
    let row = next.engine.cancel(whole.row.id, "test").await.unwrap();
    assert_eq!(row.status, RequestStatus::Cancelled);
    assert_whole(&next.journal(whole.row.id).await);
    assert_eq!(next.engine.recover().await.unwrap(), 0);
}

/// What the model does in one turn of a random conversation.
fn any_turn() -> impl Strategy<Value = Vec<&'static str>> {
    let call = prop_oneof![Just("good"), Just("bad"), Just("nope"), Just("picky")];
    proptest::collection::vec(call, 0..4)
}

/// What every provider asks of a history.
fn assert_acceptable(messages: &[Message]) {
    for (index, message) in messages.iter().enumerate() {
        let mut calls: Vec<&String> = Vec::new();
        for block in &message.blocks {
            if let Block::ToolCall { id, .. } = block {
                calls.push(id);
            }
        }
        let mut results: Vec<&String> = Vec::new();
        for next in messages[index + 1..]
            .iter()
            .take_while(|next| next.role == Role::Tool)
        {
            for block in &next.blocks {
                if let Block::ToolResult { call_id, .. } = block {
                    results.push(call_id);
                }
            }
        }
        calls.sort();
        results.sort();
        if message.role == Role::Assistant {
            assert_eq!(calls, results);
        }
    }
}

async fn random_session(
    turns: Vec<Vec<&'static str>>,
    cancel_at: Option<usize>,
    protocol: Protocol,
) {
    let mut script = script().on_text("go");
    for turn in &turns {
        let calls = turn.iter().map(|name| ToolCall::new(*name, json!({})));
        script = script.reply(Reply::calls(calls).saying("hm"));
    }
    let server = ModelServer::start(script.reply(Reply::text("done")))
        .await
        .unwrap();
    let picky = json!({"input_schema": {"type": "object", "required": ["a"]}});
    let bot = Bot::on(&[(&server, protocol)])
        .tool("good", &json!({}), "cat >/dev/null; echo 1\n")
        .tool("bad", &json!({}), "cat >/dev/null; exit 1\n")
        .tool("picky", &picky, "cat >/dev/null; echo 1\n");
    let rig = Rig::new(bot).await;
    let invoked = rig.invoke("go").await;
    let id = invoked.request_id;
    if let Some(commands) = cancel_at {
        let reached = rig.spy.wait_for(commands);
        let ended = async {
            while rig.engine.active() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! { () = reached => {}, () = ended => {} }
        rig.engine.cancel(id, "test").await.unwrap();
    }
    let ended = rig.end(invoked).await;
    assert_whole(&ended.journal);
    let messages = ended.journal.iter().cloned();
    let messages = messages.filter_map(|entry| entry.body.into_message(None));
    assert_acceptable(&messages.collect::<Vec<_>>());
    // The script cannot see a text beside tool results, so it may go on where it was.
    let next = rig.ask_in(&ended.row.session_id, "and now?").await;
    assert_eq!(next.row.status, RequestStatus::Completed);
    assert!(
        server
            .requests()
            .iter()
            .all(|request| request.status != Some(400))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_conversation_breaks_its_session(
        turns in proptest::collection::vec(any_turn(), 0..4),
        cancel_at in proptest::option::of(1_usize..8),
        protocol in prop_oneof![Just(Protocol::Anthropic), Just(Protocol::Openai), Just(Protocol::Gemini)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(random_session(turns, cancel_at, protocol));
    }
}
