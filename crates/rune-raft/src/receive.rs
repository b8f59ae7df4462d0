//! Receiving a snapshot in parts.
//!
//! The parts come in order; one that comes again is answered again. Nothing is done with a
//! snapshot before all of it is here, has the length and the digest that the sender named, and is
//! a sound database that says of itself to be at the entry that the sender named.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rune_storage::{examine, measure};

use crate::snapshot::create;
use crate::state_machine::Position;
use crate::{Chunk, Manifest, NodeId, SnapshotDir, SnapshotFile};

/// Receives the snapshots that other nodes send, one at a time: a new one takes the place of one
/// that is not whole.
#[derive(Debug, Clone)]
pub struct Receiver {
    snapshots: Arc<SnapshotDir>,
    incoming: Arc<Mutex<Option<Incoming>>>,
}

#[derive(Debug)]
struct Incoming {
    from: NodeId,
    manifest: Manifest,
    path: PathBuf,
    file: File,
    next: u64,
    /// The file belongs to a snapshot now.
    whole: bool,
}

/// What came of a part.
#[derive(Debug)]
pub enum Received {
    /// There is more to come, from here on.
    More(u64),
    /// That was the last one.
    Whole(SnapshotFile),
}

impl Receiver {
    /// A receiver into the directory of snapshots.
    #[must_use]
    pub fn new(snapshots: Arc<SnapshotDir>) -> Self {
        Self {
            snapshots,
            incoming: Arc::default(),
        }
    }

    /// Takes a part. Waits for the disk.
    ///
    /// # Errors
    /// Where it cannot be written, or the whole is not what it should be. It has to be sent again
    /// from its beginning then.
    pub fn take(&self, from: NodeId, chunk: &Chunk) -> io::Result<Received> {
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        let known = incoming
            .as_ref()
            .is_some_and(|known| known.from == from && known.manifest == chunk.manifest);
        if !known {
            if chunk.offset > 0 {
                return Ok(Received::More(0));
            }
            *incoming = Some(self.begin(from, chunk.manifest.clone())?);
        }
        let Some(current) = incoming.as_mut() else {
            return Ok(Received::More(0));
        };
        if chunk.offset != current.next {
            return Ok(Received::More(current.next));
        }
        if let Err(error) = current.file.write_all(&chunk.bytes) {
            *incoming = None;
            return Err(error);
        }
        current.next += chunk.bytes.len() as u64;
        if current.next < current.manifest.bytes {
            return Ok(Received::More(current.next));
        }
        match incoming.take() {
            Some(whole) => whole.finish().map(Received::Whole),
            None => Ok(Received::More(0)),
        }
    }

    fn begin(&self, from: NodeId, manifest: Manifest) -> io::Result<Incoming> {
        let path = self.snapshots.draft();
        let file = create(&path)?;
        Ok(Incoming {
            from,
            manifest,
            path,
            file,
            next: 0,
            whole: false,
        })
    }
}

impl Incoming {
    fn finish(mut self) -> io::Result<SnapshotFile> {
        self.file.sync_all()?;
        check(&self.path, &self.manifest)?;
        let snapshot = SnapshotFile::open(self.manifest.clone(), &self.path)?;
        self.whole = true;
        Ok(snapshot)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.whole {
            // The next start removes it otherwise.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn check(path: &Path, manifest: &Manifest) -> io::Result<()> {
    let refused = |what: &str| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the snapshot of entry {} {what}", manifest.place()),
        )
    };
    let measured = measure(path).map_err(io::Error::other)?;
    if measured.bytes != manifest.bytes || measured.digest != manifest.digest {
        return Err(refused("arrived with other bytes than were sent"));
    }
    let position = examine(path).map_err(|error| refused(&format!("cannot be used: {error}")))?;
    let position = Position::read(position.as_deref())?;
    if position.applied != manifest.applied || position.members != manifest.members {
        return Err(refused("says of itself that it is of another one"));
    }
    Ok(())
}
