//! Forks of requests: through the command line, over HTTP, and across a crash.

use rune_testkit::{ModelScript, ModelServer, Otherwise, Protocol, Reply, TestDaemon, ToolCall};
use serde_json::{Value, json};

use crate::home::{RUNE, Served};
use crate::wire::{Api, Tool, answer, deploy};

/// A tool that counts how often it ran.
const COUNT: Tool<'static> = Tool {
    name: "count",
    script: "echo ran >> ran\necho '{\"done\": true}'\n",
    yaml: "",
};

/// How often it did.
fn runs(served: &Served, agent: &str) -> usize {
    let workspaces = served
        .0
        .data_dir()
        .join("workspaces")
        .join("dev")
        .join(agent);
    let ran = std::fs::read_to_string(workspaces.join("ran"));
    ran.unwrap_or_default().lines().count()
}

/// The model `scripted` calls the tool and answers; the model `other` answers in other words.
async fn model() -> ModelServer {
    let call = || Reply::calls([ToolCall::new("count", json!({}))]);
    let script = ModelScript::new()
        .on_model("other")
        .reply(Reply::text("the other answer"))
        .on_results(0)
        .reply(call())
        .on_results(1)
        .reply(Reply::text("the first answer"))
        .otherwise(Otherwise::Refuse);
    ModelServer::start(script).await.unwrap()
}

/// The journal of a request as `requests events` prints it.
fn events(served: &Served, id: &str) -> Vec<Value> {
    let printed = served.rune(&["requests", "events", id, "-o", "json"]).ok();
    let lines = printed.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The number of the first entry of this name.
fn entry(events: &[Value], name: &str) -> u64 {
    let found = events.iter().find(|event| event["event"] == name).unwrap();
    found["id"].as_u64().unwrap()
}

// The model server answers while the test waits for the command.
#[tokio::test(flavor = "multi_thread")]
async fn a_fork_goes_on_with_another_model_and_repeats_nothing() {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    let server = model().await;
    deploy(&served, "bot", &[(&server, Protocol::Openai)], &[COUNT], "");
    let api = Api::of(&served.0);
    let (status, first) = api.ask("bot", &json!({"input": "go"})).await;
    assert_eq!(
        (status, &first["output"]),
        (200, &json!("the first answer")),
        "{first}"
    );
    let id = first["request_id"].as_str().unwrap();
    assert_eq!((runs(&served, "bot"), server.requests().len()), (1, 2));

    let done = entry(&events(&served, id), "tool_done");
    let at = format!("{id}@{done}");
    let forked = served
        .rune(&[
            "requests",
            "fork",
            &at,
            "--model",
            "server-0:other",
            "--instructions",
            "Be brief.",
            "--stream",
        ])
        .ok();
    let (fork_id, said) = forked.split_once('\n').unwrap();
    assert_eq!(said.trim(), "the other answer");
    assert_ne!(fork_id, id);
    assert_eq!(
        runs(&served, "bot"),
        1,
        "what is before the fork is not done again"
    );
    let asked = server.requests();
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[2].body["model"], "other");
    assert!(
        asked[2].body.to_string().contains("Be brief."),
        "{}",
        asked[2].body
    );

    let shown = api.request(fork_id).await;
    assert_eq!(shown["forked_from"]["request_id"], id);
    assert_eq!(shown["forked_from"]["seq"], done);
    assert_eq!(shown["forked_from"]["model"], "server-0:other");
    assert_eq!(shown["forked_from"]["inherited"]["model_calls"], 1);
    assert_eq!(
        (&shown["model_calls"], &shown["status"]),
        (&json!(1), &json!("completed"))
    );
    assert_ne!(shown["session_id"], first["session_id"]);
    // The ledger has the one call that the fork made.
    let models = shown["models"].as_array().unwrap();
    assert_eq!(
        (models.len(), &models[0]["calls"]),
        (1, &json!(1)),
        "{shown}"
    );
    // The origin is as it was.
    let origin = api.request(id).await;
    assert_eq!(origin["output"], "the first answer");
    let replayed = served.rune(&["requests", "replay", fork_id]).ok();
    assert!(replayed.contains("replays the same"), "{replayed}");
}

