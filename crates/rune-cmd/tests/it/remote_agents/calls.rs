//! Tools and steps that are agents elsewhere.

use serde_json::{Value, json};

use super::server::{Reply, Scripted};
use super::{ask, deploy, deploy_asker, named, open_daemon, outcome, ran, requests, wait_for};
use crate::home::Served;
use crate::wire::{Api, answer, assert_no_panic};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A daemon with the agent `helper`, which echoes.
async fn helper() -> (Served, String) {
    let callee = open_daemon(&[]).await;
    deploy(&callee, "helper", &[], "", "");
    let url = format!("{}/a2a/helper", callee.0.gateway());
    (callee, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_is_an_agent_of_another_daemon() {
    let (callee, url) = helper().await;
    let caller = open_daemon(&[]).await;
    deploy_asker(&caller, &url, "");
    let (api, theirs) = (Api::of(&caller.0), Api::of(&callee.0));
    let mut sessions = Vec::new();
    for text in ["one", "two"] {
        let body = json!({"input": ask(text), "session_id": "s1"});
        let asked = api.invoke("asker", &body);
        let asked = asked
            .header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"))
            .header("tracestate", "vendor=1");
        let (status, done) = answer(asked).await.unwrap();
        assert_eq!(status, 200, "{done}");
        let id = done["request_id"].as_str().unwrap();
        let events = api.events(id, 0).await.rest().await;
        assert_eq!(outcome(&events), Ok(json!(format!("Echo: {text}"))));
        let called = named(&events, "agent_call");
        assert_eq!((called.len(), &called[0]["agent"]), (1, &json!(url)));
        assert!(called[0].get("request_id").is_none(), "{called:?}");
        let task = named(&events, "remote_task")[0]["task_id"]
            .as_str()
            .unwrap();

        let theirs = theirs.request(task).await;
        assert_eq!(theirs["metadata"]["call_depth"], 1, "{theirs}");
        let parent = theirs["metadata"]["traceparent"].as_str().unwrap();
        assert!(parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with("-01"));
        assert!(!parent.contains("00f067aa0ba902b7"), "{parent}");
        assert_eq!(theirs["metadata"]["tracestate"], "vendor=1");
        sessions.push(theirs["session_id"].clone());
        let own = api.request(id).await;
        assert!(
            own["metadata"]["traceparent"]
                .as_str()
                .unwrap()
                .contains(TRACE)
        );

        let (_, tree) = answer(api.get(&format!("/v1/requests/{id}/calls")))
            .await
            .unwrap();
        assert_eq!(tree["has_unknown_usage"], true, "{tree}");
        let call = &tree["calls"][0];
        assert_eq!(
            (
                &call["callee"],
                &call["task_id"],
                &call["status"],
                &call["depth"]
            ),
            (&json!(url), &json!(task), &json!("completed"), &json!(1))
        );
        assert!(
            call.get("usage").is_none() && call.get("request_id").is_none(),
            "{call}"
        );
        let shown = caller.rune(&["requests", "show", id]).ok();
        assert!(shown.contains(&url), "{shown}");
    }
    // The second message went on with the conversation.
    assert_eq!(sessions[0], sessions[1]);
    assert_no_panic(&caller);
    assert_no_panic(&callee);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_that_is_not_valid_is_passed_over_and_another_one_begins() {
    let (callee, url) = helper().await;
    let caller = open_daemon(&[]).await;
    deploy_asker(&caller, &url, "");
    let (api, theirs) = (Api::of(&caller.0), Api::of(&callee.0));
    let asked = api.invoke("asker", &json!({"input": ask("x")}));
    let asked = asked.header("traceparent", format!("00-{TRACE}-0000000000000000-01"));
    let (_, done) = answer(asked).await.unwrap();
    let id = done["request_id"].as_str().unwrap();
    let own = api.request(id).await;
    assert!(own["metadata"].get("traceparent").is_none(), "{own}");
    let row = &requests(&theirs, "helper").await[0];
    let row = theirs.request(row["id"].as_str().unwrap()).await;
    let parent = row["metadata"]["traceparent"].as_str().unwrap();
    let begun = format!("00-{}-", id.trim_start_matches("req_"));
    assert!(
        parent.starts_with(&begun) && parent.ends_with("-00"),
        "{parent}"
    );
}

/// A card that names one interface only.
fn card(base: &str, url: &str, kind: &str, streaming: bool) -> Value {
    let capabilities = json!({ "streaming": streaming });
    let mut card = json!({"name": "helper", "version": "1", "capabilities": capabilities});
    match kind {
        "0.3" => {
            card["url"] = json!(url);
            card["protocolVersion"] = json!("0.3.0");
            card["preferredTransport"] = json!("JSONRPC");
        }
        binding => {
            card["supportedInterfaces"] = json!([
                {"url": format!("{base}/grpc"), "protocolBinding": "GRPC", "protocolVersion": "1.0"},
                {"url": url, "protocolBinding": binding, "protocolVersion": "1.0"},
            ]);
        }
    }
    card
}

#[tokio::test(flavor = "multi_thread")]
async fn every_binding_and_version_is_spoken_with_and_without_streams() {
    let (callee, url) = helper().await;
    let theirs = Api::of(&callee.0);
    let kinds = ["0.3", "JSONRPC", "HTTP+JSON"];
    let cards = Scripted::start({
        let url = url.clone();
        move |seen, base| {
            let mut path = seen.path.split('/').skip(1);
            let (n, streams) = (path.next().unwrap(), path.next().unwrap());
            let kind = kinds[n.parse::<usize>().unwrap()];
            Reply::Json(card(base, &url, kind, streams == "yes"))
        }
    })
    .await;
    let caller = open_daemon(&[]).await;
    let api = Api::of(&caller.0);
    let mut before = 0;
    for (n, kind) in kinds.iter().enumerate() {
        for streams in ["yes", "no"] {
            deploy_asker(&caller, &format!("{}/{n}/{streams}/", cards.base), "");
            let events = ran(&api, "asker", &ask("hello")).await;
            assert_eq!(
                outcome(&events),
                Ok(json!("Echo: hello")),
                "{kind} {streams}"
            );
            let rows = requests(&theirs, "helper").await;
            assert_eq!(rows.len(), before + 1, "{kind} {streams}");
            before = rows.len();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_has_steps_here_and_elsewhere() {
    let (callee, url) = helper().await;
    let caller = open_daemon(&[]).await;
    deploy(&caller, "near", &[], "", "");
    let dir = caller.0.home().join("flow");
    std::fs::create_dir_all(&dir).unwrap();
    let workflow = json!({"name": "flow", "version": "1.0.0", "output_step": "last", "steps": [
        {"id": "near", "agent_ref": "local://near", "input_template": "{{ input }}"},
        {"id": "far", "agent_ref": "${FAR}", "input_template": "{{ steps.near.output }}", "depends_on": ["near"]},
        {"id": "last", "agent_ref": "local://near", "input_template": "{{ steps.far.output }}", "depends_on": ["far"]},
    ]});
    std::fs::write(dir.join("workflow.yaml"), workflow.to_string()).unwrap();
    let extra = format!("runtime: {{env: {{FAR: \"{url}\"}}}}\n");
    deploy(&caller, "flow", &[], "", &extra);
    let api = Api::of(&caller.0);
    let events = ran(&api, "flow", "go").await;
    let done = events.last().unwrap();
    assert_eq!(done.data["output"], "Echo: Echo: Echo: go", "{events:#?}");
    let called = named(&events, "agent_call");
    assert_eq!(
        (&called[0]["id"], &called[0]["agent"]),
        (&json!("far"), &json!(url))
    );
    let id = done.data["request_id"].as_str().unwrap();
    let (_, tree) = answer(api.get(&format!("/v1/requests/{id}/calls")))
        .await
        .unwrap();
    let callees: Vec<&str> = tree["calls"]
        .as_array()
        .unwrap()
        .iter()
        .map(|call| call["callee"].as_str().unwrap())
        .collect();
    assert_eq!(callees, ["dev/near", url.as_str(), "dev/near"]);
    assert_eq!(requests(&Api::of(&callee.0), "helper").await.len(), 1);
}

const STUCK: &str = "rules:\n  - delay_ms: 600000\n    respond: late\n";

#[tokio::test(flavor = "multi_thread")]
async fn the_callee_ends_with_its_caller() {
    let callee = open_daemon(&[]).await;
    deploy(&callee, "stuck", &[], STUCK, "");
    let url = format!("{}/a2a/stuck", callee.0.gateway());
    let caller = open_daemon(&[]).await;
    deploy_asker(&caller, &url, "timeout_ms: 400000\n");
    let (api, theirs) = (Api::of(&caller.0), Api::of(&callee.0));
    let id = api.start("asker", &ask("wait")).await;
    wait_for(&theirs, "stuck", 1, "running").await;
    let cancel = api.post(&format!("/v1/requests/{id}/cancel"), &json!({}));
    let (status, row) = answer(cancel).await.unwrap();
    assert_eq!(
        (status, &row["status"]),
        (200, &json!("cancelled")),
        "{row}"
    );
    wait_for(&theirs, "stuck", 1, "cancelled").await;

    // A tool's time is that of its callee.
    deploy_asker(&caller, &url, "timeout_ms: 700\n");
    let events = ran(&api, "asker", &ask("wait")).await;
    let (code, message) = outcome(&events).unwrap_err();
    assert_eq!(code, "timeout");
    assert!(message.contains("within 700 ms"), "{message}");
    wait_for(&theirs, "stuck", 2, "cancelled").await;
}
