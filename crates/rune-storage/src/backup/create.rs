//! Making a backup.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{TryStreamExt as _, stream};
use rune_store_runtime::Timestamp;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;

use super::scan::{Scan, scan};
use super::{
    AT_A_TIME, BackupDatabase, BackupError, BackupManifest, BackupObject, BackupProgress,
    BackupStore, OnProgress,
};
use crate::migration::STATE;
use crate::{
    Digest, ObjectError, ObjectStore, ObjectsLock, StorageError, connection, copy,
    create_private_dir, migration, replica,
};

/// A database is kept in pieces of so many bytes: of one that changes little most pieces stay the same.
const PIECE_BYTES: usize = 1 << 20;

/// How the name of a directory begins that a backup is worked out in.
pub(super) const DRAFT: &str = ".rune-backup-";

/// The copy of the database in such a directory.
const COPY: &str = "rune.db";

/// Who may have objects that a store lacks: the other nodes of a cluster.
#[async_trait]
pub trait Elsewhere: Debug + Sync {
    /// Has those of these objects that are found be put into the store.
    async fn bring(&self, missing: &[Digest]);
}

/// What is backed up.
#[derive(Debug, Clone, Copy)]
pub struct BackupSource<'a> {
    /// The database; another process may be writing it.
    pub database: &'a Path,
    /// The objects that its rows refer to.
    pub objects: &'a ObjectStore,
    /// Who may have those that are missing or damaged there; nothing where nobody does.
    pub elsewhere: Option<&'a dyn Elsewhere>,
    /// Where there is room for a copy of the database.
    pub scratch: &'a Path,
    /// Now.
    pub now: Timestamp,
    /// The version of Rune.
    pub rune: &'a str,
}

/// What a backup has written. What was there already counts nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Parts.
    pub parts: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Written {
    fn add(&mut self, bytes: u64) {
        self.parts += usize::from(bytes > 0);
        self.bytes += bytes;
    }
}

/// What came of taking over an object.
enum Copied {
    /// It is in the backup.
    Whole {
        /// Its length.
        bytes: u64,
        /// The bytes that were written: 0 where it was there already.
        new: u64,
    },
    /// The store has none under this digest. A text may name a digest that is of no object.
    Missing,
    /// There is one, which is not what was stored.
    Damaged,
}

/// A directory for what is needed only until the backup is there.
struct Draft {
    dir: TempDir,
    /// Says that the directory is in use; gone with the process.
    _lock: File,
}

impl Draft {
    fn new(scratch: &Path) -> Result<Self, StorageError> {
        let make = || {
            create_private_dir(scratch)?;
            remove_abandoned(scratch)?;
            loop {
                let dir = tempfile::Builder::new().prefix(DRAFT).tempdir_in(scratch)?;
                // Another backup may have taken it for abandoned before it was locked.
                if let Some(lock) = lock(dir.path())?
                    && dir.path().is_dir()
                {
                    return Ok(Self { dir, _lock: lock });
                }
            }
        };
        make().map_err(|source| StorageError::Io {
            action: "work in",
            path: scratch.to_owned(),
            source,
        })
    }

    fn database(&self) -> PathBuf {
        self.dir.path().join(COPY)
    }
}

