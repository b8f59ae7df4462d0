//! Agents with more tools than a prompt is to hold: the model finds the others, on every wire, also over a crash.

use rune_testkit::{
    ModelScript, ModelServer, Otherwise, Protocol, RecordedRequest, Reply, TestDaemon, ToolCall,
};
use serde_json::{Value, json};

use crate::home::{Home, RUNE, Served};
use crate::wire::{Api, PROTOCOLS, Tool, assert_no_panic, deploy};

const SEARCH: &str = "rune__tool-search";

const fn tool(name: &'static str, yaml: &'static str) -> Tool<'static> {
    Tool {
        name,
        script: "cat\n",
        yaml,
    }
}

/// Four that do not fit.
const TOOLS: [Tool<'static>; 6] = [
    tool("add-note", ""),
    tool("list-notes", ""),
    tool("rain-forecast", PLACE),
    tool("wind-forecast", PLACE),
    tool("send-parcel", ""),
    tool("zip-files", ""),
];
const PLACE: &str = "input_schema: {type: object, properties: {place: {type: string, description: A town.}}, required: [place]}\n";
/// The search, the reader of large outputs, what is pinned, and one more: the first of the toolset.
const LIMITS: &str = "tool_search: {max_tools: 4, pinned: [zip-files]}\n";
const SHOWN: [&str; 4] = ["add-note", "rune__output-read", SEARCH, "zip-files"];

/// The names of the tools of a prompt, in their order.
fn told(request: &RecordedRequest) -> Vec<String> {
    let tools = &request.body["tools"];
    let tools = tools[0].get("functionDeclarations").unwrap_or(tools);
    let tools = tools.as_array().unwrap().iter();
    let name = |tool: &Value| {
        let name = tool["function"].get("name").or_else(|| tool.get("name"));
        name.unwrap().as_str().unwrap().to_owned()
    };
    tools.map(name).collect()
}

fn search(query: &str) -> Reply {
    Reply::calls([ToolCall::new(SEARCH, json!({"query": query}))])
}

fn forecast(kind: &str) -> Reply {
    let name = format!("{kind}-forecast");
    Reply::calls([ToolCall::new(name, json!({"place": "Rome"}))])
}

