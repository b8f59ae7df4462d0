//! What refers to an artefact: the referrers API, and the tag that stands for it where a registry does not have it.

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, LINK};
use reqwest::{Method, StatusCode};

use super::Registry;
use crate::artifact::media_type;
use crate::signature::MAX_SIGNATURES;
use crate::{Descriptor, Digest, Index, MAX_MANIFEST_BYTES, OciError, Signature, Signatures};

/// The header of a registry that keeps the list itself.
const SUBJECT: &str = "oci-subject";
/// Most pages of a list.
const MAX_PAGES: usize = 16;
/// How often a list is written anew that somebody else has changed meanwhile.
const MAX_TRIES: usize = 3;

impl Registry {
    /// The signatures of an artefact.
    ///
    /// # Errors
    /// [`OciError`] where the registry does not hand them out as they are named.
    pub async fn signatures(&self, digest: &Digest) -> Result<Signatures, OciError> {
        let mut found = Vec::new();
        let entries = self.referrers(digest).await?.into_iter();
        let signatures =
            entries.filter(|entry| entry.artifact_type.as_deref() == Some(media_type::SIGNATURE));
        // Those count that are asked for, be they signatures or not.
        for entry in signatures.take(MAX_SIGNATURES) {
            // A list may be older than what it lists.
            let Some(manifest) = self.manifest(entry.digest.as_str()).await? else {
                continue;
            };
            entry.check(&manifest)?;
            let Ok(envelope) = Signature::envelope_of(&manifest, digest) else {
                continue;
            };
            let bytes = self.blob(&envelope, &|_| ()).await?;
            found.push(Signature::from_parts(manifest, bytes, digest)?);
        }
        Ok(Signatures(found))
    }

    /// Puts a signature beside the artefact that it is about.
    ///
    /// # Errors
    /// [`OciError`] where the registry does not take it.
    pub async fn push_signature(
        &self,
        subject: &Digest,
        signature: &Signature,
    ) -> Result<(), OciError> {
        for (descriptor, bytes) in signature.blobs() {
            self.push_blob(&descriptor, &bytes, &|_| ()).await?;
        }
        let descriptor = signature.descriptor();
        let version = descriptor.digest.as_str();
        if self
            .put(version, signature.manifest(), media_type::MANIFEST)
            .await?
        {
            return Ok(());
        }
        // Nobody locks a tag: what is written is read again.
        for _ in 0..MAX_TRIES {
            let mut entries = self.tagged(subject).await?;
            if entries
                .iter()
                .any(|entry| entry.digest == descriptor.digest)
            {
                return Ok(());
            }
            entries.push(descriptor.clone());
            let index = Index::new(entries).to_bytes();
            self.put(&tag(subject), &index, media_type::INDEX).await?;
        }
        let known = self.tagged(subject).await?;
        if known.iter().any(|entry| entry.digest == descriptor.digest) {
            return Ok(());
        }
        Err(OciError::Refused {
            registry: self.reference.registry().to_owned(),
            repository: self.reference.repository().to_owned(),
            action: "keep the list of signatures",
            said: format!("somebody else writes `{}` at the same time", tag(subject)),
            transient: true,
        })
    }

    async fn referrers(&self, digest: &Digest) -> Result<Vec<Descriptor>, OciError> {
        const ACTION: &str = "list signatures";
        let mut url = self.url(&format!("referrers/{digest}"));
        url.query_pairs_mut()
            .append_pair("artifactType", media_type::SIGNATURE);
        let mut found = Vec::new();
        for page in 0..MAX_PAGES {
            let response = self.send(Method::GET, &url, &[], None).await?;
            match response.status() {
                StatusCode::OK => {}
                // What a registry says that does not know the API is not always that it is not found.
                StatusCode::NOT_FOUND
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::BAD_REQUEST
                    if page == 0 =>
                {
                    return self.tagged(digest).await;
                }
                _ => return Err(self.refused(response, ACTION).await),
            }
            let next = next_page(
                response
                    .headers()
                    .get(LINK)
                    .and_then(|link| link.to_str().ok()),
            )
            .and_then(|next| url.join(&next).ok())
            .filter(|next| next.origin() == url.origin());
            let body = self
                .body(response, "list of signatures", MAX_MANIFEST_BYTES)
                .await?;
            found.extend(Index::parse(&body)?.manifests);
            match next {
                Some(next) => url = next,
                None => break,
            }
        }
        Ok(found)
    }

    /// The list under the tag that stands for the API.
    async fn tagged(&self, digest: &Digest) -> Result<Vec<Descriptor>, OciError> {
        let index = self.manifest(&tag(digest)).await?;
        index.map_or(Ok(Vec::new()), |bytes| Ok(Index::parse(&bytes)?.manifests))
    }

    /// Puts a manifest; answers whether the registry keeps the list of what refers to its subject.
    pub(super) async fn put(
        &self,
        version: &str,
        manifest: &Bytes,
        kind: &str,
    ) -> Result<bool, OciError> {
        let url = self.url(&format!("manifests/{version}"));
        let headers = [(CONTENT_TYPE, kind)];
        let response = self
            .send(Method::PUT, &url, &headers, Some(manifest))
            .await?;
        if !response.status().is_success() {
            return Err(self.refused(response, "take a manifest").await);
        }
        Ok(response.headers().contains_key(SUBJECT))
    }
}

/// The tag of an artefact's list.
fn tag(digest: &Digest) -> String {
    format!("sha256-{}", digest.hex())
}

/// The URL of the next page: `<URL>; rel="next"`.
fn next_page(link: Option<&str>) -> Option<String> {
    let (url, rest) = link?.strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then(|| url.to_owned())
}
