//! Whatever a tool does, the model gets a result and the session stays usable.

use std::collections::BTreeMap;

use rune_store_runtime::{AuditFilter, AuditVerdict, PageRequest};
use serde_json::{Value, json};

use super::harness::{Bot, Ended, Rig, loader};

/// Calls `name` once and then answers.
async fn call(bot: Bot, name: &str, input: Value) -> (Rig, Ended) {
    let bot = bot.script(&json!([
        {"match": {"contains": "use", "step": 1}, "tool_calls": [{"name": name, "input": input}]},
        {"match": {"contains": "use"}, "respond": "done"},
        {"respond": "Echo: {{ input }}"},
    ]));
    let rig = Rig::new(bot).await;
    let ended = rig.ask("use it").await;
    assert_eq!(ended.output(), "done", "{:?}", ended.row.failure);
    let kinds = ended.kinds();
    assert_eq!(
        kinds.iter().filter(|kind| **kind == "tool_result").count(),
        1
    );
    rig.assert_usable(&ended.row.session_id).await;
    (rig, ended)
}

async fn told(bot: Bot, name: &str, input: Value) -> String {
    let (_, ended) = call(bot, name, input).await;
    ended.results().remove(0).1
}

#[tokio::test]
async fn a_tool_that_fails_tells_why() {
    let bot = Bot::new().tool("t", &json!({}), "cat >/dev/null; echo broken >&2; exit 3\n");
    let told = told(bot, "t", json!({})).await;
    assert!(
        told.contains("exit code 3") && told.contains("broken"),
        "{told}"
    );
}

#[tokio::test]
async fn an_unknown_tool_is_answered_with_the_known_ones() {
    let bot = Bot::new().tool("t", &json!({}), "echo 1\n");
    let told = told(bot, "nope", json!({})).await;
    assert!(
        told.contains("`nope`") && told.contains("the tools are: rune__output-read, t"),
        "{told}"
    );
}

#[tokio::test]
async fn an_input_that_breaks_the_schema_runs_nothing() {
    let schema = json!({"input_schema": {"type": "object", "required": ["a"]}});
    let bot = Bot::new().tool("t", &schema, "cat >/dev/null; echo ran >> log; echo 1\n");
    let (rig, ended) = call(bot, "t", json!({"b": 1})).await;
    assert!(ended.results()[0].1.contains("schema"));
    assert_eq!(rig.file("log"), "");
    assert!(!ended.kinds().contains(&"tool_intent"));
}

#[tokio::test]
async fn an_output_that_breaks_the_schema_is_an_error() {
    let schema = json!({"output_schema": {"type": "string"}});
    let bot = Bot::new().tool("t", &schema, "cat >/dev/null; echo 1\n");
    assert!(
        told(bot, "t", json!({}))
            .await
            .contains("does not match its schema")
    );
}

#[tokio::test]
async fn a_tool_that_takes_too_long_is_stopped() {
    let bot = Bot::new().tool(
        "t",
        &json!({"timeout_ms": 100}),
        "cat >/dev/null; sleep 60\n",
    );
    assert!(told(bot, "t", json!({})).await.contains("within 100 ms"));
}

#[tokio::test]
async fn more_output_than_allowed_is_an_error() {
    let limits = json!({"limits": {"output_bytes": 100}});
    let bot = Bot::new().tool(
        "t",
        &limits,
        "import sys\nsys.stdin.read()\nprint('\"' + 'x' * 200 + '\"')\n",
    );
    assert!(
        told(bot, "t", json!({}))
            .await
            .contains("more than 100 bytes")
    );
}

#[tokio::test]
async fn an_output_that_the_journal_cannot_hold_is_kept_elsewhere() {
    let program = "import sys\nsys.stdin.read()\nprint('\"' + 'x' * 1048000 + '\"')\n";
    let bot = Bot::new().tool("t", &json!({}), program);
    assert!(
        told(bot, "t", json!({}))
            .await
            .contains("the whole output has 1048000 bytes: it is kept as `out-")
    );
    let deep = "import sys\nsys.stdin.read()\nprint('[' * 110 + ']' * 110)\n";
    let bot = Bot::new().tool("t", &json!({}), deep);
    assert!(told(bot, "t", json!({})).await.contains("nests deeper"));
}

#[tokio::test]
async fn retries_use_the_same_key() {
    let more = json!({"retry_policy": {"max_attempts": 3, "backoff_ms": 1}});
    let program = "cat >/dev/null; echo $RUNE_IDEMPOTENCY_KEY >> log\n\
                   [ $(wc -l < log) -ge 3 ] || exit 1\necho '\"ok\"'\n";
    let (rig, ended) = call(Bot::new().tool("t", &more, program), "t", json!({})).await;
    assert_eq!(ended.results()[0].1, "ok");
    let log = rig.file("log");
    let keys: Vec<&str> = log.lines().collect();
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|key| *key == keys[0] && !key.is_empty()));
}

#[tokio::test]
async fn a_denied_call_does_not_run_and_the_model_and_the_audit_trail_say_why() {
    let policy = json!({"deny": ["t(secret*)"]});
    let more =
        json!({"input_schema": {"properties": {"x": {"type": "string"}}, "required": ["x"]}});
    for (argument, verdict, expected) in [
        ("plain", AuditVerdict::Allowed, "ok"),
        (
            "secret",
            AuditVerdict::Denied,
            "policy denies this call: denied by `Runefile",
        ),
    ] {
        let bot = Bot::new()
            .tool("t", &more, "cat >/dev/null; touch ran; echo '\"ok\"'\n")
            .set("policy", policy.clone());
        let (rig, ended) = call(bot, "t", json!({ "x": argument })).await;
        let (_, told) = &ended.results()[0];
        assert!(told.contains(expected), "{argument}: {told}");
        let ran = verdict == AuditVerdict::Allowed;
        assert_eq!(ended.kinds().contains(&"tool_intent"), ran);
        let rows = rig
            .store
            .audit(&AuditFilter::default(), &PageRequest::default())
            .await;
        let rows = rows.unwrap().items;
        assert_eq!(rows.len(), 1, "one row per decision");
        assert_eq!(
            (rows[0].kind.as_str(), rows[0].resource.as_str()),
            ("tool", "t")
        );
        assert_eq!(rows[0].verdict, verdict);
        assert!(rows[0].request_id.is_some());
    }
}

#[test]
fn an_agent_whose_cedar_file_is_wrong_is_not_loaded() {
    let home = tempfile::tempdir().unwrap();
    let runefile = "name: bot\nversion: 0.1.0\ninstructions: Help.\ndefault_model: default\n\
                    models: {providers: [offline]}\n";
    std::fs::write(home.path().join("Runefile"), runefile).unwrap();
    std::fs::write(home.path().join("policy.cedar"), "permit(principal").unwrap();
    let loaded = loader(home.path()).load(home.path(), "dev", &BTreeMap::new());
    let error = loaded.map(drop).unwrap_err().to_string();
    assert!(error.contains("policy.cedar:1:"), "{error}");
}
