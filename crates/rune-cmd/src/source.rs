//! Where agents come from: a directory, or a git repository.

mod git;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rune_spec::ComposeSource;
use tempfile::TempDir;

use crate::commands::validate::agent_dir;
use crate::context::Context;
use crate::failure::{Failure, Outcome};

pub(crate) use git::shown;

/// The directories of agents. Repositories are cloned once, and removed with this value.
#[derive(Default)]
pub(crate) struct Sources {
    clones: HashMap<String, TempDir>,
}

impl Sources {
    /// The directory of an agent; a relative path is below `base`.
    pub(crate) async fn directory(
        &mut self,
        context: &Context,
        source: &ComposeSource,
        base: &Path,
    ) -> Outcome<PathBuf> {
        match source {
            ComposeSource::Path(path) => {
                let path = base.join(home(context, path));
                let dir = agent_dir(&path);
                if dir.is_dir() {
                    return Ok(dir);
                }
                Err(Failure::usage(format!(
                    "there is no agent at `{}`",
                    path.display()
                )))
            }
            ComposeSource::Git { url, subdir } => {
                let clone = self.clone(context, url).await?;
                git::inside(clone, url, subdir.as_deref())
            }
            ComposeSource::Oci(reference) => Err(Failure::usage(format!(
                "cannot take an agent from `{reference}`: this version of Rune does not pull packages from registries"
            ))
            .help("name a directory, or git://REPOSITORY[#SUBDIR]; a directory with such a name is written ./NAME")),
        }
    }

    async fn clone(&mut self, context: &Context, url: &str) -> Outcome<&Path> {
        if !self.clones.contains_key(url) {
            context.output.note(&format!("cloning {}", shown(url)));
            let clone = git::clone(url).await?;
            self.clones.insert(url.to_owned(), clone);
        }
        Ok(self.clones[url].path())
    }
}

/// The path with the home directory in place of a leading `~`.
fn home(context: &Context, path: &Path) -> PathBuf {
    let home = context.config.variable("HOME");
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => Path::new(&home).join(rest),
        _ => path.to_owned(),
    }
}
