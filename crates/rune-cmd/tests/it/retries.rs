//! Calls of OpenAI's API that are sent again, and that compete for one conversation.

use rune_testkit::TestDaemon;
use serde_json::{Value, json};

use crate::home::{RUNE, Served};
use crate::wire::{Api, answer, assert_no_panic};

fn follow(previous: &Value, input: &str) -> Value {
    json!({"model": "plain", "input": input, "previous_response_id": previous["id"]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_follows_a_response_can_be_sent_again_under_its_key() {
    let served = Served::with_plain().await;
    let api = Api::of(&served.0);
    let send = async |body: &Value, key: &str| {
        let request = api.post("/v1/responses", body);
        answer(request.header("idempotency-key", key))
            .await
            .unwrap()
    };
    let (_, first) = send(&json!({"model": "plain", "input": "one"}), "1").await;
    let body = follow(&first, "two");
    let (status, second) = send(&body, "2").await;
    assert_eq!(status, 200, "{second}");
    for _ in 0..2 {
        assert_eq!(send(&body, "2").await, (200, second.clone()));
    }
    // Under another key it is another call, and comes too late.
    let (status, refused) = send(&body, "3").await;
    let error = &refused["error"];
    assert_eq!(
        (status, &error["code"], &error["param"]),
        (
            400,
            &json!("previous_response_not_latest"),
            &json!("previous_response_id")
        ),
        "{refused}"
    );
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains(first["id"].as_str().unwrap()),
        "{refused}"
    );
    let (_, third) = send(&follow(&second, "three"), "4").await;
    assert_eq!(third["output"][0]["content"][0]["text"], "Echo: three");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_calls_that_follow_one_response_one_is_let_in() {
    let served = Served::with_plain().await;
    let api = Api::of(&served.0);
    let body = json!({"model": "plain", "input": "one"});
    let (_, mut last) = answer(api.post("/v1/responses", &body)).await.unwrap();
    for round in 0..5 {
        let calls = (0..4).map(|n| {
            let body = follow(&last, &format!("{round}: {n}"));
            let request = api.post("/v1/responses", &body);
            async move { answer(request).await.unwrap() }
        });
        let answers = futures_util::future::join_all(calls).await;
        let (let_in, refused): (Vec<_>, Vec<_>) =
            answers.into_iter().partition(|(status, _)| *status == 200);
        assert_eq!((let_in.len(), refused.len()), (1, 3), "{refused:?}");
        for (_, refused) in &refused {
            let code = &refused["error"]["code"];
            assert_eq!(code, "previous_response_not_latest", "{refused}");
        }
        last = let_in[0].1.clone();
    }
    assert_no_panic(&served);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_or_followed_is_named() {
    let served = Served::with_plain().await;
    let dir = served.0.home().join("other");
    crate::home::write_plain(&dir);
    let runefile = std::fs::read_to_string(dir.join("Runefile")).unwrap();
    let runefile = runefile.replace("name: plain", "name: other");
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    served.rune(&["run", "other"]).ok();
    let api = Api::of(&served.0);
    let refused = async |body: &Value| {
        let (status, body) = answer(api.post("/v1/responses", body)).await.unwrap();
        (status, body["error"]["param"].clone())
    };
    let long = "x".repeat(200_000);
    let body = json!({"model": "plain", "input": "hi", "instructions": long});
    assert_eq!(refused(&body).await, (400, json!("instructions")));

    let body = json!({"model": "plain", "input": "hi", "metadata": {"ticket": "7"}});
    let (_, first) = answer(api.post("/v1/responses", &body)).await.unwrap();
    let mut body = follow(&first, "more");
    body["model"] = json!("other");
    assert_eq!(refused(&body).await, (400, json!("previous_response_id")));
    let path = format!("/v1/responses/{}", first["id"].as_str().unwrap());
    let (_, kept) = answer(api.get(&path)).await.unwrap();
    assert_eq!(kept, first);
    assert_eq!(kept["metadata"], json!({"ticket": "7"}), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_of_a_background_call_that_ran_is_not_to_be_sent_again() {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    let dir = served.0.home().join("brief");
    std::fs::create_dir_all(&dir).unwrap();
    let runefile = "name: brief\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: default\n\
                    runtime: {checkpoint_policy: never}\n\
                    models:\n  providers: [offline]\n  model_mapping: {default: offline}\n";
    let script = "rules:\n  - match: {contains: hi}\n    error: {kind: refused, message: no}\n";
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    std::fs::write(dir.join("script.yaml"), script).unwrap();
    served.rune(&["run", "brief"]).ok();
    let api = Api::of(&served.0);
    let mut failed = 0;
    for _ in 0..20 {
        let body = json!({"model": "brief", "input": "hi", "background": true});
        let response = api.post("/v1/responses", &body).send().await.unwrap();
        assert!(response.headers().contains_key("x-rune-request-id"));
        if !response.status().is_success() {
            failed += 1;
            assert_eq!(response.headers()["x-should-retry"], "false");
        }
    }
    let body = json!({"model": "brief", "input": "hi"});
    let response = api.post("/v1/responses", &body).send().await.unwrap();
    assert!(!response.status().is_success(), "{failed}");
    assert_eq!(response.headers()["x-should-retry"], "false");
}
