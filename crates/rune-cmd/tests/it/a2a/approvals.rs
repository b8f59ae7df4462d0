//! Approvals as what a task waits for.

use rune_testkit::TestDaemon;
use serde_json::{Value, json};

use super::{Stream, call, id, kinds, message, message_v03, refused, result};
use crate::home::{RUNE, Served};
use crate::openai::deploy_asking;
use crate::wire::{Api, answer, assert_no_panic};

async fn asking() -> Served {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    deploy_asking(&served);
    served
}

fn about(task: &Value, parts: &Value) -> Value {
    json!({"message": {"messageId": "answer", "role": "ROLE_USER", "taskId": task["id"], "parts": parts}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_waits_for_its_client_and_goes_on_behind_a_restart() {
    let mut served = asking().await;
    for (text, restarts, approved) in [("yes", false, true), ("Not today.", true, false)] {
        let api = Api::of(&served.0);
        let sent = result(
            &api,
            "ask",
            "SendMessage",
            &json!({"message": message("go")}),
        )
        .await;
        let task = &sent["task"];
        assert_eq!(task["status"]["state"], "TASK_STATE_INPUT_REQUIRED");
        let parts = &task["status"]["message"]["parts"];
        assert!(
            parts[0]["text"].as_str().unwrap().contains("`touch`"),
            "{parts}"
        );
        let approval = id(&parts[1]["data"]["approvals"][0]["approvalId"]);
        if restarts {
            served.0.kill9().unwrap();
            served.0.restart().await.unwrap();
        }
        let api = Api::of(&served.0);
        let looked = result(&api, "ask", "GetTask", &json!({"id": task["id"]})).await;
        assert_eq!(looked["status"]["state"], "TASK_STATE_INPUT_REQUIRED");
        assert_eq!(&looked["status"]["message"]["parts"], parts);
        let listed = json!({"status": "TASK_STATE_INPUT_REQUIRED"});
        let listed = result(&api, "ask", "ListTasks", &listed).await;
        assert_eq!(listed["tasks"][0]["id"], task["id"]);
        assert_eq!(&listed["tasks"][0]["status"]["message"]["parts"], parts);

        let answer = about(task, &json!([{"text": text}]));
        let stream = Stream::call(&api, "ask", "SendStreamingMessage", &answer).await;
        let events = stream.rest().await;
        let kinds = kinds(&events);
        assert_eq!(kinds[0], "task");
        assert_eq!(kinds.last().unwrap(), "COMPLETED", "{kinds:?}");
        let (_, request) = crate::wire::answer(api.get(&format!(
            "/v1/approvals?state=all&request={}",
            id(&task["id"])
        )))
        .await
        .unwrap();
        let row = &request["items"][0];
        assert_eq!(row["approval_id"], json!(approval));
        let state = match approved {
            true => "approved",
            false => "denied",
        };
        assert_eq!((&row["state"], &row["note"]), (&json!(state), &json!(text)));
        let done = result(&api, "ask", "GetTask", &json!({"id": task["id"]})).await;
        assert_eq!(done["artifacts"][0]["parts"][0]["text"], "done");
        // What was asked and decided is part of what was said.
        let history = done["history"].as_array().unwrap();
        let decided = &history[history.len() - 1];
        let word = if approved { "approve" } else { "deny" };
        let data = json!({"approvalId": approval, "decision": word});
        assert_eq!(
            (&decided["role"], &decided["parts"]),
            (
                &json!("ROLE_USER"),
                &json!([{"text": text}, {"data": data}])
            )
        );
        assert_eq!(refused(&api, "ask", "SendMessage", &answer).await.0, -32004);
    }
    assert_no_panic(&served);
}

#[tokio::test(flavor = "multi_thread")]
async fn data_decides_one_approval_and_wrong_data_decides_nothing() {
    let served = asking().await;
    let api = Api::of(&served.0);
    let sent = result(
        &api,
        "ask",
        "SendMessage",
        &json!({"message": message("go")}),
    )
    .await;
    let task = &sent["task"];
    let approvals = &task["status"]["message"]["parts"][1]["data"]["approvals"];
    let approval = &approvals[0]["approvalId"];
    for wrong in [
        json!([{"data": {"sure": true}}]),
        json!([{"data": {"approved": true, "approvalId": "apr_00000000000000000000000000000000"}}]),
    ] {
        let refused = refused(&api, "ask", "SendMessage", &about(task, &wrong)).await;
        assert_eq!(refused.0, -32602);
    }
    let looked = result(&api, "ask", "GetTask", &json!({"id": task["id"]})).await;
    assert_eq!(looked["status"]["state"], "TASK_STATE_INPUT_REQUIRED");
    let right = json!([{"data": {"approved": true, "approvalId": approval}}]);
    let done = result(&api, "ask", "SendMessage", &about(task, &right)).await;
    assert_eq!(done["task"]["status"]["state"], "TASK_STATE_COMPLETED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_where_the_client_is_asked() {
    let served = asking().await;
    let api = Api::of(&served.0);
    let params = json!({"message": message_v03("go")});
    let events = Stream::call(&api, "ask", "message/stream", &params)
        .await
        .rest()
        .await;
    let last = events.last().unwrap();
    assert_eq!(
        (&last["status"]["state"], &last["final"]),
        (&json!("input-required"), &json!(true))
    );
    let task = json!({"id": events[0]["id"]});
    // Whoever subscribes meanwhile is told what the task waits for, the same as anybody else, and then what comes of it.
    let mut stream = Stream::call(&api, "ask", "SubscribeToTask", &task).await;
    let mut other = Stream::call(&api, "ask", "SubscribeToTask", &task).await;
    let first = stream.next().await.unwrap();
    assert_eq!(
        first["task"]["status"]["state"],
        "TASK_STATE_INPUT_REQUIRED"
    );
    assert_eq!(other.next().await.unwrap(), first);
    let canceled = result(&api, "ask", "CancelTask", &task).await;
    assert_eq!(canceled["status"]["state"], "TASK_STATE_CANCELED");
    let events = stream.rest().await;
    assert_eq!(
        events.last().unwrap()["statusUpdate"]["status"],
        canceled["status"]
    );
    assert_eq!(other.rest().await, events);
    let body = call(&api, "ask", "SubscribeToTask", &task).await;
    assert_eq!(body["error"]["code"], -32004);
    let (_, waiting) = answer(api.get("/v1/approvals")).await.unwrap();
    assert_eq!(waiting["items"], json!([]));
}
