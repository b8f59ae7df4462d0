//! Approvals that clients of OpenAI's API and of AG-UI answer: one after the other, again, and the other way.

use rune_testkit::TestDaemon;
use serde_json::{Value, json};

use crate::component::Guest;
use crate::home::{RUNE, Served};
use crate::openai::deploy_asking;
use crate::wire::{Api, answer, assert_no_panic};

/// Asks about two calls, one after the other.
const TWICE: &str = "name: twice\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: default\n\
                     toolset: [rune@memory-store]\npolicy: {ask: [\"rune@memory-store\"]}\n\
                     models:\n  providers: [offline]\n  model_mapping: {default: offline}\n";
const TWICE_SCRIPT: &str = "rules:\n\
    \x20 - match: {step: 1}\n    tool_calls: [{name: rune__memory-store, input: {key: a, value: 1}}]\n\
    \x20 - match: {step: 2}\n    tool_calls: [{name: rune__memory-store, input: {key: b, value: 2}}]\n\
    \x20 - respond: done\n";

async fn served() -> Served {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    let dir = served.0.home().join("twice");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("Runefile"), TWICE).unwrap();
    std::fs::write(dir.join("script.yaml"), TWICE_SCRIPT).unwrap();
    served.rune(&["run", "twice"]).ok();
    served
}

/// What a client sends that answers every question it finds.
fn approve_all(response: &Value) -> Vec<Value> {
    let items = response["output"].as_array().unwrap().iter();
    let asked = items.filter(|item| item["type"] == "mcp_approval_request");
    let answers = asked.map(|item| approval(&item["id"], true));
    answers.collect()
}

fn approval(question: &Value, approve: bool) -> Value {
    json!({"type": "mcp_approval_response", "approval_request_id": question, "approve": approve})
}

