//! A module that is compiled and linked.

use std::path::Path;

use wasmtime::component::types::{ComponentItem, Type};
use wasmtime::component::{Component, ComponentExportIndex, InstancePre as ComponentPre};
use wasmtime::{Engine, InstancePre, Module};

use crate::WasmError;
use crate::agent::AgentGuest;
use crate::code_cache::{CodeCache, ModuleDigest};
use crate::guest::Guest;
use crate::imports::{Kind, Surface};
use crate::runtime::Host;

/// A module that can be instantiated.
pub(crate) struct Loaded {
    pub(crate) surface: Surface,
    pub(crate) digest: ModuleDigest,
    pub(crate) size: usize,
    pub(crate) code: Code,
}

/// The machine code.
pub(crate) enum Code {
    Module(Module),
    Component(Component),
}

impl Loaded {
    /// Compiles a module, or takes what was compiled before.
    pub(crate) fn new(
        host: &Host,
        path: &Path,
        bytes: &[u8],
        digest: ModuleDigest,
    ) -> Result<Self, WasmError> {
        let code = Code::new(&host.engine, host.cache.as_ref(), bytes, &digest);
        let code = code.map_err(|error| invalid(path, &error))?;
        let surface = match &code {
            Code::Module(module) => Surface::of_module(module),
            Code::Component(component) => Surface::of_component(&host.engine, component),
        };
        Ok(Self {
            surface,
            digest,
            size: bytes.len(),
            code,
        })
    }

    /// The kind of a tool, and what of it is called.
    ///
    /// # Errors
    /// [`WasmError::NotATool`] where it is none.
    pub(crate) fn tool_entry(&self, path: &Path) -> Result<(Kind, &str), WasmError> {
        match (self.surface.kind, &self.surface.entry) {
            (Some(kind), Some(entry)) if kind != Kind::AgentComponent => Ok((kind, entry)),
            _ => Err(WasmError::NotATool {
                path: path.to_owned(),
                found: self.exported(),
            }),
        }
    }

    /// What is called.
    pub(crate) fn link(&self, host: &Host, path: &Path) -> Result<Linked, WasmError> {
        let (kind, entry) = self.tool_entry(path)?;
        match &self.code {
            Code::Module(module) => {
                let linked = host.modules.instantiate_pre(module);
                linked
                    .map(Linked::Command)
                    .map_err(|error| invalid(path, &error))
            }
            Code::Component(component) => {
                let linked = host.components.instantiate_pre(component);
                let pre = linked.map_err(|error| invalid(path, &error))?;
                let entry = export(component, entry, "run");
                let entry = entry.ok_or_else(|| WasmError::NotATool {
                    path: path.to_owned(),
                    found: "an interface without `run`".to_owned(),
                })?;
                Ok(Linked::Component { pre, entry, kind })
            }
        }
    }
}

impl Loaded {
    /// What is run where it is an agent.
    pub(crate) fn link_agent(
        &self,
        host: &Host,
        path: &Path,
    ) -> Result<(ComponentPre<AgentGuest>, ComponentExportIndex), WasmError> {
        let not_an_agent = |reason: String| WasmError::NotAnAgent {
            path: path.to_owned(),
            reason,
        };
        let Code::Component(component) = &self.code else {
            return Err(not_an_agent("it is a core module".to_owned()));
        };
        let entry = match (self.surface.kind, &self.surface.entry) {
            (Some(Kind::AgentComponent), Some(entry)) => export(component, entry, "run"),
            _ => return Err(not_an_agent(format!("it exports {}", self.exported()))),
        };
        let Some(entry) = entry else {
            return Err(not_an_agent(
                "its `rune:agent/handler@0.1.0` has no `run`".to_owned(),
            ));
        };
        if !serves(component, &entry) {
            return Err(not_an_agent(
                "its `run` is not that of the world".to_owned(),
            ));
        }
        let linked = host.agents.instantiate_pre(component);
        let pre = linked.map_err(|error| invalid(path, &error))?;
        Ok((pre, entry))
    }

