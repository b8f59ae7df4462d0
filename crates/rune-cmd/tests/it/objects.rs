//! Objects that nothing refers to any more.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use reqwest::Client;
use rune_testkit::{ModelScript, ModelServer, Protocol, Reply, TestDaemon, ToolCall};
use serde_json::json;

use crate::home::{RUNE, Served};
use crate::wire::{Api, LIMIT, POLL, Tool, answer, assert_no_panic, deploy};

/// Its output is too large for a row, and another one each time.
pub(crate) const LARGE: Tool<'static> = Tool {
    name: "large",
    script: "printf '\"%s' \"$RUNE_REQUEST_ID\"; head -c 300000 /dev/zero | tr '\\0' x; printf '\"'\n",
    yaml: "",
};

pub(crate) const AGENT: &str = "agent";

/// Far longer than lies between an object and its row, also on a machine that is busy.
const GRACE: &str = "10";

/// What the log says after each look.
const LOOKED: &str = "looked for objects that nothing refers to";

pub(crate) fn script() -> ModelScript {
    ModelScript::new()
        .on_text("large")
        .reply(Reply::calls([ToolCall::new("large", json!({}))]))
        .then(Reply::echo())
}

/// Where the objects are.
fn paths(served: &Served) -> Vec<PathBuf> {
    fn below(dir: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .flat_map(|path| {
                if path.is_dir() {
                    below(&path)
                } else {
                    vec![path]
                }
            })
            .collect()
    }
    below(&served.0.data_dir().join("objects/sha256"))
}

/// How many objects there are.
fn objects(served: &Served) -> usize {
    paths(served).len()
}

/// How often the daemon has looked for what nothing refers to.
fn looks(served: &Served) -> usize {
    served.0.log().matches(LOOKED).count()
}

/// Has the agent make a large output; answers its session and where that is read.
pub(crate) async fn make_output(api: &Api) -> (String, String) {
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
    let builder = TestDaemon::builder(RUNE).env("RUNE_OBJECT_GRACE_SECS", GRACE);
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
    // It looks at what is left once more, when that is old enough, too.
    for path in paths(&served) {
        let file = File::options().write(true).open(path).unwrap();
        let age = SystemTime::now() - Duration::from_secs(3600);
        file.set_modified(age).unwrap();
    }
    let before = looks(&served);
    let looked = async {
        while looks(&served) == before {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, looked).await.unwrap();
    assert_eq!(objects(&served), 2);
    assert_eq!(api.get(&kept).send().await.unwrap().status(), 200);
    served.0.restart().await.unwrap();
    let api = Api::of(&served.0);
    let (status, body) = api.ask(AGENT, &json!({"input": "still there?"})).await;
    assert_eq!(
        (status, &body["output"]),
        (200, &json!("Echo: still there?"))
    );
    assert_no_panic(&served);
}
