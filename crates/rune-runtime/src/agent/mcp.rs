//! What the MCP servers of an agent offer: its tools come and go with them.
//!
//! A request runs with the tools that there are when it begins: [`Agent::now`] is the agent with those.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rune_mcp::{
    McpClient, McpError, McpServers, ProgressSink, ServerAccess, ServerConfig, ServerHandle,
    ServerStatus,
};
use rune_spec::{AgentPackage, McpSelection, McpTool, ToolDescriptor, ToolRef, ToolRuntime};
use rune_tools::{EgressGate, ToolContext, ToolError, ToolErrorKind};
use serde::Serialize;
use serde_json::{Value, json};

use super::deferred::Offer;
use super::{Agent, AgentError, Tool, ToolRunner, fixed_prompt};
use crate::model::ToolDefinition;
use crate::policy::{PolicyEngine, PolicyResource, Verdict};
use crate::secrets::SecretVault;
use crate::tokens;

/// A tool of an MCP server.
pub struct McpRunner {
    /// The server.
    pub server: ServerHandle,
    /// The tool's name on it.
    pub tool: String,
}

impl McpRunner {
    /// Calls it.
    ///
    /// # Errors
    /// As [`ServerHandle::call`].
    pub async fn call(
        &self,
        context: &ToolContext,
        input: Value,
        progress: ProgressSink,
    ) -> Result<Value, ToolError> {
        let called = self.server.call(&self.tool, context, input, progress);
        // Its future is large, and those of other tools are not.
        Box::pin(called).await
    }
}

/// The servers of an agent and what the toolset takes of them.
pub(super) struct McpTools {
    servers: McpServers,
    selections: Vec<McpSelection>,
    /// The tools that the package describes.
    own: Arc<BTreeMap<String, Arc<Tool>>>,
    /// The tools as they were put together last, and for which versions of the servers' lists.
    merged: Mutex<Option<(Vec<u64>, Tools)>>,
}

type Tools = Arc<BTreeMap<String, Arc<Tool>>>;

/// The servers that the package uses; none where it uses none.
pub(super) fn servers(
    client: &McpClient,
    package: &AgentPackage,
    workspace: &Path,
    lookup: &dyn Fn(&str) -> Option<String>,
    access: &ServerAccess,
) -> Result<Option<McpServers>, AgentError> {
    let spec = &package.runefile;
    let mut servers = Vec::new();
    for server in &spec.mcp_servers {
        let package = &package.dir;
        let server = ServerConfig::resolve(client, server, lookup, package, workspace)?;
        servers.push(server);
    }
    let described = package.tools.iter();
    let described = described.filter_map(|tool| match &tool.descriptor.runtime {
        ToolRuntime::Mcp { mcp_server } => Some(mcp_server),
        _ => None,
    });
    let selected = package.mcp_tools.iter().map(|selection| &selection.server);
    for name in selected.chain(described) {
        if servers.iter().any(|known| known.name == *name) {
            continue;
        }
        let url = client.url(name);
        let url = url.ok_or_else(|| McpError::Unknown(name.clone()))?;
        servers.push(ServerConfig::of_url(client, name, &url)?);
    }
    Ok((!servers.is_empty()).then(|| McpServers::new(client, servers, access)))
}

/// What servers may use of an agent in a namespace: the secrets there, and what its policy says of hosts.
pub(super) fn access(
    vault: &SecretVault,
    namespace: &str,
    policy: &Arc<PolicyEngine>,
) -> ServerAccess {
    let (vault, namespace) = (vault.clone(), namespace.to_owned());
    let host = PolicyResource::Host { host: "", port: 0 };
    let gate = policy.asks(&host).then(|| {
        let gate: Arc<dyn EgressGate> = Arc::new(IdleGate(Arc::clone(policy)));
        gate
    });
    ServerAccess {
        secrets: Arc::new(move |granted| {
            let (vault, namespace) = (vault.clone(), namespace.clone());
            Box::pin(async move {
                let secrets = vault.granted(&namespace, &granted).await;
                secrets.map_err(|error| error.to_string())
            })
        }),
        gate,
    }
}

/// What policy says of the hosts that a server connects to while nobody calls it: there is no caller, and no journal.
struct IdleGate(Arc<PolicyEngine>);

impl EgressGate for IdleGate {
    fn connect(&self, host: &str, port: u16) -> Result<(), ToolError> {
        let resource = PolicyResource::Host { host, port };
        let decision = self.0.decide("", resource);
        if decision.verdict == Verdict::Allowed {
            return Ok(());
        }
        let (name, reason) = (resource.id(), &decision.reason);
        let message = format!("policy denies connecting to `{name}`: {reason}");
        Err(ToolError::new(ToolErrorKind::Denied, message))
    }
}

impl McpTools {
    pub(super) fn new(package: &AgentPackage, servers: McpServers, own: &Tools) -> Self {
        Self {
            servers,
            selections: package.mcp_tools.clone(),
            own: Arc::clone(own),
            merged: Mutex::default(),
        }
    }

