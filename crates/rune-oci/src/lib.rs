//! Agent packages as OCI artefacts.
//!
//! * [`Artifact`] is a package with its description, its bill of materials and the manifest that names all of them by digest.
//! * [`Layout`] is an artefact with its signatures on disk or in an archive: an OCI image layout.
//! * [`Registry`] is one repository of a registry: artefacts and signatures go in and out.
//! * [`SigningKey`], [`PublicKey`] and [`Signatures`] say who stands for an artefact.
//! * [`DockerConfig`] has the credentials of registries.
//!
//! What is not here: packing and unpacking of directories (rune-spec), deciding who must sign (rune-cp), printing.
//!
//! # Invariants
//!
//! * The same directory gives the same artefact, byte for byte: nothing in it is a time, a random number or a path of this
//!   machine.
//! * Nothing that comes from outside is used before its digest was compared with the one that named it, and nothing is read
//!   beyond its limit.
//! * Credentials go to the registry that they are for, and to the token server that it names over TLS (or, where the registry
//!   is on this machine, over loopback); they are in no message.

mod artifact;
mod digest;
mod docker_config;
mod error;
mod key;
mod layout;
mod manifest;
mod pem;
mod reference;
mod registry;
mod sbom;
mod signature;

pub use artifact::{Artifact, MAX_SBOM_BYTES, media_type};
pub use digest::Digest;
pub use docker_config::{Credentials, DockerConfig};
pub use error::OciError;
pub use key::{KeyError, PublicKey, SigningKey};
pub use layout::{Layout, MAX_LAYOUT_BYTES};
pub use manifest::{Descriptor, Index, MAX_MANIFEST_BYTES, Manifest};
pub use reference::{InvalidReference, Reference};
pub use registry::{Access, Registry, Step};
pub use sbom::{Component, bill_of_materials, components};
pub use signature::{Refusal, Signature, Signatures, Statement, Verified, verify_envelope};
