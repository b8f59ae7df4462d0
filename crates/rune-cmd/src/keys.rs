//! Files of keys.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rune_env::Config;
use rune_oci::{PublicKey, SigningKey};

use crate::failure::{Failure, Outcome};

/// Largest file of a key, in bytes.
const MAX_KEY_BYTES: u64 = 64 << 10;

/// The text of a private key, which nobody else may read.
pub(crate) fn private_text(path: &Path) -> Result<String, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let meta = file.metadata().map_err(|error| error.to_string())?;
    if meta.permissions().mode() & 0o077 != 0 {
        return Err("others than its owner can read it; `chmod 600` it".to_owned());
    }
    text_of(file)
}

/// The key that signs packages.
pub(crate) fn signing(path: &Path) -> Outcome<SigningKey> {
    let key = private_text(path);
    let key = key.and_then(|text| SigningKey::from_pem(&text).map_err(|error| error.to_string()));
    key.map_err(|why| {
        Failure::usage(format!("the key {} cannot be used: {why}", path.display())).help(
            "`rune key generate NAME` makes NAME.key, which signs, and NAME.pub, which verifies",
        )
    })
}

/// A key that verifies packages.
pub(crate) fn public(path: &Path) -> Outcome<PublicKey> {
    let text = File::open(path).map_err(|error| error.to_string());
    let key = text
        .and_then(text_of)
        .and_then(|text| PublicKey::from_pem(&text).map_err(|error| error.to_string()));
    key.map_err(|why| {
        Failure::usage(format!("the key {} cannot be used: {why}", path.display())).help(
            "`rune key generate NAME` makes NAME.key, which signs, and NAME.pub, which verifies",
        )
    })
}

/// The keys whose packages may be deployed and run from a registry; none: those of everybody.
pub(crate) fn trusted(config: &Config) -> Outcome<Vec<PublicKey>> {
    let keys = config.packages.trusted_keys.iter().map(|path| public(path));
    let keys: Outcome<Vec<PublicKey>> = keys.collect();
    keys.map_err(|failure| {
        failure.help("it is one of `packages.trusted_keys`, see `rune config show`")
    })
}

fn text_of(file: File) -> Result<String, String> {
    let mut text = String::new();
    let read = file.take(MAX_KEY_BYTES).read_to_string(&mut text);
    read.map(|_| text).map_err(|error| error.to_string())
}
