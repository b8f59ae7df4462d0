//! Every fault of a provider ends in a retry, the next provider or a clear failure.

use rune_runtime::RequestEvent;
use rune_store_runtime::RequestStatus;
use rune_testkit::{CutAt, Fault, Garbage, ModelScript, ModelServer, Protocol, Reply, ToolCall};
use serde_json::json;
use std::time::Duration;

use super::harness::{Bot, Rig, script};

/// The fault, once or always, before the answer to "please".
fn faulty(fault: Fault) -> ModelScript {
    script()
        .on_text("please")
        .fault_first(fault)
        .reply(Reply::text(["all ", "well"]))
}

fn faults() -> Vec<Fault> {
    vec![
        Fault::status(429).retry_after_ms(1),
        Fault::status(500).retry_after_ms(1),
        Fault::overloaded().retry_after_ms(1),
        Fault::close(),
        Fault::cut(CutAt::AfterText),
        Fault::cut(CutAt::InUtf8),
        Fault::garbage(Garbage::DataLine),
        Fault::garbage(Garbage::Html),
        Fault::no_terminal(),
    ]
}

#[tokio::test]
async fn one_fault_is_made_good() {
    for (index, fault) in faults().into_iter().enumerate() {
        let protocol = Protocol::ALL[index % 3];
        let server = ModelServer::start(faulty(fault.clone())).await.unwrap();
        let rig = Rig::new(Bot::on(&[(&server, protocol)])).await;
        let ended = rig.ask("please").await;
        assert_eq!(
            ended.output(),
            "all well",
            "{fault:?} {protocol:?} {:?}",
            ended.row.failure
        );
        rig.assert_usable(&ended.row.session_id).await;
    }
}

#[tokio::test]
async fn a_fault_that_stays_goes_to_the_next_provider_or_fails() {
    let more = [
        Fault::status(401),
        Fault::status(400),
        Fault::context_overflow(),
        Fault::error_event(),
        Fault::stall_after(1),
    ];
    for (index, fault) in faults().into_iter().chain(more).enumerate() {
        let (one, two) = (Protocol::ALL[index % 3], Protocol::ALL[(index + 1) % 3]);
        let bad = ModelServer::start(faulty(fault.clone().always()))
            .await
            .unwrap();
        let good = ModelServer::start(ModelScript::new()).await.unwrap();
        let short = |loader: &mut rune_runtime::AgentLoader| {
            loader.timeouts.idle = Duration::from_millis(300);
            loader.timeouts.first_byte = Duration::from_secs(5);
        };
        let alone = Rig::with_loader(Bot::on(&[(&bad, one)]), short).await;
        let ended = alone.ask("please").await;
        assert_eq!(ended.row.status, RequestStatus::Failed, "{fault:?} {one:?}");
        assert_eq!(ended.event_names().last(), Some(&"error"));
        alone.assert_usable(&ended.row.session_id).await;

        let both = Rig::with_loader(Bot::on(&[(&bad, one), (&good, two)]), short).await;
        let ended = both.ask("please").await;
        let refused = match index {
            10 => Some("invalid_input"),
            11 => Some("too_large"),
            _ => None,
        };
        match refused {
            // Another provider would only hide these.
            Some(code) => assert_eq!(ended.row.failure.unwrap().code.as_str(), code),
            None => assert_eq!(
                ended.output(),
                "Echo: please",
                "{fault:?} {:?}",
                ended.row.failure
            ),
        }
    }
}

#[tokio::test]
async fn a_reply_that_breaks_off_is_reported_before_it_is_said_again() {
    let server = ModelServer::start(faulty(Fault::cut(CutAt::AfterText)))
        .await
        .unwrap();
    let rig = Rig::new(Bot::on(&[(&server, Protocol::Anthropic)])).await;
    let ended = rig.ask("please").await;
    let mut text = String::new();
    let mut parts = Vec::new();
    for event in &ended.events {
        match &event.event {
            RequestEvent::Token { text: more } => text.push_str(more),
            RequestEvent::ModelFailed { .. } => parts.push(std::mem::take(&mut text)),
            _ => {}
        }
    }
    assert_eq!(parts, ["all well"]);
    assert_eq!(text, "all well");
    assert_eq!(ended.output(), "all well");
    let expected = [
        "accepted",
        "started",
        "model_failed",
        "model_reply",
        "finished",
    ];
    assert_eq!(ended.kinds(), expected);
}

#[tokio::test]
async fn the_next_provider_gets_the_tool_state() {
    for (one, two) in [
        (Protocol::Anthropic, Protocol::Gemini),
        (Protocol::Gemini, Protocol::Openai),
        (Protocol::Openai, Protocol::Anthropic),
    ] {
        let calls = Reply::calls([ToolCall::new("t", json!({})), ToolCall::new("t", json!({}))]);
        let first = ModelScript::new()
            .on_results(0)
            .reply(calls)
            .times(1)
            .on_results(2)
            .fault_first(Fault::status(401).always())
            .reply(Reply::text("never"));
        let first = ModelServer::start(first).await.unwrap();
        let second = ModelServer::start(
            ModelScript::new()
                .on_results(2)
                .reply(Reply::text("taken over")),
        )
        .await
        .unwrap();
        let bot = Bot::on(&[(&first, one), (&second, two)]).tool(
            "t",
            &json!({}),
            "cat >/dev/null; echo 7\n",
        );
        let rig = Rig::new(bot).await;
        let ended = rig.ask("please").await;
        assert_eq!(
            ended.output(),
            "taken over",
            "{one:?} {two:?} {:?}",
            ended.row.failure
        );
        assert_eq!(second.requests().len(), 1);
    }
}
