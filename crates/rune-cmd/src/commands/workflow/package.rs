//! The package that a single workflow file becomes for the length of a run.

use std::path::{Path, PathBuf};

use rune_spec::Workflow;
use rune_spec::package::RUNEFILE;
use rune_store_runtime::RequestId;
use serde_json::json;
use tempfile::TempDir;

use crate::failure::{Failure, Outcome};

/// Longest part of the workflow's name in that of its agent.
const NAME_CHARS: usize = 40;
/// Characters that keep two runs apart.
const RUN_CHARS: usize = 12;

/// Writes an agent that is the workflow.
pub(super) fn write(workflow: &Workflow, file: &Path, networks: &[String]) -> Outcome<TempDir> {
    let dir = tempfile::Builder::new()
        .prefix("rune-workflow-")
        .tempdir()
        .map_err(|error| Failure::because("cannot make a temporary directory", &error))?;
    let runefile = json!({
        "name": name(&workflow.name),
        "version": workflow.version,
        "description": workflow.description,
        "instructions": "Runs the steps of workflow.yaml.",
        "default_model": "offline",
        "models": {"providers": ["offline"]},
        "networks": networks,
        "timeout_ms": workflow.timeout.as_millis(),
    });
    let copied = std::fs::write(dir.path().join(RUNEFILE), runefile.to_string())
        .and_then(|()| std::fs::copy(file, dir.path().join("workflow.yaml")));
    copied.map_err(|error| Failure::because("cannot write a temporary package", &error))?;
    Ok(dir)
}

/// A name that no other run has.
fn name(workflow: &str) -> String {
    let slug: String = workflow
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(NAME_CHARS)
        .collect();
    let slug = match slug.trim_matches('-') {
        "" => "workflow",
        slug => slug,
    };
    let id = RequestId::generate().to_string();
    let run: String = id.chars().rev().take(RUN_CHARS).collect();
    format!("{slug}-{run}")
}

/// The agents in a directory, sorted.
pub(super) fn agents(dir: &Path) -> Outcome<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir)
        .map_err(|error| Failure::usage(format!("cannot list {}: {error}", dir.display())))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join(RUNEFILE).is_file())
        .collect();
    found.sort();
    if found.is_empty() {
        let message = format!(
            "{} has no agents: no directory in it has a Runefile",
            dir.display()
        );
        return Err(Failure::usage(message));
    }
    Ok(found)
}
