//! An engine for the length of a command: in a directory that is thrown away, with an agent that is not deployed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rune_env::Config;
use rune_mcp::McpClient;
use rune_runtime::Agent;
use rune_runtime::model::OFFLINE_PROVIDER;
use rune_spec::{AgentPackage, Budget, CheckpointPolicy, MemoryProfile};
use rune_store_runtime::SpilledOutput;
use rune_tools::{Diagnostics, Launcher};
use serde_json::Value;

use crate::context::Context;
use crate::daemon::node::{Node, Place};
use crate::failure::{Failure, Outcome};

/// How long what requests leave to be cleaned up is waited for.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// Beside a tool's own time, what a request that calls it may take.
const AROUND_A_CALL: Duration = Duration::from_secs(60);

/// An engine on a temporary store.
pub(crate) fn open(config: &Config, dir: &Path) -> Outcome<Node> {
    Node::open(config, &Place::temporary(config, dir)?)
}

/// A directory that is removed when it is dropped.
pub(crate) fn temporary(prefix: &str) -> Outcome<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix(prefix)
        .tempdir()
        .map_err(|error| Failure::because("cannot make a temporary directory", &error))
}

/// Ends everything that runs on an engine.
pub(crate) async fn close(node: &Node, agent: Option<&Arc<Agent>>) {
    if let Some(agent) = agent {
        agent.disconnect().await;
    }
    node.tasks.stop(STOP_GRACE).await;
    // The store is thrown away: whether it closes well does not matter.
    let _ = node.database.close().await;
}

/// Has what tools write to standard error told to somebody.
pub(crate) fn listen(node: &mut Node, listener: Arc<dyn Fn(&str) + Send + Sync>) {
    if let Some(loader) = Arc::get_mut(&mut node.loader) {
        loader.diagnostics = Diagnostics::to(listener);
    }
}

/// Lets agents be made whose variables and servers this machine does not know, where nothing of them leaves the process: a key
/// that is not there is not missed.
pub(crate) fn forgive_missing_variables(node: &mut Node, context: &Context) {
    if let Some(loader) = Arc::get_mut(&mut node.loader) {
        let config = context.config.clone();
        loader.variables = Arc::new(move |name| Some(config.variable(name).unwrap_or_default()));
        // No server is asked; that it has a URL is all that matters.
        let nowhere = Arc::new(|_: &str| Some("http://localhost/".to_owned()));
        loader.mcp = McpClient::new("", Launcher::Direct, nowhere);
    }
}

/// The whole of an output of which a model is shown a part.
pub(crate) async fn spilled(node: &Node, spilled: &SpilledOutput) -> Outcome<Value> {
    let text = node.blobs.get(&spilled.digest).await;
    let text = text.map_err(|error| Failure::because("cannot read the output", &error))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// The package with the offline model, whatever its Runefile says of models.
pub(crate) fn offline(mut package: AgentPackage) -> AgentPackage {
    let models = &mut package.runefile.models;
    models.providers = vec![OFFLINE_PROVIDER.to_owned()];
    models.endpoints.clear();
    package
}

/// The package with an offline model that calls the tool it is told to ([`call`]), and nothing in the way of that but
/// policy, sandbox and the tool's own limits.
pub(crate) fn caller(package: AgentPackage) -> AgentPackage {
    let mut package = offline(package);
    let slowest = package
        .tools
        .iter()
        .map(|tool| tool.descriptor.timeout)
        .max();
    let servers = package
        .runefile
        .mcp_servers
        .iter()
        .map(|server| server.timeout);
    let slowest = servers.chain(slowest).max().unwrap_or_default();
    package.script = None;
    package.workflow = None;
    "Call the tool.".clone_into(&mut package.instructions);
    let runefile = &mut package.runefile;
    runefile.entrypoint = None;
    runefile.input_schema = None;
    runefile.output_schema = None;
    runefile.budget = Budget::default();
    runefile.memory_profile = MemoryProfile::Minimal;
    runefile.max_steps = runefile.max_steps.max(2);
    runefile.timeout = runefile.timeout.max(slowest + AROUND_A_CALL);
    runefile.models.token_budget = u64::MAX;
    runefile.runtime.checkpoint_policy = CheckpointPolicy::EachStep;
    // The model has to see the tool.
    runefile.tool_search.enabled = false;
    package
}

/// The input with which [`caller`] calls a tool.
pub(crate) fn call(tool: &str, input: &Value) -> Value {
    format!("/tool {tool} {input}").into()
}

/// The name in the toolset form of the tool that somebody names in either form.
pub(crate) fn tool_named(agent: &Agent, name: &str) -> Outcome<String> {
    let mut tools = agent.tools();
    if let Some((_, tool)) = tools.find(|(visible, tool)| *visible == name || tool.name == name) {
        return Ok(tool.name.clone());
    }
    let names: Vec<&str> = agent.tools().map(|(_, tool)| tool.name.as_str()).collect();
    let help = rune_spec::nearest(name, names.iter().copied()).map_or_else(
        || format!("its tools are: {}", names.join(", ")),
        |near| format!("did you mean `{near}`?"),
    );
    let message = format!("the agent has no tool `{name}` in its toolset");
    Err(Failure::usage(message).help(help))
}