    /// The tools that there are now.
    fn tools(&self) -> Tools {
        let all = self.servers.all().iter();
        let versions: Vec<u64> = all.map(ServerHandle::version).collect();
        let mut merged = self.merged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, tools)) = &*merged
            && *known == versions
        {
            return Arc::clone(tools);
        }
        let tools = self.with(&self.offered());
        *merged = Some((versions, Arc::clone(&tools)));
        tools
    }

    /// What the servers say that they have.
    fn offered(&self) -> Vec<McpTool> {
        let all = self.servers.all().iter();
        all.flat_map(ServerHandle::tools).collect()
    }

    /// The tools of the agent where its servers offer these.
    fn with(&self, offered: &[McpTool]) -> Tools {
        let mut tools = BTreeMap::new();
        for (visible, tool) in self.own.iter() {
            let tool = completed(tool, offered).map_or_else(|| Arc::clone(tool), Arc::new);
            tools.insert(visible.clone(), tool);
        }
        for selection in &self.selections {
            let Some(server) = self.servers.get(&selection.server) else {
                continue;
            };
            let of_server = offered
                .iter()
                .filter(|tool| tool.server == selection.server);
            let taken: Vec<McpTool> = match &selection.tool {
                None => of_server.cloned().collect(),
                Some(name) => {
                    let mut found = of_server.clone().filter(|tool| tool.name == *name);
                    let found = found.next().cloned();
                    let heard = server.was_heard() || of_server.count() > 0;
                    let unheard = || (!heard).then(|| McpTool::unheard(&selection.server, name));
                    found.or_else(unheard).into_iter().collect()
                }
            };
            if taken.is_empty() && selection.tool.is_some() {
                let tool = selection.tool.as_deref();
                tracing::warn!(
                    mcp_server = selection.server,
                    tool,
                    "the server has no such tool"
                );
            }
            for remote in taken {
                let visible = ToolRef::mcp_visible_name(&remote.server, &remote.name);
                // Another entry of the toolset may name it, too.
                if tools.contains_key(&visible) {
                    continue;
                }
                match tool(&remote, server) {
                    Ok(tool) => {
                        tools.insert(visible, Arc::new(tool));
                    }
                    Err(error) => {
                        tracing::warn!(
                            mcp_server = remote.server,
                            tool = remote.name,
                            error,
                            "a tool of an MCP server is left out"
                        );
                    }
                }
            }
        }
        Arc::new(tools)
    }
}

fn tool(remote: &McpTool, server: &ServerHandle) -> Result<Tool, String> {
    let descriptor = remote.descriptor(server.config().timeout)?;
    let reference = ToolRef::Mcp {
        server: remote.server.clone(),
        tool: remote.name.clone(),
    };
    let runner = ToolRunner::Mcp(McpRunner {
        server: server.clone(),
        tool: remote.name.clone(),
    });
    Tool::new(&reference.to_string(), descriptor, runner).map_err(|error| error.to_string())
}

/// A tool that the package describes with what it leaves to its server: the description and the schema of the input.
fn completed(tool: &Tool, offered: &[McpTool]) -> Option<Tool> {
    let ToolRunner::Mcp(runner) = &tool.runner else {
        return None;
    };
    let name = &runner.server.config().name;
    let remote = offered
        .iter()
        .find(|remote| remote.server == *name && remote.name == runner.tool)?;
    let theirs = remote.descriptor(tool.descriptor.timeout).ok()?;
    let own = &tool.descriptor;
    let says_nothing = own.input_schema == json!({ "type": "object" });
    if !own.description.is_empty() && !says_nothing {
        return None;
    }
    let descriptor = ToolDescriptor {
        description: if own.description.is_empty() {
            theirs.description
        } else {
            own.description.clone()
        },
        primary_argument: if says_nothing {
            theirs.primary_argument
        } else {
            own.primary_argument.clone()
        },
        input_schema: if says_nothing {
            theirs.input_schema
        } else {
            own.input_schema.clone()
        },
        ..own.clone()
    };
    let runner = ToolRunner::Mcp(McpRunner {
        server: runner.server.clone(),
        tool: runner.tool.clone(),
    });
    Tool::new(&tool.name, descriptor, runner).ok()
}

/// How an MCP server is, and what it offers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct McpServerReport {
    /// How it is.
    #[serde(flatten)]
    pub status: ServerStatus,
    /// Its tools as it listed them last, by name.
    pub tools: Vec<McpToolReport>,
}

/// A tool of an MCP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct McpToolReport {
    /// Its name on the server.
    pub name: String,
    /// What a model is told of it.
    pub description: String,
    /// Tokens of every prompt that its description and schema take, estimated.
    pub tokens: u64,
    /// Whether the agent has it.
    pub taken: bool,
}

