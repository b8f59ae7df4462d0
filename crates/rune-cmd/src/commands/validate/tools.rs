//! The WebAssembly of an agent and its containers: whether they can be run as they are described.

use std::ops::Range;
use std::path::{Path, PathBuf};

use rune_docker::{ContainerTool, DockerEngine, DockerError};
use rune_runtime::{AgentError, Tasks};
use rune_spec::package::RUNEFILE;
use rune_spec::{AgentPackage, SpecError, SpecErrors, ToolDescriptor, ToolRuntime};
use rune_wasm::{AgentGrants, WasmRuntime};

use crate::context::Context;
use crate::daemon::node::{docker_engine, wasm_runtime};
use crate::failure::chain;

/// Loads every WebAssembly tool of the agent in `dir`, and looks at what its containers are granted. Whether their images
/// are there is the daemon's affair.
pub(super) fn check(
    context: &Context,
    dir: &Path,
    package: &AgentPackage,
) -> Result<(), SpecErrors> {
    let check = Check {
        package,
        wasm: wasm_runtime(&context.config),
        docker: docker_engine(&context.config, &Tasks::new()),
    };
    let errors = package.tools.iter().filter_map(|tool| {
        let (key, message) = check.tool(&tool.descriptor).err()?;
        let (path, text) = description(dir, &tool.descriptor.name)?;
        Some(SpecError::in_text(&path, &text, place(&text, key), message))
    });
    let errors = errors.chain(check.entrypoint(dir));
    SpecErrors::check(errors.collect())
}

struct Check<'a> {
    package: &'a AgentPackage,
    wasm: WasmRuntime,
    docker: DockerEngine,
}

impl Check<'_> {
    /// What is wrong with the agent's own component.
    fn entrypoint(&self, dir: &Path) -> Option<SpecError> {
        let entrypoint = self.package.runefile.entrypoint.as_ref()?;
        let message = if self.package.workflow.is_some() {
            AgentError::TwoPrograms.to_string()
        } else {
            let module = self.package.dir.join(entrypoint);
            let loaded = self
                .wasm
                .load_agent(&module, AgentGrants::of(&self.package.runefile));
            chain(&loaded.err()?)
        };
        let path = dir.join(RUNEFILE);
        let text = std::fs::read_to_string(&path).ok()?;
        let place = place(&text, "entrypoint");
        Some(SpecError::in_text(&path, &text, place, message))
    }

    /// What is wrong with a tool, and the key that it is wrong with.
    fn tool(&self, descriptor: &ToolDescriptor) -> Result<(), (&'static str, String)> {
        match &descriptor.runtime {
            ToolRuntime::Wasm { module } => {
                let module = self.package.dir.join(module);
                let loaded = self.wasm.load(&module, descriptor, &value);
                loaded
                    .map(|_| ())
                    .map_err(|error| ("module", chain(&error)))
            }
            ToolRuntime::Container { image, .. } => {
                let docker = self.docker.clone();
                let made = ContainerTool::new(docker, descriptor, image, None, &value);
                made.map(|_| ()).map_err(|error| {
                    let key = match &error {
                        DockerError::Limit(_) => "limits",
                        _ => "capabilities",
                    };
                    (key, chain(&error))
                })
            }
            _ => Ok(()),
        }
    }
}

/// What variables hold is the daemon's affair.
#[expect(
    clippy::unnecessary_wraps,
    reason = "every variable has a value, as far as this is about"
)]
fn value(_: &str) -> Option<String> {
    Some("value".to_owned())
}

/// The file that describes a tool, and its text.
fn description(dir: &Path, name: &str) -> Option<(PathBuf, String)> {
    let entries = std::fs::read_dir(dir.join("tools")).ok()?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter().find_map(|path| {
        let text = std::fs::read_to_string(&path).ok()?;
        let descriptor = ToolDescriptor::parse(&path, &text).ok()?;
        (descriptor.name == name).then_some((path, text))
    })
}

/// Where a description has a key.
fn place(text: &str, key: &str) -> Range<usize> {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if line.starts_with(key) {
            return start..start + line.trim_end().len();
        }
        start += line.len();
    }
    0..0
}
