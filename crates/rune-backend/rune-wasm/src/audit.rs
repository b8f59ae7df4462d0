//! What a module would reach, and what it is granted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rune_spec::ToolDescriptor;
use rune_tools::{Hosts, Secrets};
use serde::Serialize;
use tokio::time::timeout;
use wasmtime::Store;
use wasmtime::component::{ComponentType, Lift};

use crate::code_cache::hex;
use crate::grants::Grants;
use crate::guest::{Ends, Guest, Source};
use crate::imports::{Kind, Need};
use crate::loaded::{Code, Loaded, export};
use crate::runtime::{Host, memory_limit};
use crate::{AgentGrants, WasmError, WasmRuntime};

/// What a module may use to describe itself.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(2);
const DESCRIBE_FUEL: u64 = 100_000_000;
const DESCRIBE_MEMORY: u64 = 64 << 20;
const DESCRIBE_OUTPUT: usize = 64 * 1024;

/// What a module is and what it takes to run it.
#[derive(Debug, Serialize)]
pub struct Audit {
    /// Its file.
    pub module: PathBuf,
    /// How it is called; absent where it is no tool.
    pub kind: Option<Kind>,
    /// Size of the module.
    pub bytes: usize,
    /// SHA-256 of the module.
    pub sha256: String,
    /// What it imports.
    pub imports: Vec<AuditedImport>,
    /// What it exports.
    pub exports: Vec<String>,
    /// Bytes of memory that it starts with.
    pub initial_memory_bytes: u64,
    /// Bytes of memory that it may have; absent without a description.
    pub memory_limit_bytes: Option<u64>,
    /// Its fuel; absent where it is not limited.
    pub fuel: Option<u64>,
    /// CPU time that a call may take; absent where it is not limited.
    pub cpu_ms: Option<u64>,
    /// Longest time of a call; absent without a description.
    pub timeout_ms: Option<u64>,
    /// What its description grants; absent without a description.
    pub capabilities: Option<Vec<String>>,
    /// What it says of itself.
    pub metadata: Option<Metadata>,
    /// Why it cannot be a tool as it is described.
    pub error: Option<String>,
}

/// An import of a module.
#[derive(Debug, Serialize)]
pub struct AuditedImport {
    /// `MODULE::NAME`, or the name of an interface.
    pub name: String,
    /// The capability that it takes.
    pub capability: Option<&'static str>,
    /// Whether the module cannot be loaded without the capability.
    pub required: bool,
    /// Whether the description grants it; absent without a description.
    pub granted: Option<bool>,
}

/// What a component with the world `rune:tool` says of itself.
#[derive(Debug, Clone, Serialize, ComponentType, Lift)]
#[component(record)]
pub struct Metadata {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it is for.
    pub description: String,
    /// JSON Schema of its input, as text.
    #[component(name = "input-schema")]
    pub input_schema: String,
}

impl WasmRuntime {
    /// Looks at a module, with the description of the tool it is where there is one.
    ///
    /// # Errors
    /// A [`WasmError`] where it is no module at all.
    pub async fn audit(
        &self,
        module: &Path,
        descriptor: Option<&ToolDescriptor>,
    ) -> Result<Audit, WasmError> {
        self.audit_as(module, descriptor.map_or(Role::Unknown, Role::Tool))
            .await
    }

    /// Looks at the `entrypoint` of an agent.
    ///
    /// # Errors
    /// As [`WasmRuntime::audit`].
    pub async fn audit_agent(
        &self,
        module: &Path,
        grants: AgentGrants,
    ) -> Result<Audit, WasmError> {
        self.audit_as(module, Role::Agent(grants)).await
    }

