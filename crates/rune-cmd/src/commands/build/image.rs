//! `rune build --image`.

use std::collections::BTreeMap;

use rune_docker::{DockerError, PACKAGE_DIR, PackageImage};
use rune_oci::{Artifact, Reference};
use rune_runtime::Tasks;

use crate::context::Context;
use crate::daemon::node::docker_engine;
use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::source::registry::reference;

/// Makes the image and answers its name.
pub(super) async fn make(
    context: &Context,
    artifact: &Artifact,
    tag: Option<&str>,
) -> Outcome<String> {
    let (name, version) = (artifact.name(), artifact.version());
    // A `+` of a version is not allowed in a tag.
    let default = || format!("{name}:{}", version.replace('+', "_"));
    let named = tag.map_or_else(default, str::to_owned);
    let parsed: Reference = reference(&named)?;
    let tag = match (parsed.tag(), parsed.digest()) {
        (Some(tag), None) => tag.to_owned(),
        _ => {
            return Err(
                Failure::usage("an image is named NAME:TAG, without a digest")
                    .help(format!("--tag {name}:{version}")),
            );
        }
    };
    let repository = named
        .strip_suffix(&format!(":{tag}"))
        .unwrap_or(&named)
        .to_owned();
    let package = artifact
        .package_below(PACKAGE_DIR.trim_start_matches('/'))
        .map_err(|error| Failure::because("cannot pack the package for an image", &error))?;
    let mut labels = BTreeMap::from([
        ("org.opencontainers.image.title".to_owned(), name.to_owned()),
        (
            "org.opencontainers.image.version".to_owned(),
            version.to_owned(),
        ),
        ("rune.package".to_owned(), artifact.digest().to_string()),
    ]);
    if let Some(description) = artifact.description() {
        let key = "org.opencontainers.image.description".to_owned();
        labels.insert(key, description.to_owned());
    }
    let image = PackageImage {
        base: context.config.runtime.replica_image.clone(),
        repository: repository.clone(),
        tag: tag.clone(),
        package,
        labels,
    };
    let tasks = Tasks::new();
    let engine = docker_engine(&context.config, &tasks);
    let mut interrupt = Interrupt::listen()?;
    let made = tokio::select! {
        made = image.make(&engine) => made,
        () = interrupt.next() => {
            // The container that it was made of is removed.
            tasks.stop(std::time::Duration::from_secs(10)).await;
            return Err(Failure::silent(Exit::Interrupted));
        }
    };
    match made {
        Ok(_) => Ok(format!("{repository}:{tag}")),
        Err(error) => {
            let exit = match &error {
                DockerError::NoImage(_)
                | DockerError::Absent { .. }
                | DockerError::Denied { .. } => Exit::Unavailable,
                _ => Exit::Failed,
            };
            let failure = Failure::new(exit, format!("cannot make the image {named}: {error}"));
            Err(match error {
                DockerError::NoImage(_) => failure.help(
                    "it is the base with the program `rune`; RUNE_REPLICA_IMAGE names another one",
                ),
                _ => failure,
            })
        }
    }
}
