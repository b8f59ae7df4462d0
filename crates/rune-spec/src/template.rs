//! Templates of `rune init`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::name::AgentName;
use crate::suggest::help_for;

/// What stands for the agent's name in a template's files.
const NAME: &str = "{{name}}";

/// A new agent to start from.
#[derive(Debug, Clone, Copy)]
pub struct Template {
    /// The word used on the command line.
    pub name: &'static str,
    /// One line for a list.
    pub description: &'static str,
    /// Path and content of each file.
    files: &'static [(&'static str, &'static str)],
}

macro_rules! files {
    ($dir:literal: $($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../templates/", $dir, "/", $path)))),*]
    };
}

/// The templates; the first one is the default.
pub const TEMPLATES: [Template; 3] = [
    Template {
        name: "hello",
        description: "answers with the time; works without any key",
        files: files!("hello": "Runefile", "script.yaml"),
    },
    Template {
        name: "python-tool",
        description: "an agent with its own tool in Python",
        files: files!("python-tool": "Runefile", "script.yaml", "tools/word-count.yaml", "tools/word_count.py"),
    },
    Template {
        name: "minimal",
        description: "a Runefile and nothing else",
        files: files!("minimal": "Runefile"),
    },
];

/// Making a new agent failed.
#[derive(Debug, thiserror::Error)]
pub enum ScaffoldError {
    /// No template of this name.
    #[error("unknown template `{name}`{}", help.as_ref().map(|help| format!(": {help}")).unwrap_or_default())]
    UnknownTemplate {
        /// What was asked for.
        name: String,
        /// The near name, or all of them.
        help: Option<String>,
    },
    /// The directory exists and is not empty.
    #[error("{path} exists and is not empty", path = path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A file could not be written.
    #[error("cannot write {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Writes a new agent called `name` into `dest`, which must not exist or be empty. Returns the files written, relative
/// to `dest`.
///
/// # Errors
/// [`ScaffoldError`]; existing files are never changed.
pub fn scaffold(
    name: &AgentName,
    template: &str,
    dest: &Path,
) -> Result<Vec<PathBuf>, ScaffoldError> {
    let Some(found) = TEMPLATES.iter().find(|known| known.name == template) else {
        let help = help_for(template, TEMPLATES.iter().map(|known| known.name));
        return Err(ScaffoldError::UnknownTemplate {
            name: template.to_owned(),
            help,
        });
    };
    let occupied = match fs::read_dir(dest) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    };
    if occupied {
        return Err(ScaffoldError::NotEmpty {
            path: dest.to_owned(),
        });
    }
    let mut written = Vec::new();
    for (relative, content) in found.files {
        let path = dest.join(relative);
        write(&path, &content.replace(NAME, name.as_str()))
            .map_err(|source| ScaffoldError::Io { path, source })?;
        written.push(PathBuf::from(relative));
    }
    Ok(written)
}

fn write(path: &Path, content: &str) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, content)
}
