//! The HTTP binding, and the rules of both: content types, versions, envelopes.

use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::{SLOW, Stream, daemon, deploy, envelope, id, kinds, message};
use crate::home::Served;
use crate::wire::{Api, answer};

async fn hello() -> Served {
    let served = daemon(&[]).await;
    deploy(&served, "hello", SLOW, "", &[]);
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_has_a_path() {
    let served = hello().await;
    let api = Api::of(&served.0);
    let said = json!({"message": message("hi")});
    // No extension is declared, so one that a client would like is passed over.
    let send = api.post("/a2a/hello/message:send", &said);
    let send = send.header("a2a-extensions", "https://example.org/mood/v1");
    let (status, sent) = answer(send).await.unwrap();
    assert_eq!(
        (status, &sent["task"]["status"]["state"]),
        (200, &json!("TASK_STATE_COMPLETED"))
    );
    let task = id(&sent["task"]["id"]);
    let (status, looked) = answer(api.get(&format!("/a2a/hello/tasks/{task}?historyLength=0")))
        .await
        .unwrap();
    assert_eq!((status, &looked["id"]), (200, &json!(task)));
    assert!(looked.get("history").is_none());
    let list = "/a2a/hello/tasks?pageSize=1&includeArtifacts=true&status=TASK_STATE_COMPLETED";
    let (status, page) = answer(api.get(list)).await.unwrap();
    assert_eq!((status, &page["totalSize"]), (200, &json!(1)), "{page}");
    assert_eq!(
        page["tasks"][0]["artifacts"][0]["parts"][0]["text"],
        "Echo: hi"
    );

    let stream = Stream::of(api.post("/a2a/hello/message:stream", &said)).await;
    let events = stream.rest().await;
    assert_eq!(
        kinds(&events),
        ["task", "WORKING", "artifactUpdate", "COMPLETED"]
    );

    let open = json!({"message": message("slow"), "configuration": {"returnImmediately": true}});
    let (_, open) = answer(api.post("/a2a/hello/message:send", &open))
        .await
        .unwrap();
    let open = id(&open["task"]["id"]);
    // Both methods of HTTP follow it.
    let path = format!("/a2a/hello/tasks/{open}:subscribe");
    let mut got = Stream::of(api.get(&path)).await;
    let mut posted = Stream::of(api.post(&path, &json!({}))).await;
    for stream in [&mut got, &mut posted] {
        assert_eq!(stream.next().await.unwrap()["task"]["id"], json!(open));
    }
    // One that leaves does not hurt the other.
    drop(got);
    let cancel = format!("/a2a/hello/tasks/{open}:cancel");
    let (status, gone) = answer(api.post(&cancel, &json!({}))).await.unwrap();
    assert_eq!(
        (status, &gone["status"]["state"]),
        (200, &json!("TASK_STATE_CANCELED"))
    );
    let rest = posted.rest().await;
    assert_eq!(kinds(&rest).last().unwrap(), "CANCELED");
    let (status, again) = answer(api.post(&cancel, &json!({}))).await.unwrap();
    let error = &again["error"];
    assert_eq!(
        (status, &error["code"], &error["status"]),
        (400, &json!(400), &json!("FAILED_PRECONDITION"))
    );
    assert_eq!(error["details"][0]["reason"], "TASK_NOT_CANCELABLE");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_paths_have_their_statuses() {
    let served = hello().await;
    let api = Api::of(&served.0);
    let done = json!({"message": message("hi")});
    let (_, done) = answer(api.post("/a2a/hello/message:send", &done))
        .await
        .unwrap();
    let done = id(&done["task"]["id"]);
    for (method, path, body, status, reason) in [
        (
            Method::GET,
            "tasks/nonsense".to_owned(),
            None,
            404,
            "TASK_NOT_FOUND",
        ),
        (
            Method::GET,
            "tasks?pageSize=0".to_owned(),
            None,
            400,
            "INVALID_PARAMS",
        ),
        (
            Method::GET,
            format!("tasks/{done}:subscribe"),
            None,
            400,
            "UNSUPPORTED_OPERATION",
        ),
        (
            Method::GET,
            format!("tasks/{done}:nonsense"),
            None,
            404,
            "METHOD_NOT_FOUND",
        ),
        (
            Method::POST,
            format!("tasks/{done}:nonsense"),
            Some("{}"),
            404,
            "METHOD_NOT_FOUND",
        ),
        (
            Method::POST,
            "message:send".to_owned(),
            Some("{"),
            400,
            "PARSE_ERROR",
        ),
        (
            Method::POST,
            "message:send".to_owned(),
            Some("[]"),
            400,
            "INVALID_PARAMS",
        ),
        (
            Method::POST,
            "message:send".to_owned(),
            None,
            400,
            "INVALID_PARAMS",
        ),
        (
            Method::GET,
            "extendedAgentCard".to_owned(),
            None,
            400,
            "UNSUPPORTED_OPERATION",
        ),
        (
            Method::GET,
            "dev/nonsense".to_owned(),
            None,
            404,
            "METHOD_NOT_FOUND",
        ),
    ] {
        let url = format!("{}/a2a/hello/{path}", served.0.gateway());
        let mut request = Client::new().request(method, url);
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body);
        }
        let (found, answer) = answer(request).await.unwrap();
        let error = &answer["error"];
        assert_eq!(
            (found, error["details"][0]["reason"].as_str()),
            (status, Some(reason)),
            "{path} {answer}"
        );
        assert_eq!(error["code"], json!(status));
    }
    let (status, nobody) = answer(api.get("/a2a/nobody/tasks")).await.unwrap();
    assert_eq!(
        (status, &nobody["error"]["code"]),
        (404, &json!("not_found"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn content_types_are_looked_at_before_the_body() {
    let served = hello().await;
    let post = async |path: &str, kind: &str, accept: &str, body: String| {
        let url = format!("{}/a2a/hello{path}", served.0.gateway());
        let request = Client::new().post(url).header("content-type", kind);
        let response = request
            .header("accept", accept)
            .body(body)
            .send()
            .await
            .unwrap();
        let status = response.status().as_u16();
        let kind = response.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        (status, kind, response.json::<Value>().await.unwrap())
    };
    let (status, _, refused) = post("", "text/plain", "*/*", "no json".to_owned()).await;
    assert_eq!((status, &refused["error"]["code"]), (200, &json!(-32005)));
    let (status, kind, refused) =
        post("/message:send", "text/plain", "*/*", "no json".to_owned()).await;
    assert_eq!((status, kind.as_str()), (415, "application/json"));
    assert_eq!(
        refused["error"]["details"][0]["reason"],
        "CONTENT_TYPE_NOT_SUPPORTED"
    );
    let said = json!({"message": message("hi")}).to_string();
    for (kind, accept, expected) in [
        ("application/json", "*/*", "application/json"),
        ("application/a2a+json", "*/*", "application/a2a+json"),
        (
            "application/json",
            "application/a2a+json",
            "application/a2a+json",
        ),
    ] {
        let (status, kind, _) = post("/message:send", kind, accept, said.clone()).await;
        assert_eq!((status, kind.as_str()), (200, expected));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_are_not_spoken_are_refused() {
    let served = hello().await;
    let api = Api::of(&served.0);
    let list = envelope("ListTasks", &json!({}));
    let old = envelope("tasks/get", &json!({"id": "x"}));
    for (body, version, code) in [
        (&list, "1.0", None),
        (&list, "1.0.1", None),
        (&list, "", None),
        (&list, "99.0", Some(-32009)),
        (&list, "0.5", Some(-32009)),
        // 0.3 has no word for it.
        (&old, "99.0", Some(-32004)),
        (&old, "0.3", Some(-32001)),
    ] {
        for by_query in [false, true] {
            let request = match by_query {
                false => api.post("/a2a/hello", body).header("A2A-Version", version),
                true => api.post(&format!("/a2a/hello?A2A-Version={version}"), body),
            };
            let (status, body) = answer(request).await.unwrap();
            assert_eq!(
                (status, body["error"]["code"].as_i64()),
                (200, code),
                "{version} {body}"
            );
        }
    }
    for (version, status) in [("1.0", 200), ("99.0", 400), ("0.3", 400)] {
        let request = api.get("/a2a/hello/tasks").header("a2a-version", version);
        let (found, body) = answer(request).await.unwrap();
        assert_eq!(found, status, "{body}");
        if status == 400 {
            assert_eq!(
                body["error"]["details"][0]["reason"],
                "VERSION_NOT_SUPPORTED"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_call_is_answered_as_such() {
    let served = hello().await;
    for (body, code, id) in [
        ("{", -32700, Value::Null),
        ("", -32700, Value::Null),
        ("[]", -32600, Value::Null),
        (
            r#"[{"jsonrpc":"2.0","id":1,"method":"ListTasks"}]"#,
            -32600,
            Value::Null,
        ),
        (
            r#"{"jsonrpc":"1.0","id":5,"method":"ListTasks"}"#,
            -32600,
            json!(5),
        ),
        (r#"{"jsonrpc":"2.0","id":"a"}"#, -32600, json!("a")),
        (
            r#"{"jsonrpc":"2.0","id":"a","method":"ListTasks","params":[]}"#,
            -32602,
            json!("a"),
        ),
    ] {
        let url = format!("{}/a2a/hello", served.0.gateway());
        let request = Client::new()
            .post(url)
            .header("content-type", "application/json");
        let (status, answer) = answer(request.body(body)).await.unwrap();
        assert_eq!(
            (status, &answer["error"]["code"], &answer["id"]),
            (200, &json!(code), &id),
            "{body}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_refused_where_the_card_has_none() {
    let served = daemon(&[("RUNE_A2A_PUSH_NOTIFICATIONS", "off")]).await;
    deploy(&served, "hello", "", "", &[]);
    let api = Api::of(&served.0);
    let hook = json!({"url": "https://example.org/hook"});
    let said =
        json!({"message": message("hi"), "configuration": {"taskPushNotificationConfig": hook}});
    for (method, params) in [
        ("SendMessage", said),
        (
            "CreateTaskPushNotificationConfig",
            json!({"taskId": "t", "url": "https://example.org"}),
        ),
        (
            "GetTaskPushNotificationConfig",
            json!({"taskId": "t", "id": "p"}),
        ),
        ("ListTaskPushNotificationConfigs", json!({"taskId": "t"})),
        (
            "DeleteTaskPushNotificationConfig",
            json!({"taskId": "t", "id": "p"}),
        ),
        ("tasks/pushNotificationConfig/list", json!({"id": "t"})),
    ] {
        let refused = super::refused(&api, "hello", method, &params).await;
        assert_eq!(refused.0, -32003, "{method}");
    }
}
