use serde_json::{Value, json};

use super::Rig;
use crate::wire::{POLL, answer};

const TOOLS: [&str; 5] = [
    "agent-list",
    "agent-find",
    "agent-send",
    "agent-spawn",
    "agent-kill",
];

fn addresses(answer: &Value) -> Vec<&str> {
    let rows = answer["agents"].as_array().unwrap().iter();
    rows.map(|row| row["agent"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn agents_are_found_and_asked_under_the_network_rule() {
    let rig = Rig::start().await;
    rig.deploy("boss", &TOOLS, "networks: [front]\n");
    rig.deploy("clock", &["system-time"], "networks: [front]\n");
    rig.deploy("hidden", &["system-time"], "networks: [back]\n");
    let all = rig.call("boss", "agent-list", json!({})).await;
    assert_eq!(addresses(&all), ["dev/boss", "dev/clock"]);
    let found = rig
        .call("boss", "agent-find", json!({"query": "time zone"}))
        .await;
    assert_eq!(addresses(&found), ["dev/clock"]);

    let ask = json!({"agent": "clock", "message": "Hello"});
    let body = json!({"input": format!("/tool rune@agent-send {ask}")});
    let (_, asked) = rig.api.ask("boss", &body).await;
    assert!(
        asked["output"].as_str().unwrap().contains("Echo: Hello"),
        "{asked}"
    );
    let path = format!(
        "/v1/requests/{}/calls",
        asked["request_id"].as_str().unwrap()
    );
    let (_, graph) = answer(rig.api.get(&path)).await.unwrap();
    assert!(graph.to_string().contains("dev/clock"), "{graph}");

    let far = json!({"agent": "hidden", "message": "Hello"});
    let refused = rig.try_call("boss", "agent-send", far.clone()).await;
    assert!(refused.unwrap_err().contains("share no network"));
    let refused = rig.try_call("boss", "agent-spawn", far).await;
    assert!(refused.unwrap_err().contains("share no network"));
    let nobody = json!({"agent": "nobody", "message": "Hello"});
    let refused = rig.try_call("boss", "agent-send", nobody).await;
    assert!(refused.unwrap_err().contains("not deployed"));
}

#[tokio::test]
async fn a_spawned_request_goes_on_until_its_conversation_ends_it() {
    let rig = Rig::start().await;
    rig.deploy("boss", &TOOLS, "");
    crate::home::write_plain(&rig.served.0.home().join("plain"));
    rig.served.rune(&["run", "plain"]).ok();
    let spawn = json!({"agent": "plain", "message": "/tool wait {}"});
    let spawned = rig
        .try_call_in(Some("s1"), "boss", "agent-spawn", spawn)
        .await
        .unwrap();
    let id = spawned["request_id"].as_str().unwrap();
    // The request that spawned it has ended; it runs.
    while rig.api.request(id).await["status"] != "running" {
        tokio::time::sleep(POLL).await;
    }
    let kill = json!({"request_id": id});
    let other = rig.try_call_in(Some("s2"), "boss", "agent-kill", kill.clone());
    assert!(
        other
            .await
            .unwrap_err()
            .contains("not spawned by this conversation")
    );
    let foreign = rig.api.start("plain", "/tool wait {}").await;
    let refused = rig
        .try_call_in(
            Some("s1"),
            "boss",
            "agent-kill",
            json!({"request_id": foreign}),
        )
        .await;
    assert!(
        refused
            .unwrap_err()
            .contains("not spawned by this conversation")
    );
    rig.try_call_in(Some("s1"), "boss", "agent-kill", kill)
        .await
        .unwrap();
    assert_eq!(rig.api.ended(id).await["status"], "cancelled");
    assert_eq!(rig.api.request(&foreign).await["status"], "running");
}
