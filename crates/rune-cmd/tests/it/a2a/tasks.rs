//! Tasks over JSON-RPC: said, followed, looked at, called off.

use serde_json::{Value, json};

use super::{
    SLOW, Stream, assembled, daemon, deploy, envelope, kinds, message, message_v03, refused, result,
};
use crate::wire::{Api, answer, assert_no_panic};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_becomes_a_task_that_is_answered_when_it_has_ended() {
    let served = daemon(&[]).await;
    deploy(&served, "hello", "", "", &[]);
    let api = Api::of(&served.0);
    let mut said = message("hi");
    said["metadata"] = json!({"mood": "good"});
    let params = json!({"message": said, "metadata": {"ticket": 7}});
    let task = result(&api, "hello", "SendMessage", &params).await["task"].clone();
    assert_eq!(task["status"]["state"], "TASK_STATE_COMPLETED");
    assert_eq!(
        task["artifacts"],
        json!([{"artifactId": "answer", "parts": [{"text": "Echo: hi", "mediaType": "text/plain"}]}])
    );
    assert_eq!(task["metadata"], json!({"ticket": 7}));
    let asked = &task["history"][0];
    assert_eq!(
        (
            &asked["messageId"],
            &asked["parts"],
            &asked["metadata"],
            &asked["taskId"]
        ),
        (
            &said["messageId"],
            &said["parts"],
            &said["metadata"],
            &task["id"]
        )
    );
    let looked = result(&api, "hello", "GetTask", &json!({"id": task["id"]})).await;
    assert_eq!(looked, task);
    let brief = json!({"id": task["id"], "historyLength": 0});
    let brief = result(&api, "hello", "GetTask", &brief).await;
    assert!(brief.get("history").is_none());

    // The task is a request of the agent, and the context its session.
    let request = api.request(task["id"].as_str().unwrap()).await;
    assert_eq!(request["session_id"], task["contextId"]);
    let mut next = message("again");
    next["contextId"] = task["contextId"].clone();
    let next = result(&api, "hello", "SendMessage", &json!({"message": next})).await;
    assert_eq!(next["task"]["contextId"], task["contextId"]);
    assert_ne!(next["task"]["id"], task["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_a_stream_says_is_worked_on_is_never_seen_before_that() {
    let served = daemon(&[]).await;
    deploy(&served, "hello", SLOW, "", &[]);
    // Nothing of its journal is stored before it ends.
    let late = "runtime: {checkpoint_policy: on_finish}\n";
    deploy(&served, "late", SLOW, late, &[]);
    let api = Api::of(&served.0);
    for (agent, text) in std::iter::repeat_n(("hello", "hi"), 20).chain([("late", "slow")]) {
        let params = json!({"message": message(text)});
        let mut stream = Stream::call(&api, agent, "SendStreamingMessage", &params).await;
        let task = json!({"id": stream.next().await.unwrap()["task"]["id"]});
        let told = stream.next().await.unwrap();
        assert_eq!(
            told["statusUpdate"]["status"]["state"], "TASK_STATE_WORKING",
            "{told}"
        );
        let looked = result(&api, agent, "GetTask", &task).await;
        assert_ne!(looked["status"]["state"], "TASK_STATE_SUBMITTED");
        if text == "slow" {
            result(&api, agent, "CancelTask", &task).await;
        }
        let events = stream.rest().await;
        let last = &events.last().unwrap()["statusUpdate"]["status"];
        let ended = result(&api, agent, "GetTask", &task).await;
        assert_eq!(&ended["status"], last, "{agent}");
    }
    let now = json!({"message": message("slow"), "configuration": {"returnImmediately": true}});
    let begun = result(&api, "late", "SendMessage", &now).await["task"].clone();
    let request = api.request(begun["id"].as_str().unwrap()).await;
    assert_eq!(begun["status"]["timestamp"], request["created_at"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_0_3_are_answered_in_their_own_form() {
    let served = daemon(&[]).await;
    deploy(&served, "hello", SLOW, "", &[]);
    let api = Api::of(&served.0);
    let params = json!({"message": message_v03("hi"), "configuration": {"blocking": true}});
    let task = result(&api, "hello", "message/send", &params).await;
    assert_eq!(
        (&task["kind"], &task["status"]["state"]),
        (&json!("task"), &json!("completed"))
    );
    assert_eq!(
        task["artifacts"][0]["parts"],
        json!([{"kind": "text", "text": "Echo: hi"}])
    );
    assert_eq!(task["history"][0]["role"], "user");
    let looked = result(&api, "hello", "tasks/get", &json!({"id": task["id"]})).await;
    assert_eq!(looked["artifacts"], task["artifacts"]);

    let params = json!({"message": message_v03("x")});
    let stream = Stream::call(&api, "hello", "message/stream", &params).await;
    let events = stream.rest().await;
    let kinds: Vec<&str> = events.iter().map(|e| e["kind"].as_str().unwrap()).collect();
    assert_eq!(
        (kinds[0], *kinds.last().unwrap()),
        ("task", "status-update")
    );
    let last = events.last().unwrap();
    assert_eq!(
        (&last["status"]["state"], &last["final"]),
        (&json!("completed"), &json!(true))
    );
    let finals = events.iter().filter(|event| event["final"] == true).count();
    assert_eq!(finals, 1);

    let now = json!({"message": message_v03("slow"), "configuration": {"blocking": false}});
    let open = result(&api, "hello", "message/send", &now).await;
    assert!(["submitted", "working"].contains(&open["status"]["state"].as_str().unwrap()));
    let gone = result(&api, "hello", "tasks/cancel", &json!({"id": open["id"]})).await;
    assert_eq!(gone["status"]["state"], "canceled");
    // Clients of 0.3 read events from a streaming call, also where it is refused.
    let late = json!({"id": open["id"]});
    let call = api.post("/a2a/hello", &envelope("tasks/resubscribe", &late));
    let told = call.send().await.unwrap();
    assert_eq!(told.headers()["content-type"], "text/event-stream");
    let told = told.text().await.unwrap();
    let told: Value = serde_json::from_str(told.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(
        (&told["id"], &told["error"]["code"]),
        (&json!("call-1"), &json!(-32004))
    );
    // A task that has ended takes no message, and 0.3 has its own code for that.
    let mut late = message_v03("more");
    late["taskId"] = task["id"].clone();
    let late = refused(&api, "hello", "message/send", &json!({"message": late})).await;
    assert_eq!(late.0, -32602);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_the_task_then_what_happens_to_it() {
    let served = daemon(&[]).await;
    let script = "rules:\n  - match: {step: 1}\n    respond: Let me see.\n    tool_calls: [{name: rune__system-time, input: {}}]\n  \
                  - respond: It is late.\n";
    deploy(
        &served,
        "hello",
        script,
        "toolset: [rune@system-time]\n",
        &[],
    );
    let api = Api::of(&served.0);
    let params = json!({"message": message("what time is it?")});
    let stream = Stream::call(&api, "hello", "SendStreamingMessage", &params).await;
    let events = stream.rest().await;
    assert_eq!(events[0]["task"]["status"]["state"], "TASK_STATE_SUBMITTED");
    let kinds = kinds(&events);
    assert_eq!(
        kinds,
        [
            "task",
            "WORKING",
            "artifactUpdate",
            "WORKING",
            "artifactUpdate",
            "COMPLETED"
        ],
        "{events:#?}"
    );
    // What was said on the way is a message, and the answer is the artifact.
    let said = events
        .iter()
        .find_map(|event| event["statusUpdate"]["status"]["message"]["parts"][0]["text"].as_str());
    assert_eq!(said, Some("Let me see."));
    assert_eq!(assembled(&events), "It is late.");
    let updates = events
        .iter()
        .filter(|event| event.get("artifactUpdate").is_some());
    let last = updates.filter(|event| event["artifactUpdate"]["lastChunk"] == true);
    assert_eq!(last.count(), 1);
    let task = json!({"id": events[0]["task"]["id"]});
    let task = result(&api, "hello", "GetTask", &task).await;
    assert_eq!(task["artifacts"][0]["parts"][0]["text"], "It is late.");
    assert_eq!(task["history"][1]["parts"][0]["text"], "Let me see.");
    assert_eq!(task["history"][1]["role"], "ROLE_AGENT");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_those_of_the_protocol() {
    let served = daemon(&[]).await;
    deploy(&served, "hello", SLOW, "", &[]);
    deploy(&served, "other", "", "", &[]);
    let api = Api::of(&served.0);
    let done = result(
        &api,
        "hello",
        "SendMessage",
        &json!({"message": message("hi")}),
    )
    .await;
    let done = &done["task"];
    let with = |key: &str, value: &Value| {
        let mut message = message("more");
        message[key] = value.clone();
        json!({"message": message})
    };
    let unknown = json!("req_00000000000000000000000000000000");
    let foreign = json!({"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "x"}], "taskId": done["id"], "contextId": "elsewhere"}});
    for (agent, method, params, code, reason) in [
        (
            "hello",
            "GetTask",
            json!({"id": "nonsense"}),
            -32001,
            "TASK_NOT_FOUND",
        ),
        (
            "hello",
            "GetTask",
            json!({"id": unknown}),
            -32001,
            "TASK_NOT_FOUND",
        ),
        (
            "other",
            "GetTask",
            json!({"id": done["id"]}),
            -32001,
            "TASK_NOT_FOUND",
        ),
        (
            "hello",
            "CancelTask",
            json!({"id": done["id"]}),
            -32002,
            "TASK_NOT_CANCELABLE",
        ),
        (
            "hello",
            "SubscribeToTask",
            json!({"id": done["id"]}),
            -32004,
            "UNSUPPORTED_OPERATION",
        ),
        (
            "hello",
            "SendMessage",
            with("taskId", &done["id"]),
            -32004,
            "UNSUPPORTED_OPERATION",
        ),
        (
            "hello",
            "SendMessage",
            with("taskId", &unknown),
            -32001,
            "TASK_NOT_FOUND",
        ),
        ("hello", "SendMessage", foreign, -32602, "INVALID_PARAMS"),
        (
            "hello",
            "SendMessage",
            with("contextId", &json!("a b")),
            -32602,
            "INVALID_PARAMS",
        ),
        // The session of another agent.
        (
            "other",
            "SendMessage",
            with("contextId", &done["contextId"]),
            -32602,
            "INVALID_PARAMS",
        ),
        (
            "hello",
            "SendMessage",
            with("parts", &json!([])),
            -32602,
            "INVALID_PARAMS",
        ),
        ("hello", "Nonsense", json!({}), -32601, "METHOD_NOT_FOUND"),
        ("hello", "tasks/list", json!({}), -32601, "METHOD_NOT_FOUND"),
        (
            "hello",
            "GetExtendedAgentCard",
            json!({}),
            -32004,
            "UNSUPPORTED_OPERATION",
        ),
    ] {
        let refused = refused(&api, agent, method, &params).await;
        assert_eq!(refused, (code, reason.to_owned()), "{method} {params}");
    }
    let failed = result(
        &api,
        "hello",
        "SendMessage",
        &json!({"message": message("broken")}),
    )
    .await;
    let status = &failed["task"]["status"];
    assert_eq!(status["state"], "TASK_STATE_FAILED");
    assert!(
        !status["message"]["parts"][0]["text"]
            .as_str()
            .unwrap()
            .is_empty()
    );
    let (status, nobody) =
        answer(api.post("/a2a/nobody", &super::envelope("ListTasks", &json!({}))))
            .await
            .unwrap();
    assert_eq!(
        (status, &nobody["error"]["code"]),
        (404, &json!("not_found"))
    );
    assert_no_panic(&served);
}
