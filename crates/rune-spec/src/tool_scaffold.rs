//! A new tool of an agent: its description, its source, an eval, and its line in the toolset.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::document::{At, Document, read_text};
use crate::error::InvalidValue;
use crate::name::tool_name;
use crate::package::{RUNEFILE, replace_file};

/// What a new tool is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolLanguage {
    /// A process: `python3`.
    Python,
    /// A process: `node`.
    JavaScript,
    /// Rust, built as a WASI command.
    Rust,
    /// WebAssembly, written by hand in its text form.
    Wasm,
}

macro_rules! template {
    ($name:literal) => {
        include_str!(concat!("../templates/tool/", $name))
    };
}

impl ToolLanguage {
    /// The files of a tool of this name besides its description and its eval, relative to the agent.
    fn files(self, name: &str) -> Vec<(PathBuf, String)> {
        let snake = name.replace('-', "_");
        let file =
            |path: String, text: &str| (PathBuf::from("tools").join(path), filled(text, name));
        match self {
            Self::Python => vec![file(format!("{snake}.py"), template!("python.py"))],
            Self::JavaScript => vec![file(format!("{snake}.mjs"), template!("js.mjs"))],
            Self::Wasm => vec![file(format!("{name}.wat"), template!("wasm.wat"))],
            Self::Rust => vec![
                file(format!("{name}/Cargo.toml"), template!("Cargo.toml.txt")),
                file(format!("{name}/src/main.rs"), template!("main.rs")),
                file(format!("{name}/build.sh"), template!("build.sh")),
                // Text is a module, too: it says that there is none yet.
                file(format!("{name}.wasm"), template!("unbuilt.wat")),
            ],
        }
    }

    /// The lines of the description that say what runs it.
    fn runtime(self, name: &str) -> String {
        let snake = name.replace('-', "_");
        match self {
            Self::Python => format!("runtime: process\nmodule: tools/{snake}.py"),
            Self::JavaScript => format!("runtime: process\nmodule: tools/{snake}.mjs"),
            Self::Wasm => format!("runtime: wasm\nmodule: tools/{name}.wat"),
            Self::Rust => {
                format!(
                    "runtime: wasm\nmodule: tools/{name}.wasm        # built by tools/{name}/build.sh"
                )
            }
        }
    }
}

fn filled(text: &str, name: &str) -> String {
    let message = "the tool is not built yet: sh tools//build.sh\n".len() + name.len();
    // A crate's name begins with a letter.
    let crate_name = format!("tool-{}", name.to_lowercase());
    text.replace("{{name}}", name)
        .replace("{{crate}}", &crate_name)
        .replace("{{unbuilt_length}}", &message.to_string())
}

/// What became of the toolset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolsetChange {
    /// The tool stands in it now, in this line of the Runefile, counted from 1.
    Added {
        /// The line.
        line: usize,
    },
    /// It stood there before.
    Listed,
    /// The toolset is written in a way that only a person can add to.
    ByHand,
}

/// A tool that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTool {
    /// The files written, relative to the agent.
    pub files: Vec<PathBuf>,
    /// What became of the toolset.
    pub toolset: ToolsetChange,
}

