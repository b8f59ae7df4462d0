//! The object store: bytes under their SHA-256, in a local directory or in a bucket.

mod bucket;
mod transfer;

use std::collections::BTreeMap;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetResult, MultipartUpload, ObjectStore as Backend, ObjectStoreExt as _};
use rune_store_runtime::limits::MAX_OBJECT_BYTES;
use rune_store_runtime::{BlobStore, Reject, StoreError};
use tokio::sync::{RwLock, RwLockWriteGuard};
use url::Url;

use crate::{Digest, create_private_dir};

pub use transfer::ObjectBytes;

/// Variables of the environment by their names.
pub type Variables = BTreeMap<&'static str, String>;

/// Objects that are stored or removed wait for few others.
const LOCKS: usize = 64;

/// Pieces in which a larger object is copied, in bytes: every backend takes such.
const PART_BYTES: usize = 8 << 20;

/// An object operation that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The URL names no store that this build can open.
    #[error("cannot open object store `{location}`: {reason}")]
    Open {
        /// The URL or directory, without credentials.
        location: String,
        /// Why.
        reason: String,
    },
    /// There is no such object.
    #[error("object {0} does not exist")]
    NotFound(Digest),
    /// The object is larger than the limit.
    #[error("object has {size} bytes, the limit is {MAX_OBJECT_BYTES}")]
    TooLarge {
        /// Its size in bytes.
        size: u64,
    },
    /// The bytes are not those that were stored.
    #[error("object {expected} is damaged, its content has digest {found}")]
    Damaged {
        /// The digest it is stored under.
        expected: Digest,
        /// The digest of what is there.
        found: Digest,
    },
    /// The bytes did not arrive whole.
    #[error("object {digest} did not arrive whole: {reason}")]
    Interrupted {
        /// Which object.
        digest: Digest,
        /// Why.
        reason: String,
    },
    /// The backend did not say what it holds.
    #[error("cannot list objects")]
    List(#[source] object_store::Error),
    /// The backend failed.
    #[error("cannot {action} object {digest}")]
    Backend {
        /// What was tried.
        action: &'static str,
        /// Which object.
        digest: Digest,
        /// Why.
        #[source]
        source: object_store::Error,
    },
}

impl From<ObjectError> for StoreError {
    fn from(error: ObjectError) -> Self {
        match &error {
            ObjectError::NotFound(digest) => Reject::not_found("object", digest).into(),
            ObjectError::TooLarge { .. } => Reject::invalid(error.to_string()).into(),
            ObjectError::Damaged { expected, .. } => Self::Corrupt {
                what: format!("object {expected}"),
                reason: error.to_string(),
            },
            ObjectError::Backend { source, .. } => Self::Unavailable(format!("{error}: {source}")),
            ObjectError::Interrupted { .. } | ObjectError::Open { .. } => {
                Self::Unavailable(error.to_string())
            }
            ObjectError::List(source) => Self::Unavailable(format!("{error}: {source}")),
        }
    }
}

#[async_trait]
impl BlobStore for ObjectStore {
    async fn put(&self, bytes: Bytes) -> Result<String, StoreError> {
        Ok(Self::put(self, bytes).await?.to_string())
    }

    async fn get(&self, digest: &str) -> Result<Bytes, StoreError> {
        let digest: Digest = digest
            .parse()
            .map_err(|_| Reject::not_found("object", &digest))?;
        Ok(Self::get(self, digest).await?)
    }
}

/// Content-addressed objects. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ObjectStore {
    backend: Arc<dyn Backend>,
    prefix: Path,
    /// Where its objects are, as one path: the directory, or the URL without a query.
    location: PathBuf,
    /// Whether it is a directory of this machine: reading it costs little, and nobody but Rune knows what was stored.
    is_directory: bool,
    /// Held for writing by whoever removes an object that must not be stored meanwhile: one for objects whose digests have
    /// something in common.
    removing: Arc<[RwLock<()>; LOCKS]>,
}

impl ObjectStore {
    /// Opens a store by URL (`s3://BUCKET/PREFIX`, `gs://…`, `az://CONTAINER/PREFIX`, `file:///…`) or by a directory's
    /// path, which is created. Buckets and containers are there already; nothing is asked of them yet. `variables` are
    /// those of the environment that say who asks, and where.
    ///
    /// # Errors
    /// [`ObjectError::Open`].
    pub fn open(location: &str, variables: &Variables) -> Result<Self, ObjectError> {
        if !location.contains("://") {
            return Self::open_directory(FsPath::new(location));
        }
        let url = Url::parse(location).map_err(|error| open_error("the URL", &error))?;
        if url.scheme() == "file" {
            let directory = url.to_file_path();
            let directory = directory.map_err(|()| open_error(location, "the URL has no path"))?;
            return Self::open_directory(&directory);
        }
        let (backend, prefix) = bucket::open(&url, variables)?;
        let bucket = format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
        let location = FsPath::new(&bucket).join(prefix.as_ref());
        Ok(Self::new(backend, prefix, location, false))
    }

