//! The agent that is asked: without a model, with tools that leave a line for every call.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::history::Effect;

/// Its name.
pub(super) const NAME: &str = "chaos";

const RUNEFILE: &str = "name: chaos
version: 0.1.0
instructions: Answer.
default_model: default
toolset: [again, once]
models:
  providers: [offline]
  model_mapping: {default: offline}
runtime: {concurrency_limit: 100}
";

/// Writes it below a directory, and says where. Its tools leave their lines there, too.
pub(super) fn write(dir: &Path) -> io::Result<PathBuf> {
    let (agent, effects) = (dir.join(NAME), effects(dir));
    fs::create_dir_all(agent.join("tools"))?;
    fs::create_dir_all(&effects)?;
    fs::write(agent.join("Runefile"), RUNEFILE)?;
    let effects = effects.display();
    for (tool, more) in [("again", "idempotent: true\n"), ("once", "")] {
        let described = format!(
            "name: {tool}\ndescription: Leaves a line.\nmodule: tools/{tool}.sh\n\
             capabilities: [\"filesystem:rw:{effects}\"]\ntimeout_ms: 60000\n{more}"
        );
        let script = format!(
            "echo \"$RUNE_REQUEST_ID $RUNE_IDEMPOTENCY_KEY\" >> '{effects}/{tool}'\necho '{{}}'\n"
        );
        fs::write(agent.join(format!("tools/{tool}.yaml")), described)?;
        fs::write(agent.join(format!("tools/{tool}.sh")), script)?;
    }
    Ok(agent)
}

/// The lines that a tool left.
pub(super) fn read(dir: &Path, tool: &str) -> Vec<Effect> {
    let text = fs::read_to_string(effects(dir).join(tool)).unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let (request, key) = line.split_once(' ')?;
        Some(Effect {
            request: request.to_owned(),
            key: key.to_owned(),
        })
    });
    lines.collect()
}

fn effects(dir: &Path) -> PathBuf {
    dir.join("effects")
}
