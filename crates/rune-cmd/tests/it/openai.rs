//! OpenAI's API over agents: what is on the wire, and the official SDK as a client.

use std::time::Duration;

use rune_testkit::{ModelScript, ModelServer, Protocol, Reply, TestDaemon};
use serde_json::{Value, json};

use crate::home::{RUNE, Served};
use crate::python::{CLIENTS, program};
use crate::wire::{Api, LIMIT, POLL, answer, assert_no_panic, deploy};

const ASK: &str = "name: ask\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: default\ntoolset: [touch]\n\
                   policy: {ask: [touch]}\n\
                   models:\n  providers: [offline]\n  model_mapping: {default: offline}\n";
const ASK_SCRIPT: &str =
    "rules:\n  - match: {step: 1}\n    tool_calls: [{name: touch, input: {}}]\n  - respond: done\n";
const TOUCH: &str = "name: touch\ndescription: A tool.\nmodule: tools/touch.sh\n";

/// Deploys an agent whose only tool needs an approval.
pub(crate) fn deploy_asking(served: &Served) {
    write_asking(served);
    served.rune(&["run", "ask"]).ok();
}

/// Writes an agent that asks before it uses its tool.
pub(crate) fn write_asking(served: &Served) {
    let dir = served.0.home().join("ask");
    std::fs::create_dir_all(dir.join("tools")).unwrap();
    for (name, text) in [
        ("Runefile", ASK),
        ("script.yaml", ASK_SCRIPT),
        ("tools/touch.yaml", TOUCH),
        ("tools/touch.sh", "echo '{}'\n"),
    ] {
        std::fs::write(dir.join(name), text).unwrap();
    }
}

fn chat(text: &str) -> Value {
    json!({"model": "plain", "messages": [{"role": "user", "content": text}]})
}

