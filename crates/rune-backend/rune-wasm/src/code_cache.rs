//! Compiled modules on disk.
//!
//! What is loaded from here runs as machine code, so nothing is believed that this user did not write: the directory and
//! its key are private, and every file is sealed with the key, over the module it was made of, the compiler that made it
//! and the code. A file whose seal does not hold is made anew.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use wasmtime::Engine;

/// What a file begins with; changes with the form of the files.
const MAGIC: &[u8; 8] = b"runewasm";
const SEAL_BYTES: usize = 32;
/// A block of the hash: longer keys are worth nothing, shorter ones take a step more.
const KEY_BYTES: usize = 64;
const KEY_FILE: &str = "key";
const EXTENSION: &str = "code";
/// Bytes of all files; the ones that were made first go first.
const MAX_TOTAL_BYTES: u64 = 1 << 30;

/// SHA-256 of a module.
pub(crate) type ModuleDigest = [u8; 32];

/// A directory of compiled modules.
pub(crate) struct CodeCache {
    dir: PathBuf,
    key: [u8; KEY_BYTES],
    /// Which compiler, with which settings.
    compiler: [u8; 32],
}

impl CodeCache {
    /// Opens the directory; makes it, and its key, where they are not there.
    pub(crate) fn open(dir: &Path, engine: &Engine) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        check_private(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            key: key(dir)?,
            compiler: compiler(engine),
        })
    }

    /// The code of a module, where there is some that can be trusted.
    pub(crate) fn get(&self, module: &ModuleDigest) -> Option<Vec<u8>> {
        let path = self.path(module);
        let mut bytes = Vec::new();
        let mut file = File::open(&path).ok()?;
        file.read_to_end(&mut bytes).ok()?;
        let code = bytes.get(MAGIC.len() + SEAL_BYTES..)?;
        let seal = &bytes[MAGIC.len()..MAGIC.len() + SEAL_BYTES];
        let sealed = self.sealed(module, code).verify_slice(seal).is_ok();
        if !bytes.starts_with(MAGIC) || !sealed {
            tracing::warn!(file = %path.display(), "a compiled module was changed; it is compiled again");
            return None;
        }
        bytes.drain(..MAGIC.len() + SEAL_BYTES);
        Some(bytes)
    }

    /// Keeps the code of a module.
    pub(crate) fn put(&self, module: &ModuleDigest, code: &[u8]) -> io::Result<()> {
        let seal = self.sealed(module, code).finalize().into_bytes();
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        for part in [MAGIC.as_slice(), &seal, code] {
            file.write_all(part)?;
        }
        // Not synced: what a power loss leaves has no valid seal.
        file.persist(self.path(module))
            .map_err(|error| error.error)?;
        self.prune()
    }

    fn sealed(&self, module: &ModuleDigest, code: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new(&self.key.into());
        for part in [MAGIC.as_slice(), &self.compiler, module, code] {
            mac.update(part);
        }
        mac
    }

    fn path(&self, module: &ModuleDigest) -> PathBuf {
        let name = Sha256::new()
            .chain_update(self.compiler)
            .chain_update(module)
            .finalize();
        self.dir.join(hex(&name)).with_extension(EXTENSION)
    }

    fn prune(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == EXTENSION)
            {
                let meta = fs::metadata(&path)?;
                files.push((meta.modified()?, meta.len(), path));
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in files {
            if total <= MAX_TOTAL_BYTES {
                break;
            }
            fs::remove_file(path)?;
            total -= bytes;
        }
        Ok(())
    }
}

/// Fails where somebody else can write to the directory.
fn check_private(dir: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(dir)?;
    let is_own = meta.uid() == rustix::process::geteuid().as_raw();
    if meta.is_dir() && is_own && meta.mode() & 0o022 == 0 {
        Ok(())
    } else {
        let message = format!("{} can be changed by others", dir.display());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
    }
}

/// The key of the directory.
fn key(dir: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let path = dir.join(KEY_FILE);
    if let Ok(known) = fs::read(&path)
        && let Ok(key) = known.try_into()
    {
        return Ok(key);
    }
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(&path)?.write_all(&key)?;
    Ok(key)
}

/// Everything that compiled code depends on besides the module.
fn compiler(engine: &Engine) -> [u8; 32] {
    let mut hasher = ShaHasher(Sha256::new());
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.0.finalize().into()
}

struct ShaHasher(Sha256);

impl Hasher for ShaHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        // Nobody asks: the whole digest is taken.
        0
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a text does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sealed_here_for_this_module_comes_back() {
        let engine = Engine::default();
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("cache");
        let cache = CodeCache::open(&dir, &engine).unwrap();
        let (one, two) = ([1; 32], [2; 32]);
        assert_eq!(cache.get(&one), None);
        cache.put(&one, b"code").unwrap();
        assert_eq!(cache.get(&one).as_deref(), Some(b"code".as_slice()));
        assert_eq!(
            CodeCache::open(&dir, &engine).unwrap().get(&one).unwrap(),
            b"code"
        );

        // A file of another module, under this one's name.
        fs::copy(cache.path(&one), cache.path(&two)).unwrap();
        assert_eq!(cache.get(&two), None);
        let whole = fs::read(cache.path(&one)).unwrap();
        for at in [0, 9, whole.len() - 1] {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(cache.path(&one), &changed).unwrap();
            assert_eq!(cache.get(&one), None, "byte {at}");
        }
        for length in [0, 7, 39, 40, whole.len() - 1] {
            fs::write(cache.path(&one), &whole[..length]).unwrap();
            assert_eq!(cache.get(&one), None, "{length} bytes");
        }
        // Sealed with another key.
        fs::write(cache.path(&one), &whole).unwrap();
        fs::remove_file(dir.join(KEY_FILE)).unwrap();
        assert_eq!(CodeCache::open(&dir, &engine).unwrap().get(&one), None);
    }

    #[test]
    fn a_directory_that_others_can_change_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("cache");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(CodeCache::open(&dir, &Engine::default()).is_err());
    }
}
