//! Applying what is committed.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{Stream, StreamExt as _};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{
    AsyncRuntime as _, EntryPayload, LogIndexOptionExt as _, OptionalSend, RaftSnapshotBuilder,
    Snapshot, SnapshotMeta, StoredMembership,
};
use rune_storage::{Copier, Ordered, Replica};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::log_store::FULL_PAUSE;
use crate::types::leadership;
use crate::{
    Disk, Leader, LogEntry, LogId, Manifest, Members, NodeId, Proposal, SnapshotDir, SnapshotFile,
    Types,
};

/// Entries in one transaction at the most.
const MAX_BATCH: usize = 512;

/// Bytes of commands in one transaction at the most; one command may exceed it.
const MAX_BATCH_BYTES: usize = 8 << 20;

type Meta = SnapshotMeta<Leader, NodeId, openraft::BasicNode>;

/// How far the log has been applied, as it is kept in the database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) applied: Option<LogId>,
    pub(crate) members: Members,
    /// The numbers of nodes that were members and are not.
    #[serde(default)]
    pub(crate) retired: BTreeSet<NodeId>,
}

impl Position {
    pub(crate) fn read(text: Option<&str>) -> io::Result<Self> {
        match text {
            Some(text) => Ok(serde_json::from_str(text)?),
            None => Ok(Self::default()),
        }
    }
}

/// The numbers of nodes that were members and are not.
#[derive(Debug, Clone, Default)]
pub(crate) struct Retired(Arc<Mutex<BTreeSet<NodeId>>>);

impl Retired {
    pub(crate) fn contains(&self, id: NodeId) -> bool {
        self.lock().contains(&id)
    }

    fn set(&self, ids: &BTreeSet<NodeId>) {
        self.lock().clone_from(ids);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first entry that was not applied, and who waits for it to be a later one.
#[derive(Debug)]
pub(crate) struct Applied {
    next: AtomicU64,
    // A watch channel of Tokio wakes in an order of chance, which no simulation repeats.
    moved: Notify,
}

impl Applied {
    fn new(position: &Position) -> Self {
        let applied = Self {
            next: AtomicU64::new(0),
            moved: Notify::new(),
        };
        applied.set(position);
        applied
    }

    fn set(&self, position: &Position) {
        let next = position.applied.map(|id| id.index).next_index();
        self.next.store(next, Ordering::Release);
        self.moved.notify_waiters();
    }

    /// Waits until the entry at `index` is applied.
    pub(crate) async fn reach(&self, index: u64) {
        loop {
            let moved = self.moved.notified();
            if self.next.load(Ordering::Acquire) > index {
                return;
            }
            moved.await;
        }
    }
}

/// What waits for room on the disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Room(Arc<AtomicUsize>);

impl Room {
    /// Whether anything waits.
    pub(crate) fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// Does work on a disk, again as often as it finds it full: a node that took it for a failure
    /// would stop for good, and be no better off with room.
    async fn wait<D: Disk, T: Send + 'static>(
        &self,
        disk: &D,
        work: impl Fn() -> io::Result<T> + Send + Sync + 'static,
    ) -> io::Result<T> {
        let work = Arc::new(work);
        let mut waits = false;
        loop {
            let again = Arc::clone(&work);
            let done = disk.run(move || again()).await.and_then(|done| done);
            match done {
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    tracing::error!(%error, "the state waits for room");
                    if !waits {
                        self.0.fetch_add(1, Ordering::Relaxed);
                        waits = true;
                    }
                    D::Runtime::sleep(FULL_PAUSE).await;
                }
                done => {
                    if waits {
                        self.0.fetch_sub(1, Ordering::Relaxed);
                    }
                    return done;
                }
            }
        }
    }
}

/// Told what is in the database of a node, as it gets there.
pub trait ApplyObserver: Send + Sync {
    /// A command was applied; this is its JSON.
    fn applied(&self, command: &str);
    /// Everything was replaced by a snapshot.
    fn replaced(&self);
}

/// The database of a node, as the protocol sees it.
pub struct StateMachine<D: Disk> {
    replica: Arc<Mutex<Replica>>,
    position: Position,
    snapshots: Arc<SnapshotDir>,
    retired: Retired,
    applied: Arc<Applied>,
    observer: Option<Arc<dyn ApplyObserver>>,
    room: Room,
    disk: D,
}

