//! Agents that call agents of other installations over A2A.

mod calls;
mod crash;
mod limits;
mod refusals;
mod sdks;
mod sent;
pub(crate) mod server;
mod streams;

use rune_testkit::TestDaemon;
use serde_json::{Value, json};

use crate::home::{RUNE, Served};
use crate::wire::{Api, Event, POLL, answer};

/// A daemon whose agents may call agents of this machine.
async fn open_daemon(env: &[(&str, &str)]) -> Served {
    let builder = TestDaemon::builder(RUNE).env("RUNE_ALLOW_PRIVATE", "127.0.0.1");
    let env = env.iter();
    let builder = env.fold(builder, |builder, (name, value)| builder.env(name, value));
    Served(builder.start().await.unwrap())
}

/// Deploys an agent with the offline model, these tools and, where there is one, a script. `extra` is Runefile text.
pub(crate) fn deploy(served: &Served, name: &str, toolset: &[&str], script: &str, extra: &str) {
    let dir = served.0.home().join(name);
    std::fs::create_dir_all(&dir).unwrap();
    let runefile = format!(
        "name: {name}\nversion: 0.1.0\ndescription: The agent {name}.\ninstructions: Answer.\ndefault_model: m\n\
         toolset: {}\nmodels: {{providers: [offline], model_mapping: {{m: offline}}}}\n{extra}",
        json!(toolset)
    );
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    if !script.is_empty() {
        std::fs::write(dir.join("script.yaml"), script).unwrap();
    }
    served.rune(&["run", name]).ok();
}

/// Writes a tool `ask` that is the agent at a URL. `yaml` is more of its description.
fn write_ask(served: &Served, name: &str, url: &str, yaml: &str) {
    let tools = served.0.home().join(name).join("tools");
    std::fs::create_dir_all(&tools).unwrap();
    let text = format!(
        "name: ask\ndescription: Asks an agent elsewhere.\nruntime: agent\nagent_ref: {url}\n{yaml}"
    );
    std::fs::write(tools.join("ask.yaml"), text).unwrap();
}

/// Deploys an agent `asker` whose tool `ask` is the agent at a URL.
pub(crate) fn deploy_asker(served: &Served, url: &str, yaml: &str) {
    write_ask(served, "asker", url, yaml);
    deploy(served, "asker", &["ask"], "", "");
}

/// What makes the offline model call a tool.
pub(crate) fn tool(name: &str, input: &Value) -> String {
    format!("/tool {name} {input}")
}

/// What makes `asker` say this to the other agent.
pub(crate) fn ask(text: &str) -> String {
    tool("ask", &json!({ "input": text }))
}

/// The events of a request that has ended.
pub(crate) async fn ran(api: &Api, agent: &str, input: &str) -> Vec<Event> {
    let id = api.start(agent, input).await;
    api.events(&id, 0).await.rest().await
}

fn named<'a>(events: &'a [Event], name: &str) -> Vec<&'a Value> {
    let events = events.iter().filter(|event| event.name == name);
    events.map(|event| &event.data).collect()
}

/// What the only tool call of a request came to: its output, or its error.
#[track_caller]
pub(crate) fn outcome(events: &[Event]) -> Result<Value, (String, String)> {
    let done = named(events, "tool_done");
    assert_eq!(done.len(), 1, "{events:#?}");
    let text = |name: &str| done[0]["error"][name].as_str().unwrap().to_owned();
    match done[0].get("error") {
        Some(_) => Err((text("code"), text("message"))),
        None => Ok(done[0]["output"].clone()),
    }
}

/// The requests that an agent has had.
async fn requests(api: &Api, agent: &str) -> Vec<Value> {
    let (status, page) = answer(api.get(&format!("/v1/requests?agent={agent}")))
        .await
        .unwrap();
    assert_eq!(status, 200, "{page}");
    page["items"].as_array().unwrap().clone()
}

/// Waits until an agent has so many requests in a state.
async fn wait_for(api: &Api, agent: &str, count: usize, status: &str) -> Vec<Value> {
    let there = |rows: &[Value]| rows.iter().filter(|row| row["status"] == status).count();
    for _ in 0..3000 {
        let rows = requests(api, agent).await;
        if there(&rows) == count {
            return rows;
        }
        tokio::time::sleep(POLL).await;
    }
    let rows = requests(api, agent).await;
    assert_eq!(there(&rows), count, "`{agent}`, {status}: {rows:#?}");
    rows
}
