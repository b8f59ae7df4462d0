//! Removing objects that no row refers to.
//!
//! An object is there before the row that names it. So one that no row names is removed only when it was written long
//! enough ago that its row would be there, and since no request runs any more that may have kept it for its end; storing
//! it again makes it new. An object that is being stored is not removed, and a backup that is being made keeps all of them.
//!
//! What is older than every row of the database is not of this database and stays: somebody may have put another one in
//! its place.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use futures_util::TryStreamExt as _;
use object_store::{ObjectMeta, ObjectStoreExt as _};
use rune_store_runtime::Timestamp;
use rusqlite::Connection;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::backup::mentioned;
use crate::object::ObjectError;
use crate::row::maybe_time;
use crate::{Digest, ObjectStore, SqliteStore, StorageError};

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Objects.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Says whether objects may be removed: the kernel's lock on the directory of the database, which ends with the process.
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
        lock.ok_or_else(|| io(database)(Errno::WOULDBLOCK.into()))
    }

    /// The right to remove objects; none while somebody keeps them.
    fn remove(database: &Path) -> Result<Option<Self>, StorageError> {
        Self::take(database, FlockOperation::NonBlockingLockExclusive)
    }

    fn take(database: &Path, how: FlockOperation) -> Result<Option<Self>, StorageError> {
        let path = match database.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let file = File::open(path).map_err(io(path))?;
        match flock(&file, how) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(io(path)(error.into())),
        }
    }
}

impl SqliteStore {
    /// The objects that rows refer to, and every other digest in a text of one.
    ///
    /// # Errors
    /// [`StorageError`] where the rows cannot be read.
    pub async fn objects_named(&self) -> Result<BTreeSet<Digest>, StorageError> {
        self.maintain("read", |_, db| mentioned(db).map(Ok)).await
    }

    /// Removes objects that no row refers to and that were written before `written_before`. Nothing is answered where a backup
    /// is being made, which keeps all of them. Removes nothing where the rows are not the newest: on a node of a cluster, which
    /// may be behind, `newest` has them be, or says that they are not. Dropped, it leaves off after the object that it is at.
    ///
    /// # Errors
    /// [`StorageError`] where the rows cannot be read, [`StorageError::Objects`].
    pub async fn sweep(
        &self,
        objects: &ObjectStore,
        written_before: Timestamp,
        newest: impl Future<Output = bool>,
    ) -> Result<Option<Swept>, StorageError> {
        let Some(lock) = ObjectsLock::remove(self.path())?.map(Arc::new) else {
            return Ok(None);
        };
        objects.remove_staged(written_before).await?;
        let old = objects.written_before(written_before).await;
        let old = old.map_err(StorageError::Objects)?;
        if old.is_empty() {
            return Ok(Some(Swept::default()));
        }
        // After the list was made: what is in it and was given its row since then is in the rows.
        if !newest.await {
            return Ok(Some(Swept::default()));
        }
        let known = self
            .maintain("read", |_, db| Known::read(db).map(Ok))
            .await?;
        let Some(first) = known.first else {
            return Ok(Some(Swept::default()));
        };
        let before = known
            .unfinished
            .map_or(written_before, |at| at.min(written_before));
        let unused = old
            .into_iter()
            .filter(|digest| !known.mentioned.contains(digest));
        let mut swept = Swept::default();
        for digest in unused {
            let (objects, lock) = (objects.clone(), Arc::clone(&lock));
            // Begun, it is done to its end, and under the lock.
            #[expect(
                clippy::disallowed_methods,
                reason = "it is waited for here, and ends by itself where nobody waits any more"
            )]
            let removing = tokio::spawn(async move {
                let removed = objects.remove_old(digest, first, before).await;
                drop(lock);
                removed
            });
            let bytes = removing.await.map_err(|error| StorageError::Thread {
                name: "sweep",
                problem: error.to_string(),
            })?;
            if let Some(bytes) = bytes.map_err(StorageError::Objects)? {
                swept.objects += 1;
                swept.bytes += bytes;
            }
        }
        Ok(Some(swept))
    }
}

