//! Parts in and out: text, data, files.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rune_testkit::{ModelScript, ModelServer, Protocol, Reply, TestDaemon};
use serde_json::{Value, json};

use super::{daemon, deploy, refused, result};
use crate::home::{RUNE, Served};
use crate::wire::{Api, deploy as deploy_model};

fn said(parts: &Value) -> Value {
    json!({"message": {"messageId": "m", "role": "ROLE_USER", "parts": parts}})
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_data_reach_the_model() {
    let script = ModelScript::new().then(Reply::text(["seen"]));
    let server = ModelServer::start(script).await.unwrap();
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    deploy_model(&served, "eye", &[(&server, Protocol::Anthropic)], &[], "");
    let api = Api::of(&served.0);
    let png = BASE64_STANDARD.encode(b"\x89PNG\r\n\x1a\nnot much of one");
    let parts = json!([
        {"text": "Look."},
        {"raw": png, "mediaType": "image/png", "filename": "a.png"},
        {"url": "https://example.org/b.png", "mediaType": "image/png"},
        {"raw": BASE64_STANDARD.encode("a,b\n1,2"), "mediaType": "text/csv", "filename": "t.csv"},
        {"url": "https://example.org/c.pdf", "mediaType": "application/pdf"},
        {"data": {"answer": 42}},
    ]);
    let task = result(&api, "eye", "SendMessage", &said(&parts)).await["task"].clone();
    assert_eq!(task["status"]["state"], "TASK_STATE_COMPLETED");
    assert_eq!(task["history"][0]["parts"], parts);
    let requests = server.requests();
    let sent = serde_json::to_string(&requests.last().unwrap().body).unwrap();
    for expected in [
        "Look.",
        &png,
        "https://example.org/b.png",
        "File `t.csv` (text/csv):\\na,b\\n1,2",
        "File (application/pdf) at https://example.org/c.pdf",
        r#"{\"answer\":42}"#,
    ] {
        assert!(sent.contains(expected), "{expected}: {sent}");
    }
    let pdf = json!([{"raw": "AQID", "mediaType": "application/pdf"}]);
    let (code, reason) = refused(&api, "eye", "SendMessage", &said(&pdf)).await;
    assert_eq!(
        (code, reason.as_str()),
        (-32005, "CONTENT_TYPE_NOT_SUPPORTED")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn data_is_the_input_of_an_agent_with_a_schema_and_its_output_is_data() {
    let served = daemon(&[]).await;
    let script = "rules:\n  - respond: '{\"sum\": 3}'\n";
    let extra = "input_schema: {type: object, required: [a, b]}\n\
                 output_schema: {type: object, required: [sum], properties: {sum: {type: integer}}}\n";
    deploy(&served, "adder", script, extra, &[]);
    let api = Api::of(&served.0);
    let asked = said(&json!([{"data": {"a": 1, "b": 2}}]));
    let done = result(&api, "adder", "SendMessage", &asked).await;
    let parts = &done["task"]["artifacts"][0]["parts"];
    assert_eq!(
        parts,
        &json!([{"data": {"sum": 3}, "mediaType": "application/json"}])
    );
    assert_eq!(
        done["task"]["history"][0]["parts"],
        json!([{"data": {"a": 1, "b": 2}}])
    );
    // Text that is the JSON of it will do, too.
    let text = said(&json!([{"text": "{\"a\": 1, \"b\": 2}"}]));
    let done = result(&api, "adder", "SendMessage", &text).await;
    assert_eq!(done["task"]["status"]["state"], "TASK_STATE_COMPLETED");
    let mut only_text = asked.clone();
    only_text["configuration"] = json!({"acceptedOutputModes": ["text/plain"]});
    let done = result(&api, "adder", "SendMessage", &only_text).await;
    let expected = json!([{"text": "{\"sum\":3}", "mediaType": "text/plain"}]);
    assert_eq!(done["task"]["artifacts"][0]["parts"], expected);
    let looked = json!({"id": done["task"]["id"]});
    let looked = result(&api, "adder", "GetTask", &looked).await;
    assert_eq!(looked["artifacts"][0]["parts"], expected);
    let wrong = said(&json!([{"data": {"a": 1}}]));
    assert_eq!(
        refused(&api, "adder", "SendMessage", &wrong).await.0,
        -32602
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_lists_parts_becomes_parts() {
    let served = daemon(&[]).await;
    let script = r#"rules:
  - respond: '[{"type": "text", "text": "See:"}, {"type": "file", "media_type": "application/pdf", "name": "a.pdf", "data": "AQID"}, {"type": "file", "url": "https://example.org/b.txt"}]'
"#;
    deploy(
        &served,
        "maker",
        script,
        "output_schema: {type: array}\n",
        &[],
    );
    let api = Api::of(&served.0);
    let done = result(
        &api,
        "maker",
        "SendMessage",
        &said(&json!([{"text": "make"}])),
    )
    .await;
    assert_eq!(
        done["task"]["artifacts"][0]["parts"],
        json!([
            {"text": "See:", "mediaType": "text/plain"},
            {"raw": "AQID", "filename": "a.pdf", "mediaType": "application/pdf"},
            {"url": "https://example.org/b.txt"},
        ])
    );
}