    async fn audit_as(&self, module: &Path, role: Role<'_>) -> Result<Audit, WasmError> {
        let descriptor = match role {
            Role::Tool(descriptor) => Some(descriptor),
            Role::Agent(_) | Role::Unknown => None,
        };
        let (host, loaded) = self.module(module)?;
        let surface = &loaded.surface;
        let granted = descriptor.map(granted).transpose()?;
        let imports = surface.imports.iter().map(|(name, need)| AuditedImport {
            name: name.clone(),
            capability: need.capability(),
            required: !matches!(need, Need::Nothing | Need::Optional(_)),
            granted: match role {
                Role::Agent(grants) => Some(match need {
                    Need::Memory => grants.remembers,
                    Need::Nothing => true,
                    _ => false,
                }),
                _ => granted.as_ref().map(|granted| is_granted(*need, granted)),
            },
        });
        let error = match role {
            Role::Agent(grants) => self.load_agent(module, grants).err(),
            Role::Unknown if surface.kind == Some(Kind::AgentComponent) => {
                let grants = AgentGrants {
                    remembers: true,
                    memory_mib: u32::MAX,
                    cpu: None,
                };
                self.load_agent(module, grants).err()
            }
            // The values of variables are not needed to know what is granted.
            Role::Tool(descriptor) => self
                .load(module, descriptor, &|_| Some(String::new()))
                .err(),
            Role::Unknown => loaded
                .tool_entry(module)
                .and_then(|_| surface.check(module, &Hosts::every()))
                .and_then(|()| loaded.link(&host, module).map(|_| ()))
                .err(),
        };
        let metadata = match (surface.kind, &error) {
            (Some(Kind::ToolComponent), None) => describe(&host, &loaded).await,
            _ => None,
        };
        Ok(Audit {
            module: module.to_owned(),
            kind: surface.kind,
            bytes: loaded.size,
            sha256: hex(&loaded.digest),
            imports: imports.collect(),
            exports: surface.exports.clone(),
            initial_memory_bytes: surface.initial_memory,
            memory_limit_bytes: match role {
                Role::Agent(grants) => Some(grants.memory()),
                _ => descriptor.map(memory_limit).transpose()?,
            },
            fuel: descriptor.and_then(|descriptor| descriptor.limits.fuel),
            cpu_ms: descriptor.and_then(|descriptor| descriptor.limits.cpu_ms),
            timeout_ms: descriptor.and_then(|d| u64::try_from(d.timeout.as_millis()).ok()),
            capabilities: descriptor
                .map(|d| d.capabilities.iter().map(ToString::to_string).collect()),
            metadata,
            error: error.map(|error| error.to_string()),
        })
    }
}

/// What a module is described as.
#[derive(Clone, Copy)]
enum Role<'a> {
    Tool(&'a ToolDescriptor),
    Agent(AgentGrants),
    Unknown,
}

fn granted(descriptor: &ToolDescriptor) -> Result<Grants, WasmError> {
    Ok(Grants::new(&descriptor.capabilities, &|_| {
        Some(String::new())
    })?)
}

fn is_granted(need: Need, granted: &Grants) -> bool {
    match need {
        Need::Nothing => true,
        Need::Optional(_) => granted.has_directories(),
        Need::Network => !granted.hosts.is_empty(),
        Need::Sockets => granted.hosts.has_address(),
        Need::Memory => false,
        Need::Unoffered(_) => false,
    }
}

/// What a component says of itself; nothing where it does not say it in time.
async fn describe(host: &Host, loaded: &Loaded) -> Option<Metadata> {
    let Code::Component(component) = &loaded.code else {
        return None;
    };
    let describe = export(component, loaded.surface.entry.as_deref()?, "describe")?;
    let said = async {
        let grants = Grants::new(&[], &|_| None)?;
        let ends = Ends::new(DESCRIBE_OUTPUT);
        let guest = Guest::new(Source {
            grants: &grants,
            secrets: &Secrets::default(),
            directories: &[],
            variables: Vec::new(),
            gate: None,
            client: &host.client,
            memory: DESCRIBE_MEMORY,
            stdin: None,
            ends: &ends,
        })?;
        let mut store = Store::new(&host.engine, guest);
        store.limiter(|guest| &mut guest.limits);
        store.epoch_deadline_async_yield_and_update(1);
        store.set_epoch_deadline(1);
        store.set_fuel(DESCRIBE_FUEL)?;
        let _running = host.ticker.run();
        let instance = host
            .components
            .instantiate_async(&mut store, component)
            .await?;
        let describe = instance.get_typed_func::<(), (Metadata,)>(&mut store, &describe)?;
        let (metadata,) = describe.call_async(&mut store, ()).await?;
        Ok::<_, wasmtime::Error>(metadata)
    };
    match timeout(DESCRIBE_TIMEOUT, said).await {
        Ok(Ok(metadata)) => Some(metadata),
        Ok(Err(error)) => {
            tracing::debug!(%error, "the component does not describe itself");
            None
        }
        Err(_) => None,
    }
}
