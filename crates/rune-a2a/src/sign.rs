//! Signatures of cards: JSON Web Signatures over the canonical JSON of a card (1.0 §8.4).

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::{Map, Value, json};

use crate::{AgentCard, CardForm, CardSignature};

/// A key that signs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CardKeyError {
    /// The text is no key.
    #[error(
        "it is not a private key in PKCS#8 PEM on the curve P-256, as \
         `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256` prints"
    )]
    NoKey,
    /// The system cannot sign.
    #[error("the system cannot sign")]
    Failed,
}

/// Signs cards with ES256.
pub struct CardSigner {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    key_id: String,
}

/// The key stays out of the log.
impl std::fmt::Debug for CardSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CardSigner")
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

impl CardSigner {
    /// A signer with the key in this PEM.
    ///
    /// # Errors
    /// [`CardKeyError::NoKey`].
    pub fn from_pem(pem: &str) -> Result<Self, CardKeyError> {
        let (_, rest) = pem
            .split_once("-----BEGIN PRIVATE KEY-----")
            .ok_or(CardKeyError::NoKey)?;
        let (body, _) = rest
            .split_once("-----END PRIVATE KEY-----")
            .ok_or(CardKeyError::NoKey)?;
        let body: String = body.split_whitespace().collect();
        let der = BASE64_STANDARD
            .decode(body)
            .map_err(|_| CardKeyError::NoKey)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der);
        let pair = pair.map_err(|_| CardKeyError::NoKey)?;
        let mut signer = Self {
            pair,
            random: SystemRandom::new(),
            key_id: String::new(),
        };
        // The thumbprint of the key (RFC 7638).
        let thumb = canonical(&signer.jwk().ok_or(CardKeyError::NoKey)?);
        signer.key_id = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, thumb.as_bytes()));
        Ok(signer)
    }

    /// How signatures name the key.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The public key for those who check, as a JSON Web Key Set.
    #[must_use]
    pub fn key_set(&self) -> Value {
        let mut key = self.jwk().unwrap_or_default();
        for (name, value) in [
            ("kid", self.key_id.as_str()),
            ("use", "sig"),
            ("alg", "ES256"),
        ] {
            key[name] = json!(value);
        }
        json!({"keys": [key]})
    }

    /// The members of the public key that its thumbprint is made of.
    fn jwk(&self) -> Option<Value> {
        // An uncompressed point: 4, x, y.
        let point = self.pair.public_key().as_ref();
        let (x, y) = point.strip_prefix(&[4])?.split_at_checked(32)?;
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        Some(json!({"crv": "P-256", "kty": "EC", "x": text(x), "y": text(y)}))
    }

    /// Signs a card; `key_set_url` is where [`CardSigner::key_set`] is found. Signatures that it
    /// has are replaced.
    ///
    /// # Errors
    /// [`CardKeyError::Failed`].
    pub fn sign(&self, card: &mut AgentCard, key_set_url: &str) -> Result<(), CardKeyError> {
        card.signatures.clear();
        let header = json!({
            "alg": "ES256", "jku": key_set_url, "kid": self.key_id, "typ": "JOSE",
        });
        let protected = BASE64_URL_SAFE_NO_PAD.encode(header.to_string());
        for payload in payloads(card) {
            let payload = BASE64_URL_SAFE_NO_PAD.encode(payload);
            let signed = format!("{protected}.{payload}");
            let signature = self.pair.sign(&self.random, signed.as_bytes());
            let signature = signature.map_err(|_| CardKeyError::Failed)?;
            card.signatures.push(CardSignature {
                protected: protected.clone(),
                signature: BASE64_URL_SAFE_NO_PAD.encode(signature),
            });
        }
        Ok(())
    }
}

/// What is signed: the canonical card as the specification has it, and, where that differs, as the
/// official SDKs have it, which leave out everything that is empty. A checker takes any one.
fn payloads(card: &AgentCard) -> Vec<String> {
    let mut card = card.encode(CardForm::Clean);
    if let Some(card) = card.as_object_mut() {
        card.remove("signatures");
    }
    drop_defaults(&mut card);
    let mut payloads = vec![canonical(&card)];
    let dense = canonical(&without_empty(card).unwrap_or_default());
    if dense != payloads[0] {
        payloads.push(dense);
    }
    payloads
}

/// Leaves out what Protocol Buffers do not tell from absent and the card has: lists without elements,
/// where the field is not required.
fn drop_defaults(card: &mut Value) {
    let requirements = card.pointer_mut("/securityRequirements");
    for requirement in requirements
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let schemes = requirement.pointer_mut("/schemes");
        let schemes = schemes.and_then(Value::as_object_mut).into_iter().flatten();
        for (_, scopes) in schemes {
            if scopes["list"].as_array().is_some_and(Vec::is_empty) {
                *scopes = Value::Object(Map::new());
            }
        }
    }
}

fn without_empty(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            let map = map.into_iter();
            let map: Map<String, Value> = map
                .filter_map(|(key, value)| Some((key, without_empty(value)?)))
                .collect();
            (!map.is_empty()).then_some(Value::Object(map))
        }
        Value::Array(items) => {
            let items: Vec<Value> = items.into_iter().filter_map(without_empty).collect();
            (!items.is_empty()).then_some(Value::Array(items))
        }
        Value::String(text) => (!text.is_empty()).then_some(Value::String(text)),
        other => Some(other),
    }
}

/// Canonical JSON (RFC 8785) of a value without numbers, which no card has: members in the order of
/// their names, nothing between the tokens.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut members: Vec<(&String, &Value)> = map.iter().collect();
            members.sort_by_cached_key(|(name, _)| name.encode_utf16().collect::<Vec<u16>>());
            let members = members.into_iter();
            let members =
                members.map(|(name, value)| format!("{}:{}", json!(name), canonical(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        scalar => scalar.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_json_is_that_of_the_rfc() {
        let value = json!({
            "peach": "This sorting order", "péché": "is wrong according to French",
            "pêche": "but canonicalization MUST", "sin": "ignore locale",
            "\u{1f600}": "\r\u{b}\"\\/", "\u{fb33}": [true, null, {"b": [], "a": {}}],
        });
        let expected = "{\"peach\":\"This sorting order\",\"péché\":\"is wrong according to French\",\
                        \"pêche\":\"but canonicalization MUST\",\"sin\":\"ignore locale\",\
                        \"\u{1f600}\":\"\\r\\u000b\\\"\\\\/\",\"\u{fb33}\":[true,null,{\"a\":{},\"b\":[]}]}";
        assert_eq!(canonical(&value), expected);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in [
            "",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
            "x",
        ] {
            assert_eq!(CardSigner::from_pem(text).unwrap_err(), CardKeyError::NoKey);
        }
    }
}