/// Removes what backups have left that were killed.
fn remove_abandoned(scratch: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(scratch)? {
        let entry = entry?;
        let is_named = entry.file_name().to_string_lossy().starts_with(DRAFT);
        if is_named
            && entry.file_type()?.is_dir()
            && let Some(_lock) = lock(&entry.path())?
            && holds_a_copy(&entry.path())?
        {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Whether a directory has nothing in it but what a backup puts there.
fn holds_a_copy(dir: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        if !name.to_string_lossy().starts_with(COPY) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The lock of a directory; none where somebody has it, or the directory is gone.
fn lock(dir: &Path) -> io::Result<Option<File>> {
    let dir = match File::open(dir) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(dir)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl BackupStore {
    /// Makes a backup of a database as it is at one moment, while it is written. It is whole and on disk when this
    /// returns, and no backup at all where it does not.
    ///
    /// # Errors
    /// [`BackupError::NoDatabase`], [`BackupError::Own`], [`BackupError::Storage`] where the database is damaged or there is no room for its copy,
    /// [`BackupError::Part`] or [`BackupError::Place`] where the backup cannot be written.
    pub async fn create(
        &self,
        source: BackupSource<'_>,
        progress: OnProgress<'_>,
    ) -> Result<(BackupManifest, Written), BackupError> {
        if !source.database.is_file() {
            return Err(BackupError::NoDatabase(source.database.to_owned()));
        }
        if self.objects.is_shared_with(source.objects) {
            return Err(BackupError::Own(self.shown.clone()));
        }
        let of = source.database.to_owned();
        let _kept = blocking(move || ObjectsLock::keep(&of)).await?;
        let draft = Draft::new(source.scratch)?;
        let step = |what| {
            progress(BackupProgress {
                what,
                done: 0,
                total: 0,
            });
        };
        step("copying the database");
        let (from, to) = (source.database.to_owned(), draft.database());
        let (schema, rows) = blocking(move || take(&from, &to)).await?;
        let mut written = Written::default();
        let (bytes, pieces) = self
            .put_pieces(&draft.database(), &mut written, progress)
            .await?;
        drop(draft);
        let database = BackupDatabase {
            schema,
            bytes,
            pieces,
            rows: crate::dump::digest_of_tables(&rows.tables),
            tables: rows.tables,
        };
        let mut manifest = BackupManifest::new(source.now, source.rune, database, rows.secret_keys);
        let wanted: BTreeSet<Digest> = rows.needed.union(&rows.mentioned).copied().collect();
        let wanted: Vec<Digest> = wanted.into_iter().collect();
        let take_over = |digest| self.take_over(source.objects, digest);
        let copied = self.each("objects", &wanted, progress, take_over).await?;
        let mut copied: BTreeMap<_, _> = wanted.into_iter().zip(copied).collect();
        let is_whole = |copied: &Copied| matches!(copied, Copied::Whole { .. });
        let missing = copied.iter().filter(|(_, copied)| !is_whole(copied));
        let missing: Vec<Digest> = missing.map(|(digest, _)| *digest).collect();
        if let Some(elsewhere) = source.elsewhere
            && !missing.is_empty()
        {
            step("objects of other nodes");
            elsewhere.bring(&missing).await;
            let again = self.each("objects", &missing, progress, take_over);
            copied.extend(missing.iter().copied().zip(again.await?));
        }
        for (digest, copied) in &copied {
            match *copied {
                Copied::Whole { bytes, new } => {
                    written.add(new);
                    let digest = *digest;
                    manifest.objects.push(BackupObject { digest, bytes });
                }
                Copied::Missing if !rows.needed.contains(digest) => {}
                Copied::Missing | Copied::Damaged => manifest.lost.push(*digest),
            }
        }
        let bytes = manifest.seal()?;
        self.publish(&manifest.id, bytes).await?;
        Ok((manifest, written))
    }

    /// Puts a database into the backup, in pieces. Answers its length and the pieces.
    async fn put_pieces(
        &self,
        path: &Path,
        written: &mut Written,
        progress: OnProgress<'_>,
    ) -> Result<(u64, Vec<Digest>), BackupError> {
        let io = |source| StorageError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        };
        let file = tokio::fs::File::open(path).await.map_err(io)?;
        let bytes = file.metadata().await.map_err(io)?.len();
        let total = usize::try_from(bytes.div_ceil(PIECE_BYTES as u64)).unwrap_or(usize::MAX);
        let pieces = stream::try_unfold(file, |mut file| async move {
            let piece = next_piece(&mut file).await.map_err(io)?;
            Ok::<_, BackupError>((!piece.is_empty()).then_some((piece, file)))
        });
        let put = |piece: Bytes| async move {
            let digest = Digest::of(&piece);
            let put = self.objects.put_whole(piece).await;
            put.map_err(|error| self.part(digest, error))
        };
        let mut running = std::pin::pin!(pieces.map_ok(put).try_buffered(AT_A_TIME));
        let mut digests = Vec::with_capacity(total);
        while let Some((digest, new)) = running.try_next().await? {
            written.add(new);
            digests.push(digest);
            progress(BackupProgress {
                what: "database",
                done: digests.len(),
                total,
            });
        }
        Ok((bytes, digests))
    }

    /// Takes over an object of the store.
    async fn take_over(&self, source: &ObjectStore, digest: Digest) -> Result<Copied, BackupError> {
        match self.objects.copy_from(source, digest).await {
            Ok((bytes, new)) => Ok(Copied::Whole { bytes, new }),
            Err(ObjectError::NotFound(_)) => Ok(Copied::Missing),
            Err(ObjectError::Damaged { .. } | ObjectError::TooLarge { .. }) => Ok(Copied::Damaged),
            Err(error @ ObjectError::Backend { action: "get", .. }) => {
                Err(BackupError::Objects(error))
            }
            Err(error) => Err(self.part(digest, error)),
        }
    }
}

/// Copies a database as it is now, makes sure that the copy is sound, and reads it. Gives the version of its schema, too.
fn take(from: &Path, to: &Path) -> Result<(i64, Scan), StorageError> {
    let source = connection::reader(from).map_err(|source| StorageError::Sqlite {
        action: "open",
        path: from.to_owned(),
        source,
    })?;
    let (schema, _) = migration::check(&source, from, STATE)?;
    copy::copy(&source, to)?;
    drop(source);
    replica::examine(to).map_err(|error| match error {
        // What is wrong with the copy is wrong with the original, which is what somebody has.
        StorageError::Damaged { report, .. } => StorageError::Damaged {
            path: from.to_owned(),
            report,
        },
        other => other,
    })?;
    Ok((schema, scan(to)?))
}

async fn next_piece(file: &mut tokio::fs::File) -> io::Result<Bytes> {
    let mut piece = BytesMut::with_capacity(PIECE_BYTES);
    while piece.len() < PIECE_BYTES {
        let missing = PIECE_BYTES - piece.len();
        if file.take(missing as u64).read_buf(&mut piece).await? == 0 {
            break;
        }
    }
    Ok(piece.freeze())
}

/// Work with SQLite, off the reactor.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| StorageError::Thread {
        name: "backup",
        problem: error.to_string(),
    })?
}