    /// The directory that a location names, where it is one.
    #[must_use]
    pub fn directory(location: &str) -> Option<PathBuf> {
        if location.starts_with("file://") {
            return Url::parse(location).ok()?.to_file_path().ok();
        }
        (!location.contains("://")).then(|| location.into())
    }

    /// Opens a store in a directory, which is created. An object is on disk, with
    /// its directory entry, before [`ObjectStore::put`] answers.
    ///
    /// # Errors
    /// [`ObjectError::Open`].
    pub fn open_directory(directory: &FsPath) -> Result<Self, ObjectError> {
        let shown = directory.display();
        create_private_dir(directory).map_err(|error| open_error(&shown, &error))?;
        let backend = LocalFileSystem::new_with_prefix(directory)
            .map_err(|error| open_error(&shown, &error))?
            .with_fsync(true);
        let location = directory.canonicalize();
        let location = location.map_err(|error| open_error(&shown, &error))?;
        Ok(Self::new(
            Arc::new(backend),
            Path::default(),
            location,
            true,
        ))
    }

    fn new(backend: Arc<dyn Backend>, prefix: Path, location: PathBuf, is_directory: bool) -> Self {
        Self {
            backend,
            prefix,
            location,
            is_directory,
            removing: Arc::new(std::array::from_fn(|_| RwLock::default())),
        }
    }

