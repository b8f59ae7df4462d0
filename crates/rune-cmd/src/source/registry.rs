//! Registries: which credentials, how far, and who vouches for what comes out.

use std::path::{Path, PathBuf};

use rune_env::Config;
use rune_oci::{Access, DockerConfig, Layout, Reference, Registry, Step, Verified};

use crate::artifact::{failure, refused};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::keys;
use crate::progress::{Line, Progress};

/// A reference as a person typed it.
pub(crate) fn reference(text: &str) -> Outcome<Reference> {
    text.parse()
        .map_err(|error: rune_oci::InvalidReference| Failure::usage(error.to_string()))
}

/// Where Docker keeps the credentials of this user.
pub(crate) fn docker_directory(config: &Config) -> Option<PathBuf> {
    let variable = |name| config.variable(name).filter(|value| !value.is_empty());
    let home = || variable("HOME").map(|home| Path::new(&home).join(".docker"));
    variable("DOCKER_CONFIG").map(Into::into).or_else(home)
}

/// The repository of a reference, with the credentials that Docker keeps for this user.
pub(crate) async fn open(
    context: &Context,
    reference: &Reference,
    access: Access,
) -> Outcome<Registry> {
    let directory = docker_directory(&context.config);
    let docker = directory.map_or(Ok(DockerConfig::default()), |dir| DockerConfig::read(&dir));
    let opened = match docker {
        Ok(docker) => Registry::open(reference, &docker, access).await,
        Err(error) => Err(error),
    };
    opened.map_err(|error| failure(&format!("cannot use {reference}"), &error))
}

/// The artefact of a reference and its signatures.
pub(crate) async fn pull(context: &Context, reference: &Reference) -> Outcome<Layout> {
    let registry = open(context, reference, Access::Pull).await?;
    let line = Progress::new(context.output).line("");
    line.step(&format!("pulling {reference}"));
    let failed = |error| failure(&format!("cannot pull {reference}"), &error);
    let watch = watch(&line, "pulling");
    let artifact = registry.pull(&watch).await.map_err(failed)?;
    let signatures = registry.signatures(artifact.digest()).await;
    Ok(Layout {
        signatures: signatures.map_err(failed)?,
        artifact,
    })
}

/// The same where keys are trusted: one of them has to vouch for it under this name.
pub(crate) async fn pull_to_run(context: &Context, reference: &Reference) -> Outcome<Layout> {
    let layout = pull(context, reference).await?;
    vouched(
        context,
        &layout,
        &reference.to_string(),
        Some(&reference.name()),
    )?;
    Ok(layout)
}

/// Whether somebody who is trusted has signed it, where keys are trusted.
pub(super) fn vouched(
    context: &Context,
    layout: &Layout,
    name: &str,
    repository: Option<&str>,
) -> Outcome<Option<Verified>> {
    let keys = keys::trusted(&context.config)?;
    if keys.is_empty() {
        return Ok(None);
    }
    let digest = layout.artifact.digest();
    let verified = layout.signatures.verify(&keys, digest, repository);
    verified
        .map(Some)
        .map_err(|refusal| refused(name, &refusal))
}

/// Shows how far a blob has come.
pub(crate) fn watch(line: &Line, doing: &'static str) -> impl Fn(Step) + Send + Sync {
    move |step: Step| {
        let (done, size) = (step.done, step.size);
        line.progress(&format!(
            "{doing} {} ({done} of {size} bytes)",
            step.media_type
        ));
    }
}
