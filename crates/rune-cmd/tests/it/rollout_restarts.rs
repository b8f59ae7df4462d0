//! What a daemon knows of a rollout that began before it.

use rune_testkit::TestDaemon;
use serde_json::{Value, json};

use crate::home::{RUNE, Served};
use crate::wire::{Api, LIMIT, POLL};

/// Writes a version of the agent `bot`, whose model plays a rule.
fn write(served: &Served, version: &str, rule: &str) {
    let dir = served.0.home().join("bot");
    std::fs::create_dir_all(&dir).unwrap();
    let runefile = format!(
        "name: bot\nversion: {version}\ninstructions: Answer.\ndefault_model: default\n\
         models:\n  providers: [offline]\n  model_mapping: {{default: offline}}\n"
    );
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    std::fs::write(dir.join("script.yaml"), format!("rules:\n  - {rule}\n")).unwrap();
}

async fn ask(served: &Served) -> u16 {
    let api = Api::of(&served.0);
    api.ask("bot", &json!({"input": "Hello"})).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn how_requests_ended_is_not_forgotten_and_the_end_is_told_once() {
    let mut served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    write(&served, "1.0.0", "{ respond: one }");
    served.rune(&["run", "bot"]).ok();
    write(
        &served,
        "2.0.0",
        "{ error: { kind: refused, message: broken } }",
    );
    served.rune(&["deploy", "bot", "--weight", "100"]).ok();
    // Twenty of them tell, and no process sees so many.
    for _ in 0..2 {
        for _ in 0..12 {
            ask(&served).await;
        }
        served.0.restart().await.unwrap();
    }
    let rolled_back = async {
        loop {
            let row = served
                .rune(&["rollout", "status", "bot", "-o", "json"])
                .json();
            if row["rollout"]["state"] == "rolled_back" {
                return row["rollout"]["reason"].as_str().unwrap().to_owned();
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let reason = tokio::time::timeout(LIMIT, rolled_back).await;
    assert!(reason.is_ok(), "{}", served.0.log());
    assert!(reason.unwrap().contains("requests failed"));

    let topic = [
        "event",
        "ls",
        "--topic",
        "rollout.rolled_back",
        "-o",
        "json",
    ];
    let told = async {
        loop {
            let events = served.rune(&topic).json();
            if events.as_array().is_some_and(|it| !it.is_empty()) {
                return events;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let told: Value = tokio::time::timeout(LIMIT, told).await.unwrap();
    assert_eq!(told.as_array().unwrap().len(), 1);
    // The next process, which did not see it end, tells of the same event.
    served.0.restart().await.unwrap();
    assert_eq!(ask(&served).await, 200);
    assert_eq!(served.rune(&topic).json(), told);
}