    /// Nobody stores this object in this process while this is held.
    pub(crate) async fn alone(&self, digest: Digest) -> RwLockWriteGuard<'_, ()> {
        self.lock(digest).write().await
    }

    fn lock(&self, digest: Digest) -> &RwLock<()> {
        let [first, ..] = digest.as_bytes();
        &self.removing[usize::from(*first) % LOCKS]
    }

    /// Stores bytes and answers their digest. Storing them again changes nothing but how old they are.
    ///
    /// # Errors
    /// [`ObjectError::TooLarge`], [`ObjectError::Backend`].
    pub async fn put(&self, bytes: Bytes) -> Result<Digest, ObjectError> {
        if bytes.len() > MAX_OBJECT_BYTES {
            return Err(ObjectError::TooLarge {
                size: bytes.len() as u64,
            });
        }
        let digest = Digest::of(&bytes);
        self.write(digest, bytes).await?;
        Ok(digest)
    }

    /// The bytes of an object, checked against the digest.
    ///
    /// # Errors
    /// [`ObjectError::NotFound`], [`ObjectError::Damaged`], [`ObjectError::TooLarge`],
    /// [`ObjectError::Backend`].
    pub async fn get(&self, digest: Digest) -> Result<Bytes, ObjectError> {
        let object = self.open_object(digest).await?;
        let failed = |source| backend_error("get", digest, source);
        let bytes = object.bytes().await.map_err(failed)?;
        same(digest, Digest::of(&bytes))?;
        Ok(bytes)
    }

    /// The size of an object in bytes, or nothing where it does not exist.
    ///
    /// # Errors
    /// [`ObjectError::Backend`].
    pub async fn head(&self, digest: Digest) -> Result<Option<u64>, ObjectError> {
        match self.backend.head(&self.path(digest)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(backend_error("look up", digest, source)),
        }
    }

    /// Deletes an object. Deleting one that is gone is no error.
    ///
    /// # Errors
    /// [`ObjectError::Backend`].
    pub async fn delete(&self, digest: Digest) -> Result<(), ObjectError> {
        match self.backend.delete(&self.path(digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(backend_error("delete", digest, source)),
        }
    }

    /// A store of its own below this one.
    pub(crate) fn below(&self, name: &str) -> Self {
        Self {
            prefix: self.prefix.clone().join(name),
            location: self.location.join(name),
            ..self.clone()
        }
    }

    /// Whether objects of the one are among those of the other.
    pub(crate) fn is_shared_with(&self, other: &Self) -> bool {
        let [own, others] = [self, other].map(|store| store.location.join("sha256"));
        own.starts_with(&others) || others.starts_with(&own)
    }

    /// The URL of its bucket and the prefix in it, which hold no credentials; nothing where it is a directory.
    #[must_use]
    pub fn bucket(&self) -> Option<&str> {
        self.location.to_str().filter(|_| !self.is_directory)
    }

    /// The directory that it is kept in, where it is in one.
    pub(crate) fn local(&self) -> Option<&FsPath> {
        self.is_directory.then_some(self.location.as_path())
    }

    /// What it is kept in, and where there.
    pub(crate) fn place(&self) -> (&dyn Backend, &Path) {
        (self.backend.as_ref(), &self.prefix)
    }

    /// Whether an object is there as it was stored. A directory is read to know; a bucket keeps checksums itself, so that
    /// its word for the length is enough.
    async fn holds(&self, digest: Digest, size: u64) -> Result<bool, ObjectError> {
        if !self.is_directory {
            return Ok(self.head(digest).await? == Some(size));
        }
        // What cannot be read is written again.
        Ok(self.check(digest).await.is_ok_and(|found| found == size))
    }

    /// Stores bytes, also over what is there under their digest and is not what it was: cut off, or altered. Answers how
    /// many bytes were written.
    ///
    /// # Errors
    /// As [`ObjectStore::put`].
    pub(crate) async fn put_whole(&self, bytes: Bytes) -> Result<(Digest, u64), ObjectError> {
        let digest = Digest::of(&bytes);
        let size = bytes.len() as u64;
        if self.holds(digest, size).await? {
            return Ok((digest, 0));
        }
        self.write(digest, bytes).await?;
        Ok((digest, size))
    }

    /// Writes an object, over what is there; a larger one in parts, so that no request is long.
    async fn write(&self, digest: Digest, mut bytes: Bytes) -> Result<(), ObjectError> {
        let _storing = self.lock(digest).read().await;
        let failed = |source| backend_error("put", digest, source);
        let path = self.path(digest);
        if bytes.len() <= PART_BYTES {
            let put = self.backend.put(&path, bytes.into()).await;
            return put.map(drop).map_err(failed);
        }
        let mut upload = self.backend.put_multipart(&path).await.map_err(failed)?;
        while !bytes.is_empty() {
            let part = bytes.split_to(PART_BYTES.min(bytes.len()));
            if let Err(error) = upload.put_part(part.into()).await {
                give_up(upload.as_mut()).await;
                return Err(failed(error));
            }
        }
        finish(upload.as_mut(), digest).await
    }

    async fn open_object(&self, digest: Digest) -> Result<GetResult, ObjectError> {
        let failed = |source| backend_error("get", digest, source);
        let object = self.backend.get(&self.path(digest)).await.map_err(failed)?;
        if object.meta.size > MAX_OBJECT_BYTES as u64 {
            return Err(ObjectError::TooLarge {
                size: object.meta.size,
            });
        }
        Ok(object)
    }

    /// Where an object is, or would be.
    pub(crate) fn path(&self, digest: Digest) -> Path {
        let hex = digest.hex();
        let (fan, rest) = hex.split_at(2);
        self.prefix.clone().join("sha256").join(fan).join(rest)
    }
}

/// Makes an upload the object, or leaves nothing of it.
async fn finish(upload: &mut dyn MultipartUpload, digest: Digest) -> Result<(), ObjectError> {
    match upload.complete().await {
        Ok(_) => Ok(()),
        Err(error) => {
            give_up(upload).await;
            Err(backend_error("put", digest, error))
        }
    }
}

/// Ends an upload of which nothing is to be left.
async fn give_up(upload: &mut dyn MultipartUpload) {
    // What is left all the same costs room and nothing else; the error before counts.
    let _ = upload.abort().await;
}

fn same(expected: Digest, found: Digest) -> Result<(), ObjectError> {
    if found == expected {
        Ok(())
    } else {
        Err(ObjectError::Damaged { expected, found })
    }
}

pub(crate) fn open_error(
    location: &(impl ToString + ?Sized),
    reason: &(impl ToString + ?Sized),
) -> ObjectError {
    ObjectError::Open {
        location: location.to_string(),
        reason: reason.to_string(),
    }
}

