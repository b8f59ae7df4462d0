//! `rune tool new`

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use rune_spec::{NewToolError, ToolLanguage, ToolsetChange, new_tool};
use serde_json::json;

use crate::commands::validate::agent_dir;
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome, chain};

/// What `rune tool new` takes.
#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// Name of the tool
    name: String,
    /// What it is written in
    #[arg(long, value_enum, value_name = "LANGUAGE")]
    lang: Language,
    /// The agent directory, or its Runefile
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Language {
    Python,
    Js,
    Rust,
    Wasm,
}

impl From<Language> for ToolLanguage {
    fn from(language: Language) -> Self {
        match language {
            Language::Python => Self::Python,
            Language::Js => Self::JavaScript,
            Language::Rust => Self::Rust,
            Language::Wasm => Self::Wasm,
        }
    }
}

pub(super) fn run(context: &Context, args: &NewArgs) -> Outcome {
    let dir = agent_dir(&args.dir);
    let name = &args.name;
    let made = new_tool(&dir, name, args.lang.into()).map_err(|error| failure(&error))?;
    let (toolset, line) = match made.toolset {
        ToolsetChange::Added { line } => ("added", Some(line)),
        ToolsetChange::Listed => ("listed", None),
        ToolsetChange::ByHand => ("by_hand", None),
    };
    let files: Vec<String> = made
        .files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    let data = json!({
        "name": name, "dir": dir, "files": files, "toolset": toolset, "line": line,
    });
    let shown = dir.display();
    context.output.data(&data, |_| {
        let listed: String = files.iter().map(|file| format!("  {file}\n")).collect();
        let toolset = match made.toolset {
            ToolsetChange::Added { line } => format!("added to `toolset` in line {line} of the Runefile"),
            ToolsetChange::Listed => "it is in `toolset` of the Runefile already".to_owned(),
            ToolsetChange::ByHand => {
                format!("`toolset` of the Runefile is left as it is; add to it yourself: {name}")
            }
        };
        let build = match args.lang {
            Language::Rust => format!(
                "\n  rustup target add wasm32-wasip1    once: what it is built for\n  sh {shown}/tools/{name}/build.sh    build it, with cargo and two crates of crates.io; until then it fails"
            ),
            Language::Python | Language::Js | Language::Wasm => String::new(),
        };
        format!(
            "made {name}:\n{listed}{toolset}\n\nnext:{build}\n  rune tool run {name} '{{\"text\": \"hello\"}}' --dir {shown}    one call\n  rune eval {shown} --filter {name}    its cases"
        )
    })?;
    Ok(Exit::Ok)
}

fn failure(error: &NewToolError) -> Failure {
    let message = chain(error);
    match error {
        NewToolError::Name(_) => Failure::usage(message),
        NewToolError::NoAgent { .. } => Failure::usage(message)
            .help("--dir names the directory of the agent; `rune init NAME` makes one"),
        NewToolError::Exists { .. } => {
            Failure::new(Exit::Failed, message).help("choose another name, or remove the file")
        }
        NewToolError::Taken { .. } => {
            Failure::new(Exit::Failed, message).help("choose another name; nothing was made")
        }
        NewToolError::Io { .. } => Failure::new(Exit::Failed, message),
    }
}
