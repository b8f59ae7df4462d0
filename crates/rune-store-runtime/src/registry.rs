//! The registry: immutable versions of agent packages.

use serde::{Deserialize, Serialize};

use crate::{ScaleBounds, Timestamp, VersionId};

/// Registers a package. Reply: the row. Publishing the same name and digest again
/// answers the row that is there, with the signature that was published last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishVersion {
    /// Id where it is new.
    pub version_id: VersionId,
    /// Name of the agent.
    pub agent: String,
    /// Its semantic version, from the Runefile.
    pub version: String,
    /// Description, from the Runefile.
    pub description: String,
    /// `sha256:` and 64 hexadecimal digits: the package in the object store.
    pub digest: String,
    /// Size of the package in bytes.
    pub size: u64,
    /// OCI reference of the image, for backends that run one.
    pub image: Option<String>,
    /// Its fewest and most replicas, from the Runefile.
    #[serde(default)]
    pub scaling: ScaleBounds,
    /// The signature that it was admitted with: a DSSE envelope.
    pub signature: Option<String>,
}

/// A version as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRow {
    /// The version.
    pub id: VersionId,
    /// Name of the agent.
    pub agent: String,
    /// Its semantic version.
    pub version: String,
    /// Description.
    pub description: String,
    /// Digest of the package.
    pub digest: String,
    /// Size of the package in bytes.
    pub size: u64,
    /// OCI reference of the image.
    pub image: Option<String>,
    /// Its fewest and most replicas.
    pub scaling: ScaleBounds,
    /// The signature that it was admitted with: a DSSE envelope.
    pub signature: Option<String>,
    /// When it was published.
    pub created_at: Timestamp,
}

/// Which versions to list, newest first. Empty fields match everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VersionFilter {
    /// Only of this agent.
    pub agent: Option<String>,
    /// Only with this digest.
    pub digest: Option<String>,
}