/// What a database says of objects, at one moment of it.
struct Known {
    /// Every digest that is in a text anywhere.
    mentioned: BTreeSet<Digest>,
    /// When its oldest row came to be; nothing where it has none.
    first: Option<Timestamp>,
    /// When the oldest request was accepted that has not ended: it may have stored what it names at its end only.
    unfinished: Option<Timestamp>,
}

impl Known {
    fn read(db: &Connection) -> rusqlite::Result<Self> {
        let moment = db.unchecked_transaction()?;
        let time = |query| moment.query_row(query, [], |row| maybe_time(row, 0));
        Ok(Self {
            mentioned: mentioned(&moment)?,
            first: time(
                "SELECT min(at) FROM (SELECT min(created_at) AS at FROM versions
                 UNION ALL SELECT min(created_at) FROM sessions UNION ALL SELECT min(at) FROM audit)",
            )?,
            unfinished: time(
                "SELECT min(created_at) FROM requests
                 WHERE status = 'accepted' OR status = 'running' OR status = 'input-required'",
            )?,
        })
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

    /// Removes what writes have left in a directory that a crash interrupted: no list shows it.
    async fn remove_staged(&self, before: Timestamp) -> Result<(), StorageError> {
        let Some(directory) = self.local() else {
            return Ok(());
        };
        let folder = directory.join("sha256");
        let path = folder.clone();
        let removing = tokio::task::spawn_blocking(move || remove_staged(&folder, before)).await;
        let removed = removing.map_err(std::io::Error::other).flatten();
        removed.map_err(|source| StorageError::Io {
            action: "look through",
            path,
            source,
        })
    }

