//! `rune@apply-patch`: changes several files, or none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use cap_std::fs::{Permissions, PermissionsExt};
use serde::Deserialize;
use serde_json::{Value, json};

use super::parse;
use crate::patch::{FilePatch, HunkLine, apply_hunks, parse_patch};
use crate::workspace::{StagedFile, Workspace, io_error, nonempty, sync_directory};
use crate::{BuiltinTool, ToolContext, ToolError, blocking};

/// Bytes of the largest patch.
const MAX_PATCH_BYTES: usize = 8 * 1024 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    patch: String,
}

/// Applies a unified diff. Every hunk of every file is checked, and every new
/// content is on disk beside its file, before the first file changes; should the disk
/// fail after that, what was changed is put back.
pub(crate) struct ApplyPatch;

#[async_trait]
impl BuiltinTool for ApplyPatch {
    fn name(&self) -> &'static str {
        "apply-patch"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let Input { patch } = parse(input)?;
        if patch.len() > MAX_PATCH_BYTES {
            return Err(ToolError::invalid(format!(
                "the patch is larger than {MAX_PATCH_BYTES} bytes"
            )));
        }
        let workspace = context.workspace.clone();
        blocking(move || {
            let files = parse_patch(&patch).map_err(|error| refused(&error.to_string()))?;
            let workspace = Workspace::open(&workspace)?;
            let mut plan = Plan::default();
            for file in &files {
                plan.add(&workspace, file)?;
            }
            plan.carry_out(&workspace)?;
            Ok(json!({ "files": files.iter().map(report).collect::<Vec<_>>() }))
        })
        .await
    }
}

fn refused(problem: &str) -> ToolError {
    ToolError::invalid(format!("nothing was changed: {problem}"))
}

/// A file as it is on disk and as it will be.
struct Change {
    /// The name in the patch.
    name: String,
    before: Option<String>,
    after: Option<String>,
    executable: Option<bool>,
}

/// What the patch comes to, by the real path of each file.
#[derive(Default)]
struct Plan {
    changes: BTreeMap<PathBuf, Change>,
}

impl Plan {
    fn add(&mut self, workspace: &Workspace, file: &FilePatch) -> Result<(), ToolError> {
        let name = file.new.as_ref().or(file.old.as_ref());
        let name = name.map(String::as_str).unwrap_or_default();
        let wrong = |problem: &str| refused(&format!("`{name}`: {problem}"));

        let old = match &file.old {
            None => String::new(),
            Some(old) => self
                .entry(workspace, old)?
                .after
                .take()
                .ok_or_else(|| wrong(&format!("`{old}` does not exist")))?,
        };
        let new = apply_hunks(&old, &file.hunks).map_err(|error| wrong(&error.to_string()))?;
        let Some(target) = &file.new else {
            return if new.is_empty() {
                Ok(())
            } else {
                Err(wrong(
                    "the patch deletes it but does not remove all its lines",
                ))
            };
        };
        let mode = match (&file.old, file.executable) {
            (Some(old), None) if old != target => executable(workspace, old),
            (_, mode) => mode,
        };
        let change = self.entry(workspace, target)?;
        if change.after.is_some() {
            return Err(wrong("it exists already"));
        }
        change.after = Some(new);
        change.executable = mode.or(change.executable);
        Ok(())
    }

    /// The change of a file, read from disk when it is first named.
    fn entry(&mut self, workspace: &Workspace, name: &str) -> Result<&mut Change, ToolError> {
        let path = workspace.target(name)?;
        if !self.changes.contains_key(&path) {
            let before = if workspace.root().symlink_metadata(&path).is_ok() {
                let bytes = workspace.read(name)?;
                Some(
                    String::from_utf8(bytes)
                        .map_err(|_| refused(&format!("`{name}`: it is not UTF-8 text")))?,
                )
            } else {
                None
            };
            let change = Change {
                name: name.to_owned(),
                after: before.clone(),
                before,
                executable: None,
            };
            self.changes.insert(path.clone(), change);
        }
        self.changes
            .get_mut(&path)
            .ok_or_else(|| ToolError::failed("a change is missing from the plan"))
    }

    fn carry_out(self, workspace: &Workspace) -> Result<(), ToolError> {
        let changes: Vec<(PathBuf, Change)> = self
            .changes
            .into_iter()
            .filter(|(_, change)| change.before != change.after || change.executable.is_some())
            .collect();
        let staged = changes
            .iter()
            .map(|(path, change)| stage(workspace, path, change))
            .collect::<Result<Vec<_>, _>>()?;
        for (done, ((path, change), staged)) in changes.iter().zip(staged).enumerate() {
            let outcome = match staged {
                Some(staged) => staged.commit(),
                None => remove(workspace, path),
            };
            if let Err(error) = outcome {
                let failure = io_error("write", &change.name, &error);
                // This file too: the rename may have happened before the sync failed.
                put_back(workspace, &changes[..=done]);
                return Err(failure);
            }
        }
        Ok(())
    }
}

fn stage(
    workspace: &Workspace,
    path: &Path,
    change: &Change,
) -> Result<Option<StagedFile>, ToolError> {
    let Some(after) = &change.after else {
        return Ok(None);
    };
    let staged = workspace.stage_at(path, &change.name, after.as_bytes())?;
    if let Some(executable) = change.executable {
        let mode = if executable { 0o755 } else { 0o644 };
        staged
            .set_permissions(Permissions::from_mode(mode))
            .map_err(|error| io_error("write", &change.name, &error))?;
    }
    Ok(Some(staged))
}

fn remove(workspace: &Workspace, path: &Path) -> std::io::Result<()> {
    workspace.root().remove_file(path)?;
    let parent = nonempty(path.parent().unwrap_or(Path::new("")));
    sync_directory(&workspace.root().open_dir(parent)?)
}

/// Undoes changes after a failure of the disk, as far as it lets us.
fn put_back(workspace: &Workspace, changes: &[(PathBuf, Change)]) {
    for (path, change) in changes {
        let outcome = match &change.before {
            Some(before) => workspace
                .stage_at(path, &change.name, before.as_bytes())
                .and_then(|staged| {
                    staged
                        .commit()
                        .map_err(|error| io_error("write", &change.name, &error))
                }),
            None => workspace
                .root()
                .remove_file(path)
                .map_err(|error| io_error("remove", &change.name, &error)),
        };
        if let Err(error) = outcome {
            tracing::error!(file = change.name, %error, "a file could not be put back");
        }
    }
}

/// Whether an existing file is executable, so that a rename keeps it.
fn executable(workspace: &Workspace, name: &str) -> Option<bool> {
    let path = workspace.target(name).ok()?;
    let meta = workspace.root().metadata(path).ok()?;
    Some(meta.permissions().mode() & 0o111 != 0)
}

fn report(file: &FilePatch) -> Value {
    let lines = || file.hunks.iter().flat_map(|hunk| &hunk.lines);
    let added = lines()
        .filter(|line| matches!(line, HunkLine::Insert(_)))
        .count();
    let removed = lines()
        .filter(|line| matches!(line, HunkLine::Delete(_)))
        .count();
    let (action, path, from) = match (&file.old, &file.new) {
        (None, new) => ("created", new, None),
        (old, None) => ("deleted", old, None),
        (old, new) if old == new => ("modified", new, None),
        (old, new) => ("renamed", new, old.as_ref()),
    };
    let mut row = json!({ "path": path, "action": action, "added": added, "removed": removed });
    if let Some(from) = from {
        row["from"] = from.as_str().into();
    }
    row
}
