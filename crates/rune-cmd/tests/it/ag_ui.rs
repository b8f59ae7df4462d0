//! The Agent User Interaction Protocol: what is on the wire, and that the official types read it.

use rune_testkit::TestDaemon;
use serde_json::{Value, json};

use crate::home::{RUNE, Served};
use crate::openai::deploy_asking;
use crate::python::{CLIENTS, program};
use crate::wire::{Api, answer, assert_no_panic};

const PATH: &str = "/v1/agents/plain/ag-ui";

fn input(thread: &str, run: &str, messages: &Value) -> Value {
    json!({
        "threadId": thread, "runId": run, "state": {}, "messages": messages, "tools": [],
        "context": [], "forwardedProps": {},
    })
}

fn user(text: &str) -> Value {
    json!([{"id": "1", "role": "user", "content": text}])
}

/// The events of a run.
async fn run(api: &Api, agent: &str, body: &Value) -> Vec<Value> {
    let response = api.post(&format!("/v1/agents/{agent}/ag-ui"), body).send();
    let response = response.await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    assert_eq!(status, 200, "{text}");
    let blocks = text.split_terminator("\n\n");
    let events = blocks.map(|block| serde_json::from_str(block.strip_prefix("data: ").unwrap()));
    events.map(Result::unwrap).collect()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    kinds.dedup();
    kinds
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_tells_of_text_and_tool_calls() {
    let served = Served::with_plain().await;
    let api = Api::of(&served.0);
    let events = run(&api, "plain", &input("t-1", "r-1", &user("hi"))).await;
    assert_eq!(
        kinds(&events),
        [
            "RUN_STARTED",
            "TEXT_MESSAGE_START",
            "TEXT_MESSAGE_CONTENT",
            "TEXT_MESSAGE_END",
            "RUN_FINISHED"
        ]
    );
    let text: String = events.iter().filter_map(|e| e["delta"].as_str()).collect();
    assert_eq!(text, "Echo: hi");
    let last = events.last().unwrap();
    assert_eq!(
        (&last["threadId"], &last["runId"], &last["result"]),
        (&json!("t-1"), &json!("r-1"), &json!("Echo: hi"))
    );
    assert_eq!(last["outcome"]["type"], "success");

    let call = user(r#"/tool rune__system-time {"timezone": "UTC"}"#);
    let events = run(&api, "plain", &input("t-2", "r-2", &call)).await;
    let kinds = kinds(&events);
    assert_eq!(
        kinds[..5],
        [
            "RUN_STARTED",
            "TOOL_CALL_START",
            "TOOL_CALL_ARGS",
            "TOOL_CALL_END",
            "TOOL_CALL_RESULT"
        ],
        "{kinds:?}"
    );
    assert_eq!(events[1]["toolCallName"], "rune@system-time");
    assert!(events[4]["content"].as_str().unwrap().contains("UTC"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_is_a_session_that_is_told_only_what_is_new() {
    let served = Served::with_plain().await;
    let api = Api::of(&served.0);
    run(&api, "plain", &input("t", "1", &user("one"))).await;
    let history = json!([
        {"id": "1", "role": "user", "content": "one"},
        {"id": "2", "role": "assistant", "content": "Echo: one"},
        {"id": "3", "role": "user", "content": [{"type": "text", "text": "two"}]},
    ]);
    let mut body = input("t", "2", &history);
    let events = run(&api, "plain", &body).await;
    assert_eq!(events.last().unwrap()["result"], "Echo: two");
    body["context"] = json!([{"description": "Page", "value": "Cart"}]);
    body["messages"][2]["content"] = json!("three");
    let events = run(&api, "plain", &body).await;
    let said = events.last().unwrap()["result"].as_str().unwrap();
    assert!(
        said.contains("Page: Cart") && said.ends_with("three"),
        "{said}"
    );
    let (_, session) = answer(api.get("/v1/sessions/dev.plain:t")).await.unwrap();
    assert_eq!(session["messages"], 6, "{session}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_before_the_first_event() {
    let served = Served::with_plain().await;
    let api = Api::of(&served.0);
    let refused = async |path: &str, body: Value| {
        let (status, body) = answer(api.post(path, &body)).await.unwrap();
        (
            status,
            body["error"]["message"].as_str().unwrap().to_owned(),
        )
    };
    let (status, _) = refused("/v1/agents/nobody/ag-ui", input("t", "r", &user("x"))).await;
    assert_eq!(status, 404);
    for (body, expected) in [
        (input("t", "r", &json!([])), "nothing to answer"),
        (input("", "r", &user("x")), "`threadId`"),
        (
            input(
                "t",
                "r",
                &json!([{"id": "1", "role": "robot", "content": "x"}]),
            ),
            "messages[0].role",
        ),
        (
            input(
                "t",
                "r",
                &json!([{"id": "1", "role": "user", "content": [{"type": "audio"}]}]),
            ),
            "messages[0].content[0]",
        ),
        (json!({"threadId": "t"}), "runId"),
    ] {
        let (status, message) = refused(PATH, body).await;
        assert_eq!(status, 400, "{message}");
        assert!(message.contains(expected), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_interrupts_a_run_and_the_next_one_resumes_it() {
    let mut served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    deploy_asking(&served);
    for (n, approved, restarts) in [(1, true, false), (2, false, true)] {
        let api = Api::of(&served.0);
        let thread = format!("t-{n}");
        let events = run(&api, "ask", &input(&thread, "r-1", &user("go"))).await;
        assert_eq!(
            kinds(&events),
            [
                "RUN_STARTED",
                "TOOL_CALL_START",
                "TOOL_CALL_ARGS",
                "TOOL_CALL_END",
                "RUN_FINISHED"
            ]
        );
        let outcome = &events.last().unwrap()["outcome"];
        assert_eq!(outcome["type"], "interrupt", "{outcome}");
        let interrupt = &outcome["interrupts"][0];
        assert_eq!(interrupt["toolCallId"], events[1]["toolCallId"]);
        if restarts {
            served.0.kill9().unwrap();
            served.0.restart().await.unwrap();
        }
        let api = Api::of(&served.0);
        let mut body = input(&thread, "r-2", &json!([]));
        let resume = |payload: Value| json!([{"interruptId": interrupt["id"], "status": "resolved", "payload": payload}]);
        body["resume"] = resume(json!({"sure": "yes"}));
        let (status, refused) = answer(api.post("/v1/agents/ask/ag-ui", &body))
            .await
            .unwrap();
        assert_eq!(status, 400, "{refused}");
        body["resume"] = resume(json!({"approved": approved}));
        let events = run(&api, "ask", &body).await;
        assert_eq!(
            kinds(&events),
            [
                "RUN_STARTED",
                "TOOL_CALL_RESULT",
                "TEXT_MESSAGE_START",
                "TEXT_MESSAGE_CONTENT",
                "TEXT_MESSAGE_END",
                "RUN_FINISHED"
            ]
        );
        assert_eq!(events[1].get("error").is_none(), approved, "{}", events[1]);
        let last = events.last().unwrap();
        assert_eq!(
            (&last["runId"], &last["result"]),
            (&json!("r-2"), &json!("done"))
        );
        let again = run(&api, "ask", &body).await;
        assert_eq!(kinds(&again), kinds(&events), "what got lost is told again");
        body["resume"] = resume(json!({"approved": !approved}));
        let (status, _) = answer(api.post("/v1/agents/ask/ag-ui", &body))
            .await
            .unwrap();
        assert_eq!(status, 409, "it is decided once");
    }
    assert_no_panic(&served);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_types_read_every_event() {
    let served = Served::with_plain().await;
    deploy_asking(&served);
    let Some(reader) = program(&CLIENTS, "ag_ui/client.py") else {
        return;
    };
    reader.run(&[served.0.gateway()]);
}
