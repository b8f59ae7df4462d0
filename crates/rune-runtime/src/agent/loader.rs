//! Makes agents of packages.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rune_docker::{ContainerTool, DockerEngine};
use rune_mcp::{McpClient, McpError, McpServers};
use rune_spec::{AgentPackage, AgentRef, TOOL_SEARCH, ToolDescriptor, ToolRef, ToolRuntime};
use rune_tools::{Builtins, Diagnostics, ProcessGrants, ProcessRunner, ProcessTool, RemoteAgents};
use rune_wasm::{AgentGrants, WasmRuntime};

use super::deferred::Offer;
use super::mcp::McpTools;
use super::schema::compile;
use super::tool::{AgentTarget, AgentTool, Tool, ToolRunner};
use super::{Agent, AgentError, McpRunner, OutputContract, fixed_prompt, mcp, models};
use crate::model::{ProviderPool, Providers, Timeouts};
use crate::policy::{PolicyEngine, PolicyPrincipal, PolicySet};
use crate::secrets::SecretVault;

/// The built-in tool that is run by the engine as a call of another agent.
const AGENT_SEND: &str = "agent-send";

/// Looks up a variable for `${VAR}`.
pub type VariableLookup = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Makes agents from packages.
pub struct AgentLoader {
    /// The platform's model providers.
    pub providers: rune_env::ProvidersConfig,
    /// How long a provider may take.
    pub timeouts: Timeouts,
    /// Shared by every agent.
    pub pool: ProviderPool,
    /// The built-in tools.
    pub builtins: Builtins,
    /// Runs process tools.
    pub runner: ProcessRunner,
    /// Runs WebAssembly tools.
    pub wasm: WasmRuntime,
    /// Runs tools that are containers.
    pub docker: DockerEngine,
    /// Connects to MCP servers.
    pub mcp: McpClient,
    /// Reaches agents of other installations.
    pub remotes: RemoteAgents,
    /// The daemon's variables.
    pub variables: VariableLookup,
    /// The secrets that tools can be granted.
    pub secrets: SecretVault,
    /// Below it every agent gets its workspace.
    pub workspaces: PathBuf,
    /// Where goes what tools say beside their answers.
    pub diagnostics: Diagnostics,
}

impl AgentLoader {
    /// Makes the agent of the package in `dir` for a namespace. `env` holds the
    /// deployment's variables; they win over the daemon's.
    ///
    /// # Errors
    /// An [`AgentError`] that says which file or field is in the way.
    pub fn load(
        &self,
        dir: &Path,
        namespace: &str,
        env: &BTreeMap<String, String>,
    ) -> Result<Agent, AgentError> {
        self.make(AgentPackage::load(dir)?, namespace, env)
    }

    /// Makes the agent of a package, as [`AgentLoader::load`] does.
    ///
    /// # Errors
    /// As there.
    pub fn make(
        &self,
        package: AgentPackage,
        namespace: &str,
        env: &BTreeMap<String, String>,
    ) -> Result<Agent, AgentError> {
        self.make_with(package, namespace, env, &*self.variables)
    }

