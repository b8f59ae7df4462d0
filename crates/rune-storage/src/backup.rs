//! Backups: a database as it was at one moment with the objects that its rows refer to, in a directory or an object
//! store that can hold many of them.
//!
//! ```text
//! backups/ID.json        what a backup consists of; its name ends with the first digits of its own digest
//! objects/sha256/ab/cd…  objects, and databases in pieces, each under its digest
//! ```
//!
//! What is there already is not written again, so that a further backup costs what has changed. The list of a backup is
//! written last: what was interrupted is no backup.

mod create;
mod error;
mod manifest;
mod restore;
mod scan;

use std::ffi::OsStr;
use std::path::Path as FsPath;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

pub use create::{BackupSource, Elsewhere, Written};
pub use error::BackupError;
pub use manifest::{BackupDatabase, BackupManifest, BackupObject};
pub use restore::RestoreTarget;
pub(crate) use scan::mentioned;

use crate::{Digest, ObjectError, ObjectStore, StorageError, Variables};

/// Objects under way at a time.
const AT_A_TIME: usize = 4;

/// Longest list of a backup: room for five million objects.
const MAX_MANIFEST_BYTES: u64 = 1 << 30;

/// Where the parts of backups are.
const OBJECTS: &str = "objects";

/// Where the lists of backups are.
const MANIFESTS: &str = "backups";

/// How far something has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupProgress {
    /// What is under way, such as `objects`.
    pub what: &'static str,
    /// How much of it is done.
    pub done: usize,
    /// How much there is; 0 where it is one step.
    pub total: usize,
}

/// Told how far something has come.
pub(crate) type OnProgress<'a> = &'a (dyn Fn(BackupProgress) + Send + Sync);

/// Where backups are kept.
#[derive(Debug, Clone)]
pub struct BackupStore {
    root: ObjectStore,
    objects: ObjectStore,
    shown: String,
}

impl BackupStore {
    /// Opens what holds backups: a URL, or the path of a directory.
    ///
    /// # Errors
    /// [`BackupError::Open`]; [`BackupError::Unknown`] where there is no such directory.
    pub fn open(location: &str, variables: &Variables) -> Result<Self, BackupError> {
        match ObjectStore::directory(location) {
            Some(path) if !path.is_dir() => Err(BackupError::Unknown {
                place: path.display().to_string(),
                id: None,
            }),
            directory => Self::at(location, directory.as_deref(), variables),
        }
    }

    /// Opens what is to hold a backup. A directory is made where it is missing.
    ///
    /// # Errors
    /// [`BackupError::Open`]; [`BackupError::Occupied`] for a directory with something else in it.
    pub fn open_or_create(location: &str, variables: &Variables) -> Result<Self, BackupError> {
        let directory = ObjectStore::directory(location);
        if let Some(path) = &directory
            && is_occupied(path)?
        {
            return Err(BackupError::Occupied(path.clone()));
        }
        Self::at(location, directory.as_deref(), variables)
    }

    fn at(
        location: &str,
        directory: Option<&FsPath>,
        variables: &Variables,
    ) -> Result<Self, BackupError> {
        let root = ObjectStore::open(location, variables).map_err(BackupError::Open)?;
        let shown = match directory {
            Some(path) => path.display().to_string(),
            None => location.trim_end_matches('/').to_owned(),
        };
        Ok(Self {
            objects: root.below(OBJECTS),
            root,
            shown,
        })
    }

