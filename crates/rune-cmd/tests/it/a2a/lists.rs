//! Lists of tasks, whose they are, and messages that are sent again.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::{SLOW, call, daemon, deploy, id, message, refused, result};
use crate::wire::{Api, answer};

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_listed_by_their_last_change_page_by_page() {
    let served = daemon(&[]).await;
    deploy(&served, "hello", SLOW, "", &[]);
    deploy(&served, "other", "", "", &[]);
    let api = Api::of(&served.0);
    result(
        &api,
        "other",
        "SendMessage",
        &json!({"message": message("not here")}),
    )
    .await;
    let now = json!({"message": message("slow"), "configuration": {"returnImmediately": true}});
    let open = result(&api, "hello", "SendMessage", &now).await["task"].clone();
    let mut ids = Vec::new();
    for text in ["one", "two", "three"] {
        let sent = result(
            &api,
            "hello",
            "SendMessage",
            &json!({"message": message(text)}),
        )
        .await;
        ids.push(id(&sent["task"]["id"]));
    }
    // It changes last.
    result(&api, "hello", "CancelTask", &json!({"id": open["id"]})).await;
    ids.push(id(&open["id"]));
    ids.reverse();

    let (mut found, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let params = json!({"pageSize": 3, "pageToken": token});
        let page = result(&api, "hello", "ListTasks", &params).await;
        assert_eq!(
            (&page["totalSize"], &page["pageSize"]),
            (&json!(4), &json!(3))
        );
        for task in page["tasks"].as_array().unwrap() {
            assert!(
                task.get("artifacts").is_none() && task.get("history").is_none(),
                "{task}"
            );
            found.push(id(&task["id"]));
        }
        pages += 1;
        token = id(&page["nextPageToken"]);
        if token.is_empty() {
            break;
        }
    }
    assert_eq!((found, pages), (ids.clone(), 2));

    let list = async |params: Value| result(&api, "hello", "ListTasks", &params).await;
    let canceled = list(json!({"status": "TASK_STATE_CANCELED"})).await;
    assert_eq!(
        (&canceled["totalSize"], &canceled["tasks"][0]["id"]),
        (&json!(1), &open["id"])
    );
    assert_eq!(
        list(json!({"status": "TASK_STATE_AUTH_REQUIRED"})).await["totalSize"],
        0
    );
    let whole = list(
        json!({"includeArtifacts": true, "historyLength": 5, "status": "TASK_STATE_COMPLETED"}),
    )
    .await;
    assert_eq!(
        whole["tasks"][0]["artifacts"][0]["parts"][0]["text"],
        "Echo: three"
    );
    assert_eq!(whole["tasks"][0]["history"][0]["parts"][0]["text"], "three");
    let context = json!({"contextId": open["contextId"]});
    assert_eq!(list(context).await["totalSize"], 1);
    let last = list(json!({"pageSize": 1})).await;
    let since = &last["tasks"][0]["status"]["timestamp"];
    assert_eq!(
        list(json!({"statusTimestampAfter": since})).await["totalSize"],
        1
    );
    for wrong in [json!({"pageSize": 0}), json!({"pageToken": "nonsense"})] {
        assert_eq!(
            refused(&api, "hello", "ListTasks", &wrong).await.0,
            -32602,
            "{wrong}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_sees_its_own_tasks_only() {
    let secret = "0123456789abcdef0123456789abcdef";
    let served = daemon(&[("RUNE_JWT_SECRET", secret)]).await;
    deploy(&served, "hello", "", "", &[]);
    let api = Api::of(&served.0);
    let exp = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
        + 600;
    let token = |sub: &str| {
        let key = EncodingKey::from_secret(secret.as_bytes());
        encode(&Header::default(), &json!({"sub": sub, "exp": exp}), &key).unwrap()
    };
    let (ada, bob) = (token("ada"), token("bob"));
    let ask = async |token: &str, method: &str, params: Value| {
        let request = api.post("/a2a/hello", &super::envelope(method, &params));
        answer(request.bearer_auth(token)).await.unwrap().1
    };
    let sent = ask(&ada, "SendMessage", json!({"message": message("hi")})).await;
    let task = json!({"id": sent["result"]["task"]["id"]});
    assert_eq!(
        ask(&ada, "ListTasks", json!({})).await["result"]["totalSize"],
        1
    );
    assert_eq!(
        ask(&bob, "ListTasks", json!({})).await["result"]["totalSize"],
        0
    );
    assert_eq!(
        ask(&ada, "GetTask", task.clone()).await["result"]["id"],
        task["id"]
    );
    for method in ["GetTask", "CancelTask", "SubscribeToTask"] {
        let refused = ask(&bob, method, task.clone()).await;
        assert_eq!(refused["error"]["code"], -32001, "{method}");
    }
    // Nor does a message go on with a conversation of somebody else.
    let begun = &sent["result"]["task"]["contextId"];
    let mut within = message("and?");
    within["contextId"] = begun.clone();
    let within = json!({ "message": within });
    let refused = ask(&bob, "SendMessage", within.clone()).await;
    let told = refused["error"]["message"].as_str().unwrap();
    assert!(told.contains("does not exist"), "{refused}");
    let task = ask(&ada, "SendMessage", within).await["result"]["task"].clone();
    assert_eq!(&task["contextId"], begun);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_begins_one_task() {
    let served = daemon(&[]).await;
    deploy(&served, "hello", "", "", &[]);
    let api = Api::of(&served.0);
    let send = async |text: &str, key: &str| {
        let params = json!({"message": message(text)});
        let request = api.post("/a2a/hello", &super::envelope("SendMessage", &params));
        answer(request.header("idempotency-key", key))
            .await
            .unwrap()
            .1
    };
    let first = send("hi", "k").await;
    let again = send("hi", "k").await;
    assert_eq!(first["result"]["task"]["id"], again["result"]["task"]["id"]);
    assert_eq!(
        again["result"]["task"]["artifacts"][0]["parts"][0]["text"],
        "Echo: hi"
    );
    assert_eq!(send("another", "k").await["error"]["code"], -32602);
    let (first, other) = (first["result"]["task"]["id"].clone(), send("hi", "l").await);
    assert_ne!(other["result"]["task"]["id"], first);
    let body = call(&api, "hello", "ListTasks", &json!({})).await;
    assert_eq!(body["result"]["totalSize"], 2);
}
