//! Requests that wait for a person, through the daemon: what they hold, and that they go on once.

use std::collections::BTreeMap;

use rune_testkit::TestDaemon;
use serde_json::{Value, json};

use crate::home::{RUNE, Served};
use crate::wire::{Api, LIMIT, POLL, answer, assert_no_panic, lines_of, spawn};

const PARKED: usize = 12;
/// How many decide one approval at the same time.
const DECIDERS: usize = 6;

const RUNEFILE: &str = "name: ask\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: default\ntoolset: [touch]\n\
                        policy: {ask: [touch]}\n\
                        models:\n  providers: [offline]\n  model_mapping: {default: offline}\n";
const SCRIPT: &str =
    "rules:\n  - match: {step: 1}\n    tool_calls: [{name: touch, input: {}}]\n  - respond: done\n";

async fn served() -> Served {
    let builder = TestDaemon::builder(RUNE).env("RUST_LOG", "warn");
    let served = Served(builder.start().await.unwrap());
    let dir = served.0.home().join("ask");
    std::fs::create_dir_all(dir.join("tools")).unwrap();
    let tool =
        "name: touch\ndescription: A tool.\nmodule: tools/touch.sh\ncapabilities: [filesystem]\n";
    let files = [
        ("Runefile", RUNEFILE),
        ("script.yaml", SCRIPT),
        ("tools/touch.yaml", tool),
        (
            "tools/touch.sh",
            "echo \"$RUNE_REQUEST_ID\" >> log\necho '{}'\n",
        ),
    ];
    for (name, text) in files {
        std::fs::write(dir.join(name), text).unwrap();
    }
    served.rune(&["run", "ask"]).ok();
    served
}

/// The value of a metric without labels.
async fn gauge(api: &Api, name: &str) -> u64 {
    let text = api.get("/metrics").send().await.unwrap();
    let text = text.text().await.unwrap();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap().parse().unwrap()
}

async fn waiting(api: &Api) -> Vec<Value> {
    let (status, page) = answer(api.get("/v1/approvals?limit=100")).await.unwrap();
    assert_eq!(status, 200, "{page}");
    page["items"].as_array().unwrap().clone()
}

/// Waits until no more tasks run than before.
async fn settled(api: &Api, tasks: u64) {
    let settling = async {
        while gauge(api, "rune_requests_active").await > 0 || gauge(api, "rune_tasks").await > tasks
        {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, settling).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_requests_hold_no_task_and_are_decided_once_after_a_restart() {
    let mut served = served().await;
    let api = Api::of(&served.0);
    let tasks = gauge(&api, "rune_tasks").await;
    for _ in 0..PARKED {
        let (status, body) = api.ask("ask", &json!({"input": "go"})).await;
        assert_eq!(
            (status, &body["status"]),
            (202, &json!("input-required")),
            "{body}"
        );
    }
    settled(&api, tasks).await;
    assert_eq!(waiting(&api).await.len(), PARKED);
    served.0.kill9().unwrap();
    served.0.restart().await.unwrap();
    let api = Api::of(&served.0);
    settled(&api, tasks).await;
    let asked = waiting(&api).await;
    assert_eq!(asked.len(), PARKED);
    let mut deciding = Vec::new();
    for row in &asked {
        for n in 0..DECIDERS {
            let (api, row) = (api.clone(), row.clone());
            deciding.push(spawn(async move { decide(&api, &row, n).await }));
        }
    }
    let mut decided: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for one in deciding {
        let (request, note) = one.await.unwrap();
        decided.entry(request).or_default().push(note);
    }
    assert_eq!(decided.len(), PARKED);
    let mut log = Vec::new();
    for (request, notes) in decided {
        assert!(notes[0].is_string(), "{notes:?}");
        assert_eq!(notes, vec![notes[0].clone(); DECIDERS], "one of them did");
        let row = api.ended(&request).await;
        assert_eq!(
            (&row["status"], &row["attempts"]),
            (&json!("completed"), &json!(2)),
            "{row}"
        );
        log.push(request);
    }
    let mut ran = lines_of(&served, "ask", "log");
    ran.sort_unstable();
    assert_eq!(ran, log);
    // With it the connections of the deciders end.
    drop(api);
    settled(&Api::of(&served.0), tasks).await;
    assert_no_panic(&served);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_can_be_sent_again_and_not_be_turned() {
    let served = served().await;
    let api = Api::of(&served.0);
    api.ask("ask", &json!({"input": "go"})).await;
    let asked = waiting(&api).await;
    let text = |key: &str| asked[0][key].as_str().unwrap().to_owned();
    let (request, approval) = (text("request_id"), text("approval_id"));
    let path = format!("/v1/requests/{request}/approvals/{approval}");
    let say = async |body: Value| answer(api.post(&path, &body)).await.unwrap();
    let first = say(json!({"decision": "approve", "note": "first"})).await;
    assert_eq!(
        (first.0, &first.1["state"]),
        (200, &json!("approved")),
        "{first:?}"
    );
    let again = say(json!({"decision": "approve", "note": "again"})).await;
    assert_eq!(again, first);
    for other in [
        json!({"decision": "deny"}),
        // What was not remembered then is not remembered now.
        json!({"decision": "approve", "remember": "session"}),
    ] {
        let (status, refused) = say(other.clone()).await;
        assert_eq!(
            (status, &refused["error"]["code"]),
            (409, &json!("conflict")),
            "{other}"
        );
    }
    api.ended(&request).await;
    assert_eq!(say(json!({"decision": "approve"})).await, first);
    assert_eq!(lines_of(&served, "ask", "log"), [request]);
    assert_no_panic(&served);
}

/// Approves and answers the request and the note that counts.
async fn decide(api: &Api, row: &Value, n: usize) -> (String, Value) {
    let text = |key: &str| row[key].as_str().unwrap().to_owned();
    let (request, approval) = (text("request_id"), text("approval_id"));
    let path = format!("/v1/requests/{request}/approvals/{approval}");
    let body = json!({"decision": "approve", "note": format!("decider {n}")});
    let (status, mut decided) = answer(api.post(&path, &body)).await.unwrap();
    assert_eq!((status, &decided["state"]), (200, &json!("approved")));
    (request, decided["note"].take())
}
