//! Signatures over artefacts: a DSSE envelope with a statement, in an artefact of its own that refers to the signed one.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::artifact::{EMPTY_CONFIG, media_type};
use crate::manifest::to_bytes;
use crate::{Descriptor, Digest, Manifest, OciError, PublicKey, SigningKey};

/// Largest envelope.
const MAX_ENVELOPE_BYTES: usize = 64 * 1024;
/// Most signatures of an artefact that are looked at.
pub(crate) const MAX_SIGNATURES: usize = 64;

/// What is signed: this artefact, under this name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// Of the artefact's manifest.
    pub digest: Digest,
    /// The repository it may be had from, with its registry; absent: the artefact was signed where it was built, and no
    /// repository may pass it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
}

/// Dead Simple Signing Envelope 1.0.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload_type: String,
    payload: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Debug, Serialize, Deserialize)]
struct EnvelopeSignature {
    #[serde(default)]
    keyid: String,
    sig: String,
}

/// A signature as it is kept beside an artefact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    manifest: Bytes,
    envelope: Bytes,
}

impl Signature {
    /// Signs an artefact; `subject` describes its manifest.
    #[must_use]
    pub fn make(key: &SigningKey, subject: &Descriptor, repository: Option<String>) -> Self {
        let statement = Statement {
            digest: subject.digest.clone(),
            repository,
        };
        let payload = to_bytes(&statement);
        let envelope = to_bytes(&Envelope {
            payload_type: media_type::STATEMENT.to_owned(),
            signatures: vec![EnvelopeSignature {
                keyid: key.public().id(),
                sig: BASE64_STANDARD.encode(key.sign(&signed_text(&payload))),
            }],
            payload: BASE64_STANDARD.encode(payload),
        });
        let mut manifest = Manifest::new(
            media_type::SIGNATURE,
            Descriptor::of(media_type::EMPTY, EMPTY_CONFIG),
            vec![Descriptor::of(media_type::ENVELOPE, &envelope)],
        );
        manifest.subject = Some(Descriptor {
            artifact_type: None,
            annotations: std::collections::BTreeMap::new(),
            ..subject.clone()
        });
        Self {
            manifest: manifest.to_bytes(),
            envelope,
        }
    }

    /// The one layer of a signature's manifest, where it is one of this artefact.
    pub(crate) fn envelope_of(manifest: &[u8], subject: &Digest) -> Result<Descriptor, OciError> {
        let parsed = Manifest::parse(manifest)?;
        let about = parsed.subject.as_ref().map(|subject| &subject.digest);
        if parsed.describes() != media_type::SIGNATURE || about != Some(subject) {
            return Err(OciError::malformed(
                "signature",
                "it is not about this artefact",
            ));
        }
        match parsed.layers.as_slice() {
            [envelope] if envelope.size <= MAX_ENVELOPE_BYTES as u64 => Ok(envelope.clone()),
            _ => Err(OciError::malformed("signature", "it has not one envelope")),
        }
    }

    /// Puts a signature together from what a registry or a layout has.
    pub(crate) fn from_parts(
        manifest: Bytes,
        envelope: Bytes,
        subject: &Digest,
    ) -> Result<Self, OciError> {
        Self::envelope_of(&manifest, subject)?.check(&envelope)?;
        Ok(Self { manifest, envelope })
    }

    /// What describes its manifest in an index.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            artifact_type: Some(media_type::SIGNATURE.to_owned()),
            ..Descriptor::of(media_type::MANIFEST, &self.manifest)
        }
    }

    /// Its manifest and its blobs.
    pub(crate) fn manifest(&self) -> &Bytes {
        &self.manifest
    }

    pub(crate) fn blobs(&self) -> [(Descriptor, Bytes); 2] {
        [
            (
                Descriptor::of(media_type::EMPTY, EMPTY_CONFIG),
                Bytes::from_static(EMPTY_CONFIG),
            ),
            (
                Descriptor::of(media_type::ENVELOPE, &self.envelope),
                self.envelope.clone(),
            ),
        ]
    }

    /// The envelope: the whole evidence, given the key.
    #[must_use]
    pub fn envelope(&self) -> &str {
        std::str::from_utf8(&self.envelope).unwrap_or_default()
    }
}