/// Making a new tool failed; nothing that was there is changed.
#[derive(Debug, thiserror::Error)]
pub enum NewToolError {
    /// No name of a tool.
    #[error(transparent)]
    Name(#[from] InvalidValue),
    /// There is no agent.
    #[error("{path} has no Runefile", path = dir.display())]
    NoAgent {
        /// The directory.
        dir: PathBuf,
    },
    /// A file is there already.
    #[error("{path} exists already", path = path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Another file of `tools/` describes a tool of this name.
    #[error("a tool is called `{name}` already: {path}:{line}", path = path.display())]
    Taken {
        /// The name.
        name: String,
        /// The file.
        path: PathBuf,
        /// Where it says so, counted from 1.
        line: usize,
    },
    /// A file could not be read or written.
    #[error("cannot {operation} {path}", path = path.display())]
    Io {
        /// `read` or `write`.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Writes a new tool called `name` into the agent in `dir` and adds it to the toolset.
///
/// # Errors
/// [`NewToolError`]; existing files are never overwritten, and the Runefile is written whole or not at all.
pub fn new_tool(dir: &Path, name: &str, language: ToolLanguage) -> Result<NewTool, NewToolError> {
    tool_name(name)?;
    // It stands in YAML without quotes.
    let read = serde_saphyr::from_str::<Value>(name);
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || read.is_ok_and(|read| read != name) {
        let message = format!("tool name `{name}` must begin with a letter and be no word of YAML");
        return Err(InvalidValue::new(message).into());
    }
    let runefile = dir.join(RUNEFILE);
    let io = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| NewToolError::Io {
            operation,
            path,
            source,
        }
    };
    if !runefile.is_file() {
        return Err(NewToolError::NoAgent {
            dir: dir.to_owned(),
        });
    }
    // Where it is a link, what that leads to is changed.
    let target = fs::canonicalize(&runefile).map_err(io("read", &runefile))?;
    let root = fs::canonicalize(dir).map_err(io("read", dir))?;
    if !target.starts_with(root) {
        let error = std::io::Error::other("it is a link that leads out of the agent directory");
        return Err(io("write", &runefile)(error));
    }
    let text = fs::read_to_string(&target).map_err(io("read", &runefile))?;
    let described = filled(template!("tool.yaml"), name);
    let described = described.replace("{{runtime}}", &language.runtime(name));
    let mut files = vec![
        (PathBuf::from(format!("tools/{name}.yaml")), described),
        (
            PathBuf::from(format!("evals/{name}.yaml")),
            filled(template!("eval.yaml"), name),
        ),
    ];
    files.extend(language.files(name));
    for (relative, _) in &files {
        let path = dir.join(relative);
        if path.symlink_metadata().is_ok() {
            return Err(NewToolError::Exists { path });
        }
    }
    if let Some((path, line)) = described_as(dir, name) {
        let name = name.to_owned();
        return Err(NewToolError::Taken { name, path, line });
    }
    for (relative, content) in &files {
        let path = dir.join(relative);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io("write", parent))?;
        }
        let file = fs::File::create_new(&path);
        let written = file.and_then(|mut file| file.write_all(content.as_bytes()));
        written.map_err(io("write", &path))?;
    }
    let toolset = match with_tool(&text, name) {
        Edit::Listed => ToolsetChange::Listed,
        Edit::ByHand => ToolsetChange::ByHand,
        Edit::Text { text, line } => {
            replace_file(&target, &text).map_err(io("write", &runefile))?;
            ToolsetChange::Added { line }
        }
    };
    Ok(NewTool {
        files: files.into_iter().map(|(path, _)| path).collect(),
        toolset,
    })
}

/// The file of `tools/` that describes a tool of this name, and the line in which it says so. One that cannot be read as
/// YAML describes none.
fn described_as(dir: &Path, name: &str) -> Option<(PathBuf, usize)> {
    let entries = fs::read_dir(dir.join("tools")).ok()?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter().find_map(|path| {
        let end = path.extension()?;
        let text = (end == "yaml" || end == "yml").then(|| read_text(&path))?;
        let (value, document) = Document::parse::<Value>(&path, &text.ok()?).ok()?;
        let line = document.line(&At::top("name"));
        (value["name"] == name).then_some((path, line))
    })
}

/// What has to be written into a Runefile.
#[derive(Debug, PartialEq, Eq)]
enum Edit {
    Listed,
    ByHand,
    Text { text: String, line: usize },
}

/// The text of a Runefile with a tool more. Comments and everything else stay as they are; where that cannot be made sure of,
/// nothing is changed.
fn with_tool(text: &str, name: &str) -> Edit {
    if text.contains('\r') {
        return Edit::ByHand;
    }
    let Ok(before) = serde_saphyr::from_str::<Value>(text) else {
        return Edit::ByHand;
    };
    let listed = before["toolset"].as_array();
    if listed.is_some_and(|tools| tools.iter().any(|tool| tool == name)) {
        return Edit::Listed;
    }
    let mut wanted = before.clone();
    let Some(fields) = wanted.as_object_mut() else {
        return Edit::ByHand;
    };
    let toolset = fields
        .entry("toolset")
        .or_insert_with(|| Value::Array(Vec::new()));
    if toolset.is_null() {
        *toolset = Value::Array(Vec::new());
    }
    let Some(tools) = toolset.as_array_mut() else {
        return Edit::ByHand;
    };
    tools.push(name.into());
    let Some((text, line)) = inserted(text, name) else {
        return Edit::ByHand;
    };
    // What was written has to say what was meant, and nothing else.
    match serde_saphyr::from_str::<Value>(&text) {
        Ok(after) if after == wanted => Edit::Text { text, line },
        _ => Edit::ByHand,
    }
}

