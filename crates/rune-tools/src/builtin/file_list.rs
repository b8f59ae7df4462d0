//! `rune@file-list`: what is in a directory.

use std::collections::VecDeque;
use std::path::PathBuf;

use async_trait::async_trait;
use cap_std::fs::FileType;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{ENVELOPE_BYTES, parse};
use crate::workspace::{Workspace, io_error, nonempty};
use crate::{BuiltinTool, ToolContext, ToolError, blocking, glob, text};

/// Entries looked at before a listing stops, whatever it matches.
const MAX_SCANNED: usize = 200_000;

/// Bytes of an entry in the answer without its path.
const ENTRY_BYTES: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    #[serde(default = "here")]
    path: String,
    #[serde(default)]
    recursive: bool,
    pattern: Option<String>,
    #[serde(default = "default_limit")]
    limit: usize,
}

fn here() -> String {
    ".".to_owned()
}

fn default_limit() -> usize {
    1000
}

struct Entry {
    path: String,
    kind: &'static str,
    size: Option<u64>,
}

/// Lists a directory, sorted by path. Paths are relative to the workspace, the pattern
/// to the listed directory. Symbolic links are named, not followed.
pub(crate) struct FileList;

#[async_trait]
impl BuiltinTool for FileList {
    fn name(&self) -> &'static str {
        "file-list"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let workspace = context.workspace.clone();
        let cancel = context.cancel.clone();
        let budget = context.output_limit.saturating_sub(ENVELOPE_BYTES);
        blocking(move || {
            let (entries, scanned_all) = list(&Workspace::open(&workspace)?, &input, &cancel)?;
            Ok(show(&input, &entries, scanned_all, budget))
        })
        .await
    }
}

fn list(
    workspace: &Workspace,
    input: &Input,
    cancel: &CancellationToken,
) -> Result<(Vec<Entry>, bool), ToolError> {
    let top = workspace.relative(&input.path)?;
    let directory = workspace
        .root()
        .open_dir(&top)
        .map_err(|error| io_error("list", &input.path, &error))?;
    let mut entries = Vec::new();
    let mut scanned = 0;
    let shown_top = if top.as_os_str() == "." {
        PathBuf::new()
    } else {
        top
    };
    // Paths wait here, not open directories: there may be more of them than descriptors.
    let mut waiting = VecDeque::from([PathBuf::new()]);
    while let Some(below) = waiting.pop_front() {
        let items = match directory.read_dir(nonempty(&below)) {
            Ok(items) => items,
            // Gone or closed to us since it was listed; it is in the answer all the same.
            Err(_) if below != PathBuf::new() => continue,
            Err(error) => return Err(io_error("list", &input.path, &error)),
        };
        for item in items {
            if cancel.is_cancelled() {
                return Err(ToolError::cancelled());
            }
            scanned += 1;
            if scanned > MAX_SCANNED {
                entries.sort_by(|a: &Entry, b| a.path.cmp(&b.path));
                return Ok((entries, false));
            }
            let item = item.map_err(|error| io_error("list", &input.path, &error))?;
            let path = below.join(item.file_name());
            // An entry that is gone by now is not listed.
            let Ok(meta) = item.metadata() else { continue };
            let kind = meta.file_type();
            if input
                .pattern
                .as_ref()
                .is_none_or(|pattern| glob::matches(pattern, &path.to_string_lossy()))
            {
                entries.push(Entry {
                    path: shown_top.join(&path).to_string_lossy().into_owned(),
                    kind: name_of(kind),
                    size: kind.is_file().then(|| meta.len()),
                });
            }
            if input.recursive && kind.is_dir() {
                waiting.push_back(path);
            }
        }
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok((entries, true))
}

fn name_of(kind: FileType) -> &'static str {
    if kind.is_file() {
        "file"
    } else if kind.is_dir() {
        "directory"
    } else if kind.is_symlink() {
        "symlink"
    } else {
        "other"
    }
}

fn show(input: &Input, entries: &[Entry], scanned_all: bool, budget: usize) -> Value {
    let mut left = budget;
    let shown: Vec<Value> = entries
        .iter()
        .take(input.limit)
        .map_while(|entry| {
            left = left.checked_sub(text::json_bytes(&entry.path) + ENTRY_BYTES)?;
            let mut row = json!({ "path": entry.path, "type": entry.kind });
            if let Some(size) = entry.size {
                row["size"] = size.into();
            }
            Some(row)
        })
        .collect();
    json!({
        "path": input.path,
        "truncated": shown.len() < entries.len() || !scanned_all,
        "total": entries.len(),
        "entries": shown,
    })
}