#[tokio::test]
async fn a_fork_in_the_middle_of_a_commit_or_behind_the_end_is_refused() {
    let served = Served::with_plain().await;
    let api = Api::of(&served.0);
    let (_, first) = api
        .ask("plain", &json!({"input": "/tool rune@system-time {}"}))
        .await;
    let id = first["request_id"].as_str().unwrap();
    let events = events(&served, id);
    let last = events.len();
    for at in [
        0,
        usize::try_from(entry(&events, "policy_verdict")).unwrap(),
        last,
        last + 1,
    ] {
        let refused = served
            .rune(&["requests", "fork", &format!("{id}@{at}")])
            .ends(2);
        let done = entry(&events, "tool_done");
        assert!(
            refused.stderr.contains("cannot be forked at")
                && refused.stderr.contains(&format!(", {done}")),
            "{at}: {}",
            refused.stderr
        );
    }
    served.rune(&["requests", "fork", id]).ends(2);
    let body = json!({"at": 1, "model": "x", "policy": {"mode": "nonsense"}});
    let (status, body) = answer(api.post(&format!("/v1/requests/{id}/fork"), &body))
        .await
        .unwrap();
    assert_eq!(status, 400, "{body}");
}

#[tokio::test]
async fn a_fork_with_another_policy_is_decided_by_that() {
    let served = Served::with_plain().await;
    let api = Api::of(&served.0);
    let (_, first) = api
        .ask("plain", &json!({"input": "/tool rune@system-time {}"}))
        .await;
    let id = first["request_id"].as_str().unwrap();
    let policy = served.0.home().join("strict.yaml");
    std::fs::write(&policy, "deny: [rune@system-time]\n").unwrap();
    let started = entry(&events(&served, id), "started");
    let forked = served
        .rune(&[
            "requests",
            "fork",
            &format!("{id}@{started}"),
            "--policy",
            "strict.yaml",
            "-o",
            "json",
        ])
        .json();
    let output = forked["output"].as_str().unwrap();
    assert!(output.contains("policy denies this call"), "{output}");
    let audit = events(&served, forked["request_id"].as_str().unwrap());
    assert_eq!(audit[0]["data"]["forked_from"]["request_id"], id);
}

#[tokio::test]
async fn a_fork_shows_what_the_conversation_showed_and_leaves_it_alone() {
    let served = Served::with_plain().await;
    let api = Api::of(&served.0);
    let (_, first) = api.ask("plain", &json!({"input": "one"})).await;
    let session = first["session_id"].as_str().unwrap();
    let ask = |input: &str| json!({"input": input, "session_id": session});
    let (_, second) = api.ask("plain", &ask("two")).await;
    api.ask("plain", &ask("three")).await;
    let id = second["request_id"].as_str().unwrap();
    let body = json!({"at": 2});
    let (status, forked) = answer(api.post(&format!("/v1/requests/{id}/fork"), &body))
        .await
        .unwrap();
    assert_eq!(
        (status, &forked["output"]),
        (200, &json!("Echo: two")),
        "{forked}"
    );
    let texts = |body: &Value| -> Vec<String> {
        let items = body["items"].as_array().unwrap().iter();
        items
            .map(|item| {
                item["blocks"][0]["text"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned()
            })
            .collect()
    };
    let of = async |session: &str| {
        let path = format!("/v1/sessions/{session}/messages");
        texts(&answer(api.get(&path)).await.unwrap().1)
    };
    let new = of(forked["session_id"].as_str().unwrap()).await;
    assert_eq!(new, ["one", "Echo: one", "two", "Echo: two"]);
    assert_eq!(of(session).await.len(), 6);
}

#[tokio::test]
async fn a_fork_that_a_crash_interrupted_is_taken_up() {
    let mut served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    let slow = Reply::text("taken up").first_byte_after(std::time::Duration::from_secs(1));
    let script = ModelScript::new()
        .on_model("slow")
        .reply(slow)
        .on_results(0)
        .reply(Reply::calls([ToolCall::new("count", json!({}))]))
        .on_results(1)
        .reply(Reply::text("first"));
    let server = ModelServer::start(script).await.unwrap();
    deploy(&served, "bot", &[(&server, Protocol::Openai)], &[COUNT], "");
    let api = Api::of(&served.0);
    let (_, first) = api.ask("bot", &json!({"input": "go"})).await;
    let id = first["request_id"].as_str().unwrap().to_owned();
    let done = entry(&events(&served, &id), "tool_done");
    let fork_id = served
        .rune(&[
            "requests",
            "fork",
            &format!("{id}@{done}"),
            "--model",
            "slow",
            "--background",
        ])
        .ok();
    served.0.kill9().unwrap();
    served.0.restart().await.unwrap();
    let ended = Api::of(&served.0).ended(fork_id.trim()).await;
    assert_eq!(
        (&ended["status"], &ended["output"]),
        (&json!("completed"), &json!("taken up")),
        "{ended}"
    );
    assert_eq!(ended["forked_from"]["model"], "slow");
    assert_eq!(runs(&served, "bot"), 1);
}