    /// The backups here by their ids, oldest first.
    ///
    /// # Errors
    /// [`BackupError::Place`].
    pub async fn list(&self) -> Result<Vec<String>, BackupError> {
        let (backend, prefix) = self.root.place();
        let folder = prefix.clone().join(MANIFESTS);
        let found = backend
            .list_with_delimiter(Some(&folder))
            .await
            .map_err(|source| self.failed("list", &folder, source))?;
        let objects = found.objects.iter();
        let names = objects.filter_map(|meta| meta.location.filename());
        let ids = names.filter_map(|name| name.strip_suffix(".json"));
        let mut ids: Vec<String> = ids.map(str::to_owned).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// What a backup consists of: of that with this id, or of the newest one.
    ///
    /// # Errors
    /// [`BackupError::Unknown`], [`BackupError::Damaged`], [`BackupError::Newer`], [`BackupError::Place`].
    pub async fn manifest(&self, id: Option<&str>) -> Result<BackupManifest, BackupError> {
        let unknown = || BackupError::Unknown {
            place: self.shown.clone(),
            id: id.map(str::to_owned),
        };
        let ids = self.list().await?;
        let found = match id {
            Some(id) => ids.iter().find(|known| *known == id),
            None => ids.last(),
        };
        let id = found.ok_or_else(unknown)?;
        let (backend, _) = self.root.place();
        let path = self.manifest_path(id);
        let failed = |source| self.failed("read", &path, source);
        let object = backend.get(&path).await.map_err(failed)?;
        if object.meta.size > MAX_MANIFEST_BYTES {
            return Err(BackupError::Damaged {
                path: self.show(&path),
                reason: format!("it has more than {} MiB", MAX_MANIFEST_BYTES >> 20),
            });
        }
        let bytes = object.bytes().await.map_err(failed)?;
        BackupManifest::read(id, &bytes).map_err(|problem| problem.at(self.show(&path)))
    }

    /// Reads every part of a backup and compares it with its digest.
    ///
    /// # Errors
    /// [`BackupError::Part`] with the part that is missing or is not what it was.
    pub async fn verify(
        &self,
        manifest: &BackupManifest,
        progress: OnProgress<'_>,
    ) -> Result<(), BackupError> {
        let parts = manifest.parts();
        self.each("parts", &parts, progress, |digest| async move {
            self.objects
                .check(digest)
                .await
                .map_err(|error| self.part(digest, error))
        })
        .await?;
        Ok(())
    }

    /// Does something with each of these objects, a few at a time, and answers what came of them, in their order.
    async fn each<T, F>(
        &self,
        what: &'static str,
        objects: &[Digest],
        progress: OnProgress<'_>,
        work: impl Fn(Digest) -> F,
    ) -> Result<Vec<T>, BackupError>
    where
        F: Future<Output = Result<T, BackupError>>,
    {
        let total = objects.len();
        let tell = |done| progress(BackupProgress { what, done, total });
        tell(0);
        let mut running =
            stream::iter(objects.iter().map(|digest| work(*digest))).buffered(AT_A_TIME);
        let mut results = Vec::with_capacity(total);
        while let Some(result) = running.try_next().await? {
            results.push(result);
            tell(results.len());
        }
        Ok(results)
    }

    /// Makes a list a backup.
    async fn publish(&self, id: &str, bytes: Bytes) -> Result<(), BackupError> {
        let (backend, _) = self.root.place();
        let path = self.manifest_path(id);
        let put = backend.put(&path, bytes.into()).await;
        put.map_err(|source| self.failed("write", &path, source))?;
        Ok(())
    }

    fn manifest_path(&self, id: &str) -> Path {
        let (_, prefix) = self.root.place();
        prefix.clone().join(MANIFESTS).join(format!("{id}.json"))
    }

    fn failed(
        &self,
        action: &'static str,
        path: &Path,
        source: object_store::Error,
    ) -> BackupError {
        BackupError::Place {
            action,
            path: self.show(path),
            source,
        }
    }

    fn part(&self, digest: Digest, source: ObjectError) -> BackupError {
        BackupError::Part {
            path: self.show(&self.objects.path(digest)),
            source: Box::new(source),
        }
    }

    /// A path as a person finds it.
    fn show(&self, path: &Path) -> String {
        let (_, prefix) = self.root.place();
        let below = path
            .as_ref()
            .strip_prefix(prefix.as_ref())
            .unwrap_or(path.as_ref());
        format!("{}/{}", self.shown, below.trim_start_matches('/'))
    }
}

/// Whether a directory holds something, but no backup and no attempt at one.
fn is_occupied(directory: &FsPath) -> Result<bool, StorageError> {
    let io = |source| StorageError::Io {
        action: "read",
        path: directory.to_owned(),
        source,
    };
    let lists = std::fs::read_dir(directory.join(MANIFESTS));
    let mut lists = lists.into_iter().flatten().flatten();
    if lists.any(|list| list.path().extension() == Some(OsStr::new("json"))) {
        return Ok(false);
    }
    let mut entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io(error)),
    };
    // What the root of a file system holds is nobody's.
    let known = |name: &OsStr| {
        let name = name.to_string_lossy();
        [OBJECTS, MANIFESTS, "lost+found"].contains(&name.as_ref())
            || name.starts_with(create::DRAFT)
    };
    let is_free = entries.all(|entry| entry.is_ok_and(|entry| known(&entry.file_name())));
    Ok(!is_free)
}
