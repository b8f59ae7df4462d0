//! Restoring a backup.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use bytes::Bytes;

use super::create::blocking;
use super::{BackupError, BackupManifest, BackupProgress, BackupStore, OnProgress, scan};
use crate::migration::STATE;
use crate::{
    DataDirLock, Digest, ObjectError, ObjectStore, StorageError, connection, create_private_dir,
    migration, private,
};

/// Where a backup is restored.
#[derive(Debug, Clone, Copy)]
pub struct RestoreTarget<'a> {
    /// The database, which must not exist.
    pub database: &'a Path,
    /// Where its objects go.
    pub objects: &'a ObjectStore,
}

impl BackupStore {
    /// Restores a backup. The objects are restored first and the database is given its name last, so that what is
    /// interrupted can be done again.
    ///
    /// # Errors
    /// [`BackupError::Used`] where there is a database, [`StorageError::Locked`] where a daemon has the directory,
    /// [`BackupError::Part`] with the part that is missing or damaged, [`BackupError::Differs`].
    pub async fn restore(
        &self,
        manifest: &BackupManifest,
        target: RestoreTarget<'_>,
        progress: OnProgress<'_>,
    ) -> Result<(), BackupError> {
        let path = target.database;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        create_private_dir(directory).map_err(io("create", directory))?;
        let lock = DataDirLock::acquire(directory)?;
        if !connection::is_new(path) {
            return Err(BackupError::Used(path.to_owned()));
        }
        migration::supports(manifest.database.schema, path, STATE)?;
        let objects: Vec<Digest> = manifest.objects.iter().map(|it| it.digest).collect();
        self.each("objects", &objects, progress, |digest| async move {
            let copied = target.objects.restore_from(&self.objects, digest).await;
            copied.map_err(|error| match &error {
                ObjectError::Backend { action, .. } if *action != "get" => {
                    BackupError::Objects(error)
                }
                _ => self.part(digest, error),
            })
        })
        .await?;
        let draft = connection::beside(path, ".restored");
        self.write_database(manifest, &draft, progress).await?;
        let read = draft.clone();
        let tables = blocking(move || scan::tables(&read)).await?;
        manifest.compare(&tables)?;
        std::fs::rename(&draft, path)
            .and_then(|()| private::sync_directory_of(path))
            .map_err(io("create", path))?;
        drop(lock);
        Ok(())
    }

    /// Puts the pieces of a database together.
    async fn write_database(
        &self,
        manifest: &BackupManifest,
        path: &Path,
        progress: OnProgress<'_>,
    ) -> Result<(), BackupError> {
        // What an earlier attempt left is begun anew.
        if path.try_exists().map_err(io("look for", path))? {
            std::fs::remove_file(path).map_err(io("remove", path))?;
        }
        let file = private::file_options().create_new(true).open(path);
        let mut file = file.map_err(io("create", path))?;
        let pieces = &manifest.database.pieces;
        for (done, digest) in pieces.iter().enumerate() {
            progress(BackupProgress {
                what: "database",
                done,
                total: pieces.len(),
            });
            let piece: Bytes = self
                .objects
                .get(*digest)
                .await
                .map_err(|error| self.part(*digest, error))?;
            file = append(file, piece).await.map_err(io("write", path))?;
        }
        let synced = tokio::task::spawn_blocking(move || file.sync_all()).await;
        synced
            .map_err(std::io::Error::other)
            .flatten()
            .map_err(io("sync", path))?;
        Ok(())
    }
}

/// Writes behind what is there, off the reactor.
async fn append(mut file: File, piece: Bytes) -> std::io::Result<File> {
    let written = tokio::task::spawn_blocking(move || file.write_all(&piece).map(|()| file)).await;
    written.map_err(std::io::Error::other)?
}

fn io<'a>(action: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> StorageError + 'a {
    move |source| StorageError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