    /// The daemon's variables that the files of the package in `dir` refer to, beside those of
    /// the deployment.
    ///
    /// # Errors
    /// As [`AgentLoader::load`].
    pub fn variables_of(
        &self,
        dir: &Path,
        namespace: &str,
        env: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, AgentError> {
        let asked = Mutex::new(BTreeMap::new());
        let variables = |name: &str| {
            let value = (self.variables)(name);
            if let Some(value) = &value {
                let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
                asked.insert(name.to_owned(), value.clone());
            }
            value
        };
        self.make_with(AgentPackage::load(dir)?, namespace, env, &variables)?;
        Ok(asked.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn make_with(
        &self,
        mut package: AgentPackage,
        namespace: &str,
        env: &BTreeMap<String, String>,
        variables: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Agent, AgentError> {
        resolve_names(&mut package, env, variables)?;
        let spec = &package.runefile;
        if spec.entrypoint.is_some() && package.workflow.is_some() {
            return Err(AgentError::TwoPrograms);
        }
        let component = spec.entrypoint.as_ref().map(|path| {
            let module = package.dir.join(path);
            let loaded = self.wasm.load_agent(&module, AgentGrants::of(spec));
            loaded.map(Arc::new).map_err(AgentError::Entrypoint)
        });
        let component = component.transpose()?;
        let policy = Arc::new(PolicyEngine::new(
            PolicySet::compile(&package)?,
            PolicyPrincipal::of(&package, namespace),
        ));
        let lookup = |name: &str| env.get(name).cloned().or_else(|| variables(name));
        let agent_env = resolve_all(&spec.runtime.env, "runtime.env", &lookup)?;
        let lookup = |name: &str| agent_env.get(name).cloned().or_else(|| lookup(name));

        let system = resolve(&package.instructions, "instructions", &lookup)?;
        let workspace = self.workspaces.join(namespace).join(spec.name.as_str());
        let access = mcp::access(&self.secrets, namespace, &policy);
        let servers = mcp::servers(&self.mcp, &package, &workspace, &lookup, &access)?;
        let mut tools = BTreeMap::new();
        for tool in &package.tools {
            let ready = self.tool(
                &package,
                &tool.reference.to_string(),
                &tool.descriptor,
                servers.as_ref(),
                &lookup,
            )?;
            tools.insert(tool.visible_name.clone(), Arc::new(ready));
        }
        let searcher = self.searcher(&package, &lookup)?;
        let offer = Offer::new(&package, &tools, &searcher);
        let input = spec
            .input_schema
            .as_ref()
            .map(|s| compile(s, "input_schema").map(Arc::new))
            .transpose()?;
        let output = spec
            .output_schema
            .as_ref()
            .map(|schema| {
                Ok::<_, AgentError>(Arc::new(OutputContract {
                    schema: Arc::new(schema.clone()),
                    validator: compile(schema, "output_schema")?,
                }))
            })
            .transpose()?;
        let models_config = models::config(&package, &self.providers, self.timeouts, &lookup)?;
        let models = Providers::new(&models_config, &self.pool)?;
        let fixed_prompt = fixed_prompt(&system, &offer.shown, spec.output_schema.as_ref());
        let runner = self.runner.clone();
        let tools = Arc::new(tools);
        let mcp = servers.map(|servers| Arc::new(McpTools::new(&package, servers, &tools)));
        Ok(Agent {
            package,
            system,
            tools,
            searcher,
            offer,
            fixed_prompt,
            mcp,
            models,
            models_config,
            pool: self.pool.clone(),
            policy,
            runner,
            secrets: self.secrets.clone(),
            diagnostics: self.diagnostics.clone(),
            input,
            output,
            workspace,
            component,
            remotes: self.remotes.clone(),
        })
    }

    /// The tool that finds others.
    fn searcher(
        &self,
        package: &AgentPackage,
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Arc<Tool>, AgentError> {
        let name = ToolRef::Builtin(TOOL_SEARCH.to_owned()).to_string();
        let descriptor = rune_spec::builtin(TOOL_SEARCH);
        let descriptor = descriptor.ok_or_else(|| unsupported(&name, "an unknown built-in"))?;
        self.tool(package, &name, descriptor, None, lookup)
            .map(Arc::new)
    }

    fn tool(
        &self,
        package: &AgentPackage,
        name: &str,
        descriptor: &ToolDescriptor,
        servers: Option<&McpServers>,
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Tool, AgentError> {
        let place = format!("tool `{name}`");
        let runner = match &descriptor.runtime {
            ToolRuntime::Builtin if descriptor.name == AGENT_SEND => ToolRunner::Agent(AgentTool {
                target: AgentTarget::Named,
                max_depth: None,
            }),
            ToolRuntime::Builtin => {
                let builtin = self.builtins.get(&descriptor.name);
                let builtin = builtin.ok_or_else(|| unsupported(&place, "an unknown built-in"))?;
                ToolRunner::Builtin(Arc::clone(builtin))
            }
            ToolRuntime::Process { module } => {
                let grants = ProcessGrants::default()
                    .of_package(&package.dir)
                    .with_limits(&descriptor.limits)
                    .with_capabilities(&descriptor.capabilities, lookup);
                let grant = |source| AgentError::Grant {
                    tool: name.to_owned(),
                    source,
                };
                ToolRunner::Process(ProcessTool {
                    module: package.dir.join(module),
                    grants: grants.map_err(grant)?,
                })
            }
            ToolRuntime::Wasm { module } => {
                let module = package.dir.join(module);
                let loaded = self.wasm.load(&module, descriptor, lookup);
                ToolRunner::Wasm(Box::new(loaded.map_err(|source| AgentError::Wasm {
                    tool: name.to_owned(),
                    source,
                })?))
            }
            ToolRuntime::Container { image, module } => {
                let module = module.as_ref().map(|module| package.dir.join(module));
                let tool = ContainerTool::new(
                    self.docker.clone(),
                    descriptor,
                    image,
                    module.as_deref(),
                    lookup,
                );
                ToolRunner::Container(Box::new(tool.map_err(|source| AgentError::Container {
                    tool: name.to_owned(),
                    source,
                })?))
            }
            ToolRuntime::Agent {
                agent_ref,
                max_depth,
            } => ToolRunner::Agent(AgentTool {
                target: AgentTarget::Fixed(resolved(
                    agent_ref,
                    &format!("{place}: agent_ref"),
                    lookup,
                )?),
                max_depth: *max_depth,
            }),
            ToolRuntime::Mcp { mcp_server } => {
                let server = servers.and_then(|servers| servers.get(mcp_server));
                let server = server.ok_or_else(|| McpError::Unknown(mcp_server.clone()))?;
                ToolRunner::Mcp(McpRunner {
                    server: server.clone(),
                    tool: descriptor.name.clone(),
                })
            }
        };
        Tool::new(name, descriptor.clone(), runner)
    }
}

/// Names the image of replicas, and the agents of a workflow's steps, as they are called.
fn resolve_names(
    package: &mut AgentPackage,
    env: &BTreeMap<String, String>,
    variables: &dyn Fn(&str) -> Option<String>,
) -> Result<(), AgentError> {
    let lookup = |name: &str| env.get(name).cloned().or_else(|| variables(name));
    let own = resolve_all(&package.runefile.runtime.env, "runtime.env", &lookup)?;
    let lookup = |name: &str| own.get(name).cloned().or_else(|| lookup(name));
    if let Some(image) = &mut package.runefile.runtime.image {
        *image = resolve(image, "runtime.image", &lookup)?;
    }
    let workflow = package.workflow.as_mut();
    for step in workflow
        .into_iter()
        .flat_map(|workflow| &mut workflow.steps)
    {
        let place = format!("step `{}`: agent_ref", step.id);
        step.agent_ref = resolved(&step.agent_ref, &place, &lookup)?;
    }
    Ok(())
}

fn unsupported(place: &str, what: &str) -> AgentError {
    AgentError::Unsupported {
        place: place.to_owned(),
        what: what.to_owned(),
    }
}

/// The agent that a reference leads to; it may be named by a variable.
fn resolved(
    reference: &AgentRef,
    place: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<AgentRef, AgentError> {
    let AgentRef::Url(url) = reference else {
        return Ok(reference.clone());
    };
    let text = resolve(url, place, lookup)?;
    text.parse().map_err(|source| AgentError::Reference {
        place: place.to_owned(),
        source,
    })
}

pub(super) fn resolve(
    text: &str,
    place: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, AgentError> {
    rune_spec::interpolate(text, lookup).map_err(|source| AgentError::Variable {
        place: place.to_owned(),
        source,
    })
}

fn resolve_all(
    map: &BTreeMap<String, String>,
    place: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>, AgentError> {
    map.iter()
        .map(|(key, text)| {
            Ok((
                key.clone(),
                resolve(text, &format!("{place}.{key}"), lookup)?,
            ))
        })
        .collect()
}
