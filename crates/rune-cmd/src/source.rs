//! Where agents come from: a directory, a git repository, an OCI layout or a registry.

mod git;
pub(crate) mod registry;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rune_oci::{Layout, Reference};
use rune_spec::{ComposeSource, package};
use tempfile::TempDir;

use crate::artifact;
use crate::commands::validate::agent_dir;
use crate::context::Context;
use crate::failure::{Failure, Outcome};

pub(crate) use git::shown;

/// The directories of agents. Repositories are cloned once and packages are pulled once, and removed with this value.
#[derive(Default)]
pub(crate) struct Sources {
    clones: HashMap<String, TempDir>,
    pulled: HashMap<Reference, Found>,
    unpacked: Vec<TempDir>,
}

/// An agent that was found.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Its directory.
    pub(crate) dir: PathBuf,
    /// The artefact that it was unpacked from.
    pub(crate) layout: Option<Layout>,
}

impl From<PathBuf> for Found {
    fn from(dir: PathBuf) -> Self {
        Self { dir, layout: None }
    }
}

impl Sources {
    /// Finds an agent; a relative path is below `base`.
    pub(crate) async fn find(
        &mut self,
        context: &Context,
        source: &ComposeSource,
        base: &Path,
    ) -> Outcome<Found> {
        match source {
            ComposeSource::Path(path) => {
                let path = base.join(home(context, path));
                if Layout::is_at(&path) {
                    let layout = artifact::read(&path)?;
                    let name = path.display().to_string();
                    registry::vouched(context, &layout, &name, None)?;
                    return self.unpack(layout);
                }
                let dir = agent_dir(&path);
                if dir.is_dir() {
                    return Ok(dir.into());
                }
                Err(Failure::usage(format!(
                    "there is no agent at `{}`",
                    path.display()
                )))
            }
            ComposeSource::Git { url, subdir } => {
                let clone = self.clone(context, url).await?;
                git::inside(clone, url, subdir.as_deref()).map(Found::from)
            }
            ComposeSource::Oci(text) => {
                let reference = registry::reference(text).map_err(|failure| {
                    failure.help("a directory with such a name is written ./NAME")
                })?;
                if let Some(found) = self.pulled.get(&reference) {
                    return Ok(found.clone());
                }
                let layout = registry::pull_to_run(context, &reference).await?;
                let found = self.unpack(layout)?;
                self.pulled.insert(reference, found.clone());
                Ok(found)
            }
        }
    }

    /// The package of an artefact in a directory of its own.
    fn unpack(&mut self, layout: Layout) -> Outcome<Found> {
        let dir = tempfile::Builder::new()
            .prefix("rune-oci-")
            .tempdir()
            .map_err(|error| Failure::because("cannot make a temporary directory", &error))?;
        let agent = dir.path().join("agent");
        package::unpack(layout.artifact.package(), &agent)
            .map_err(|error| Failure::because("cannot unpack the package", &error))?;
        self.unpacked.push(dir);
        Ok(Found {
            dir: agent,
            layout: Some(layout),
        })
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
