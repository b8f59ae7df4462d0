//! Removing objects that no row refers to.
//!
//! An object is there before the row that names it. So one that no row names is removed only when it was written long
//! enough ago that its row would be there; storing it again makes it new. An object that is being stored is not removed,
//! and a backup that is being made keeps all of them.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use futures_util::TryStreamExt as _;
use object_store::{ObjectMeta, ObjectStoreExt as _};
use rune_store_runtime::Timestamp;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::backup::mentioned;
use crate::object::ObjectError;
use crate::{Digest, ObjectStore, SqliteStore, StorageError};

/// Name of the lock file, beside the database.
const LOCK: &str = "objects.lock";

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Objects.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Says whether objects may be removed. The kernel's lock on the file counts, and ends with the process.
#[derive(Debug)]
pub struct ObjectsLock {
    _file: File,
}

impl ObjectsLock {
    /// Has no object be removed: of the store of the database at this path. Waits for a sweep that is under way.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn keep(database: &Path) -> Result<Self, StorageError> {
        let lock = Self::take(database, FlockOperation::LockShared)?;
        lock.ok_or_else(|| io(&beside(database))(Errno::WOULDBLOCK.into()))
    }

    /// The right to remove objects; none while somebody keeps them.
    fn remove(database: &Path) -> Result<Option<Self>, StorageError> {
        Self::take(database, FlockOperation::NonBlockingLockExclusive)
    }

    fn take(database: &Path, how: FlockOperation) -> Result<Option<Self>, StorageError> {
        let path = beside(database);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io(&path))?;
        match flock(&file, how) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(io(&path)(error.into())),
        }
    }
}

impl SqliteStore {
    /// Removes objects that no row refers to and that were written before `written_before`. Removes nothing where a backup is
    /// being made, and nothing on a node of a cluster: its rows may be behind, and others store objects, too.
    ///
    /// # Errors
    /// [`StorageError`] where the rows cannot be read, [`StorageError::Objects`].
    pub async fn sweep(
        &self,
        objects: &ObjectStore,
        written_before: Timestamp,
    ) -> Result<Swept, StorageError> {
        if self.is_replicated() {
            return Ok(Swept::default());
        }
        let Some(_lock) = ObjectsLock::remove(self.path())? else {
            return Ok(Swept::default());
        };
        let old = objects.written_before(written_before).await;
        let old = old.map_err(StorageError::Objects)?;
        if old.is_empty() {
            return Ok(Swept::default());
        }
        // After the list was made: what is in it and was given its row since then is in the rows.
        let kept = self.maintain("read", |_, db| mentioned(db).map(Ok)).await?;
        let unused = old.into_iter().filter(|digest| !kept.contains(digest));
        let mut swept = Swept::default();
        for digest in unused {
            let bytes = objects.remove_old(digest, written_before).await;
            if let Some(bytes) = bytes.map_err(StorageError::Objects)? {
                swept.objects += 1;
                swept.bytes += bytes;
            }
        }
        Ok(swept)
    }
}

impl ObjectStore {
    /// The objects that were written before a moment.
    async fn written_before(&self, moment: Timestamp) -> Result<BTreeSet<Digest>, ObjectError> {
        let (backend, prefix) = self.place();
        let folder = prefix.clone().join("sha256");
        let old = backend.list(Some(&folder)).try_filter_map(|meta| {
            let is_old = is_older(&meta, moment);
            std::future::ready(Ok(is_old.then(|| digest_of(&meta)).flatten()))
        });
        old.try_collect().await.map_err(ObjectError::List)
    }

    /// Removes an object, unless it was written since then. Answers its size where it was removed.
    async fn remove_old(
        &self,
        digest: Digest,
        moment: Timestamp,
    ) -> Result<Option<u64>, ObjectError> {
        // Nobody stores it between the look and the removal.
        let _alone = self.alone().await;
        let (backend, _) = self.place();
        match backend.head(&self.path(digest)).await {
            Ok(meta) if is_older(&meta, moment) => {
                self.delete(digest).await?;
                Ok(Some(meta.size))
            }
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(ObjectError::Backend {
                action: "look up",
                digest,
                source,
            }),
        }
    }
}

