//! The log of a node.
//!
//! Every write, be it entries, a vote, a truncation or a purge, goes through one queue and is made
//! in its order: a vote that overtook entries would lose what was committed. What waits is made in
//! one transaction with one fsync, and only then answered.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{Stream, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{AsyncRuntime, LogIndexOptionExt as _, OptionalSend, RaftLogReader};
use rune_storage::{LogChange, LogError, LogFile, LogOwner, LogReader as FileReader, StorageError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};

use crate::entry::{from_row, id_of, size, to_row};
use crate::sizes::Sizes;
use crate::tail::Tail;
use crate::{Disk, LogEntry, LogId, Types, Vote};

/// Writes that may wait; whoever has a further one waits to enqueue it.
const QUEUE: usize = 1024;

/// Writes in one transaction at the most.
const MAX_BATCH: usize = 256;

/// Bytes of entries that are sent to another node, or applied, at once; one entry may exceed it.
const READ_BYTES: usize = 4 << 20;

/// How long what finds the disk full waits for room before it tries again.
pub(crate) const FULL_PAUSE: Duration = Duration::from_secs(1);

/// The log of one node, in a file.
pub struct LogStore<D: Disk> {
    shared: Arc<Shared<D>>,
    jobs: mpsc::Sender<Job<D>>,
}

/// Reads the log beside the one that writes it.
pub struct LogReader<D: Disk>(Arc<Shared<D>>);

/// Says how the log is, to whoever does not own it.
#[derive(Clone)]
pub struct LogStatus(Arc<Mutex<Trouble>>);

#[derive(Debug, Default)]
struct Trouble {
    full: bool,
    failure: Option<String>,
}

struct Shared<D> {
    tail: Mutex<Tail>,
    file: Arc<Mutex<FileReader>>,
    trouble: LogStatus,
    sizes: Sizes,
    disk: D,
}

enum Job<D: Disk> {
    Change(LogChange, Done<D>),
    /// How far the log is committed. Made with the next change, because it needs no fsync of its
    /// own: a restart that finds an older one learns the rest from the leader.
    Committed(String),
}

/// What is to be done when a change is on disk.
enum Done<D: Disk> {
    /// The entries before this index are there.
    Appended(u64, IOFlushed<Types<D::Runtime>>),
    Answer(oneshot::Sender<io::Result<()>>),
}

impl LogStatus {
    /// Whether the disk is full. Nothing can be promised to another node then; when there is room
    /// again, the node goes on by itself.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.lock().full
    }

    /// Why the log is not written any more. It can be again after a restart.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Trouble> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Disk> LogStore<D> {
    /// Opens the log of a node, or makes an empty one, and starts to write it. Must be called in
    /// the runtime; opening reads the disk.
    ///
    /// # Errors
    /// [`StorageError::Owner`] where it is another node's; those of opening a database.
    pub fn open(path: &Path, owner: &LogOwner, disk: D) -> Result<Self, StorageError> {
        let (file, start) = LogFile::open(path, owner)?;
        let reader = FileReader::open(path)?;
        let unreadable = |error: serde_json::Error| StorageError::Damaged {
            path: path.to_owned(),
            report: error.to_string(),
        };
        let tail = Tail::new(
            parse(start.vote).map_err(unreadable)?,
            parse(start.committed).map_err(unreadable)?,
            parse(start.purged).map_err(unreadable)?,
            start.last.as_ref().map(id_of),
        );
        let first = tail.purged.map(|id| id.index).next_index();
        let next = tail.last.map(|id| id.index).next_index();
        let sizes = Sizes::new(first, next, start.bytes);
        let trouble = LogStatus(Arc::default());
        let shared = Arc::new(Shared {
            tail: Mutex::new(tail),
            file: Arc::new(Mutex::new(reader)),
            trouble,
            sizes,
            disk,
        });
        let (jobs, waiting) = mpsc::channel(QUEUE);
        drop(D::Runtime::spawn(write(file, waiting, Arc::clone(&shared))));
        Ok(Self { shared, jobs })
    }

    /// How the log is.
    #[must_use]
    pub fn status(&self) -> LogStatus {
        self.shared.trouble.clone()
    }

    /// How large the log is.
    pub(crate) fn sizes(&self) -> Sizes {
        self.shared.sizes.clone()
    }

    pub(crate) fn is_pristine(&self) -> bool {
        self.shared.tail().is_pristine()
    }

    async fn enqueue(&self, job: Job<D>) -> io::Result<()> {
        self.jobs.send(job).await.map_err(|_| self.shared.closed())
    }

    /// Makes a change and waits until it is on disk.
    async fn change(&self, change: LogChange) -> io::Result<()> {
        let (answer, answered) = oneshot::channel();
        self.enqueue(Job::Change(change, Done::Answer(answer)))
            .await?;
        answered.await.map_err(|_| self.shared.closed())?
    }
}