fn with(found: &[&str]) -> Vec<String> {
    let all = SHOWN.iter().chain(found);
    all.map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn what_is_found_stands_behind_the_tools_of_every_prompt_on_every_protocol() {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    for (protocol, name) in PROTOCOLS {
        let script = ModelScript::new()
            .on_text("wet")
            .reply(search("wind"))
            .then(forecast("wind"))
            .then(search("forecast of rain"))
            .then(forecast("rain"))
            .then(Reply::text("dry"))
            .on_text("again")
            .reply(Reply::text("still dry"))
            .otherwise(Otherwise::Refuse);
        let server = ModelServer::start(script).await.unwrap();
        deploy(&served, name, &[(&server, protocol)], &TOOLS, LIMITS);
        let api = Api::of(&served.0);
        let (status, body) = api.ask(name, &json!({"input": "is it wet?"})).await;
        assert_eq!(
            (status, &body["output"]),
            (200, &json!("dry")),
            "{name}: {body}"
        );
        let detail = api.request(body["request_id"].as_str().unwrap()).await;
        for call in detail["tools"].as_array().unwrap() {
            assert_eq!(call["state"], "succeeded", "{name}: {detail}");
        }
        // A later request of the conversation begins with what the earlier one has found.
        let again = json!({"input": "again", "session_id": body["session_id"]});
        let (status, body) = api.ask(name, &again).await;
        assert_eq!(status, 200, "{name}: {body}");

        let asked = server.requests();
        let told: Vec<_> = asked.iter().map(told).collect();
        let wind = with(&["wind-forecast"]);
        let both = with(&["wind-forecast", "rain-forecast"]);
        assert_eq!(
            told,
            [
                with(&[]),
                wind.clone(),
                wind,
                both.clone(),
                both.clone(),
                both
            ],
            "{name}"
        );
        // What stood in a prompt stands in the next one, byte by byte.
        let text = |index: usize| {
            let mut tools = asked[index].body["tools"].clone();
            // Where the cached prefix ends is no part of it.
            for tool in tools.as_array_mut().unwrap() {
                tool.as_object_mut().unwrap().remove("cache_control");
            }
            tools.to_string()
        };
        let begin = |text: String| text.trim_end_matches(['}', ']']).to_owned();
        for index in 1..asked.len() {
            assert!(
                text(index).starts_with(&begin(text(index - 1))),
                "{name} {index}"
            );
        }
        // The search says how many it knows.
        assert!(
            text(0).contains("4 tools are not shown: 4 of this agent alone."),
            "{}",
            text(0)
        );
    }
    assert_no_panic(&served);
}

#[tokio::test]
async fn a_tool_that_was_not_searched_for_can_be_called_and_is_shown_from_then_on() {
    let script = ModelScript::new()
        .on_text("go")
        .reply(Reply::calls([
            ToolCall::new("wind-forecast", json!({"town": "Rome"})),
            ToolCall::new("snow-forecast", json!({})),
        ]))
        .then(forecast("wind"))
        .then(Reply::text("done"))
        .otherwise(Otherwise::Refuse);
    let server = ModelServer::start(script).await.unwrap();
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    deploy(
        &served,
        "bot",
        &[(&server, Protocol::Openai)],
        &TOOLS,
        LIMITS,
    );
    let api = Api::of(&served.0);
    let (status, body) = api.ask("bot", &json!({"input": "go"})).await;
    assert_eq!((status, &body["output"]), (200, &json!("done")), "{body}");
    let asked = server.requests();
    assert_eq!(told(&asked[0]), with(&[]));
    // Its schema is there for the second try.
    assert_eq!(told(&asked[1]), with(&["wind-forecast"]));
    let second = asked[1].body.to_string();
    assert!(
        second.contains("does not match the tool's schema"),
        "{second}"
    );
    assert!(
        second.contains(
            "there is no tool `snow-forecast`; `rune__tool-search` finds those that are not shown"
        ),
        "{second}"
    );
    let detail = api.request(body["request_id"].as_str().unwrap()).await;
    let last = detail["tools"].as_array().unwrap().last().unwrap();
    assert_eq!(last["state"], "succeeded", "{detail}");
}

#[tokio::test]
async fn what_was_found_is_still_there_after_a_crash_and_in_a_replay() {
    let script = ModelScript::new()
        .on_text("go")
        .reply(search("wind"))
        .then(forecast("wind"))
        .then(Reply::text("done"))
        .otherwise(Otherwise::Refuse);
    let server = ModelServer::start(script).await.unwrap();
    let mut served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    deploy(
        &served,
        "bot",
        &[(&server, Protocol::Anthropic)],
        &TOOLS,
        LIMITS,
    );
    server.hold();
    let id = Api::of(&served.0).start("bot", "go").await;
    server.wait_for_held(1).await.unwrap();
    server.release(1);
    // The search has answered; the model is being asked again.
    server.wait_for_requests(2).await.unwrap();
    served.0.kill9().unwrap();
    server.release_all();
    served.0.restart().await.unwrap();
    let ended = Api::of(&served.0).ended(&id).await;
    assert_eq!(ended["output"], "done", "{ended}");
    let asked = server.requests();
    let before = &asked[1].body["tools"];
    for request in &asked[1..] {
        assert_eq!(&request.body["tools"], before);
        assert_eq!(told(request), with(&["wind-forecast"]));
    }
    let replayed = served
        .rune(&["requests", "replay", &id, "-o", "json"])
        .json();
    assert_eq!(replayed["divergence"], Value::Null, "{replayed}");
}

#[tokio::test]
async fn an_agent_says_what_its_tools_take_of_a_prompt_and_what_it_may_use() {
    let server = ModelServer::start(ModelScript::new()).await.unwrap();
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    let more =
        format!("{LIMITS}max_steps: 7\nbudget: {{tokens: 5000, session: {{tokens: 9000}}}}\n");
    deploy(
        &served,
        "bot",
        &[(&server, Protocol::Openai)],
        &TOOLS,
        &more,
    );
    let agent = served
        .rune(&["agent", "inspect", "bot", "-o", "json"])
        .json();
    let tools = agent["tools"].as_array().unwrap();
    let state: Vec<_> = tools
        .iter()
        .map(|tool| {
            (
                tool["name"].as_str().unwrap(),
                tool["loaded"].as_bool().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        state,
        [
            ("add-note", true),
            ("list-notes", false),
            ("rain-forecast", false),
            ("wind-forecast", false),
            ("send-parcel", false),
            ("zip-files", true),
            ("rune@output-read", true),
            ("rune@tool-search", true),
        ]
    );
    assert_eq!(tools[0]["source"], "process", "{agent}");
    assert_eq!(tools[6]["source"], "builtin", "{agent}");
    let sum = |loaded: bool| -> u64 {
        let tools = tools.iter().filter(|tool| tool["loaded"] == loaded);
        tools.map(|tool| tool["tokens"].as_u64().unwrap()).sum()
    };
    assert!(sum(true) > 100 && sum(false) > 20, "{agent}");
    assert_eq!(
        agent["tool_tokens"],
        json!({"loaded": sum(true), "deferred": sum(false), "total": sum(true) + sum(false)})
    );
    assert_eq!(
        agent["limits"],
        json!({"max_steps": 7, "timeout_ms": 120_000, "tokens": 5000, "session_tokens": 9000})
    );
    let table = served.rune(&["agent", "inspect", "bot"]).ok();
    let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(line("wind-forecast").contains("deferred"), "{table}");
    assert!(line("zip-files").contains("yes"), "{table}");
    assert!(
        table.contains("more are of tools that the model searches for"),
        "{table}"
    );
}

#[test]
fn a_pin_that_names_no_tool_is_an_error_with_its_place() {
    let home = Home::new();
    let dir = home.path().join("bot");
    std::fs::create_dir_all(&dir).unwrap();
    let runefile = "name: bot\nversion: 0.1.0\ninstructions: Answer.\ndefault_model: default\ntoolset: [rune@file-read]\n\
                    tool_search:\n  pinned: [rune@file-raed]\n\
                    models: {providers: [offline], model_mapping: {default: offline}}\n";
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    let ran = home.rune(&["validate", "bot"]).ends(2);
    assert!(
        ran.stderr.contains("Runefile:7:12")
            && ran.stderr.contains("did you mean `rune@file-read`?"),
        "{}",
        ran.stderr
    );
}

/// An MCP server with 200 tools, in nothing but Python.
const BIG: &str = r#"
import json, sys

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "description": "How many."}}}
TOOLS = [{"name": f"part-{n}", "description": f"Orders part number {n}.", "inputSchema": SCHEMA} for n in range(199)]
TOOLS.append({"name": "report", "description": "Says how the stock of kettles is.", "inputSchema": SCHEMA})