/// The text under a signature: DSSE's pre-authentication encoding.
fn signed_text(payload: &[u8]) -> Vec<u8> {
    let kind = media_type::STATEMENT;
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// Which artefact, by whom, and under which name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The key's id.
    pub key: String,
    /// What it signed.
    pub statement: Statement,
    /// The envelope.
    pub envelope: String,
}

/// Why signatures do not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There are none.
    #[error("it is not signed")]
    Unsigned,
    /// Somebody else signed.
    #[error("it is signed by none of the trusted keys, but by {0}")]
    UnknownKey(String),
    /// A signature does not fit what it is about.
    #[error(
        "a signature in the name of key {0} is not valid: it, or what it is about, was changed"
    )]
    Invalid(String),
    /// It is signed under another name.
    #[error("it is signed for {signed} and not for {wanted}")]
    OtherRepository {
        /// The name that was signed.
        signed: String,
        /// The name that it was found under.
        wanted: String,
    },
    /// The signature cannot be read.
    #[error("its signature cannot be read: {0}")]
    Malformed(String),
}

/// The signatures of an artefact.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signatures(pub Vec<Signature>);

impl Signatures {
    /// One signature of a trusted key over this artefact, bound to `repository` where one is named.
    ///
    /// # Errors
    /// The [`Refusal`] that tells most, where none of them does.
    pub fn verify(
        &self,
        keys: &[PublicKey],
        digest: &Digest,
        repository: Option<&str>,
    ) -> Result<Verified, Refusal> {
        let mut refusal = Refusal::Unsigned;
        for signature in self.0.iter().take(MAX_SIGNATURES) {
            match verify_envelope(signature.envelope(), keys) {
                Ok(verified) if verified.statement.digest != *digest => {
                    refusal = Refusal::Invalid(verified.key);
                }
                Ok(verified) => match (repository, &verified.statement.repository) {
                    (Some(wanted), signed) if signed.as_deref() != Some(wanted) => {
                        let signed = signed.as_deref().unwrap_or("no repository");
                        refusal = Refusal::OtherRepository {
                            signed: signed.to_owned(),
                            wanted: wanted.to_owned(),
                        };
                    }
                    _ => return Ok(verified),
                },
                // A signature of a stranger says less than a wrong one of a friend.
                Err(Refusal::UnknownKey(_)) if refusal != Refusal::Unsigned => {}
                Err(found) => refusal = found,
            }
        }
        Err(refusal)
    }
}

/// Whose envelope it is, and what it says.
///
/// # Errors
/// A [`Refusal`] where no trusted key has signed it.
pub fn verify_envelope(envelope: &str, keys: &[PublicKey]) -> Result<Verified, Refusal> {
    let malformed = |error: &dyn std::fmt::Display| Refusal::Malformed(error.to_string());
    if envelope.len() > MAX_ENVELOPE_BYTES {
        return Err(malformed(&"it is too large"));
    }
    let parsed: Envelope = serde_json::from_str(envelope).map_err(|error| malformed(&error))?;
    if parsed.payload_type != media_type::STATEMENT {
        return Err(malformed(&"it is about something else"));
    }
    let payload = BASE64_STANDARD
        .decode(&parsed.payload)
        .map_err(|error| malformed(&error))?;
    let text = signed_text(&payload);
    let mut refusal = Refusal::Unsigned;
    for signature in &parsed.signatures {
        // The id only helps to find the key: what counts is the key.
        let bytes = BASE64_STANDARD.decode(&signature.sig);
        let bytes = bytes.map_err(|error| malformed(&error))?;
        if let Some(key) = keys.iter().find(|key| key.verifies(&text, &bytes)) {
            let statement = serde_json::from_slice(&payload).map_err(|error| malformed(&error))?;
            return Ok(Verified {
                key: key.id(),
                statement,
                envelope: envelope.to_owned(),
            });
        }
        let id: String = signature
            .keyid
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(64)
            .collect();
        refusal = if keys.iter().any(|key| key.id() == id) {
            Refusal::Invalid(id)
        } else if refusal == Refusal::Unsigned {
            Refusal::UnknownKey(id)
        } else {
            refusal
        };
    }
    Err(refusal)
}
