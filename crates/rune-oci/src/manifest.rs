//! Manifests, indexes and the descriptors in them, as the OCI image specification 1.1 has them. Fields that are not known are
//! ignored, as it asks.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::artifact::media_type;
use crate::{Digest, OciError};

/// Largest manifest and index: what registries have to take, at least.
pub const MAX_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;
/// Most layers of a manifest, and most entries of an index that are looked at.
const MAX_ENTRIES: usize = 1000;

/// What a manifest says of something that it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Of a manifest: what it describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// More about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// The descriptor of these bytes.
    #[must_use]
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            artifact_type: None,
            annotations: BTreeMap::new(),
        }
    }

    /// The same with an annotation.
    #[must_use]
    pub(crate) fn annotated(mut self, key: &str, value: impl Into<String>) -> Self {
        self.annotations.insert(key.to_owned(), value.into());
        self
    }

    /// Whether these bytes are what it describes.
    ///
    /// # Errors
    /// [`OciError::Digest`] where they are not.
    pub fn check(&self, bytes: &[u8]) -> Result<(), OciError> {
        let actual = Digest::of(bytes);
        if actual == self.digest && bytes.len() as u64 == self.size {
            return Ok(());
        }
        Err(OciError::Digest {
            media_type: self.media_type.clone(),
            expected: self.digest.clone(),
            actual,
        })
    }
}

/// An image manifest: what an artefact is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    /// What the artefact is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Its description.
    pub config: Descriptor,
    /// Its content.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    /// The manifest that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// More about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    pub(crate) fn new(artifact_type: &str, config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: media_type::MANIFEST.to_owned(),
            artifact_type: Some(artifact_type.to_owned()),
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Parses a manifest.
    ///
    /// # Errors
    /// [`OciError::Malformed`] where it is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, OciError> {
        let manifest: Self = parse("manifest", bytes)?;
        let types = ["", media_type::MANIFEST];
        if manifest.schema_version != 2 || !types.contains(&manifest.media_type.as_str()) {
            let what = format!("it is a `{}`", manifest.media_type);
            return Err(OciError::malformed("manifest", what));
        }
        if manifest.layers.len() > MAX_ENTRIES {
            return Err(OciError::malformed("manifest", "it has too many layers"));
        }
        Ok(manifest)
    }

    /// What it describes: its artefact type, or, as before version 1.1, the media type of its configuration.
    pub(crate) fn describes(&self) -> &str {
        self.artifact_type
            .as_deref()
            .unwrap_or(&self.config.media_type)
    }

    pub(crate) fn to_bytes(&self) -> Bytes {
        to_bytes(self)
    }
}

/// An image index: a list of manifests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    /// The manifests.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
}

impl Index {
    pub(crate) fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: media_type::INDEX.to_owned(),
            manifests,
        }
    }

    /// Parses an index.
    ///
    /// # Errors
    /// [`OciError::Malformed`] where it is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, OciError> {
        let index: Self = parse("index", bytes)?;
        let types = ["", media_type::INDEX];
        if index.schema_version != 2 || !types.contains(&index.media_type.as_str()) {
            let what = format!("it is a `{}`", index.media_type);
            return Err(OciError::malformed("index", what));
        }
        if index.manifests.len() > MAX_ENTRIES {
            return Err(OciError::malformed("index", "it has too many entries"));
        }
        Ok(index)
    }

    pub(crate) fn to_bytes(&self) -> Bytes {
        to_bytes(self)
    }
}

fn parse<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, OciError> {
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(OciError::TooLarge {
            what: what.to_owned(),
            limit: MAX_MANIFEST_BYTES,
        });
    }
    serde_json::from_slice(bytes).map_err(|error| OciError::malformed(what, error.to_string()))
}

/// Compact JSON, fields in the order of the specification: the same value gives the same bytes.
pub(crate) fn to_bytes<T: Serialize>(value: &T) -> Bytes {
    // Values with string keys cannot fail.
    serde_json::to_vec(value).unwrap_or_default().into()
}