def answer(method, params):
    if method == "initialize":
        info = {"name": "big", "version": "1.0.0"}
        return {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
    if method == "tools/list":
        return {"tools": TOOLS}
    if method == "tools/call":
        return {"content": [{"type": "text", "text": "called " + params["name"]}]}
    return {}

for line in sys.stdin:
    message = json.loads(line)
    if "id" in message and "method" in message:
        result = answer(message["method"], message.get("params", {}))
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"#;

#[tokio::test]
async fn of_a_server_with_many_tools_the_model_is_shown_what_fits_and_finds_the_rest() {
    let script = ModelScript::new()
        .on_text("kettles")
        .reply(search("kettle stock"))
        .then(Reply::calls([ToolCall::new(
            "big__report",
            json!({"n": 1}),
        )]))
        .then(Reply::text("enough"))
        .otherwise(Otherwise::Refuse);
    let server = ModelServer::start(script).await.unwrap();
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    let dir = served.0.home().join("bot");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("server.py"), BIG).unwrap();
    let models = json!({
        "providers": ["server"],
        "endpoints": {"server": {
            "protocol": "openai", "base_url": server.base_url(Protocol::Openai), "api_key": "test",
        }},
        "model_mapping": {"default": "scripted"},
    });
    let servers = json!([{
        "name": "big", "command": "python3", "args": ["${RUNE_PACKAGE_DIR}/server.py"], "required": true,
    }]);
    let runefile = format!(
        "name: bot\nversion: 0.1.0\ninstructions: Order.\ndefault_model: default\ntoolset: [\"big/*\"]\n\
         tool_search: {{pinned: [big/part-77]}}\nmcp_servers: {servers}\nmodels: {models}\n"
    );
    std::fs::write(dir.join("Runefile"), runefile).unwrap();
    served.rune(&["run", "bot"]).ok();
    let api = Api::of(&served.0);
    let (status, body) = api.ask("bot", &json!({"input": "kettles?"})).await;
    assert_eq!((status, &body["output"]), (200, &json!("enough")), "{body}");

    let asked = server.requests();
    let first = told(&asked[0]);
    assert_eq!(first.len(), 40, "{first:?}");
    assert!(
        first.contains(&"big__part-77".to_owned()) && first.is_sorted(),
        "{first:?}"
    );
    let text = asked[0].body["tools"].to_string();
    assert!(
        text.contains("162 tools are not shown: 162 of `big`."),
        "{text}"
    );
    let second = told(&asked[1]);
    assert_eq!(second[..40], first[..], "{second:?}");
    assert_eq!(second[40..], ["big__report"], "{second:?}");
    let third = asked[2].body.to_string();
    assert!(third.contains("called report"), "{third}");
    let agent = served
        .rune(&["agent", "inspect", "bot", "-o", "json"])
        .json();
    let tools = agent["tools"].as_array().unwrap();
    assert_eq!(
        tools.len(),
        202,
        "200 of the server, the reader, the search"
    );
    assert!(
        tools.iter().any(|tool| tool["source"] == "mcp:big"),
        "{agent}"
    );
}