    /// Removes an object that was written between these moments. Answers its size where it was removed.
    async fn remove_old(
        &self,
        digest: Digest,
        first: Timestamp,
        before: Timestamp,
    ) -> Result<Option<u64>, ObjectError> {
        // Nobody stores it between the look and the removal.
        let _alone = self.alone(digest).await;
        let (backend, _) = self.place();
        match backend.head(&self.path(digest)).await {
            Ok(meta) if is_older(&meta, before) && !is_older(&meta, first) => {
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

/// How `object_store` names what it writes, until it is whole: the name, `#` and a number.
const STAGED: char = '#';

fn remove_staged(folder: &Path, before: Timestamp) -> std::io::Result<()> {
    let fans = match std::fs::read_dir(folder) {
        Ok(fans) => fans,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for fan in fans {
        let fan = fan?;
        if !fan.file_type()?.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(fan.path())? {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().contains(STAGED) {
                continue;
            }
            match remove_staged_file(&entry, before) {
                // It became whole, or was given up, since the folder was read.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
    }
    Ok(())
}

fn remove_staged_file(entry: &std::fs::DirEntry, before: Timestamp) -> std::io::Result<()> {
    let meta = entry.metadata()?;
    let age = meta.modified()?.duration_since(UNIX_EPOCH);
    let age = age.map_or(0, |age| age.as_millis());
    let is_old = i64::try_from(age).is_ok_and(|written| written < before.as_millis());
    if meta.is_file() && is_old {
        std::fs::remove_file(entry.path())?;
    }
    Ok(())
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

fn io(path: &Path) -> impl Fn(std::io::Error) -> StorageError + '_ {
    move |source| StorageError::Io {
        action: "lock",
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
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

        /// A minute ago.
        fn moment(&self) -> Timestamp {
            use rune_store_runtime::Clock as _;
            SystemClock.now().minus(Duration::from_secs(60))
        }

        /// Sweeps what is older than a minute.
        async fn sweep(&self) -> Swept {
            let moment = self.moment();
            self.store
                .sweep(&self.objects, moment, ready(true))
                .await
                .unwrap()
                .expect("no backup is being made")
        }

        /// Has the database be so many seconds old.
        fn begin(&self, seconds: u64) {
            use rune_store_runtime::Clock as _;
            let at = SystemClock.now().minus(Duration::from_secs(seconds));
            let db = Connection::open(self.directory.path().join("rune.db")).unwrap();
            let sql = "INSERT INTO sessions (session_id, namespace, agent, created_at, metadata)
                       VALUES ('s', 'dev', 'agent', ?1, '{}')";
            db.execute(sql, [at.as_millis()]).unwrap();
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
        let folder = rig.directory.path().join("objects/sha256/ab");
        let foreign = folder.join("what-is-this");
        let staged = ["#1", "#2"].map(|end| folder.join(format!("{}{end}", "0".repeat(62))));
        std::fs::create_dir_all(foreign.parent().unwrap()).unwrap();
        std::fs::write(&foreign, "").unwrap();
        for (path, hours) in staged.iter().zip([0, 1]) {
            let file = File::create(path).unwrap();
            let written = SystemTime::now() - Duration::from_secs(hours * 3600);
            file.set_modified(written).unwrap();
        }
        let store = Store::new(Arc::clone(&rig.store) as _, Arc::new(SystemClock));
        let canvas = CachePut {
            key: "canvas:1".to_owned(),
            value: serde_json::json!({"digest": named}),
            expires_at: Timestamp::from_millis(i64::MAX),
        };
        store.write(canvas).await.unwrap();
        // Nothing is known of the time before this database.
        assert_eq!(rig.sweep().await, Swept::default());
        rig.begin(2 * 3600);
        assert_eq!(
            rig.sweep().await,
            Swept {
                objects: 1,
                bytes: 3
            }
        );
        assert!(!rig.is_there(old).await);
        assert!(rig.is_there(young).await && rig.is_there(named).await && foreign.exists());
        assert_eq!(staged.map(|path| path.exists()), [true, false]);
        assert_eq!(rig.sweep().await, Swept::default());
    }

    #[tokio::test]
    async fn what_is_older_than_the_database_is_not_its_own() {
        let rig = Rig::new();
        rig.begin(60 * 30);
        let old = rig.put("of another database").await;
        rig.age(old);
        assert_eq!(rig.sweep().await, Swept::default());
        assert!(rig.is_there(old).await);
    }

    #[tokio::test]
    async fn what_a_request_may_name_at_its_end_is_kept_until_then() {
        let rig = Rig::new();
        rig.begin(2 * 3600);
        let old = rig.put("kept for the end").await;
        rig.age(old);
        let set = |sql: &str| {
            let db = Connection::open(rig.directory.path().join("rune.db")).unwrap();
            db.execute(sql, []).unwrap();
        };
        let begun = rig
            .moment()
            .minus(Duration::from_secs(3 * 3600 / 2))
            .as_millis();
        set(&format!(
            "INSERT INTO requests (request_id, session, status, last_seq, command_id, command_seq, cancel_requested, \
             attempts, model_calls, tool_calls, input_tokens, output_tokens, cached_tokens, cache_write_tokens, \
             reasoning_tokens, unpriced_calls, created_at, updated_at, deployment_id, version_id, checkpoint, namespace, \
             agent, caller, metadata) VALUES (x'00', 1, 'running', 1, x'00', 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {begun}, \
             {begun}, x'00', x'00', 'on_finish', 'dev', 'agent', 'user', '{{}}')"
        ));
        assert_eq!(rig.sweep().await, Swept::default());
        set("UPDATE requests SET status = 'completed'");
        assert_eq!(rig.sweep().await.objects, 1);
    }

    #[tokio::test]
    async fn a_backup_keeps_all_of_them() {
        let rig = Rig::new();
        rig.begin(2 * 3600);
        let old = rig.put("old").await;
        rig.age(old);
        let kept = ObjectsLock::keep(&rig.directory.path().join("rune.db")).unwrap();
        let swept = rig.store.sweep(&rig.objects, rig.moment(), ready(true));
        let swept = swept.await.unwrap();
        assert_eq!(swept, None);
        drop(kept);
        assert_eq!(rig.sweep().await.objects, 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_stored_again_while_it_is_removed_is_there() {
        let rig = Rig::new();
        rig.begin(2 * 3600);
        for _ in 0..200 {
            let digest = rig.put("again").await;
            rig.age(digest);
            let (_, stored) = tokio::join!(rig.sweep(), rig.put("again"));
            assert!(rig.is_there(stored).await);
        }
    }
}
