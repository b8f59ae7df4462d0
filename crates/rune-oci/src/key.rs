//! Ed25519 keys, in the files that OpenSSL reads and writes.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use crate::{Digest, pem};

/// What stands before the 32 bytes of a key in its DER form (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [48, 42, 48, 5, 6, 3, 43, 101, 112, 3, 33, 0];
const PUBLIC: &str = "PUBLIC KEY";
const PRIVATE: &str = "PRIVATE KEY";
/// Digits of a key's id.
const ID_DIGITS: usize = 16;

/// A key that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is no private key.
    #[error("it is not a private ed25519 key in PKCS#8 PEM, as `rune key generate` makes it")]
    NotPrivate,
    /// The text is no public key.
    #[error("it is not a public ed25519 key in PEM, as `rune key generate` makes it")]
    NotPublic,
    /// The system has no random numbers.
    #[error("the system cannot make a key")]
    Failed,
}

/// Signs.
pub struct SigningKey(Ed25519KeyPair);

/// The key stays out of the log.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey")
            .field(&self.public().id())
            .finish()
    }
}

impl SigningKey {
    /// A new key, and its PEM.
    ///
    /// # Errors
    /// [`KeyError::Failed`].
    pub fn generate() -> Result<(Self, String), KeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Failed)?;
        let document = pair.to_pkcs8v1().map_err(|_| KeyError::Failed)?;
        let text = pem::encode(PRIVATE, document.as_ref());
        Ok((Self(pair), text))
    }

    /// The key in this PEM.
    ///
    /// # Errors
    /// [`KeyError::NotPrivate`].
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let der = pem::decode(PRIVATE, text).ok_or(KeyError::NotPrivate)?;
        // OpenSSL leaves the public key out, which is then derived.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der);
        pair.map(Self).map_err(|_| KeyError::NotPrivate)
    }

    /// What verifies.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        let key = self.0.public_key().as_ref();
        for (to, from) in bytes.iter_mut().zip(key) {
            *to = *from;
        }
        PublicKey(bytes)
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }
}

/// Verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key in this PEM.
    ///
    /// # Errors
    /// [`KeyError::NotPublic`].
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let der = pem::decode(PUBLIC, text).ok_or(KeyError::NotPublic)?;
        let key = der.strip_prefix(&SPKI_PREFIX).ok_or(KeyError::NotPublic)?;
        key.try_into().map(Self).map_err(|_| KeyError::NotPublic)
    }

    /// Its PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem::encode(PUBLIC, &[&SPKI_PREFIX[..], &self.0].concat())
    }

    /// How messages and signatures name it.
    #[must_use]
    pub fn id(&self) -> String {
        Digest::of(&self.0).hex().chars().take(ID_DIGITS).collect()
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        key.verify(message, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vector of RFC 8410, section 10.
    const OPENSSL: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    const OPENSSL_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

    #[test]
    fn keys_are_those_of_openssl() {
        let key = SigningKey::from_pem(OPENSSL).unwrap();
        assert_eq!(key.public().to_pem(), OPENSSL_PUBLIC);
        assert_eq!(PublicKey::from_pem(OPENSSL_PUBLIC), Ok(key.public()));
    }

    #[test]
    fn a_key_survives_its_file() {
        let (key, text) = SigningKey::generate().unwrap();
        let again = SigningKey::from_pem(&text).unwrap();
        assert_eq!(again.public(), key.public());
        assert!(key.public().verifies(b"text", &again.sign(b"text")));
        assert!(!key.public().verifies(b"test", &again.sign(b"text")));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in [
            "",
            OPENSSL_PUBLIC,
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
        ] {
            assert_eq!(SigningKey::from_pem(text).err(), Some(KeyError::NotPrivate));
        }
        for text in ["", OPENSSL] {
            assert_eq!(PublicKey::from_pem(text), Err(KeyError::NotPublic));
        }
    }
}
