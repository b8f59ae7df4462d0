use serde_json::json;

use super::Rig;
use crate::wire::{POLL, answer};

const TOOLS: [&str; 6] = [
    "schedule-create",
    "schedule-list",
    "schedule-delete",
    "cron-create",
    "cron-list",
    "cron-cancel",
];

#[tokio::test]
async fn an_agent_schedules_itself_and_those_it_may_call() {
    let rig = Rig::start().await;
    rig.deploy("planner", &TOOLS, "networks: [front]\n");
    rig.deploy("friend", &TOOLS, "networks: [front, back]\n");
    rig.deploy("stranger", &[], "networks: [back]\n");
    let tick = json!({"name": "tick", "every_ms": 1000, "input": "tick"});
    rig.call("planner", "schedule-create", tick).await;
    let noon = json!({"name": "noon", "cron": "0 12 * * *", "timezone": "Europe/Berlin", "agent": "friend", "input": "eat"});
    let made = rig.call("planner", "cron-create", noon).await;
    assert_eq!(made["agent"], "dev/friend");
    let far = json!({"name": "far", "every_ms": 1000, "agent": "stranger", "input": "x"});
    let refused = rig.try_call("planner", "schedule-create", far).await;
    assert!(refused.unwrap_err().contains("share no network"));
    let bad = json!({"name": "bad", "cron": "61 * * * *", "input": "x"});
    let refused = rig.try_call("planner", "cron-create", bad).await;
    assert!(refused.unwrap_err().contains("cron expression"));

    let rows = rig.served.rune(&["schedule", "ls", "-o", "json"]).json();
    let named = |name: &str| {
        let mut rows = rows.as_array().unwrap().iter();
        rows.find(|row| row["name"] == name).unwrap()
    };
    assert_eq!(named("tick")["created_by"], "dev/planner");
    assert_eq!(named("noon")["agent"], "friend");
    loop {
        let path = "/v1/requests?agent=planner";
        let (_, page) = answer(rig.api.get(path)).await.unwrap();
        let rows = page["items"].as_array().unwrap();
        let by_clock = |row: &&serde_json::Value| row["caller"] == "schedule:tick";
        if rows
            .iter()
            .any(|row| by_clock(&row) && row["output"] == "Echo: tick")
        {
            break;
        }
        tokio::time::sleep(POLL).await;
    }

    // What one agent made another does not see.
    let foreign = rig.try_call("friend", "schedule-delete", json!({"name": "tick"}));
    assert!(foreign.await.unwrap_err().contains("has made no schedule"));
    let crons = rig.call("planner", "cron-list", json!({})).await;
    assert_eq!(crons["schedules"].as_array().unwrap().len(), 1);
    rig.call("planner", "cron-cancel", json!({"name": "noon"}))
        .await;
    rig.call("planner", "schedule-delete", json!({"name": "tick"}))
        .await;
    let left = rig.call("planner", "schedule-list", json!({})).await;
    assert_eq!(left, json!({"schedules": []}));
}

#[tokio::test]
async fn an_agent_makes_a_bounded_number_of_schedules() {
    let rig = Rig::start().await;
    rig.deploy("planner", &TOOLS, "");
    for n in 0..20 {
        let input = json!({"name": format!("s{n}"), "on_event": "x"});
        rig.call("planner", "schedule-create", input).await;
    }
    let input = json!({"name": "one-more", "on_event": "x"});
    let refused = rig.try_call("planner", "schedule-create", input).await;
    assert!(refused.unwrap_err().contains("delete one first"));
}
