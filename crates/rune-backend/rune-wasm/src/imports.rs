//! What a module is, what it imports and which capability that takes.

use std::path::Path;

use rune_tools::Hosts;
use serde::Serialize;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;
use wasmtime::{Engine, ExternType, Module};

use crate::WasmError;
use crate::agent::INTERFACES;

/// The module of WASI preview 1.
const PREVIEW1: &str = "wasi_snapshot_preview1";

/// What grants an agent its memory.
pub(crate) const MEMORY_TOOLS: &str =
    "rune@memory-recall, rune@memory-store or rune@memory-list in `toolset`";

/// How a module is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A core module: a WASI preview 1 command.
    Command,
    /// A component that is a WASI preview 2 command.
    CommandComponent,
    /// A component that exports the world `rune:tool`.
    ToolComponent,
    /// A component that exports the world `rune:agent`: no tool, but an agent.
    AgentComponent,
}

/// What an import takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: it reaches nothing outside the guest.
    Nothing,
    /// It can be called without a grant, and finds nothing then.
    Optional(&'static str),
    /// Some host.
    Network,
    /// Any host, or one that is an address.
    Sockets,
    /// A tool of the agent's memory.
    Memory,
    /// Nothing grants it.
    Unoffered(&'static str),
}

impl Need {
    /// The capability that grants it.
    pub(crate) const fn capability(self) -> Option<&'static str> {
        match self {
            Self::Nothing | Self::Unoffered(_) => None,
            Self::Optional(capability) => Some(capability),
            Self::Network => Some("network:HOST"),
            Self::Sockets => Some("network"),
            Self::Memory => Some(MEMORY_TOOLS),
        }
    }
}

/// The imports and exports of a module.
pub(crate) struct Surface {
    /// How it is called; `None` where it is no tool.
    pub(crate) kind: Option<Kind>,
    /// `MODULE::NAME`, or the name of an interface.
    pub(crate) imports: Vec<(String, Need)>,
    pub(crate) exports: Vec<String>,
    /// The export that `kind` calls.
    pub(crate) entry: Option<String>,
    /// Bytes of memory it starts with.
    pub(crate) initial_memory: u64,
}

impl Surface {
    pub(crate) fn of_module(module: &Module) -> Self {
        let imports = module
            .imports()
            .map(|import| {
                let (from, name) = (import.module(), import.name());
                (format!("{from}::{name}"), core_need(from, name))
            })
            .collect();
        let is_command = matches!(module.get_export("_start"), Some(ExternType::Func(_)));
        Self {
            kind: is_command.then_some(Kind::Command),
            imports,
            exports: module
                .exports()
                .map(|export| export.name().to_owned())
                .collect(),
            entry: is_command.then(|| "_start".to_owned()),
            initial_memory: pages(module.resources_required().max_initial_memory_size),
        }
    }

    pub(crate) fn of_component(engine: &Engine, component: &Component) -> Self {
        let ty = component.component_type();
        let mut kind = None;
        let mut entry = None;
        let mut exports = Vec::new();
        for (name, item) in ty.exports(engine) {
            let is_instance = matches!(item.ty, ComponentItem::ComponentInstance(_));
            let found = match interface(name) {
                Some(("rune:tool/handler", version)) if is_tool_version(version) => {
                    Some(Kind::ToolComponent)
                }
                Some(("rune:agent/handler", version)) if is_tool_version(version) => {
                    Some(Kind::AgentComponent)
                }
                Some(("wasi:cli/run", version)) if version.starts_with("0.2.") => {
                    Some(Kind::CommandComponent)
                }
                _ => None,
            };
            // A world of ours counts where a component has more than one.
            let is_ours = matches!(kind, Some(Kind::ToolComponent | Kind::AgentComponent));
            if is_instance && found.is_some() && !is_ours {
                kind = found;
                entry = Some(name.to_owned());
            }
            exports.push(name.to_owned());
        }
        let need = if kind == Some(Kind::AgentComponent) {
            agent_need
        } else {
            interface_need
        };
        let imports = ty
            .imports(engine)
            .map(|(name, _)| (name.to_owned(), need(name)))
            .collect();
        let needed = component.resources_required();
        Self {
            kind,
            imports,
            exports,
            entry,
            initial_memory: pages(needed.and_then(|needed| needed.max_initial_memory_size)),
        }
    }

