//! Agents that call each other over MCP, on the same daemon.

use rune_testkit::TestDaemon;
use serde_json::{Value, json};

use crate::home::{RUNE, Served};
use crate::mcp::{servers, until};
use crate::mcp_server::stdio::Stdio;
use crate::mcp_server::{MODERN, deploy};
use crate::wire::{Api, answer};

/// Calls itself, as its MCP server offers it.
const AGAIN: &str = "rules:\n  - match: {step: 1}\n    tool_calls: [{name: self__agent, input: {input: go}}]\n  - respond: done\n";

/// Levels of agents below an outermost request.
const LEVELS: usize = 8;

#[tokio::test]
async fn a_circle_ends_at_the_depth_of_other_calls() {
    let builder = TestDaemon::builder(RUNE).env("RUNE_ALLOW_PRIVATE", "127.0.0.1");
    let served = Served(builder.start().await.unwrap());
    let more = format!(
        "toolset: [\"self/*\"]\nruntime: {{concurrency_limit: 50}}\nmcp_servers:\n  - {{name: self, url: \"{}/mcp\"}}\n",
        served.0.gateway()
    );
    deploy(&served, "agent", &more, AGAIN, &[]);
    let api = Api::of(&served.0);
    until("it offers itself", async || {
        servers(&api).await[0]["tools"]
            .to_string()
            .contains("agent")
    })
    .await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let asked = api.invoke("agent", &json!({"input": "go", "background": true}));
    let asked = asked.header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
    let (_, begun) = answer(asked).await.unwrap();
    let id = begun["request_id"].as_str().unwrap().to_owned();
    let events = api.events(&id, 0).await.rest().await;
    assert_eq!(events.last().unwrap().name, "done", "{events:?}");
    let (_, listed) = answer(api.get("/v1/requests?agent=agent&limit=100"))
        .await
        .unwrap();
    let rows = listed["items"].as_array().unwrap();
    let mut depths: Vec<u64> = rows
        .iter()
        .map(|row| row["metadata"]["call_depth"].as_u64().unwrap_or(0))
        .collect();
    depths.sort_unstable();
    assert_eq!(depths, (0..=LEVELS as u64).collect::<Vec<_>>(), "{listed}");
    // All of it is one trace, as the calls say.
    for row in rows {
        let parent = row["metadata"]["traceparent"].as_str().unwrap();
        assert!(parent.contains(trace), "{row}");
    }
    let deepest = rows
        .iter()
        .find(|row| row["metadata"]["call_depth"] == LEVELS);
    let deepest = deepest.unwrap()["id"].as_str().unwrap().to_owned();
    let events = api.events(&deepest, 0).await.rest().await;
    let refused = events.iter().find(|event| event.name == "tool_done");
    let refused = refused.unwrap().data["error"]["message"].to_string();
    assert!(refused.contains("would stand 9 levels below"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_passes_the_depth_on() {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    deploy(&served, "agent", "", "rules:\n  - respond: done\n", &[]);
    let mut stdio = Stdio::start(served.command(&["mcp", "serve"]));
    stdio.initialize();
    for (depth, expected) in [(8, "done"), (9, "would stand 9 levels below")] {
        let params =
            json!({"name": "agent", "arguments": {"input": "go"}, "_meta": {"rune/depth": depth}});
        let answered: Value = stdio.ask(depth, "tools/call", &params);
        let text = answered["result"]["content"].to_string();
        assert!(text.contains(expected), "{answered}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_belongs_to_the_trace_of_its_headers() {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    deploy(&served, "agent", "", "rules:\n  - respond: done\n", &[]);
    let api = Api::of(&served.0);
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {},
    });
    let params = json!({"name": "agent", "arguments": {"input": "go"}, "_meta": meta});
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    let call = api
        .post("/mcp", &call)
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", MODERN)
        .header("mcp-method", "tools/call")
        .header("mcp-name", "agent")
        .header("traceparent", parent);
    let told = call.send().await.unwrap().text().await.unwrap();
    assert!(told.contains("done"), "{told}");
    let (_, listed) = answer(api.get("/v1/requests?agent=agent")).await.unwrap();
    let row = &listed["items"][0];
    assert_eq!(row["metadata"]["traceparent"], parent, "{listed}");
}
