//! A package as an artefact.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use bytes::Bytes;
use rune_spec::package::{MAX_PACKAGE_BYTES, inspect};
use rune_spec::{AgentName, AgentPackage, PackageError, PackedPackage};
use semver::Version;
use serde::{Deserialize, Serialize};
use tar::{Archive, Builder};

use crate::manifest::to_bytes;
use crate::{Descriptor, Digest, Manifest, OciError, bill_of_materials};

/// Media types: ours, and those of the specifications that are used with them.
pub mod media_type {
    /// The type of an artefact that is the package of an agent.
    pub const AGENT: &str = "application/vnd.rune.agent.v1";
    /// Its configuration: name, version and description.
    pub const AGENT_CONFIG: &str = "application/vnd.rune.agent.config.v1+json";
    /// Its package: a tar archive, not compressed.
    pub const PACKAGE: &str = "application/vnd.rune.agent.package.v1.tar";
    /// Its bill of materials.
    pub const SBOM: &str = "application/vnd.cyclonedx+json";
    /// The type of an artefact that is a signature.
    pub const SIGNATURE: &str = "application/vnd.rune.signature.v1";
    /// Its envelope.
    pub const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";
    /// What is in the envelope.
    pub const STATEMENT: &str = "application/vnd.rune.signature.statement.v1+json";
    /// A layout in an archive, as the control plane takes it.
    pub const LAYOUT: &str = "application/vnd.rune.agent.layout.v1.tar";
    /// An image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// A configuration without content.
    pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
}

/// Largest bill of materials.
pub const MAX_SBOM_BYTES: u64 = 8 * 1024 * 1024;
const MAX_CONFIG_BYTES: u64 = 64 * 1024;
/// The configuration without content.
pub(crate) const EMPTY_CONFIG: &[u8] = b"{}";

const TITLE: &str = "org.opencontainers.image.title";
const VERSION: &str = "org.opencontainers.image.version";
const DESCRIPTION: &str = "org.opencontainers.image.description";

/// The configuration of an artefact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Config {
    name: String,
    version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
}

impl Config {
    /// Names and versions become paths and tags, so what comes from elsewhere is what a Runefile may say.
    fn parse(bytes: &[u8]) -> Result<Self, OciError> {
        let wrong = |reason: String| OciError::malformed("configuration", printable(&reason));
        let config: Self =
            serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        let name = config.name.parse::<AgentName>();
        name.map_err(|error| wrong(error.to_string()))?;
        let version = config.version.parse::<Version>();
        version.map_err(|error| wrong(format!("version `{}`: {error}", config.version)))?;
        Ok(config)
    }
}

/// The package of an agent with everything that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    manifest: Bytes,
    digest: Digest,
    parsed: Manifest,
    config: Config,
    blobs: BTreeMap<Digest, Bytes>,
}

impl Artifact {
    /// The artefact of a packed directory.
    #[must_use]
    pub fn build(agent: &AgentPackage, packed: PackedPackage) -> Self {
        let sbom = bill_of_materials(agent);
        let spec = &agent.runefile;
        let config = Config {
            name: spec.name.to_string(),
            version: spec.version.to_string(),
            description: spec.description.clone(),
        };
        let (name, version) = (&config.name, &config.version);
        let blobs = [
            (media_type::AGENT_CONFIG, to_bytes(&config), None),
            (
                media_type::PACKAGE,
                Bytes::from(packed.bytes),
                Some(format!("{name}-{version}.tar")),
            ),
            (
                media_type::SBOM,
                sbom,
                Some(format!("{name}-{version}.cdx.json")),
            ),
        ];
        let mut descriptors = blobs.iter().map(|(kind, bytes, title)| {
            let descriptor = Descriptor::of(kind, bytes);
            match title {
                Some(title) => descriptor.annotated(TITLE, title),
                None => descriptor,
            }
        });
        let configuration = descriptors
            .next()
            .unwrap_or_else(|| Descriptor::of(media_type::EMPTY, EMPTY_CONFIG));
        let mut parsed = Manifest::new(media_type::AGENT, configuration, descriptors.collect());
        let described = config.description.clone();
        let annotations = [
            (TITLE, Some(name.clone())),
            (VERSION, Some(version.clone())),
            (DESCRIPTION, described),
        ];
        for (key, value) in annotations {
            if let Some(value) = value {
                parsed.annotations.insert(key.to_owned(), value);
            }
        }
        let manifest = parsed.to_bytes();
        Self {
            digest: Digest::of(&manifest),
            manifest,
            parsed,
            config,
            blobs: blobs
                .into_iter()
                .map(|(_, bytes, _)| (Digest::of(&bytes), bytes))
                .collect(),
        }
    }

