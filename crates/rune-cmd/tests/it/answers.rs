//! What an answer is to clients of OpenAI's API and of AG-UI: its messages, and how it ends.

use rune_testkit::{ModelScript, ModelServer, Protocol, Reply, Stop, TestDaemon};
use serde_json::{Value, json};

use crate::component::Guest;
use crate::home::{RUNE, Served};
use crate::wire::{Api, answer, assert_no_panic, deploy};

/// A component that shows these texts, with a call of a tool behind the first one where `calls`, and answers.
fn shows(texts: &[&str], calls: bool, answer: &str) -> String {
    let mut guest = Guest::default();
    let mut code = String::new();
    for (n, text) in texts.iter().enumerate() {
        code += &format!("(call $emit {})\n", guest.text(text));
        if calls && n == 0 {
            let calls = guest.calls(&[("rune@memory-recall", r#"{"key": "a"}"#)]);
            code += &format!("(call $call_all {calls} (i32.const 1160))\n");
        }
    }
    code += &format!("(call $text {})", guest.text(answer));
    guest.run(&code)
}

/// The data of a stream.
async fn stream(api: &Api, path: &str, mut body: Value) -> Vec<Value> {
    body["stream"] = json!(true);
    let response = api.post(path, &body).send().await.unwrap();
    let text = response.text().await.unwrap();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let data = data.filter(|data| *data != "[DONE]");
    data.map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

fn content(chunks: &[Value]) -> String {
    let deltas = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["delta"]["content"]);
    deltas.filter_map(Value::as_str).collect()
}

/// The texts of the messages of a response.
fn messages(response: &Value) -> Vec<&str> {
    let items = response["output"].as_array().unwrap().iter();
    let messages = items.filter(|item| item["type"] == "message");
    messages
        .map(|item| item["content"][0]["text"].as_str().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_component_shows_is_said_once_and_apart_from_its_answer() {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    for (name, texts, calls, said) in [
        ("looks", &["Looking. "][..], true, &["Looking. ", "42"][..]),
        ("spells", &["4", "2"], false, &["42"]),
        ("leads-up", &["It is 42"], false, &["It is 42"]),
        ("silent", &[], false, &["42"]),
    ] {
        let wat = shows(texts, calls, "42");
        crate::component::write(served.0.home(), name, &wat, &[], "");
        served.rune(&["run", name]).ok();
        let api = Api::of(&served.0);
        let chat = json!({"model": name, "messages": [{"role": "user", "content": "go"}]});
        let chunks = stream(&api, "/v1/chat/completions", chat.clone()).await;
        assert_eq!(content(&chunks), said.join("\n\n"), "{name}");
        let (_, whole) = answer(api.post("/v1/chat/completions", &chat))
            .await
            .unwrap();
        assert_eq!(whole["choices"][0]["message"]["content"], "42", "{name}");

        let asked = json!({"model": name, "input": "go"});
        let events = stream(&api, "/v1/responses", asked).await;
        let response = &events.last().unwrap()["response"];
        assert_eq!(messages(response), said, "{name}: {response}");

        let input = json!([{"id": "1", "role": "user", "content": "go"}]);
        let run = json!({"threadId": "t", "runId": "r", "messages": input});
        let path = format!("/v1/agents/{name}/ag-ui");
        let events = stream(&api, &path, run).await;
        let begun = events
            .iter()
            .filter(|event| event["type"] == "TEXT_MESSAGE_START");
        assert_eq!(begun.count(), said.len(), "{name}: {events:?}");
    }
    assert_no_panic(&served);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_cut_off_or_refused_says_so() {
    let script = ModelScript::new()
        .on_text("long")
        .reply(Reply::text("once upon a").stop(Stop::MaxTokens))
        .on_text("bad")
        .reply(Reply::text("I cannot").stop(Stop::Refusal))
        .on_text("good")
        .reply(Reply::text("all of it"));
    let server = ModelServer::start(script).await.unwrap();
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    deploy(
        &served,
        "teller",
        &[(&server, Protocol::Anthropic)],
        &[],
        "",
    );
    let api = Api::of(&served.0);
    for (input, finish, status, reason) in [
        ("long", "length", "incomplete", json!("max_output_tokens")),
        (
            "bad",
            "content_filter",
            "incomplete",
            json!("content_filter"),
        ),
        ("good", "stop", "completed", Value::Null),
    ] {
        let chat = json!({"model": "teller", "messages": [{"role": "user", "content": input}]});
        let (_, whole) = answer(api.post("/v1/chat/completions", &chat))
            .await
            .unwrap();
        assert_eq!(whole["choices"][0]["finish_reason"], finish, "{whole}");
        let chunks = stream(&api, "/v1/chat/completions", chat).await;
        let last = &chunks.last().unwrap()["choices"][0];
        assert_eq!(last["finish_reason"], finish, "{input}");

        let asked = json!({"model": "teller", "input": input});
        let (_, whole) = answer(api.post("/v1/responses", &asked)).await.unwrap();
        assert_eq!(
            (&whole["status"], &whole["incomplete_details"]["reason"]),
            (&json!(status), &reason),
            "{whole}"
        );
        let path = format!("/v1/responses/{}", whole["id"].as_str().unwrap());
        assert_eq!(answer(api.get(&path)).await.unwrap().1, whole);
        let events = stream(&api, "/v1/responses", asked).await;
        let last = events.last().unwrap();
        assert_eq!(last["type"], format!("response.{status}"), "{input}");
        assert_eq!(last["response"]["status"], status, "{input}");
    }
}
