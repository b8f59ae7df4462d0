//! A task survives the daemon: it is looked at and followed after a crash.

use std::time::Duration;

use rune_testkit::{ModelScript, ModelServer, Protocol, Reply, TestDaemon, ToolCall};
use serde_json::{Value, json};

use super::{Stream, assembled, id, kinds, message, result};
use crate::home::{RUNE, Served};
use crate::wire::{Api, Tool, assert_no_panic, deploy};

const STEPS: usize = 4;
const TOOL: Tool<'static> = Tool {
    name: "step",
    script: "echo '{}'\n",
    yaml: "idempotent: true\nread_only: true\n",
};

fn script() -> ModelScript {
    let turn = |step: usize| {
        Reply::calls([ToolCall::new("step", json!({"step": step}))])
            .saying(["step ", "by ", "step"])
            .chunk_every(Duration::from_millis(5))
    };
    let script = ModelScript::new().on_text("go");
    let script = (0..STEPS).fold(script, |script, step| script.reply(turn(step)));
    script.then(Reply::text(["The ", "end."]))
}

/// What a task is, whenever it is looked at after its end.
fn settled(task: &Value) -> Value {
    json!({"state": task["status"]["state"], "artifacts": task["artifacts"], "said": task["history"].as_array().unwrap().len()})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_followed_to_its_end_behind_a_kill_between_any_two_events() {
    let server = ModelServer::start(script()).await.unwrap();
    let mut served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    deploy(
        &served,
        "walker",
        &[(&server, Protocol::Anthropic)],
        &[TOOL],
        "",
    );
    let mut endings = Vec::new();
    for kill_after in [1, 2, 4, 7, 11] {
        let api = Api::of(&served.0);
        let params = json!({"message": message("go")});
        let mut stream = Stream::call(&api, "walker", "SendStreamingMessage", &params).await;
        let mut seen = Vec::new();
        for _ in 0..kill_after {
            seen.extend(stream.next().await);
        }
        let task = json!({"id": id(&seen[0]["task"]["id"])});
        served.0.kill9().unwrap();
        served.0.restart().await.unwrap();
        let api = Api::of(&served.0);
        let looked = result(&api, "walker", "GetTask", &task).await;
        assert_eq!(looked["history"][0]["parts"][0]["text"], "go");
        let subscribed = super::call_or_stream(&api, "walker", "SubscribeToTask", &task).await;
        // Where it was faster it has ended, which a subscription says.
        if let Some(stream) = subscribed {
            let events = stream.rest().await;
            assert_eq!(events[0]["task"]["id"], task["id"]);
            assert_eq!(kinds(&events).last().unwrap(), "COMPLETED", "{events:?}");
            assert_eq!(assembled(&events), "The end.");
        }
        let done = result(&api, "walker", "GetTask", &task).await;
        assert_eq!(done["artifacts"][0]["parts"][0]["text"], "The end.");
        endings.push(settled(&done));
    }
    endings.dedup();
    assert_eq!(endings.len(), 1, "{endings:#?}");
    assert_eq!(endings[0]["said"], json!(STEPS + 1));
    assert_no_panic(&served);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_which_nothing_was_heard_goes_on_behind_a_kill() {
    let server = ModelServer::start(script()).await.unwrap();
    server.hold();
    let mut served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    deploy(
        &served,
        "walker",
        &[(&server, Protocol::Anthropic)],
        &[TOOL],
        "",
    );
    let api = Api::of(&served.0);
    let params = json!({"message": message("go"), "configuration": {"returnImmediately": true}});
    let sent = result(&api, "walker", "SendMessage", &params).await;
    let task = json!({"id": sent["task"]["id"]});
    server.wait_for_held(1).await.unwrap();
    served.0.kill9().unwrap();
    served.0.restart().await.unwrap();
    let api = Api::of(&served.0);
    let looked = result(&api, "walker", "GetTask", &task).await;
    let state = looked["status"]["state"].as_str().unwrap();
    assert!(
        ["TASK_STATE_SUBMITTED", "TASK_STATE_WORKING"].contains(&state),
        "{looked}"
    );
    let stream = Stream::call(&api, "walker", "SubscribeToTask", &task).await;
    server.release_all();
    let events = stream.rest().await;
    assert_eq!(kinds(&events).last().unwrap(), "COMPLETED");
    assert_eq!(assembled(&events), "The end.");
}
