//! Pulling the images of replicas: by the engine, with the credentials that Docker keeps for the daemon's user.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;
use rune_oci::{Credentials, DockerConfig, Reference};
use rune_store_runtime::ReplicaId;
use secrecy::ExposeSecret as _;
use tokio::time::timeout;

use crate::DockerError;
use crate::engine::DockerEngine;

/// How long the engine may say nothing of a pull.
const MAX_SILENCE: Duration = Duration::from_mins(5);
/// The tag of references that name neither a tag nor a digest.
const DEFAULT_TAG: &str = "latest";

/// The pulls under way, by the replica that waits for each.
#[derive(Debug, Default)]
pub(crate) struct Pulls(Mutex<HashMap<ReplicaId, Pull>>);

/// How far one is.
#[derive(Debug)]
struct Pull {
    image: String,
    /// What was last said of each layer.
    layers: BTreeMap<String, String>,
}

/// One under way; forgotten when this is dropped.
struct UnderWay<'a> {
    pulls: &'a Pulls,
    id: ReplicaId,
}

impl Pulls {
    /// Has the engine pull an image for a replica. Returns once it is there.
    ///
    /// # Errors
    /// [`DockerError::LocalImage`] where the name says no registry, else [`DockerError::Pull`] with what the engine says.
    pub(crate) async fn pull(
        &self,
        engine: &DockerEngine,
        id: ReplicaId,
        image: &str,
    ) -> Result<(), DockerError> {
        let reference =
            reference(image).ok_or_else(|| DockerError::LocalImage(image.to_owned()))?;
        let failed = |reason: String| DockerError::Pull {
            image: image.to_owned(),
            registry: reference.registry().to_owned(),
            reason,
        };
        let credentials = credentials(engine, reference.registry()).await;
        let credentials = credentials.map_err(|error| failed(error.to_string()))?;
        let mut options = CreateImageOptionsBuilder::default().from_image(image);
        if reference.tag().is_none() && reference.digest().is_none() {
            options = options.tag(DEFAULT_TAG);
        }
        let docker = engine.client().await?;
        let under_way = self.begin(id, image);
        tracing::info!(replica = %id, image, "an image is pulled");
        let mut said = Box::pin(docker.create_image(Some(options.build()), None, credentials));
        loop {
            match timeout(MAX_SILENCE, said.next()).await {
                Ok(Some(Ok(step))) => under_way.note(step),
                Ok(Some(Err(error))) => return Err(failed(reason(&error))),
                Ok(None) => break,
                Err(_) => {
                    let secs = MAX_SILENCE.as_secs();
                    return Err(failed(format!("nothing came for {secs} s")));
                }
            }
        }
        tracing::info!(replica = %id, image, "an image was pulled");
        Ok(())
    }

    /// The log of a replica whose image is on its way: the last lines, at the most so many.
    pub(crate) fn log(&self, id: ReplicaId, lines: usize) -> Option<String> {
        let pulls = self.lock();
        let Pull { image, layers } = pulls.get(&id)?;
        let first = format!("pulling {image}\n");
        let layers = layers
            .iter()
            .map(|(layer, said)| format!("{layer}: {said}\n"));
        let text: Vec<String> = std::iter::once(first).chain(layers).collect();
        let skipped = text.len().saturating_sub(lines);
        Some(text.into_iter().skip(skipped).collect())
    }

    fn begin(&self, id: ReplicaId, image: &str) -> UnderWay<'_> {
        let pull = Pull {
            image: image.to_owned(),
            layers: BTreeMap::new(),
        };
        self.lock().insert(id, pull);
        UnderWay { pulls: self, id }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ReplicaId, Pull>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay<'_> {
    fn note(&self, step: CreateImageInfo) {
        let (Some(layer), Some(status)) = (step.id, step.status) else {
            return;
        };
        let sizes = step.progress_detail.and_then(|it| it.current.zip(it.total));
        let said = match sizes {
            Some((done, size)) => format!("{status} ({done} of {size} bytes)"),
            None => status,
        };
        if let Some(pull) = self.pulls.lock().get_mut(&self.id) {
            pull.layers.insert(layer, said);
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.pulls.lock().remove(&self.id);
    }
}

/// The reference of an image that may be pulled: one that names its registry. Any other is a name of this engine's, which
/// somebody may have taken for himself at Docker Hub.
fn reference(image: &str) -> Option<Reference> {
    let reference: Reference = image.parse().ok()?;
    let rest = image.strip_prefix(reference.registry())?;
    rest.starts_with('/').then_some(reference)
}

async fn credentials(
    engine: &DockerEngine,
    registry: &str,
) -> Result<Option<DockerCredentials>, rune_oci::OciError> {
    let Some(directory) = &engine.config().credentials else {
        return Ok(None);
    };
    let found = DockerConfig::read(directory)?.credentials(registry).await?;
    let of_registry = DockerCredentials {
        serveraddress: Some(registry.to_owned()),
        ..DockerCredentials::default()
    };
    Ok(found.map(|found| match found {
        Credentials::Password { user, password } => DockerCredentials {
            username: Some(user),
            password: Some(password.expose_secret().to_owned()),
            ..of_registry
        },
        Credentials::Identity(token) => DockerCredentials {
            identitytoken: Some(token.expose_secret().to_owned()),
            ..of_registry
        },
    }))
}

/// What the engine says, without what its library adds.
fn reason(error: &bollard::errors::Error) -> String {
    use bollard::errors::Error as Answer;
    match error {
        Answer::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        Answer::DockerStreamError { error } => error.trim().to_owned(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_names_its_registry_is_pulled() {
        for name in [
            "127.0.0.1:5000/acme/hello:1",
            "localhost/hello",
            "ghcr.io/acme/hello@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "docker.io/library/busybox:1",
        ] {
            assert!(reference(name).is_some(), "{name}");
        }
        for name in [
            "hello",
            "hello:1.0.0",
            "rune:0.1.0",
            "acme/hello:1",
            "",
            "a b/c",
        ] {
            assert!(reference(name).is_none(), "{name}");
        }
    }
}
