//! The snapshot of a node: a file that stands for the beginning of the log.
//!
//! There is one at a time. A snapshot comes into being as a draft; it is the current one when it
//! and its manifest have their names and both are on disk. A crash leaves the old one or the new
//! one, and drafts that the next start removes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::SnapshotMeta;
use rune_storage::{Digest, create_private_dir, measure};
use serde::{Deserialize, Serialize};

use crate::{Leader, LogId, Members, NodeId};

const MANIFEST: &str = "json";
const DRAFT: &str = "draft";

/// What a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The last entry that it holds the effect of, where it holds any.
    pub applied: Option<LogId>,
    /// The membership at that entry.
    pub members: Members,
    /// Its length.
    pub bytes: u64,
    /// The digest of its bytes.
    pub digest: Digest,
}

impl Manifest {
    /// The same for the protocol.
    #[must_use]
    pub fn meta(&self) -> SnapshotMeta<Leader, NodeId, openraft::BasicNode> {
        SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.members.clone(),
        }
    }

    /// The place in the log, for people.
    pub(crate) fn place(&self) -> String {
        self.applied
            .map_or_else(|| "none".to_owned(), |applied| applied.to_string())
    }

    fn name(&self) -> String {
        match self.applied {
            Some(LogId { leader_id, index }) => {
                format!("{index:020}-{}-{}", leader_id.term, leader_id.node_id)
            }
            None => "empty".to_owned(),
        }
    }
}

/// A whole snapshot on disk, built here or received and examined. It can be read for as long as
/// this is held, also when a newer one has taken its place.
#[derive(Debug, Clone)]
pub struct SnapshotFile {
    manifest: Arc<Manifest>,
    path: PathBuf,
    file: Arc<File>,
}

impl SnapshotFile {
    /// A file whose length and digest are those of the manifest.
    pub(crate) fn open(manifest: Manifest, path: &Path) -> io::Result<Self> {
        Ok(Self {
            manifest: Arc::new(manifest),
            path: path.to_owned(),
            file: Arc::new(File::open(path)?),
        })
    }

    /// What it is.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes from `offset`, at the most `limit`.
    ///
    /// # Errors
    /// Those of reading.
    pub fn read(&self, offset: u64, limit: usize) -> io::Result<Vec<u8>> {
        let left = self.manifest.bytes.saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(limit);
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

/// The directory of a node's snapshots.
#[derive(Debug)]
pub struct SnapshotDir {
    path: PathBuf,
    current: Mutex<Option<SnapshotFile>>,
    drafts: AtomicU64,
}

impl SnapshotDir {
    /// Opens the directory, made where it is missing, finds the current snapshot and removes what
    /// else is there.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(path: &Path) -> io::Result<Self> {
        create_private_dir(path)?;
        let mut found: Option<SnapshotFile> = None;
        for entry in fs::read_dir(path)? {
            let manifest = entry?.path();
            if manifest.extension().is_none_or(|kind| kind != MANIFEST) {
                continue;
            }
            if let Some(snapshot) = whole(&manifest)
                && found
                    .as_ref()
                    .is_none_or(|best| best.manifest.applied < snapshot.manifest.applied)
            {
                found = Some(snapshot);
            }
        }
        let directory = Self {
            path: path.to_owned(),
            current: Mutex::new(found),
            drafts: AtomicU64::new(0),
        };
        directory.clean()?;
        Ok(directory)
    }

    /// The current snapshot.
    #[must_use]
    pub fn current(&self) -> Option<SnapshotFile> {
        self.lock().clone()
    }

    /// The name of a file for a snapshot that is not whole yet.
    pub(crate) fn draft(&self) -> PathBuf {
        let number = self.drafts.fetch_add(1, Ordering::Relaxed);
        self.path.join(format!("{number}.{DRAFT}"))
    }

    /// Makes a whole snapshot, which is on disk under some name here, the current one. Where one
    /// of the same place or a newer one is, that stays: it may be on its way to another node.
    pub(crate) fn adopt(&self, snapshot: &SnapshotFile) -> io::Result<SnapshotFile> {
        let mut current = self.lock();
        if let Some(newer) = current.as_ref()
            && newer.manifest.applied >= snapshot.manifest.applied
        {
            return Ok(newer.clone());
        }
        let name = snapshot.manifest.name();
        let path = self.path.join(format!("{name}.db"));
        let draft = self.draft();
        let manifest = serde_json::to_vec(snapshot.manifest())?;
        let written = create(&draft).and_then(|mut file| {
            file.write_all(&manifest)?;
            file.sync_all()
        });
        if let Err(error) = written {
            // The next start removes it otherwise.
            let _ = fs::remove_file(&draft);
            return Err(error);
        }
        fs::rename(&snapshot.path, &path)?;
        fs::rename(&draft, self.path.join(format!("{name}.{MANIFEST}")))?;
        File::open(&self.path)?.sync_all()?;
        let adopted = SnapshotFile {
            path,
            ..snapshot.clone()
        };
        *current = Some(adopted.clone());
        drop(current);
        self.clean_but_drafts()?;
        Ok(adopted)
    }

    /// Removes everything but the current snapshot.
    fn clean(&self) -> io::Result<()> {
        self.remove(|_| true)
    }

    fn clean_but_drafts(&self) -> io::Result<()> {
        self.remove(|path| path.extension().is_none_or(|kind| kind != DRAFT))
    }

    fn remove(&self, also: impl Fn(&Path) -> bool) -> io::Result<()> {
        let kept = self
            .current()
            .map(|snapshot| snapshot.path.with_extension(""));
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if kept.as_ref() != Some(&path.with_extension("")) && also(&path) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<SnapshotFile>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a file that only its owner can read, and that was not there.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}

/// The snapshot of a manifest, where both are as they were written.
fn whole(manifest: &Path) -> Option<SnapshotFile> {
    let read: Manifest = serde_json::from_slice(&fs::read(manifest).ok()?).ok()?;
    let path = manifest.with_extension("db");
    let found = measure(&path).ok()?;
    let same = found.bytes == read.bytes && found.digest == read.digest;
    same.then(|| SnapshotFile::open(read, &path).ok())?
}
