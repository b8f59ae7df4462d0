//! The client under test for the public conformance suite (`conformance/run`): connects to the server whose URL is the last
//! argument, lists its tools, and makes the calls that the suite asks for, else calls every tool.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rune_mcp::{McpClient, McpServers, ServerAccess, ServerConfig, ServerHandle};
use rune_store_runtime::{MemoryScope, RequestId, SessionId, Store, SystemClock};
use rune_testkit::store::FakeStore;
use rune_tools::{Diagnostics, Launcher, Outputs, Secrets, ShownImages, ToolContext};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

/// What the suite says about a scenario, as JSON: `{"toolCalls": [{"name", "arguments"}]}`.
const CONTEXT: &str = "MCP_CONFORMANCE_CONTEXT";
/// The tool whose schema a client has to preserve, and the one that it is told to.
const FOCAL_TOOL: &str = "json_schema_2020_12_tool";
const ECHO_TOOL: &str = "json_schema_echo";
/// The longest that a scenario takes.
const PATIENCE: Duration = Duration::from_secs(20);

type Failed = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the suite keeps what is said")]
            {
                eprintln!("{error}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Failed> {
    let url = std::env::args().next_back().unwrap_or_default();
    #[expect(
        clippy::disallowed_methods,
        reason = "the suite hands the calls over in the environment"
    )]
    let context = std::env::var(CONTEXT).unwrap_or_default();
    let context: Value = serde_json::from_str(&context).unwrap_or_default();

    let client = McpClient::new("", Launcher::Direct, Arc::new(|_| None));
    let access = ServerAccess {
        secrets: Arc::new(|_| Box::pin(async { Ok(Secrets::default()) })),
        gate: None,
    };
    let server = ServerConfig::of_url(&client, "suite", &url)?;
    let servers = McpServers::new(&client, vec![server], &access);
    servers.start(PATIENCE).await?;
    let server = servers.get("suite").ok_or("no server")?;
    server.tried().await;
    if let Some(trouble) = server.trouble() {
        return Err(trouble.into());
    }
    for (name, arguments) in calls(server, &context) {
        let tool_context = tool_context();
        let call = server.call(&name, &tool_context, arguments, Arc::new(|_| ()));
        // That a call fails is for the suite to judge.
        let called = call.await;
        #[expect(clippy::print_stderr, reason = "the suite keeps what is said")]
        {
            eprintln!("{name}: {called:?}");
        }
    }
    servers.stop().await;
    Ok(())
}

/// What is called with what.
fn calls(server: &ServerHandle, context: &Value) -> Vec<(String, Value)> {
    if let Some(asked) = context["toolCalls"].as_array() {
        let call = |call: &Value| {
            let name = call["name"].as_str().unwrap_or_default().to_owned();
            (name, call["arguments"].clone())
        };
        return asked.iter().map(call).collect();
    }
    let tools = server.tools();
    // One scenario has a tool that is told the schema of another one, as it got here.
    let preserved = tools.iter().find(|tool| tool.name == FOCAL_TOOL);
    let echoed = preserved.map(|tool| json!({ "schema": tool.input_schema }));
    let calls = tools.iter().map(|tool| {
        let echo = echoed.clone().filter(|_| tool.name == ECHO_TOOL);
        let input = echo.unwrap_or_else(|| sample(&tool.input_schema));
        (tool.name.clone(), input)
    });
    calls.collect()
}

/// An input that a schema of the suite takes: what is required, a value of its type each.
fn sample(schema: &Value) -> Value {
    let mut input = Map::new();
    for name in schema["required"].as_array().into_iter().flatten() {
        let Some(name) = name.as_str() else { continue };
        let value = match schema["properties"][name]["type"].as_str() {
            Some("number" | "integer") => json!(5),
            Some("boolean") => json!(true),
            Some("array") => json!([]),
            Some("object") => json!({}),
            _ => json!("text"),
        };
        input.insert(name.to_owned(), value);
    }
    Value::Object(input)
}

fn tool_context() -> ToolContext {
    ToolContext {
        request_id: RequestId::generate(),
        session_id: SessionId::generate(),
        scope: MemoryScope {
            namespace: "dev".to_owned(),
            agent: "conformance".to_owned(),
        },
        idempotency_key: "key".to_owned(),
        workspace: std::env::temp_dir(),
        store: Store::new(Arc::new(FakeStore::new()), Arc::new(SystemClock)),
        cancel: CancellationToken::new(),
        timeout: PATIENCE,
        output_limit: 1024 * 1024,
        secrets: Secrets::default(),
        egress: None,
        shown_limit: 1024 * 1024,
        outputs: Outputs::default(),
        images: ShownImages::default(),
        engine: None,
        media: None,
        deferred: Arc::default(),
        diagnostics: Diagnostics::default(),
    }
}