/// The text with the tool in the list under `toolset:`, and its line.
fn inserted(text: &str, name: &str) -> Option<(String, usize)> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let joined = |lines: Vec<String>| lines.join("\n") + "\n";
    let Some(key) = lines.iter().position(|line| line.starts_with("toolset:")) else {
        lines.push("toolset:".to_owned());
        lines.push(format!("  - {name}"));
        let line = lines.len();
        return Some((joined(lines), line));
    };
    let value = lines[key]["toolset:".len()..].trim_start();
    if value.starts_with('[') {
        // A `]` in a comment behind the list, or in a name, makes a text that is refused.
        let close = lines[key].find(']')?;
        let is_empty = lines[key][..close].trim_end().ends_with('[');
        let comma = if is_empty { "" } else { ", " };
        lines[key].insert_str(close, &format!("{comma}{name}"));
        return Some((joined(lines), key + 1));
    }
    if !value.is_empty() && !value.starts_with('#') {
        return None;
    }
    let is_item = |line: &String| line.trim_start().starts_with("- ");
    let is_inside = |line: &String| {
        line.trim().is_empty() || line.starts_with([' ', '\t', '#']) || is_item(line)
    };
    let below = lines[key + 1..].iter().take_while(|line| is_inside(line));
    let last = below.enumerate().filter(|(_, line)| is_item(line)).last();
    let (at, indent) = match last {
        Some((offset, line)) => {
            let indent = line.len() - line.trim_start().len();
            (key + 1 + offset + 1, line[..indent].to_owned())
        }
        None => (key + 1, "  ".to_owned()),
    };
    lines.insert(at, format!("{indent}- {name}"));
    Some((joined(lines), at + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str, at: usize) {
        let edit = with_tool(text, "new");
        let text = expected.to_owned();
        assert_eq!(edit, Edit::Text { text, line: at });
    }

    #[test]
    fn comments_stay_where_they_are() {
        check(
            "# An agent.\ntoolset: # what it can\n  - a # the first\n  # not yet:\n  # - b\n\n# models\nmodels: {}\n",
            "# An agent.\ntoolset: # what it can\n  - a # the first\n  - new\n  # not yet:\n  # - b\n\n# models\nmodels: {}\n",
            4,
        );
        check(
            "toolset:\n- a\nname: x\n",
            "toolset:\n- a\n- new\nname: x\n",
            3,
        );
        check(
            "toolset: [a, \"b/*\"] # both\nname: x\n",
            "toolset: [a, \"b/*\", new] # both\nname: x\n",
            1,
        );
        check("toolset: []\n", "toolset: [new]\n", 1);
        check("name: x\n", "name: x\ntoolset:\n  - new\n", 3);
        check("toolset:\nname: x\n", "toolset:\n  - new\nname: x\n", 2);
    }

    #[test]
    fn what_cannot_be_changed_for_sure_is_left_alone() {
        for text in [
            "toolset:\n  [a,\n   b]\n",
            "toolset: [a,\n  b]\n",
            "tools: &all [a]\ntoolset: *all\n",
            "toolset: [\"a]b\"]\n",
            "{toolset: [a]}\n",
            "toolset: text\n",
            "toolset: [a\n",
        ] {
            assert_eq!(with_tool(text, "new"), Edit::ByHand, "{text}");
        }
        assert_eq!(with_tool("toolset: [new]\n", "new"), Edit::Listed);
    }

    #[test]
    fn the_module_that_is_not_built_says_as_much() {
        let text = filled(template!("unbuilt.wat"), "word-count");
        let said = "the tool is not built yet: sh tools/word-count/build.sh\n";
        assert!(text.contains("sh tools/word-count/build.sh\\n\""), "{text}");
        assert!(
            text.contains(&format!("(i32.const {})", said.len())),
            "{text}"
        );
    }
}
