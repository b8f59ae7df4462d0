//! A caller that is killed in the middle of a call.

use std::sync::atomic::{AtomicBool, Ordering};

use rune_testkit::{ModelScript, ModelServer, Protocol, Reply as ModelReply};
use serde_json::{Value, json};

use super::server::{Reply, Scripted, result};
use super::{ask, deploy, deploy_asker, named, open_daemon, outcome, requests};
use crate::home::Served;
use crate::wire::{Api, assert_no_panic, deploy as deploy_model};

async fn kill_and_restart(caller: &mut Served) -> Api {
    caller.0.kill9().unwrap();
    caller.0.restart().await.unwrap();
    Api::of(&caller.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_finds_its_task_again() {
    let model = ModelServer::start(ModelScript::new().then(ModelReply::text(["The end."])))
        .await
        .unwrap();
    model.hold();
    let callee = open_daemon(&[]).await;
    deploy_model(&callee, "helper", &[(&model, Protocol::Anthropic)], &[], "");
    let url = format!("{}/a2a/helper", callee.0.gateway());
    let mut caller = open_daemon(&[]).await;
    deploy_asker(&caller, &url, "timeout_ms: 100000\n");
    let dir = caller.0.home().join("flow");
    std::fs::create_dir_all(&dir).unwrap();
    let workflow = json!({"name": "flow", "version": "1.0.0", "output_step": "far", "steps": [
        {"id": "far", "agent_ref": url, "input_template": "{{ input }}"},
    ]});
    std::fs::write(dir.join("workflow.yaml"), workflow.to_string()).unwrap();
    deploy(&caller, "flow", &[], "", "");
    let api = Api::of(&caller.0);
    let ids = [
        api.start("asker", &ask("one")).await,
        api.start("flow", "two").await,
    ];
    for id in &ids {
        let mut events = api.events(id, 0).await;
        while events.next().await.unwrap().name != "remote_task" {}
    }
    model.wait_for_held(2).await.unwrap();
    let api = kill_and_restart(&mut caller).await;
    model.release_all();
    for id in &ids {
        let row = api.ended(id).await;
        assert_eq!(
            (&row["status"], &row["attempts"]),
            (&json!("completed"), &json!(2)),
            "{row}"
        );
        let events = api.events(id, 0).await.rest().await;
        assert_eq!(named(&events, "remote_task").len(), 1, "{events:#?}");
    }
    let flow = api.request(&ids[1]).await;
    assert_eq!(flow["output"], "The end.");
    let theirs = requests(&Api::of(&callee.0), "helper").await;
    assert_eq!(theirs.len(), 2, "{theirs:#?}");
    assert_no_panic(&caller);
}

/// A scripted agent that does not answer before it is told to, and then with what it is told.
async fn silent(extensions: Value) -> (Scripted, std::sync::Arc<AtomicBool>) {
    let speaks = std::sync::Arc::new(AtomicBool::new(false));
    let flag = std::sync::Arc::clone(&speaks);
    let capabilities = json!({"streaming": false, "extensions": extensions});
    let agent = Scripted::agent(capabilities, move |seen| {
        match flag.load(Ordering::SeqCst) {
            false => Reply::Hang,
            true => result(&json!({"message": {
                "messageId": "a", "role": "ROLE_AGENT",
                "parts": [{"text": seen.body["params"]["message"]["messageId"]}],
            }})),
        }
    })
    .await;
    (agent, speaks)
}

async fn wait_for_calls(agent: &Scripted, count: usize) {
    for _ in 0..3000 {
        if agent.calls().len() == count {
            return;
        }
        tokio::time::sleep(crate::wire::POLL).await;
    }
    assert_eq!(agent.calls().len(), count, "{:#?}", agent.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_which_nothing_was_heard_is_sent_again_only_where_that_is_safe() {
    let extension = json!([{"uri": "urn:rune:a2a:chain:1"}]);
    // Whether the card promises it, whether the tool does.
    for (extensions, yaml, again) in [
        (json!([]), "", false),
        (extension, "", true),
        (json!([]), "idempotent: true\n", true),
    ] {
        let (agent, speaks) = silent(extensions).await;
        let mut caller = open_daemon(&[]).await;
        deploy_asker(&caller, &agent.base, &format!("timeout_ms: 100000\n{yaml}"));
        let api = Api::of(&caller.0);
        let id = api.start("asker", &ask("hello")).await;
        wait_for_calls(&agent, 1).await;
        speaks.store(true, Ordering::SeqCst);
        let api = kill_and_restart(&mut caller).await;
        let row = api.ended(&id).await;
        assert_eq!(row["status"], "completed", "{row}");
        let events = api.events(&id, 0).await.rest().await;
        let calls = agent.calls();
        let message = |n: usize| calls[n].body["params"]["message"]["messageId"].clone();
        if again {
            assert_eq!(calls.len(), 2, "{calls:#?}");
            assert_eq!(message(0), message(1));
            assert_eq!(outcome(&events), Ok(message(0)));
        } else {
            assert_eq!(calls.len(), 1, "{calls:#?}");
            let (code, text) = outcome(&events).unwrap_err();
            assert_eq!(code, "unavailable");
            assert!(text.contains("is not known"), "{text}");
        }
        let has_key = calls[0].head.contains("idempotency-key: ");
        assert_eq!(has_key, again && yaml.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_task_of_a_request_that_is_given_up_is_called_off() {
    let agent = Scripted::agent(json!({}), |seen| {
        let task = json!({"id": "t1", "contextId": "c", "status": {"state": "TASK_STATE_WORKING"}});
        match seen.body["method"].as_str() {
            Some("SendMessage") => result(&json!({"task": task})),
            _ => result(&task),
        }
    })
    .await;
    let mut caller = open_daemon(&[]).await;
    deploy_asker(&caller, &agent.base, "timeout_ms: 100000\n");
    let api = Api::of(&caller.0);
    let id = api.start("asker", &ask("hello")).await;
    let mut events = api.events(&id, 0).await;
    while events.next().await.unwrap().name != "remote_task" {}
    let config = "[recovery]\nmax_attempts = 1\n";
    std::fs::write(caller.0.data_dir().join("config.toml"), config).unwrap();
    let api = kill_and_restart(&mut caller).await;
    let row = api.ended(&id).await;
    assert_eq!(row["status"], "failed", "{row}");
    let is_off = || {
        agent
            .calls()
            .iter()
            .any(|call| call.body["method"] == "CancelTask")
    };
    for _ in 0..3000 {
        if is_off() {
            break;
        }
        tokio::time::sleep(crate::wire::POLL).await;
    }
    assert!(is_off(), "its task goes on: {:#?}", agent.seen());
}
