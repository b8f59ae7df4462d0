//! Agents that call each other in a circle.

use serde_json::json;

use super::{deploy, open_daemon, requests, write_ask};
use crate::wire::{Api, answer, assert_no_panic};

/// Whatever it is told, it tells the other one, and then what that answers.
const PASS_ON: &str = "rules:\n  - match: {after_tool: ask}\n    respond: \"{{ result }}\"\n  \
                       - tool_calls: [{name: ask, input: {input: further}}]\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_circle_over_two_daemons_ends_at_the_depth_limit() {
    let (one, other) = (open_daemon(&[]).await, open_daemon(&[]).await);
    let url =
        |served: &crate::home::Served, agent: &str| format!("{}/a2a/{agent}", served.0.gateway());
    write_ask(&one, "ping", &url(&other, "pong"), "timeout_ms: 60000\n");
    deploy(&one, "ping", &["ask"], PASS_ON, "");
    write_ask(&other, "pong", &url(&one, "ping"), "timeout_ms: 60000\n");
    deploy(&other, "pong", &["ask"], PASS_ON, "");
    let (here, there) = (Api::of(&one.0), Api::of(&other.0));
    let (status, done) = here.ask("ping", &json!({"input": "go"})).await;
    assert_eq!(status, 200, "{done}");
    let (pings, pongs) = (
        requests(&here, "ping").await,
        requests(&there, "pong").await,
    );
    // The outermost one and eight below it.
    assert_eq!((pings.len(), pongs.len()), (5, 4));
    let mut depths = Vec::new();
    for (api, rows) in [(&here, &pings), (&there, &pongs)] {
        for row in rows {
            let row = api.request(row["id"].as_str().unwrap()).await;
            depths.push(row["metadata"]["call_depth"].as_u64().unwrap_or_default());
        }
    }
    depths.sort_unstable();
    assert_eq!(depths, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_no_panic(&one);
    assert_no_panic(&other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_from_too_deep_is_refused() {
    let served = open_daemon(&[]).await;
    deploy(&served, "plain", &[], "", "");
    let api = Api::of(&served.0);
    for (value, code, says) in [
        (json!({"depth": 9}), -32603, "9 levels below"),
        (json!({"depth": "deep"}), -32602, "whole number"),
    ] {
        let message = json!({
            "messageId": "m", "role": "ROLE_USER", "parts": [{"text": "x"}],
            "metadata": {"urn:rune:a2a:chain:1": value},
        });
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}});
        let (_, body) = answer(api.post("/a2a/plain", &call)).await.unwrap();
        assert_eq!(body["error"]["code"], code, "{body}");
        let text = body["error"]["message"].as_str().unwrap();
        assert!(text.contains(says), "{text}");
    }
    assert!(requests(&api, "plain").await.is_empty());
    // A tool may allow less.
    write_ask(
        &served,
        "asker",
        &format!("{}/a2a/plain", served.0.gateway()),
        "max_depth: 1\n",
    );
    deploy(&served, "asker", &["ask"], PASS_ON, "");
    let message = json!({
        "messageId": "m", "role": "ROLE_USER", "parts": [{"text": "x"}],
        "metadata": {"urn:rune:a2a:chain:1": {"depth": 1}},
    });
    let call =
        json!({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}});
    let (_, body) = answer(api.post("/a2a/asker", &call)).await.unwrap();
    assert_eq!(
        body["result"]["task"]["status"]["state"], "TASK_STATE_COMPLETED",
        "{body}"
    );
    assert!(requests(&api, "plain").await.is_empty());
}