impl<D: Disk> Shared<D> {
    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closed(&self) -> io::Error {
        let failure = self.trouble.failure();
        io::Error::other(failure.unwrap_or_else(|| "the log is closed".to_owned()))
    }

    async fn read(&self, from: u64, to: u64, max_bytes: usize) -> io::Result<Vec<LogEntry>> {
        let first = {
            let tail = self.tail();
            if from >= tail.first() {
                return Ok(tail.read(from, to, max_bytes));
            }
            tail.first()
        };
        let file = Arc::clone(&self.file);
        let end = to.min(first);
        let rows = self
            .disk
            .run(move || {
                let file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.read(from, end, max_bytes)
            })
            .await?
            .map_err(io::Error::other)?;
        let mut entries = rows
            .into_iter()
            .map(from_row)
            .collect::<io::Result<Vec<_>>>()?;
        let complete = entries
            .last()
            .is_none_or(|last| last.log_id.index + 1 == end);
        if complete && end < to {
            // Without a limit everything is asked for; with one, there is something already.
            let rest = if entries.is_empty() || max_bytes == usize::MAX {
                self.tail().read(end, to, max_bytes)
            } else {
                Vec::new()
            };
            entries.extend(rest);
        }
        without_gap(entries)
    }
}

/// What is replicated or applied over a gap would be lost on that node alone.
fn without_gap(entries: Vec<LogEntry>) -> io::Result<Vec<LogEntry>> {
    for pair in entries.windows(2) {
        if let [one, next] = pair
            && next.log_id.index != one.log_id.index + 1
        {
            return Err(io::Error::other(format!(
                "the log has no entry between {} and {}; have this node join under a new number with an empty data \
                 directory",
                one.log_id, next.log_id
            )));
        }
    }
    Ok(entries)
}

/// Makes the changes that wait, until nobody can have a further one.
async fn write<D: Disk>(
    mut file: LogFile,
    mut jobs: mpsc::Receiver<Job<D>>,
    shared: Arc<Shared<D>>,
) {
    let mut waiting = Vec::with_capacity(MAX_BATCH);
    let mut committed = None;
    while jobs.recv_many(&mut waiting, MAX_BATCH).await > 0 {
        let mut changes = Vec::with_capacity(waiting.len() + 1);
        let mut done = Vec::with_capacity(waiting.len());
        for job in waiting.drain(..) {
            match job {
                Job::Committed(text) => committed = Some(text),
                Job::Change(change, then) => {
                    changes.push(change);
                    done.push(then);
                }
            }
        }
        if done.is_empty() {
            continue;
        }
        changes.extend(committed.take().map(LogChange::Committed));
        let failure = loop {
            if let Some(failure) = shared.trouble.failure() {
                break Some(failure);
            }
            let made = shared.disk.run(move || {
                let made = file.write(&changes);
                (file, changes, made)
            });
            let made = match made.await {
                Ok(made) => made,
                Err(error) => {
                    shared.trouble.lock().failure = Some(error.to_string());
                    answer(done, &shared, Some(&error.to_string()));
                    return;
                }
            };
            (file, changes) = (made.0, made.1);
            match made.2 {
                Ok(()) => break None,
                Err(error @ LogError::Full) => {
                    tracing::error!(%error, "the log waits for room");
                    shared.trouble.lock().full = true;
                    D::Runtime::sleep(FULL_PAUSE).await;
                }
                Err(error) => {
                    tracing::error!(%error, "the node stops");
                    shared.trouble.lock().failure = Some(error.to_string());
                }
            }
        };
        shared.trouble.lock().full = false;
        answer(done, &shared, failure.as_deref());
    }
}

