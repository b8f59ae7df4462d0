//! The key that secrets are encrypted with, and the file it is kept in.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hmac, rand};
use rune_store_runtime::SealedSecret;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::SecretError;

/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Bytes of a key of which the fingerprint is shown.
const ID_BYTES: usize = 8;
/// More than a key file has.
const MAX_FILE_BYTES: u64 = 1024;

/// What a fingerprint, and what a ciphertext, is of.
const ID_CONTEXT: &[u8] = b"rune secret key\0";
/// What a derived key is made of.
const DERIVE_CONTEXT: &[u8] = b"rune derived key v1\0";
const SEAL_CONTEXT: &[u8] = b"rune secret v1\0";

/// A key for AES-256 in Galois/Counter Mode.
pub(super) struct SecretKey {
    id: String,
    key: RandomizedNonceKey,
    derive: hmac::Key,
}

impl SecretKey {
    /// The key of 64 hexadecimal digits, with space around them.
    pub(super) fn parse(text: &SecretString) -> Option<Self> {
        let text = text.expose_secret().trim();
        if text.len() != KEY_BYTES * 2 || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0; KEY_BYTES];
        for (at, byte) in bytes.iter_mut().enumerate() {
            let digits = text.get(at * 2..at * 2 + 2)?;
            // `from_str_radix` takes a sign.
            if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            *byte = u8::from_str_radix(digits, 16).ok()?;
        }
        Some(Self {
            id: fingerprint(&bytes),
            key: RandomizedNonceKey::new(&AES_256_GCM, &bytes).ok()?,
            derive: hmac::Key::new(hmac::HMAC_SHA256, &bytes),
        })
    }

    /// Another key, for this purpose alone: it says nothing of this one.
    pub(super) fn derive(&self, purpose: &str) -> Vec<u8> {
        let context = [DERIVE_CONTEXT, purpose.as_bytes()].concat();
        hmac::sign(&self.derive, &context).as_ref().to_vec()
    }

    /// Its fingerprint.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Encrypts a value for one name of one namespace.
    pub(super) fn seal(
        &self,
        namespace: &str,
        name: &str,
        value: &SecretString,
    ) -> Result<SealedSecret, SecretError> {
        let mut sealed = value.expose_secret().as_bytes().to_vec();
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(context(namespace, name)), &mut sealed)
            .map_err(|_| SecretError::Cipher)?;
        Ok(SealedSecret {
            key_id: self.id.clone(),
            bytes: [nonce.as_ref().as_slice(), &sealed].concat(),
        })
    }

    /// Decrypts a value of one name of one namespace.
    pub(super) fn open(
        &self,
        namespace: &str,
        name: &str,
        sealed: &SealedSecret,
    ) -> Result<SecretString, SecretError> {
        let damaged = || SecretError::Damaged {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let (nonce, rest) = sealed
            .bytes
            .split_at_checked(NONCE_LEN)
            .ok_or_else(damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| damaged())?;
        let mut value = rest.to_vec();
        let opened = self
            .key
            .open_in_place(nonce, Aad::from(context(namespace, name)), &mut value)
            .map_err(|_| damaged())?
            .len();
        value.truncate(opened);
        let value = String::from_utf8(value).map_err(|_| damaged())?;
        Ok(SecretString::from(value))
    }
}

/// What a ciphertext is bound to.
fn context(namespace: &str, name: &str) -> Vec<u8> {
    // The length tells where one name ends and the other begins.
    let length = (namespace.len() as u64).to_be_bytes();
    [SEAL_CONTEXT, &length, namespace.as_bytes(), name.as_bytes()].concat()
}

fn fingerprint(key: &[u8; KEY_BYTES]) -> String {
    let digest = Sha256::new()
        .chain_update(ID_CONTEXT)
        .chain_update(key)
        .finalize();
    hex(digest.iter().take(ID_BYTES))
}

fn hex<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> String {
    bytes.into_iter().fold(String::new(), |mut text, byte| {
        // Writing to a text does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The file of a key.
#[derive(Clone)]
pub(super) struct KeyFile(pub(super) PathBuf);

impl KeyFile {
    /// The key in it; `None` where there is no file.
    pub(super) async fn read(self) -> Result<Option<SecretKey>, SecretError> {
        blocking(move || read(&self.0)).await
    }

    /// The key in it, and a new one where there is no file. Complete or not there, whatever happens.
    pub(super) async fn create(self) -> Result<SecretKey, SecretError> {
        blocking(move || {
            create(&self.0)?;
            read(&self.0)?.ok_or(SecretError::NoKey { path: self.0 })
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SecretError> + Send + 'static,
) -> Result<T, SecretError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(SecretError::Cipher))
}

fn unusable(path: &Path, reason: &impl ToString) -> SecretError {
    SecretError::KeyFile {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn read(path: &Path) -> Result<Option<SecretKey>, SecretError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(path, &error)),
    };
    let meta = file.metadata().map_err(|error| unusable(path, &error))?;
    if meta.permissions().mode() & 0o077 != 0 {
        let reason = "others than its owner can read or write it; `chmod 600` it";
        return Err(unusable(path, &reason));
    }
    let mut text = String::new();
    let read = file.take(MAX_FILE_BYTES).read_to_string(&mut text);
    read.map_err(|error| unusable(path, &error))?;
    let key = SecretKey::parse(&text.into());
    let reason = "it does not hold 64 hexadecimal digits";
    key.map(Some).ok_or_else(|| unusable(path, &reason))
}

fn create(path: &Path) -> Result<(), SecretError> {
    let mut key = [0; KEY_BYTES];
    rand::fill(&mut key).map_err(|_| SecretError::Cipher)?;
    let text = SecretString::from(format!("{}\n", hex(&key)));
    let dir = path.parent().unwrap_or(Path::new("."));
    let io = |error: std::io::Error| unusable(path, &error);
    // For its owner only.
    let mut draft = tempfile::NamedTempFile::new_in(dir).map_err(io)?;
    draft
        .write_all(text.expose_secret().as_bytes())
        .map_err(io)?;
    draft.as_file().sync_all().map_err(io)?;
    match draft.persist_noclobber(path) {
        Ok(_) => {}
        // Somebody was faster; theirs counts.
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(io(error.error)),
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)
}