fn backend_error(action: &'static str, digest: Digest, source: object_store::Error) -> ObjectError {
    match source {
        // Elsewhere it is what the object is put into that is missing.
        object_store::Error::NotFound { .. } if action == "get" => ObjectError::NotFound(digest),
        source => ObjectError::Backend {
            action,
            digest,
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, ObjectStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = ObjectStore::open_directory(directory.path()).unwrap();
        (directory, store)
    }

    #[tokio::test]
    async fn an_object_is_found_under_its_digest() {
        let (directory, store) = store();
        let digest = store.put(Bytes::from_static(b"abc")).await.unwrap();
        assert_eq!(digest, Digest::of(b"abc"));
        assert_eq!(store.put(Bytes::from_static(b"abc")).await.unwrap(), digest);
        assert_eq!(store.get(digest).await.unwrap(), "abc");
        assert_eq!(store.head(digest).await.unwrap(), Some(3));
        let (fan, rest) = (&digest.hex()[..2], &digest.hex()[2..]);
        assert!(
            directory
                .path()
                .join("sha256")
                .join(fan)
                .join(rest)
                .is_file()
        );
        store.delete(digest).await.unwrap();
        store.delete(digest).await.unwrap();
        assert_eq!(store.head(digest).await.unwrap(), None);
        assert!(matches!(
            store.get(digest).await,
            Err(ObjectError::NotFound(_))
        ));
    }

    #[tokio::test]
    async fn a_damaged_object_is_not_handed_out() {
        let (directory, store) = store();
        let digest = store.put(Bytes::from_static(b"abc")).await.unwrap();
        let (fan, rest) = (&digest.hex()[..2], &digest.hex()[2..]);
        std::fs::write(directory.path().join("sha256").join(fan).join(rest), "abd").unwrap();
        assert!(matches!(
            store.get(digest).await,
            Err(ObjectError::Damaged { .. })
        ));
    }

    #[tokio::test]
    async fn a_large_object_is_copied_in_parts_and_a_damaged_one_is_not_copied() {
        let ((here, from), (_there, to)) = (store(), store());
        let bytes: Vec<u8> = (0..PART_BYTES * 2 + 5).map(|n| (n % 251) as u8).collect();
        let (large, small) = (Bytes::from(bytes), Bytes::from_static(b"abc"));
        for object in [&large, &small] {
            let size = object.len() as u64;
            let digest = from.put(object.clone()).await.unwrap();
            assert_eq!(to.copy_from(&from, digest).await.unwrap(), (size, size));
            assert_eq!(to.copy_from(&from, digest).await.unwrap(), (size, 0));
            assert_eq!(to.check(digest).await.unwrap(), size);
            assert_eq!(to.get(digest).await.unwrap(), object);

            to.delete(digest).await.unwrap();
            let path = here.path().join(from.path(digest).as_ref());
            let mut damaged = object.to_vec();
            damaged[1] ^= 1;
            std::fs::write(path, damaged).unwrap();
            let error = to.copy_from(&from, digest).await.unwrap_err();
            assert!(matches!(error, ObjectError::Damaged { .. }), "{error}");
            assert_eq!(to.head(digest).await.unwrap(), None);
            assert!(from.check(digest).await.is_err());
        }
    }

    #[tokio::test]
    async fn what_is_here_is_restored_unless_it_is_the_same_to_the_last_byte() {
        let ((_here, from), (there, to)) = (store(), store());
        let digest = from.put(Bytes::from_static(b"abc")).await.unwrap();
        to.restore_from(&from, digest).await.unwrap();
        let path = there.path().join(to.path(digest).as_ref());
        std::fs::write(&path, "abd").unwrap();
        to.restore_from(&from, digest).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"abc");
        from.delete(digest).await.unwrap();
        to.restore_from(&from, digest).await.unwrap();
    }

    #[test]
    fn stores_are_shared_where_their_objects_are() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display();
        let open = |location: &str| ObjectStore::open(location, &Variables::new()).unwrap();
        let local = open(&format!("{path}/objects"));
        assert!(local.is_shared_with(&open(&format!("file://{path}")).below("objects")));
        assert!(local.is_shared_with(&open(&format!("{path}/objects/sha256/backups"))));
        assert!(!local.is_shared_with(&open(&format!("{path}/objects/backups"))));
        let bucket = open("s3://acme/rune/objects/");
        assert!(bucket.is_shared_with(&open("s3://acme/rune").below("objects")));
        assert!(!bucket.is_shared_with(&open("s3://acme/rune")));
        assert!(!bucket.is_shared_with(&open("gs://acme/rune/objects")));
    }

    #[test]
    fn an_unknown_store_is_refused_by_name() {
        for (location, expected) in [
            ("s3://acme:9000/x", "s3://acme"),
            ("s3://acme/x?sig=secret", "s3://acme"),
            ("s3://acme/x#secret", "s3://acme"),
            ("gopher://host/x", "gopher://host"),
            ("https://user:secret@host/x", "https://host"),
            ("memory:///", "memory://"),
            ("az://container/x", "az://container"),
        ] {
            let error = ObjectStore::open(location, &Variables::new()).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(expected), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }
}