impl<D: Disk> StateMachine<D> {
    /// The state machine over a database and its snapshots.
    ///
    /// # Errors
    /// Where the database does not say how far it was applied in a form that is known.
    pub fn new(replica: Replica, snapshots: Arc<SnapshotDir>, disk: D) -> io::Result<Self> {
        let text = replica.position().map_err(io::Error::other)?;
        let position = Position::read(text.as_deref())?;
        let retired = Retired::default();
        retired.set(&position.retired);
        Ok(Self {
            retired,
            applied: Arc::new(Applied::new(&position)),
            observer: None,
            position,
            replica: Arc::new(Mutex::new(replica)),
            snapshots,
            room: Room::default(),
            disk,
        })
    }

    /// Tells somebody what is in the database, from now on.
    #[must_use]
    pub fn observed_by(self, observer: Arc<dyn ApplyObserver>) -> Self {
        Self {
            observer: Some(observer),
            ..self
        }
    }

    /// Tells the numbers of nodes that were members and are not.
    pub(crate) fn retired(&self) -> Retired {
        self.retired.clone()
    }

    /// Tells what was applied.
    pub(crate) fn applied(&self) -> Arc<Applied> {
        Arc::clone(&self.applied)
    }

    pub(crate) const fn has_applied(&self) -> bool {
        self.position.applied.is_some()
    }

    /// Tells what waits for room.
    pub(crate) fn room(&self) -> Room {
        self.room.clone()
    }

    fn set(&mut self, position: Position) {
        self.retired.set(&position.retired);
        self.applied.set(&position);
        self.position = position;
    }

    /// Applies a batch and answers it.
    async fn commit(&mut self, batch: Batch<D>) -> io::Result<()> {
        let mut position = self.position.clone();
        position.applied = batch.last;
        for members in batch.members {
            let before = std::mem::replace(&mut position.members, members);
            let now = position.members.membership();
            let gone = before.membership().nodes().map(|(id, _)| *id);
            let gone = gone.filter(|id| now.get_node(id).is_none());
            position.retired.extend(gone);
        }
        let (replica, observer) = (Arc::clone(&self.replica), self.observer.clone());
        let (text, proposals) = (serde_json::to_string(&position)?, batch.proposals);
        let applied = self.room.wait(&self.disk, move || {
            let commands = proposals
                .iter()
                .map(|(id, proposal)| read(*id, proposal))
                .collect::<io::Result<Vec<Ordered>>>()?;
            let mut replica = replica.lock().unwrap_or_else(PoisonError::into_inner);
            let answers = replica.apply(&commands, &text);
            let answers = answers.map_err(|error| failed(error.is_full(), &error))?;
            if let Some(observer) = &observer {
                for (_, proposal) in &proposals {
                    observer.applied(proposal.text());
                }
            }
            Ok(answers)
        });
        let mut answers = applied.await?.into_iter();
        self.set(position);
        for (is_command, responder) in batch.responders {
            let answer = if is_command { answers.next() } else { None };
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }
}

/// What failed, with its cause, and whether that was for want of room.
fn failed(full: bool, error: &dyn std::error::Error) -> io::Error {
    let text = match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    if full {
        io::Error::new(io::ErrorKind::StorageFull, text)
    } else {
        io::Error::other(text)
    }
}

/// The command of an entry. One that cannot be read was written by a newer version, and a node
/// that skipped it would differ from the others.
fn read(id: LogId, proposal: &Proposal) -> io::Result<Ordered> {
    let command = proposal.command().map_err(|error| {
        io::Error::other(format!(
            "entry {id} of the log holds a command that this rune does not know ({error}); start this node with the \
             version of the others"
        ))
    })?;
    let led = leadership(&id.leader_id);
    Ok(Ordered {
        command: *command,
        led,
    })
}

/// Whether an entry is a command, and who waits for the answer to it.
type Waiting<D> = (bool, Option<ApplyResponder<Types<<D as Disk>::Runtime>>>);

struct Batch<D: Disk> {
    proposals: Vec<(LogId, Proposal)>,
    bytes: usize,
    responders: Vec<Waiting<D>>,
    /// In their order.
    members: Vec<Members>,
    last: Option<LogId>,
}

impl<D: Disk> Default for Batch<D> {
    fn default() -> Self {
        Self {
            proposals: Vec::new(),
            bytes: 0,
            responders: Vec::new(),
            members: Vec::new(),
            last: None,
        }
    }
}

impl<D: Disk> Batch<D> {
    fn add(&mut self, entry: LogEntry, responder: Option<ApplyResponder<Types<D::Runtime>>>) {
        let id = entry.log_id;
        self.last = Some(id);
        let is_command = match entry.payload {
            EntryPayload::Blank => false,
            EntryPayload::Normal(proposal) => {
                self.bytes += proposal.bytes();
                self.proposals.push((id, proposal));
                true
            }
            EntryPayload::Membership(members) => {
                let members = StoredMembership::new(Some(id), members);
                self.members.push(members);
                false
            }
        };
        self.responders.push((is_command, responder));
    }