fn is_older(meta: &ObjectMeta, moment: Timestamp) -> bool {
    meta.last_modified.timestamp_millis() < moment.as_millis()
}

/// The digest that an object is stored under; nothing for what else is there.
fn digest_of(meta: &ObjectMeta) -> Option<Digest> {
    let mut parts = meta.location.as_ref().rsplit('/');
    let (rest, fan) = (parts.next()?, parts.next()?);
    format!("sha256:{fan}{rest}").parse().ok()
}

fn beside(database: &Path) -> PathBuf {
    database.with_file_name(LOCK)
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> StorageError + '_ {
    move |source| StorageError::Io {
        action: "lock",
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use bytes::Bytes;
    use rune_store_runtime::{CachePut, Store, SystemClock};

    use super::*;
    use crate::StorageConfig;

    struct Rig {
        directory: tempfile::TempDir,
        store: Arc<SqliteStore>,
        objects: ObjectStore,
    }

    impl Rig {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let config = StorageConfig::new(directory.path().join("rune.db"));
            Self {
                store: Arc::new(SqliteStore::open(config).unwrap()),
                objects: ObjectStore::open_directory(&directory.path().join("objects")).unwrap(),
                directory,
            }
        }

        /// Has an object be as old as an hour.
        fn age(&self, digest: Digest) {
            let path = self.directory.path().join("objects");
            let file = File::options()
                .write(true)
                .open(path.join(self.objects.path(digest).as_ref()))
                .unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(3600))
                .unwrap();
        }

        async fn put(&self, text: &'static str) -> Digest {
            self.objects
                .put(Bytes::from_static(text.as_bytes()))
                .await
                .unwrap()
        }

        /// Sweeps what is older than a minute.
        async fn sweep(&self) -> Swept {
            use rune_store_runtime::Clock as _;
            let moment = SystemClock.now().minus(Duration::from_secs(60));
            self.store.sweep(&self.objects, moment).await.unwrap()
        }

        async fn is_there(&self, digest: Digest) -> bool {
            self.objects.head(digest).await.unwrap().is_some()
        }
    }

    #[tokio::test]
    async fn only_what_is_old_and_named_by_no_row_is_removed() {
        let rig = Rig::new();
        let (young, old, named) = (
            rig.put("young").await,
            rig.put("old").await,
            rig.put("named").await,
        );
        rig.age(old);
        rig.age(named);
        let foreign = rig.directory.path().join("objects/sha256/ab/what-is-this");
        std::fs::create_dir_all(foreign.parent().unwrap()).unwrap();
        std::fs::write(&foreign, "").unwrap();
        let store = Store::new(Arc::clone(&rig.store) as _, Arc::new(SystemClock));
        let canvas = CachePut {
            key: "canvas:1".to_owned(),
            value: serde_json::json!({"digest": named}),
            expires_at: Timestamp::from_millis(i64::MAX),
        };
        store.write(canvas).await.unwrap();
        assert_eq!(
            rig.sweep().await,
            Swept {
                objects: 1,
                bytes: 3
            }
        );
        assert!(!rig.is_there(old).await);
        assert!(rig.is_there(young).await && rig.is_there(named).await && foreign.exists());
        assert_eq!(rig.sweep().await, Swept::default());
    }

    #[tokio::test]
    async fn a_backup_keeps_all_of_them() {
        let rig = Rig::new();
        let old = rig.put("old").await;
        rig.age(old);
        let kept = ObjectsLock::keep(&rig.directory.path().join("rune.db")).unwrap();
        assert_eq!(rig.sweep().await, Swept::default());
        drop(kept);
        assert_eq!(rig.sweep().await.objects, 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_stored_again_while_it_is_removed_is_there() {
        let rig = Rig::new();
        for _ in 0..200 {
            let digest = rig.put("again").await;
            rig.age(digest);
            let (_, stored) = tokio::join!(rig.sweep(), rig.put("again"));
            assert!(rig.is_there(stored).await);
        }
    }
}
