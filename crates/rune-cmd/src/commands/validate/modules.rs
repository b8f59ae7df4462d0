//! The WebAssembly tools of an agent: whether they can be loaded as they are described.

use std::ops::Range;
use std::path::{Path, PathBuf};

use rune_spec::{AgentPackage, SpecError, SpecErrors, ToolDescriptor, ToolRuntime};

use crate::context::Context;
use crate::daemon::node::wasm_runtime;
use crate::failure::chain;

/// Loads every WebAssembly tool of the agent in `dir`.
pub(super) fn check(
    context: &Context,
    dir: &Path,
    package: &AgentPackage,
) -> Result<(), SpecErrors> {
    let runtime = wasm_runtime(&context.config);
    let errors = package.tools.iter().filter_map(|tool| {
        let ToolRuntime::Wasm { module } = &tool.descriptor.runtime else {
            return None;
        };
        // What variables and secrets hold is the daemon's affair.
        let loaded = runtime.load(&package.dir.join(module), &tool.descriptor, &|_| {
            Some(String::new())
        });
        let error = loaded.err()?;
        let (path, text) = description(dir, &tool.descriptor.name)?;
        Some(SpecError::in_text(
            &path,
            &text,
            place(&text),
            chain(&error),
        ))
    });
    SpecErrors::check(errors.collect())
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

/// Where a description names its module.
fn place(text: &str) -> Range<usize> {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if line.starts_with("module") {
            return start..start + line.trim_end().len();
        }
        start += line.len();
    }
    0..0
}