    const fn is_full(&self) -> bool {
        self.responders.len() >= MAX_BATCH || self.bytes >= MAX_BATCH_BYTES
    }
}

impl<D: Disk> RaftStateMachine<Types<D::Runtime>> for StateMachine<D> {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder<D>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Members), io::Error> {
        Ok((self.position.applied, self.position.members.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types<D::Runtime>>, io::Error>>
            + Unpin
            + OptionalSend,
    {
        let mut batch = Batch::default();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            batch.add(entry, responder);
            if batch.is_full() {
                self.commit(std::mem::take(&mut batch)).await?;
            }
        }
        if batch.last.is_some() {
            self.commit(batch).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder<D> {
        let replica = self.replica.lock().unwrap_or_else(PoisonError::into_inner);
        Builder {
            copier: replica.copier(),
            snapshots: Arc::clone(&self.snapshots),
            room: self.room.clone(),
            disk: self.disk.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &Meta,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        let manifest = snapshot.manifest().clone();
        if manifest.meta() != *meta {
            return Err(io::Error::other(format!(
                "the snapshot is of entry {}, not of {meta}",
                manifest.place()
            )));
        }
        if self.position.applied >= manifest.applied {
            tracing::warn!(
                snapshot = manifest.place(),
                "not installed: the state is newer"
            );
            return Ok(());
        }
        let (replica, snapshots) = (Arc::clone(&self.replica), Arc::clone(&self.snapshots));
        let installed = self.room.wait(&self.disk, move || {
            // First the snapshot is kept, then it is installed: a start that finds it and an
            // older state installs it again.
            let snapshot = snapshots.adopt(&snapshot)?;
            let mut replica = replica.lock().unwrap_or_else(PoisonError::into_inner);
            let installed = replica.install(snapshot.path());
            installed.map_err(|error| failed(error.is_full(), &error))?;
            let position = replica.position().map_err(io::Error::other)?;
            Position::read(position.as_deref())
        });
        let position = installed.await?;
        self.set(position);
        if let Some(observer) = &self.observer {
            observer.replaced();
        }
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<Snapshot<Leader, NodeId, openraft::BasicNode, SnapshotFile>>, io::Error>
    {
        Ok(self.snapshots.current().map(of_file))
    }
}

fn of_file(snapshot: SnapshotFile) -> Snapshot<Leader, NodeId, openraft::BasicNode, SnapshotFile> {
    Snapshot {
        meta: snapshot.manifest().meta(),
        snapshot,
    }
}

/// Builds a snapshot while the log goes on being applied.
pub struct Builder<D> {
    copier: Copier,
    snapshots: Arc<SnapshotDir>,
    room: Room,
    disk: D,
}

impl<D: Disk> RaftSnapshotBuilder<Types<D::Runtime>> for Builder<D> {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(
        &mut self,
    ) -> Result<Snapshot<Leader, NodeId, openraft::BasicNode, SnapshotFile>, io::Error> {
        let (copier, snapshots) = (self.copier.clone(), Arc::clone(&self.snapshots));
        let built = self.room.wait(&self.disk, move || {
            let draft = snapshots.draft();
            let built = build(&copier, &snapshots, &draft);
            // Where it is the snapshot now, it has another name.
            match std::fs::remove_file(&draft) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => built,
            }
        });
        Ok(of_file(built.await?))
    }
}

fn build(copier: &Copier, snapshots: &SnapshotDir, draft: &Path) -> io::Result<SnapshotFile> {
    let copied = copier.copy_to(draft);
    let (copied, position) = copied.map_err(|error| failed(error.is_full(), &error))?;
    let Position {
        applied, members, ..
    } = Position::read(position.as_deref())?;
    let manifest = Manifest {
        applied,
        members,
        bytes: copied.bytes,
        digest: copied.digest,
    };
    snapshots.adopt(&SnapshotFile::open(manifest, draft)?)
}
