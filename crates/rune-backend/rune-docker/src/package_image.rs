//! Images with the package of an agent in them.
//!
//! Nothing runs for it: a container of the base is made and not started, the files are put into it, and it is committed. So
//! there is neither a builder nor a network.

use std::collections::{BTreeMap, HashMap};

use bollard::body_full;
use bollard::models::{ContainerConfig, ContainerCreateBody};
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, CreateContainerOptionsBuilder, UploadToContainerOptionsBuilder,
};
use bytes::Bytes;
use uuid::Uuid;

use crate::DockerError;
use crate::engine::{DockerEngine, status};

/// Where the package is in an image.
pub const PACKAGE_DIR: &str = "/agent";
/// Where the agent listens in a container, unless it is told otherwise.
const GATEWAY: &str = "0.0.0.0:8080";
const PORT: &str = "8080/tcp";

/// An image to be made.
#[derive(Debug, Clone)]
pub struct PackageImage {
    /// The image with the program `rune`.
    pub base: String,
    /// The repository of the new one, such as `hello` or `ghcr.io/acme/hello`.
    pub repository: String,
    /// Its tag.
    pub tag: String,
    /// A tar archive with the package below [`PACKAGE_DIR`].
    pub package: Bytes,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl PackageImage {
    /// Makes the image and answers its id.
    ///
    /// # Errors
    /// [`DockerError::NoImage`] without the base, else what the engine refuses.
    pub async fn make(self, engine: &DockerEngine) -> Result<String, DockerError> {
        let docker = engine.client().await?;
        let name = format!("rune-build-{}", Uuid::now_v7());
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        // It has no labels of ours: an image takes over those of its container.
        let body = ContainerCreateBody {
            image: Some(self.base.clone()),
            entrypoint: Some(vec!["rune".to_owned()]),
            ..ContainerCreateBody::default()
        };
        let created = docker.create_container(Some(options), body).await;
        created.map_err(|error| match status(&error) {
            Some(404) => DockerError::NoImage(self.base.clone()),
            _ => engine.error("make a container", &error),
        })?;
        // Dropped in the middle of it as well, as by Ctrl-C.
        let made = Made {
            engine: engine.clone(),
            name: Some(name),
        };
        let id = self.commit(engine, made.name()).await;
        made.remove().await;
        id
    }

    async fn commit(self, engine: &DockerEngine, container: &str) -> Result<String, DockerError> {
        let docker = engine.client().await?;
        let options = UploadToContainerOptionsBuilder::default().path("/").build();
        let put = docker.upload_to_container(container, Some(options), body_full(self.package));
        put.await
            .map_err(|error| engine.error("put files into a container", &error))?;
        let options = CommitContainerOptionsBuilder::default()
            .container(container)
            .repo(&self.repository)
            .tag(&self.tag)
            .build();
        let words = |words: &[&str]| Some(words.iter().map(|&word| word.to_owned()).collect());
        let config = ContainerConfig {
            entrypoint: words(&["rune"]),
            cmd: words(&["dev", PACKAGE_DIR, "--gateway-addr", GATEWAY]),
            exposed_ports: Some(vec![PORT.to_owned()]),
            labels: Some(self.labels.into_iter().collect::<HashMap<_, _>>()),
            ..ContainerConfig::default()
        };
        let committed = docker.commit_container(options, config).await;
        committed
            .map(|answer| answer.id)
            .map_err(|error| engine.error("make an image of a container", &error))
    }
}

/// The container that an image is made of.
struct Made {
    engine: DockerEngine,
    name: Option<String>,
}

impl Made {
    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    async fn remove(mut self) {
        if let Some(name) = self.name.take()
            && let Err(error) = self.engine.try_remove(&name).await
        {
            tracing::warn!(container = name, %error, "a container cannot be removed");
        }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            self.engine.remove(name, true);
        }
    }
}