    /// What has to be fetched for a manifest, each within its limit.
    ///
    /// # Errors
    /// [`OciError`] where it is not that of a package.
    pub fn parts(manifest: &[u8]) -> Result<Vec<Descriptor>, OciError> {
        let parsed = Manifest::parse(manifest)?;
        if parsed.describes() != media_type::AGENT {
            return Err(OciError::NotAnAgent {
                found: printable(parsed.describes()),
            });
        }
        let one = |kind: &str| {
            let mut found = parsed
                .layers
                .iter()
                .filter(|layer| layer.media_type == kind);
            (found.next(), found.next())
        };
        let (Some(package), None) = one(media_type::PACKAGE) else {
            return Err(OciError::malformed("manifest", "it has not one package"));
        };
        if parsed.config.media_type != media_type::AGENT_CONFIG {
            return Err(OciError::malformed(
                "manifest",
                "its configuration is of another kind",
            ));
        }
        let (sbom, _) = one(media_type::SBOM);
        let parts = [
            (Some(&parsed.config), "configuration", MAX_CONFIG_BYTES),
            (Some(package), "package", MAX_PACKAGE_BYTES),
            (sbom, "bill of materials", MAX_SBOM_BYTES),
        ];
        let mut found = Vec::new();
        for (part, what, limit) in parts {
            let Some(part) = part else { continue };
            if part.size > limit {
                return Err(OciError::TooLarge {
                    what: what.to_owned(),
                    limit,
                });
            }
            found.push(part.clone());
        }
        Ok(found)
    }

    /// Puts an artefact together from its manifest and what [`Artifact::parts`] asked for.
    ///
    /// # Errors
    /// [`OciError`] where a part is missing or is not what the manifest says, or the package could not be unpacked.
    pub fn from_parts(manifest: Bytes, blobs: BTreeMap<Digest, Bytes>) -> Result<Self, OciError> {
        for part in Self::parts(&manifest)? {
            let Some(bytes) = blobs.get(&part.digest) else {
                let reason = format!("{} is missing", part.digest);
                return Err(OciError::malformed("artefact", reason));
            };
            part.check(bytes)?;
        }
        let parsed = Manifest::parse(&manifest)?;
        let config = blobs
            .get(&parsed.config.digest)
            .map_or(&[][..], AsRef::as_ref);
        let config = Config::parse(config)?;
        let artifact = Self {
            digest: Digest::of(&manifest),
            manifest,
            parsed,
            config,
            blobs,
        };
        inspect(artifact.package())
            .map_err(|error: PackageError| OciError::malformed("package", error.to_string()))?;
        Ok(artifact)
    }

    /// The name of the agent.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.config.version
    }

    /// Its description.
    #[must_use]
    pub fn description(&self) -> Option<&str> {
        self.config.description.as_deref()
    }

    /// The digest of the manifest: what names the artefact.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The package: a tar archive.
    #[must_use]
    pub fn package(&self) -> &Bytes {
        self.part(media_type::PACKAGE)
    }

    /// The package once more, every file below `root`: what a container is given.
    ///
    /// # Errors
    /// [`OciError::Malformed`] where no archive can be made of it.
    pub fn package_below(&self, root: &str) -> Result<Bytes, OciError> {
        let wrong = |error: io::Error| OciError::malformed("package", error.to_string());
        let mut builder = Builder::new(Vec::new());
        let mut archive = Archive::new(self.package().as_ref());
        for entry in archive.entries().map_err(wrong)? {
            let entry = entry.map_err(wrong)?;
            let mut header = entry.header().clone();
            let path = Path::new(root).join(entry.path().map_err(wrong)?);
            builder
                .append_data(&mut header, path, entry)
                .map_err(wrong)?;
        }
        builder.into_inner().map(Bytes::from).map_err(wrong)
    }

    /// The bill of materials: CycloneDX in JSON.
    #[must_use]
    pub fn sbom(&self) -> &Bytes {
        self.part(media_type::SBOM)
    }

    /// All bytes together.
    #[must_use]
    pub fn size(&self) -> u64 {
        let blobs = self.blobs.values().map(|bytes| bytes.len() as u64);
        blobs.sum::<u64>() + self.manifest.len() as u64
    }

    /// What describes its manifest in an index.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            artifact_type: Some(media_type::AGENT.to_owned()),
            ..Descriptor::of(media_type::MANIFEST, &self.manifest)
        }
    }

    pub(crate) const fn manifest(&self) -> &Bytes {
        &self.manifest
    }

    /// Every blob, in the order of the manifest.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = (&Descriptor, &Bytes)> {
        let parts = std::iter::once(&self.parsed.config).chain(&self.parsed.layers);
        parts.filter_map(|part| Some((part, self.blobs.get(&part.digest)?)))
    }

    fn part(&self, kind: &str) -> &Bytes {
        static NOTHING: Bytes = Bytes::new();
        let found = self.blobs().find(|(part, _)| part.media_type == kind);
        found.map_or(&NOTHING, |(_, bytes)| bytes)
    }
}

/// Foreign text in a message: without what moves the cursor, and not longer than a line.
pub(crate) fn printable(text: &str) -> String {
    const SHOWN_CHARS: usize = 300;
    let text = text.trim().chars().take(SHOWN_CHARS);
    text.map(|c| if c.is_control() { ' ' } else { c }).collect()
}
