//! Artefacts into a repository and out of it.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Method, StatusCode};

use super::Registry;
use crate::artifact::media_type;
use crate::{Artifact, Descriptor, Digest, OciError};

/// How far a blob has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it is.
    pub media_type: String,
    /// Bytes that are through.
    pub done: u64,
    /// All of them.
    pub size: u64,
}

/// Who is told how far a blob has come.
type Watch<'a> = &'a (dyn Fn(Step) + Send + Sync);

impl Registry {
    /// The digest of what the reference names.
    ///
    /// # Errors
    /// [`OciError`] where there is nothing, or something else than its digest says.
    pub async fn resolve(&self) -> Result<(Descriptor, Bytes), OciError> {
        let version = self.reference.version();
        let found = self.manifest(version).await?;
        let manifest = found.ok_or_else(|| OciError::NotFound {
            registry: self.reference.registry().to_owned(),
            repository: self.reference.repository().to_owned(),
            what: version.to_owned(),
        })?;
        let descriptor = Descriptor::of(media_type::MANIFEST, &manifest);
        if let Some(expected) = self.reference.digest()
            && *expected != descriptor.digest
        {
            return Err(OciError::Digest {
                media_type: descriptor.media_type,
                expected: expected.clone(),
                actual: descriptor.digest,
            });
        }
        Ok((descriptor, manifest))
    }

    /// The artefact that the reference names, every part compared with its digest.
    ///
    /// # Errors
    /// [`OciError`] where it cannot be had, is not the package of an agent, or is not what its digests say.
    pub async fn pull(&self, watch: Watch<'_>) -> Result<Artifact, OciError> {
        let (_, manifest) = self.resolve().await?;
        let mut blobs = BTreeMap::new();
        for part in Artifact::parts(&manifest)? {
            let bytes = self.blob(&part, watch).await?;
            blobs.insert(part.digest, bytes);
        }
        Artifact::from_parts(manifest, blobs)
    }

    /// Puts an artefact where the reference says.
    ///
    /// # Errors
    /// [`OciError`] where the registry does not take it.
    pub async fn push(&self, artifact: &Artifact, watch: Watch<'_>) -> Result<(), OciError> {
        for (descriptor, bytes) in artifact.blobs() {
            self.push_blob(descriptor, bytes, watch).await?;
        }
        let version = self.reference.version();
        self.put(version, artifact.manifest(), media_type::MANIFEST)
            .await?;
        Ok(())
    }

    /// A blob, compared with its digest.
    pub(super) async fn blob(
        &self,
        wanted: &Descriptor,
        watch: Watch<'_>,
    ) -> Result<Bytes, OciError> {
        let url = self.url(&format!("blobs/{}", wanted.digest));
        let mut response = self.send(Method::GET, &url, &[], None).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                return Err(OciError::NotFound {
                    registry: self.reference.registry().to_owned(),
                    repository: self.reference.repository().to_owned(),
                    what: format!("blob {}", wanted.digest),
                });
            }
            _ => return Err(self.refused(response, "hand out a blob").await),
        }
        let mut bytes = BytesMut::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.unreachable(&error))?
        {
            bytes.extend_from_slice(&chunk);
            // What is longer than it should be is wrong already.
            if bytes.len() as u64 > wanted.size {
                break;
            }
            watch(step(wanted, bytes.len()));
        }
        wanted.check(&bytes)?;
        Ok(bytes.freeze())
    }

    pub(super) async fn push_blob(
        &self,
        descriptor: &Descriptor,
        bytes: &Bytes,
        watch: Watch<'_>,
    ) -> Result<(), OciError> {
        if self.has(&descriptor.digest).await? {
            watch(step(descriptor, bytes.len()));
            return Ok(());
        }
        const ACTION: &str = "take a blob";
        let url = self.url("blobs/uploads/");
        // Without a length some registries do not answer a request without a body.
        let headers = [(CONTENT_LENGTH, "0")];
        let response = self.send(Method::POST, &url, &headers, None).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.refused(response, ACTION).await);
        }
        let location = response.headers().get(LOCATION);
        let location = location.and_then(|value| value.to_str().ok());
        let target = location.and_then(|place| url.join(place).ok());
        // An upload goes where its registry says, but not from TLS to clear text.
        let target =
            target.filter(|target| target.scheme() == url.scheme() || target.scheme() == "https");
        let Some(mut target) = target else {
            return Err(OciError::Refused {
                registry: self.reference.registry().to_owned(),
                repository: self.reference.repository().to_owned(),
                action: ACTION,
                said: "it does not say where to".to_owned(),
                transient: false,
            });
        };
        target
            .query_pairs_mut()
            .append_pair("digest", descriptor.digest.as_str());
        watch(step(descriptor, 0));
        let headers = [(CONTENT_TYPE, "application/octet-stream")];
        let response = self
            .send(Method::PUT, &target, &headers, Some(bytes))
            .await?;
        if response.status() != StatusCode::CREATED {
            return Err(self.refused(response, ACTION).await);
        }
        watch(step(descriptor, bytes.len()));
        Ok(())
    }

    async fn has(&self, digest: &Digest) -> Result<bool, OciError> {
        let url = self.url(&format!("blobs/{digest}"));
        let response = self.send(Method::HEAD, &url, &[], None).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refused(response, "look for a blob").await),
        }
    }
}

fn step(descriptor: &Descriptor, done: usize) -> Step {
    Step {
        media_type: descriptor.media_type.clone(),
        done: done as u64,
        size: descriptor.size,
    }
}
