//! `rune init`

use std::path::PathBuf;

use clap::Args;
use rune_spec::{AgentName, ScaffoldError, TEMPLATES, scaffold};
use serde_json::json;

use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome, chain};

/// Makes a directory with a new agent that runs without a key.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune init hello\n  rune init counter --template python-tool\n\nTemplates:\n  hello        answers with the time; works without any key\n  python-tool  an agent with its own tool in Python\n  minimal      a Runefile and nothing else"
)]
pub(crate) struct InitArgs {
    /// Name of the agent, and of the directory
    name: String,
    /// What to start from
    #[arg(long, default_value = TEMPLATES[0].name)]
    template: String,
}

pub(crate) fn run(context: &Context, args: &InitArgs) -> Outcome {
    let name: AgentName = args
        .name
        .parse()
        .map_err(|error: rune_spec::InvalidValue| {
            let failure = Failure::usage(error.to_string());
            match error.help() {
                Some(help) => failure.help(help),
                None => failure,
            }
        })?;
    let dir = PathBuf::from(name.as_str());
    let files = scaffold(&name, &args.template, &dir).map_err(|error| {
        let exit = match &error {
            ScaffoldError::UnknownTemplate { .. } => Exit::Usage,
            ScaffoldError::NotEmpty { .. } | ScaffoldError::Io { .. } => Exit::Failed,
        };
        let failure = Failure::new(exit, chain(&error));
        match error {
            ScaffoldError::NotEmpty { .. } => {
                failure.help("choose another name, or remove the directory")
            }
            _ => failure,
        }
    })?;
    let files: Vec<String> = files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    let data = json!({ "name": name.as_str(), "dir": dir, "files": files });
    context.output.data(&data, |_| {
        let listed = files.iter().map(|file| format!("  {name}/{file}\n"));
        let listed: String = listed.collect();
        format!("made {name}:\n{listed}\nnext:\n  rune run {name} \"Hello\"    one answer, no daemon needed\n  rune validate {name}       check the files")
    })?;
    Ok(Exit::Ok)
}