fn answer<D: Disk>(done: Vec<Done<D>>, shared: &Shared<D>, failure: Option<&str>) {
    let result = || match failure {
        None => Ok(()),
        Some(failure) => Err(io::Error::other(failure)),
    };
    for done in done {
        match done {
            Done::Appended(next, flushed) => {
                if failure.is_none() {
                    shared.tail().flushed(next);
                }
                flushed.io_completed(result());
            }
            // Nobody waits any more where this fails.
            Done::Answer(answer) => drop(answer.send(result())),
        }
    }
}

impl<D: Disk> RaftLogReader<Types<D::Runtime>> for LogReader<D> {
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<LogEntry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = bounds(&range);
        let shared = Arc::clone(&self.0);
        // A part at a time, so that what is applied after a long absence need not fit in memory.
        let parts = stream::try_unfold(from, move |from| {
            let shared = Arc::clone(&shared);
            async move {
                if from >= to {
                    return Ok::<_, io::Error>(None);
                }
                let entries = shared.read(from, to, READ_BYTES).await?;
                let next = entries.last().map(|last| last.log_id.index + 1);
                Ok(next.map(|next| (stream::iter(entries.into_iter().map(Ok)), next)))
            }
        });
        Box::pin(futures_util::TryStreamExt::try_flatten(parts))
    }

    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, io::Error> {
        let (from, to) = bounds(&range);
        self.0.read(from, to, usize::MAX).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<LogEntry>, io::Error> {
        self.0.read(start, end, READ_BYTES).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.0.tail().vote)
    }
}

impl<D: Disk> RaftLogStorage<Types<D::Runtime>> for LogStore<D> {
    type LogReader = LogReader<D>;

    async fn get_log_state(&mut self) -> Result<LogState<Types<D::Runtime>>, io::Error> {
        let tail = self.shared.tail();
        Ok(LogState {
            last_purged_log_id: tail.purged,
            last_log_id: tail.last,
        })
    }

    async fn get_log_reader(&mut self) -> LogReader<D> {
        LogReader(Arc::clone(&self.shared))
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.change(LogChange::Vote(text(vote)?)).await?;
        self.shared.tail().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.shared.tail().committed = committed;
        match committed {
            Some(committed) => self.enqueue(Job::Committed(text(&committed)?)).await,
            None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.tail().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<Types<D::Runtime>>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        let rows = entries.iter().map(to_row).collect::<io::Result<_>>()?;
        for entry in &entries {
            self.shared.sizes.append(entry.log_id.index, size(entry));
        }
        let next = {
            let mut tail = self.shared.tail();
            tail.append(entries);
            tail.last.map(|id| id.index).next_index()
        };
        let done = Done::Appended(next, callback);
        self.enqueue(Job::Change(LogChange::Append(rows), done))
            .await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.shared.tail().truncate(last);
        let next = last.map(|id| id.index).next_index();
        self.shared.sizes.truncate(next);
        // Waited for: nothing that was to be dropped can come to disk afterwards.
        self.change(LogChange::TruncateFrom(next)).await
    }

    async fn purge(&mut self, purged: LogId) -> Result<(), io::Error> {
        self.shared.tail().purge(purged);
        self.shared.sizes.purge(purged.index);
        let change = LogChange::PurgeTo(purged.index, text(&purged)?);
        self.change(change).await
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

fn text<T: Serialize>(value: &T) -> io::Result<String> {
    Ok(serde_json::to_string(value)?)
}

fn parse<T: DeserializeOwned>(text: Option<String>) -> serde_json::Result<Option<T>> {
    text.map(|text| serde_json::from_str(&text)).transpose()
}