/// The header that names the session of an answer, and the body.
async fn with_session(api: &Api, path: &str, body: &Value) -> (String, Value) {
    let response = api.post(path, body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let session = response.headers()["x-rune-session-id"].to_str().unwrap();
    let session = session.to_owned();
    (session, response.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_chunks_a_finish_the_usage_and_the_end() {
    let served = Served::with_plain().await;
    let api = Api::of(&served.0);
    let mut body = chat("hi");
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let response = api
        .post("/v1/chat/completions", &body)
        .send()
        .await
        .unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = response.text().await.unwrap();
    let blocks: Vec<&str> = text.split_terminator("\n\n").collect();
    let (last, chunks) = blocks.split_last().unwrap();
    assert_eq!(*last, "data: [DONE]");
    let chunks: Vec<Value> = chunks
        .iter()
        .map(|block| serde_json::from_str(block.strip_prefix("data: ").unwrap()).unwrap())
        .collect();
    let first = &chunks[0];
    assert_eq!(first["object"], "chat.completion.chunk");
    assert_eq!(
        first["choices"][0]["delta"],
        json!({"role": "assistant", "content": ""})
    );
    let [.., finish, usage] = chunks.as_slice() else {
        panic!("{chunks:?}");
    };
    assert_eq!(
        finish["choices"],
        json!([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    );
    assert_eq!(usage["choices"], json!([]));
    assert!(usage["usage"]["total_tokens"].as_u64().unwrap() > 0);

    body["model"] = json!("nobody");
    let response = api
        .post("/v1/chat/completions", &body)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 404);
    assert_eq!(response.headers()["content-type"], "application/json");
    let refused: Value = response.json().await.unwrap();
    let error = &refused["error"];
    assert_eq!(
        (&error["type"], &error["param"], &error["code"]),
        (
            &json!("invalid_request_error"),
            &json!("model"),
            &json!("model_not_found")
        ),
        "{refused}"
    );
    assert_eq!(error.as_object().unwrap().len(), 4, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_repeats_is_in_the_session_once() {
    let served = Served::with_plain().await;
    let api = Api::of(&served.0);
    let texts = async |session: &str| -> Vec<String> {
        let path = format!("/v1/sessions/{session}/messages?limit=100");
        let (_, page) = answer(api.get(&path)).await.unwrap();
        let items = page["items"].as_array().unwrap();
        let texts = items.iter().map(|item| item["blocks"][0]["text"].as_str());
        texts.map(|text| text.unwrap().to_owned()).collect()
    };
    let path = "/v1/chat/completions";
    let history = json!([
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "Echo: one"},
        {"role": "user", "content": "two"},
    ]);

    // Without a session the client's history is all there is, and it is told whole.
    let body = json!({"model": "plain", "messages": history});
    let (fresh, done) = with_session(&api, path, &body).await;
    let said = done["choices"][0]["message"]["content"].as_str().unwrap();
    for part in ["Be kind.", "User: one", "You: Echo: one", "two"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(texts(&fresh).await.len(), 2);

    // A named session is told it once, and then what is new.
    let body = json!({"model": "plain", "messages": history, "metadata": {"session_id": "mine"}});
    let (session, _) = with_session(&api, path, &body).await;
    assert_eq!(session, "mine");
    let mut longer = history.as_array().unwrap().clone();
    longer.push(json!({"role": "assistant", "content": "whatever"}));
    longer.push(json!({"role": "user", "content": "three"}));
    let body = json!({"model": "plain", "messages": longer, "metadata": {"session_id": "mine"}});
    let (_, done) = with_session(&api, path, &body).await;
    assert_eq!(done["choices"][0]["message"]["content"], "Echo: three");
    let kept = texts("mine").await;
    assert_eq!(kept.len(), 4, "{kept:?}");
    assert_eq!(kept[2], "three");

    // A user's session goes on as long as the client's history is that of it.
    let user = |messages: Value| json!({"model": "plain", "messages": messages, "user": "ada"});
    let one = json!({"role": "user", "content": "one"});
    let answered = json!({"role": "assistant", "content": "Echo: one"});
    let two = json!({"role": "user", "content": "two"});
    let (first, _) = with_session(&api, path, &user(json!([one]))).await;
    let (second, _) = with_session(&api, path, &user(json!([one, answered, two]))).await;
    assert_eq!(
        (first.as_str(), second.as_str()),
        ("dev.plain:ada", "dev.plain:ada")
    );
    assert_eq!(
        texts("dev.plain:ada").await,
        ["one", "Echo: one", "two", "Echo: two"]
    );
    let (other, _) = with_session(&api, path, &user(json!([one, answered, two]))).await;
    assert_ne!(other, first, "another branch is another conversation");
    assert_eq!(texts("dev.plain:ada").await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_a_request_like_any_other() {
    let builder = TestDaemon::builder(RUNE).env("RUNE_API_KEY", "key");
    let served = Served(builder.start().await.unwrap());
    crate::home::write_plain(&served.0.home().join("plain"));
    let mut run = served.command(&["run", "plain"]);
    run.env("RUNE_API_KEY", "key");
    crate::home::Ran::new(run).ok();
    let api = Api::of(&served.0);

    let (status, refused) = answer(api.post("/v1/chat/completions", &chat("hi")))
        .await
        .unwrap();
    assert_eq!(
        (status, &refused["error"]["code"]),
        (401, &json!("invalid_api_key"))
    );
    let send = |body: &Value, key: &str| {
        let request = api.post("/v1/responses", body).bearer_auth("key");
        request.header("idempotency-key", key.to_owned())
    };
    let body = json!({"model": "plain", "input": "hi", "metadata": {"ticket": "7"}});
    let (status, first) = answer(send(&body, "one")).await.unwrap();
    assert_eq!(
        (status, &first["status"]),
        (200, &json!("completed")),
        "{first}"
    );
    let (_, again) = answer(send(&body, "one")).await.unwrap();
    assert_eq!(again, first);
    let other = json!({"model": "plain", "input": "other"});
    let (status, refused) = answer(send(&other, "one")).await.unwrap();
    assert_eq!(
        (status, &refused["error"]["code"]),
        (409, &json!("conflict")),
        "{refused}"
    );

    let id = first["id"].as_str().unwrap().replace("resp_", "req_");
    let (_, row) = answer(api.get(&format!("/v1/requests/{id}")).bearer_auth("key"))
        .await
        .unwrap();
    assert_eq!(
        (&row["status"], &row["caller"], &row["metadata"]["ticket"]),
        (&json!("completed"), &json!("api-key"), &json!("7")),
        "{row}"
    );

    // One that ran and failed is not to be sent again by itself.
    let mut failing = chat("/tool wait {}");
    failing["stream"] = json!(true);
    let mut stream = api
        .post("/v1/chat/completions", &failing)
        .bearer_auth("key")
        .send()
        .await
        .unwrap();
    let id = stream.headers()["x-rune-request-id"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(stream.chunk().await.unwrap().is_some());
    let cancel = api.post(&format!("/v1/requests/{id}/cancel"), &json!({}));
    assert_eq!(answer(cancel.bearer_auth("key")).await.unwrap().0, 200);
    let rest = stream.text().await.unwrap();
    assert!(
        rest.contains(r#"{"error":{"#) && rest.contains(r#""code":"cancelled""#),
        "{rest}"
    );
    assert!(!rest.contains("[DONE]"), "{rest}");
    assert_no_panic(&served);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_request_is_not_sent_again_by_the_client() {
    let script = ModelScript::new().on_text("go").reply(Reply::text(["x"]));
    let server = ModelServer::start(script).await.unwrap();
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    let budget = "budget: {tokens: 1}\n";
    deploy(&served, "poor", &[(&server, Protocol::Openai)], &[], budget);
    let api = Api::of(&served.0);
    let body = json!({"model": "poor", "messages": [{"role": "user", "content": "go"}]});
    let response = api
        .post("/v1/chat/completions", &body)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["x-should-retry"], "false");
    assert!(response.headers().contains_key("x-rune-request-id"));
    let refused: Value = response.json().await.unwrap();
    assert_eq!(refused["error"]["type"], "rate_limit_error", "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_schema_is_met_by_json_in_the_text() {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    let dir = served.0.home().join("strict");
    std::fs::create_dir_all(&dir).unwrap();
    let runefile = "name: strict\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: default\n\
                    input_schema: {type: object, required: [count], properties: {count: {type: integer}}}\n\
                    models:\n  providers: [offline]\n  model_mapping: {default: offline}\n";
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    served.rune(&["run", "strict"]).ok();
    let api = Api::of(&served.0);
    let body =
        |text: &str| json!({"model": "strict", "messages": [{"role": "user", "content": text}]});
    let (status, done) = answer(api.post("/v1/chat/completions", &body(r#"{"count": 1}"#)))
        .await
        .unwrap();
    assert_eq!(status, 200, "{done}");
    let (status, refused) = answer(api.post("/v1/chat/completions", &body("one")))
        .await
        .unwrap();
    assert_eq!(
        (status, &refused["error"]["param"]),
        (400, &json!("messages")),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_keeps_nothing_answers_all_the_same() {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    let dir = served.0.home().join("brief");
    std::fs::create_dir_all(&dir).unwrap();
    let runefile = "name: brief\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: default\n\
                    runtime: {checkpoint_policy: never}\n\
                    models:\n  providers: [offline]\n  model_mapping: {default: offline}\n";
    let script = "rules:\n  - match: {contains: slow}\n    delay_ms: 600000\n    respond: late\n  - respond: 'Echo: {{ input }}'\n";
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    std::fs::write(dir.join("script.yaml"), script).unwrap();
    served.rune(&["run", "brief"]).ok();
    let api = Api::of(&served.0);
    for _ in 0..20 {
        let body = json!({"model": "brief", "input": "hi"});
        let (status, done) = answer(api.post("/v1/responses", &body)).await.unwrap();
        assert_eq!(
            (status, &done["output"][0]["content"][0]["text"]),
            (200, &json!("Echo: hi")),
            "{done}"
        );
        let body = json!({"model": "brief", "input": "hi", "background": true});
        let (status, started) = answer(api.post("/v1/responses", &body)).await.unwrap();
        assert_eq!(status, 200, "{started}");
    }
    let body = json!({"model": "brief", "input": "slow", "background": true});
    let (_, started) = answer(api.post("/v1/responses", &body)).await.unwrap();
    let path = format!("/v1/responses/{}", started["id"].as_str().unwrap());
    let cancel = api.post(&format!("{path}/cancel"), &json!({}));
    let (status, cancelled) = answer(cancel).await.unwrap();
    assert_eq!(
        (status, &cancelled["status"]),
        (200, &json!("cancelled")),
        "{cancelled}"
    );
    assert_eq!(answer(api.get(&path)).await.unwrap().0, 404);
    let body = json!({"model": "brief", "messages": [{"role": "user", "content": "hi"}]});
    let (status, done) = answer(api.post("/v1/chat/completions", &body))
        .await
        .unwrap();
    assert_eq!(status, 200, "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_that_waits_for_a_person_says_so_and_goes_on() {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    deploy_asking(&served);
    let api = Api::of(&served.0);
    let mut body = json!({"model": "ask", "messages": [{"role": "user", "content": "go"}]});
    body["stream"] = json!(true);
    let mut stream = api
        .post("/v1/chat/completions", &body)
        .send()
        .await
        .unwrap();
    let id = stream.headers()["x-rune-request-id"]
        .to_str()
        .unwrap()
        .to_owned();
    let mut text = String::new();
    while !text.contains("Waiting for approval of `touch`") {
        let chunk = stream.chunk().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    let asked = async {
        loop {
            let (_, page) = answer(api.get(&format!("/v1/approvals?request={id}")))
                .await
                .unwrap();
            if let Some(asked) = page["items"].as_array().unwrap().first() {
                break asked["approval_id"].as_str().unwrap().to_owned();
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let approval = tokio::time::timeout(LIMIT, asked).await.unwrap();
    assert!(text.contains(&approval), "{text}");
    let path = format!("/v1/requests/{id}/approvals/{approval}");
    let decide = api.post(&path, &json!({"decision": "approve"}));
    assert_eq!(answer(decide).await.unwrap().0, 200);
    let rest = stream.text().await.unwrap();
    assert!(rest.contains(r#""content":"d""#), "{rest}");
    assert!(rest.ends_with("data: [DONE]\n\n"), "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_sdk_works() {
    let served = Served::with_plain().await;
    deploy_asking(&served);
    let Some(client) = program(&CLIENTS, "openai/client.py") else {
        return;
    };
    let base = format!("{}/v1", served.0.gateway());
    for step in [
        "models",
        "completions",
        "streams",
        "responses",
        "response_streams",
        "tools",
        "errors",
        "parallel",
        "conversations",
        "approvals",
    ] {
        client.run(&[&base, step]);
    }
    assert_no_panic(&served);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_finds_its_answer_behind_a_kill() {
    let whole: String = (0..100).map(|n| format!("{n} ")).collect();
    let reply = Reply::text(whole.as_str()).chunks(100);
    let reply = reply.chunk_every(Duration::from_millis(20));
    let script = ModelScript::new().on_text("go").reply(reply);
    let server = ModelServer::start(script).await.unwrap();
    let mut served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    deploy(&served, "slow", &[(&server, Protocol::Anthropic)], &[], "");

    // On the wire: the request of a client that is gone runs to its end.
    let api = Api::of(&served.0);
    let body = json!({"model": "slow", "input": "go", "stream": true});
    let mut stream = api.post("/v1/responses", &body).send().await.unwrap();
    let id = stream.headers()["x-rune-request-id"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(stream.chunk().await.unwrap().is_some());
    drop(stream);
    let row = api.ended(&id).await;
    assert_eq!(
        (&row["status"], &row["output"]),
        (&json!("completed"), &json!(whole))
    );

    let Some(client) = program(&CLIENTS, "openai/client.py") else {
        return;
    };
    let base = format!("{}/v1", served.0.gateway());
    let id = client.run(&[&base, "leave"]);
    served.0.kill9().unwrap();
    served.0.restart().await.unwrap();
    let base = format!("{}/v1", served.0.gateway());
    assert_eq!(client.run(&[&base, "come_back", &id]), whole.trim());
    let api = Api::of(&served.0);
    let row = api.request(&id.replace("resp_", "req_")).await;
    assert_eq!(row["attempts"], 2, "{row}");
}