async fn decide(api: &Api, response: &Value, answers: &[Value]) -> (u16, Value) {
    let body = json!({
        "model": "twice", "previous_response_id": response["id"], "input": answers,
    });
    answer(api.post("/v1/responses", &body)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_answers_every_question_comes_to_the_end() {
    let served = served().await;
    let api = Api::of(&served.0);
    let body = json!({"model": "twice", "input": "go"});
    let (_, asked) = answer(api.post("/v1/responses", &body)).await.unwrap();
    assert_eq!(asked["incomplete_details"]["reason"], "approval_required");
    let first = approve_all(&asked);
    assert_eq!(first.len(), 1, "{asked}");

    let (status, again_asked) = decide(&api, &asked, &first).await;
    assert_eq!(
        (status, &again_asked["status"]),
        (200, &json!("incomplete")),
        "{again_asked}"
    );
    // The question that was answered is the call that it was about.
    let call = &again_asked["output"][0];
    assert_eq!(
        (
            &call["type"],
            &call["status"],
            &call["approval_request_id"],
            call.get("output")
        ),
        (
            &json!("mcp_call"),
            &json!("completed"),
            &asked["output"][0]["id"],
            None
        ),
        "{again_asked}"
    );
    let second = approve_all(&again_asked);
    assert_eq!(second.len(), 1, "{again_asked}");

    // An answer that got lost: the same call is answered the same way.
    assert_eq!(
        decide(&api, &asked, &first).await,
        (200, again_asked.clone())
    );
    // The other way round it is refused, and nothing else is decided with it.
    let mixed = [
        second[0].clone(),
        approval(&asked["output"][0]["id"], false),
    ];
    let (status, refused) = decide(&api, &asked, &mixed).await;
    assert_eq!(
        (status, &refused["error"]["code"]),
        (409, &json!("conflict")),
        "{refused}"
    );
    // Neither is it where one is answered twice.
    let question = &second[0]["approval_request_id"];
    let both_ways = [approval(question, true), approval(question, false)];
    let (status, refused) = decide(&api, &asked, &both_ways).await;
    assert_eq!(
        (status, &refused["error"]["code"]),
        (400, &json!("invalid_input")),
        "{refused}"
    );
    let path = format!("/v1/responses/{}", asked["id"].as_str().unwrap());
    let (_, now) = answer(api.get(&path)).await.unwrap();
    assert_eq!(now, again_asked, "nothing was decided");

    // Both at once, of which one is decided already.
    let both = [first.clone(), second].concat();
    let (status, done) = decide(&api, &asked, &both).await;
    assert_eq!(
        (status, &done["status"]),
        (200, &json!("completed")),
        "{done}"
    );
    let texts = done["output"].as_array().unwrap().last().unwrap();
    assert_eq!(texts["content"][0]["text"], "done", "{done}");
    assert_eq!(approve_all(&done).len(), 0, "{done}");
    assert_eq!(decide(&api, &asked, &both).await, (200, done.clone()));
    let (_, kept) = answer(api.get(&path)).await.unwrap();
    assert_eq!(kept, done);
    assert_no_panic(&served);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_behind_a_decision_begins_with_what_it_decided() {
    let served = served().await;
    let api = Api::of(&served.0);
    let body = json!({"model": "twice", "input": "go"});
    let (_, asked) = answer(api.post("/v1/responses", &body)).await.unwrap();
    let denied = approval(&asked["output"][0]["id"], false);
    let body = json!({
        "model": "twice", "previous_response_id": asked["id"], "input": [denied], "stream": true,
    });
    let response = api.post("/v1/responses", &body).send().await.unwrap();
    let text = response.text().await.unwrap();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let events: Vec<Value> = data
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    let created = &events[0];
    assert_eq!(created["type"], "response.created", "{text}");
    let call = &created["response"]["output"][0];
    assert_eq!(
        (&call["type"], &call["status"]),
        (&json!("mcp_call"), &json!("failed")),
        "{text}"
    );
    let last = events.last().unwrap();
    assert_eq!(last["type"], "response.incomplete", "{text}");
    assert_eq!(
        last["response"]["output"][1]["type"],
        "mcp_approval_request"
    );
    // Every event is about the item at its place.
    for event in &events {
        let (Some(place), Some(item)) = (event["output_index"].as_u64(), event.get("item")) else {
            continue;
        };
        let place = usize::try_from(place).unwrap();
        assert_eq!(
            last["response"]["output"][place]["id"], item["id"],
            "{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_is_answered_with_the_model_that_asks() {
    let served = served().await;
    deploy_asking(&served);
    let api = Api::of(&served.0);
    let body = json!({"model": "twice", "input": "go"});
    let (_, asked) = answer(api.post("/v1/responses", &body)).await.unwrap();
    let body = json!({
        "model": "ask", "previous_response_id": asked["id"], "input": approve_all(&asked),
    });
    let (status, refused) = answer(api.post("/v1/responses", &body)).await.unwrap();
    assert_eq!(
        (status, &refused["error"]["param"]),
        (400, &json!("previous_response_id")),
        "{refused}"
    );
    let (_, waiting) = answer(api.get("/v1/approvals")).await.unwrap();
    assert_eq!(waiting["items"].as_array().unwrap().len(), 1, "{waiting}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_goes_on_behind_its_notice() {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    deploy_asking(&served);
    let api = Api::of(&served.0);
    let chat = async |messages: Value| {
        let body = json!({"model": "ask", "messages": messages, "user": "ada"});
        let response = api
            .post("/v1/chat/completions", &body)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        let ids = [header("x-rune-session-id"), header("x-rune-request-id")];
        (ids, response.json::<Value>().await.unwrap())
    };
    let go = json!({"role": "user", "content": "go"});
    let ([session, request], waits) = chat(json!([go])).await;
    assert_eq!(session, "dev.ask:ada");
    let notice = &waits["choices"][0]["message"];
    assert!(
        notice["content"].as_str().unwrap().contains("Waiting for"),
        "{waits}"
    );
    // What was used to come here is counted.
    assert!(waits["usage"]["total_tokens"].as_u64() > Some(0), "{waits}");

    let history = json!([go, notice, {"role": "user", "content": "and?"}]);
    // As long as nobody has decided, the session has no answer to go on behind.
    let ([elsewhere, _], _) = chat(history.clone()).await;
    assert_ne!(elsewhere, session);
    served.rune(&["requests", "approve", &request]).ok();
    api.ended(&request).await;
    let ([behind, _], _) = chat(history).await;
    assert_eq!(behind, session);
}

/// A component that says something, does what a person has to approve, and says something again.
fn talking() -> String {
    let mut guest = Guest::default();
    let (before, after, answer) = (
        guest.text("Looking. "),
        guest.text("Found. "),
        guest.text("42"),
    );
    let calls = guest.calls(&[("rune@memory-store", r#"{"key": "a", "value": 1}"#)]);
    guest.run(&format!(
        "(call $emit {before}) (call $call_all {calls} (i32.const 1160)) (call $emit {after}) (call $text {answer})"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_of_a_thread_name_every_message_once() {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    let extra = "policy: {ask: [\"rune@memory-store\"]}\n";
    crate::component::write(served.0.home(), "talker", &talking(), &[], extra);
    served.rune(&["run", "talker"]).ok();
    let api = Api::of(&served.0);
    let run = async |body: Value| -> Vec<Value> {
        let response = api
            .post("/v1/agents/talker/ag-ui", &body)
            .send()
            .await
            .unwrap();
        let text = response.text().await.unwrap();
        let blocks = text.split_terminator("\n\n");
        let events = blocks.map(|block| block.strip_prefix("data: ").unwrap());
        events
            .map(|event| serde_json::from_str(event).unwrap())
            .collect()
    };
    let messages = json!([{"id": "1", "role": "user", "content": "go"}]);
    let mut body = json!({"threadId": "t", "runId": "1", "messages": messages});
    let first = run(body.clone()).await;
    let outcome = &first.last().unwrap()["outcome"];
    assert_eq!(outcome["type"], "interrupt", "{outcome}");
    let id = &outcome["interrupts"][0]["id"];
    let resume =
        |approved: bool| json!([{"interruptId": id, "status": "resolved", "payload": approved}]);
    body["runId"] = json!("2");
    body["resume"] = resume(true);
    let second = run(body.clone()).await;
    assert_eq!(second.last().unwrap()["result"], "42");

    let said = |events: &[Value]| -> Vec<String> {
        let texts = events.iter().filter_map(|event| event["delta"].as_str());
        let texts = texts.filter(|text| !text.starts_with('{'));
        texts.map(str::to_owned).collect()
    };
    assert_eq!(said(&first), ["Looking. "]);
    assert_eq!(said(&second).concat(), "Found. 42");
    let mut ids: Vec<&Value> = first
        .iter()
        .chain(&second)
        .filter(|event| {
            event["type"] == "TEXT_MESSAGE_START" || event["type"] == "TOOL_CALL_RESULT"
        })
        .map(|event| &event["messageId"])
        .collect();
    let all = ids.len();
    ids.sort_by_key(ToString::to_string);
    ids.dedup();
    assert_eq!(ids.len(), all, "{ids:?}");

    // Sent again it is told again, from the journal; the other way round it is refused.
    let again = run(body.clone()).await;
    assert_eq!(again.last().unwrap()["result"], "42");
    assert!(
        again
            .iter()
            .any(|event| event["type"] == "TOOL_CALL_RESULT"),
        "{again:?}"
    );
    body["resume"] = resume(false);
    let path = "/v1/agents/talker/ag-ui";
    assert_eq!(answer(api.post(path, &body)).await.unwrap().0, 409);
}