impl Agent {
    /// The agent with the tools that its MCP servers have now.
    #[must_use]
    pub fn now(self: &Arc<Self>) -> Arc<Self> {
        let Some(mcp) = &self.mcp else {
            return Arc::clone(self);
        };
        let tools = mcp.tools();
        if Arc::ptr_eq(&tools, &self.tools) {
            return Arc::clone(self);
        }
        Arc::new(self.having(tools))
    }

    /// The agent as it was when its servers offered these tools. None of them is asked.
    #[must_use]
    pub fn with_mcp_tools(self: &Arc<Self>, offered: &[McpTool]) -> Arc<Self> {
        match &self.mcp {
            Some(mcp) => Arc::new(self.having(mcp.with(offered))),
            None => Arc::clone(self),
        }
    }

    /// The tools of MCP servers that it has.
    #[must_use]
    pub fn mcp_tools(&self) -> Vec<McpTool> {
        let tools = self.tools.values();
        let remote = tools.filter_map(|tool| {
            let ToolRunner::Mcp(runner) = &tool.runner else {
                return None;
            };
            Some(McpTool {
                server: runner.server.config().name.clone(),
                name: runner.tool.clone(),
                description: tool.descriptor.description.clone(),
                input_schema: tool.descriptor.input_schema.clone(),
                output_schema: tool.descriptor.output_schema.clone(),
                read_only: tool.descriptor.read_only,
                idempotent: tool.descriptor.idempotent,
            })
        });
        remote.collect()
    }

    /// How its MCP servers are, and what they offer.
    #[must_use]
    pub fn mcp_report(self: &Arc<Self>) -> Vec<McpServerReport> {
        let now = self.now();
        let report = |server: &ServerHandle| {
            let name = &server.config().name;
            let tools = server.tools().into_iter().map(|remote| {
                let visible_name = ToolRef::mcp_visible_name(name, &remote.name);
                let taken = now.tools().any(|(_, tool)| {
                    let ToolRunner::Mcp(runner) = &tool.runner else {
                        return false;
                    };
                    runner.server.config().name == *name && runner.tool == remote.name
                });
                let definition = ToolDefinition {
                    name: visible_name,
                    description: remote.description,
                    input_schema: remote.input_schema,
                };
                McpToolReport {
                    name: remote.name,
                    tokens: tokens::of_tool(&definition),
                    description: definition.description,
                    taken,
                }
            });
            McpServerReport {
                tools: tools.collect(),
                status: server.status(),
            }
        };
        self.mcp_servers().iter().map(report).collect()
    }

    /// Its MCP servers.
    #[must_use]
    pub fn mcp_servers(&self) -> &[ServerHandle] {
        self.mcp.as_ref().map_or(&[], |mcp| mcp.servers.all())
    }

    /// Begins to connect to its MCP servers, and waits for the first attempts, as long as a replica may take to start.
    ///
    /// # Errors
    /// An [`McpError`] names one that is required and cannot be connected to.
    pub async fn connect(&self) -> Result<(), McpError> {
        let patience = self.spec().runtime.startup_timeout;
        match &self.mcp {
            Some(mcp) => mcp.servers.start(patience.min(MAX_PATIENCE)).await,
            None => Ok(()),
        }
    }

    /// Disconnects from its MCP servers in good order.
    pub async fn disconnect(&self) {
        if let Some(mcp) = &self.mcp {
            mcp.servers.stop().await;
        }
    }

    /// Why the server of a tool that the agent does not have cannot be asked whether it has it.
    pub(crate) fn mcp_trouble(&self, visible_name: &str) -> Option<String> {
        let servers = self.mcp_servers().iter();
        let mut of_name = servers.filter(|server| {
            let prefix = ToolRef::mcp_visible_name(&server.config().name, "");
            visible_name.starts_with(&prefix)
        });
        let server = of_name.next()?;
        let name = &server.config().name;
        let trouble = server.trouble()?;
        Some(format!("MCP server `{name}` is unavailable: {trouble}"))
    }

    fn having(&self, tools: Tools) -> Self {
        let offer = Offer::new(&self.package, &tools, &self.searcher);
        let schema = self.package.runefile.output_schema.as_ref();
        Self {
            fixed_prompt: fixed_prompt(&self.system, &offer.shown, schema),
            package: self.package.clone(),
            system: self.system.clone(),
            tools,
            searcher: Arc::clone(&self.searcher),
            offer,
            mcp: self.mcp.clone(),
            models: self.models.clone(),
            models_config: self.models_config.clone(),
            pool: self.pool.clone(),
            policy: Arc::clone(&self.policy),
            runner: self.runner.clone(),
            secrets: self.secrets.clone(),
            diagnostics: self.diagnostics.clone(),
            input: self.input.clone(),
            output: self.output.clone(),
            workspace: self.workspace.clone(),
            component: self.component.clone(),
            remotes: self.remotes.clone(),
        }
    }
}

/// The longest that a start waits for a server.
const MAX_PATIENCE: Duration = Duration::from_secs(60);