    /// Checks that every import is granted.
    pub(crate) fn check(&self, path: &Path, hosts: &Hosts) -> Result<(), WasmError> {
        for (import, need) in &self.imports {
            let capability = match *need {
                Need::Nothing | Need::Optional(_) => continue,
                Need::Network if !hosts.is_empty() => continue,
                Need::Sockets if hosts.has_address() => continue,
                Need::Network => "network:HOST",
                Need::Sockets => "network",
                // Of agents only.
                Need::Memory => MEMORY_TOOLS,
                Need::Unoffered(hint) => {
                    return Err(WasmError::Unoffered {
                        path: path.to_owned(),
                        import: import.clone(),
                        hint,
                    });
                }
            };
            return Err(WasmError::Undeclared {
                path: path.to_owned(),
                import: import.clone(),
                capability,
            });
        }
        Ok(())
    }
}

impl Surface {
    /// Checks that what an agent imports is there for it; `remembers` says whether a tool of the memory is in its
    /// toolset.
    pub(crate) fn check_agent(&self, path: &Path, remembers: bool) -> Result<(), WasmError> {
        for (import, need) in &self.imports {
            match *need {
                Need::Memory if !remembers => {
                    return Err(WasmError::NoMemory {
                        path: path.to_owned(),
                        import: import.clone(),
                    });
                }
                Need::Unoffered(hint) => {
                    return Err(WasmError::Unoffered {
                        path: path.to_owned(),
                        import: import.clone(),
                        hint,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn pages(count: Option<u64>) -> u64 {
    count.unwrap_or(0).saturating_mul(64 * 1024)
}

/// The interface and the version of a name such as `wasi:cli/run@0.2.3`.
fn interface(name: &str) -> Option<(&str, &str)> {
    name.split_once('@')
}

fn is_tool_version(version: &str) -> bool {
    version == "0.1" || version.starts_with("0.1.")
}

fn core_need(module: &str, name: &str) -> Need {
    match (module, name) {
        (PREVIEW1, name) if name.starts_with("sock_") => Need::Unoffered(
            ": preview 1 has no way to a host; a component can import `wasi:http` or `wasi:sockets`",
        ),
        (PREVIEW1, name) if name.starts_with("path_") || name == "fd_readdir" => {
            Need::Optional("filesystem")
        }
        (PREVIEW1, _) => Need::Nothing,
        ("wasi_unstable", _) => {
            Need::Unoffered(": it is older than preview 1; build the module with a newer compiler")
        }
        _ => Need::Unoffered(": a core module can import `wasi_snapshot_preview1`"),
    }
}

/// What an import of an agent takes: beside the world it has of WASI what reaches nothing outside.
fn agent_need(name: &str) -> Need {
    let Some((interface, version)) = interface(name) else {
        return Need::Unoffered(": an agent can import the interfaces of `rune:agent@0.1.0`");
    };
    if let Some(own) = interface.strip_prefix("rune:agent/") {
        return match own {
            _ if !is_tool_version(version) => {
                Need::Unoffered(": the version of `rune:agent` is 0.1.0")
            }
            "memory" => Need::Memory,
            own if INTERFACES.contains(&own) => Need::Nothing,
            _ => Need::Unoffered(": `rune:agent` has no such interface"),
        };
    }
    match interface_need(name) {
        Need::Network | Need::Sockets => {
            Need::Unoffered(": an agent reaches hosts through its tools")
        }
        need => need,
    }
}

fn interface_need(name: &str) -> Need {
    let Some((interface, version)) = interface(name) else {
        return Need::Unoffered(": a component can import the interfaces of WASI preview 2");
    };
    if !version.starts_with("0.2.") {
        return Need::Unoffered(": the interfaces of WASI 0.2 can be imported");
    }
    let package = interface.split('/').next().unwrap_or(interface);
    match package {
        "wasi:io" | "wasi:clocks" | "wasi:random" | "wasi:cli" => Need::Nothing,
        "wasi:filesystem" => Need::Optional("filesystem"),
        "wasi:http" => match interface {
            "wasi:http/types" | "wasi:http/outgoing-handler" => Need::Network,
            _ => Need::Unoffered(": a tool can import `wasi:http/outgoing-handler`"),
        },
        "wasi:sockets" => Need::Sockets,
        _ => Need::Unoffered(": a component can import the interfaces of WASI preview 2"),
    }
}