    fn exported(&self) -> String {
        match self.surface.exports.as_slice() {
            [] => "nothing".to_owned(),
            names => format!("`{}`", names.join("`, `")),
        }
    }
}

/// Whether a function is `run: func(request) -> result<answer, failure>`.
fn serves(component: &Component, run: &ComponentExportIndex) -> bool {
    let texts = |ty: &Type, names: [&str; 4]| {
        let names = names.into_iter().filter(|name| !name.is_empty());
        matches!(ty, Type::Record(record) if record.fields().map(|field| field.name).eq(names)
            && record.fields().all(|field| matches!(field.ty, Type::String)))
    };
    let Some((ComponentItem::ComponentFunc(run), _)) = component.get_export(None, run) else {
        return false;
    };
    let (mut params, mut results) = (run.params(), run.results());
    let (Some((_, request)), None, Some(Type::Result(result)), None) =
        (params.next(), params.next(), results.next(), results.next())
    else {
        return false;
    };
    let answers = |ty: &Type| {
        matches!(ty, Type::Variant(answer) if answer.cases().map(|case| case.name).eq(["text", "json"])
            && answer.cases().all(|case| matches!(case.ty, Some(Type::String))))
    };
    texts(&request, ["id", "session-id", "input", "text"])
        && result.ok().is_some_and(|ok| answers(&ok))
        && result
            .err()
            .is_some_and(|err| texts(&err, ["code", "message", "", ""]))
}

/// A function of an interface that a component exports.
pub(crate) fn export(
    component: &Component,
    interface: &str,
    name: &str,
) -> Option<ComponentExportIndex> {
    let (item, interface) = component.get_export(None, interface)?;
    matches!(item, ComponentItem::ComponentInstance(_)).then_some(())?;
    component.get_export_index(Some(&interface), name)
}

/// A module with everything that it imports.
pub(crate) enum Linked {
    Command(InstancePre<Guest>),
    Component {
        pre: ComponentPre<Guest>,
        entry: ComponentExportIndex,
        kind: Kind,
    },
}

impl Code {
    fn new(
        engine: &Engine,
        cache: Option<&CodeCache>,
        bytes: &[u8],
        digest: &ModuleDigest,
    ) -> wasmtime::Result<Self> {
        let is_component = bytes.get(4..8) == Some([0x0d, 0, 1, 0].as_slice());
        if let Some(code) = cache.and_then(|cache| cache.get(digest)) {
            match Self::trusted(engine, &code, is_component) {
                Ok(code) => return Ok(code),
                Err(error) => tracing::warn!(%error, "a compiled module is compiled again"),
            }
        }
        let compiled = if is_component {
            Self::Component(Component::from_binary(engine, bytes)?)
        } else {
            Self::Module(Module::from_binary(engine, bytes)?)
        };
        if let Some(cache) = cache {
            let code = match &compiled {
                Self::Module(module) => module.serialize(),
                Self::Component(component) => component.serialize(),
            };
            // Without it the next start compiles again.
            if let Err(error) = code.and_then(|code| Ok(cache.put(digest, &code)?)) {
                tracing::warn!(%error, "a compiled module cannot be kept");
            }
        }
        Ok(compiled)
    }

    #[expect(
        unsafe_code,
        reason = "loads machine code; its seal says that this program made it with the same compiler"
    )]
    fn trusted(engine: &Engine, code: &[u8], is_component: bool) -> wasmtime::Result<Self> {
        // SAFETY: `CodeCache::get` answers only what `CodeCache::put` was given, which is what `serialize` answered for
        // an engine with the same settings, as the key under which it is sealed proves.
        unsafe {
            if is_component {
                Component::deserialize(engine, code).map(Self::Component)
            } else {
                Module::deserialize(engine, code).map(Self::Module)
            }
        }
    }
}

fn invalid(path: &Path, error: &wasmtime::Error) -> WasmError {
    WasmError::Invalid {
        path: path.to_owned(),
        reason: format!("{error:#}"),
    }
}
