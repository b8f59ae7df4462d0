//! Objects that nothing refers to any more.

use std::path::Path;
use std::time::Duration;

use reqwest::Client;
use rune_testkit::{ModelScript, ModelServer, Protocol, Reply, TestDaemon, ToolCall};
use serde_json::json;

use crate::home::{RUNE, Served};
use crate::wire::{Api, LIMIT, POLL, Tool, answer, assert_no_panic, deploy};

/// Its output is too large for a row, and another one each time.
const LARGE: Tool<'static> = Tool {
    name: "large",
    script: "printf '\"%s' \"$RUNE_REQUEST_ID\"; head -c 300000 /dev/zero | tr '\\0' x; printf '\"'\n",
    yaml: "",
};

const AGENT: &str = "agent";

fn script() -> ModelScript {
    ModelScript::new()
        .on_text("large")
        .reply(Reply::calls([ToolCall::new("large", json!({}))]))
        .then(Reply::echo())
}

/// How many objects there are.
fn objects(served: &Served) -> usize {
    fn below(dir: &Path) -> usize {
        let entries = std::fs::read_dir(dir).into_iter().flatten();
        entries
            .map(|entry| entry.unwrap().path())
            .map(|path| if path.is_dir() { below(&path) } else { 1 })
            .sum()
    }
    below(&served.0.data_dir().join("objects/sha256"))
}

/// Has the agent make a large output; answers its session and where that is read.
async fn make_output(api: &Api) -> (String, String) {
    let (_, done) = api.ask(AGENT, &json!({"input": "large"})).await;
    assert_eq!(done["status"], "completed", "{done}");
    let (session, request) = (&done["session_id"], &done["request_id"]);
    let path = format!("/v1/requests/{}/context", request.as_str().unwrap());
    let (_, context) = answer(api.get(&path)).await.unwrap();
    let handle = context["spilled"][0]["handle"].as_str().unwrap();
    let session = session.as_str().unwrap();
    (
        session.to_owned(),
        format!("/v1/sessions/{session}/outputs/{handle}"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_deleted_session_alone_referred_to_is_removed_and_nothing_else() {
    let server = ModelServer::start(script()).await.unwrap();
    let builder = TestDaemon::builder(RUNE).env("RUNE_OBJECT_GRACE_SECS", "1");
    let mut served = Served(builder.start().await.unwrap());
    deploy(&served, AGENT, &[(&server, Protocol::Openai)], &[LARGE], "");
    let api = Api::of(&served.0);
    let (deleted, _) = make_output(&api).await;
    let (_, kept) = make_output(&api).await;
    assert_eq!(objects(&served), 3, "the package and two outputs");
    let url = format!("{}/v1/sessions/{deleted}", served.0.gateway());
    let answer = Client::new().delete(url).send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    let removed = async {
        while objects(&served) > 2 {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, removed).await.unwrap();
    // Until it has looked at what is left a few times more.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(objects(&served), 2);
    assert_eq!(api.get(&kept).send().await.unwrap().status(), 200);
    served.0.restart().await.unwrap();
    let api = Api::of(&served.0);
    let (status, body) = api.ask(AGENT, &json!({"input": "still there?"})).await;
    assert_eq!(
        (status, &body["output"]),
        (200, &json!("Echo: still there?"))
    );
    assert!(
        served
            .0
            .log()
            .contains("removed objects that nothing refers to"),
        "it is said"
    );
    assert_no_panic(&served);
}
