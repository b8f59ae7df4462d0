//! The writer: one thread that takes what is waiting, applies it in one
//! transaction, commits once and answers all (group commit).
//!
//! There is no delay to make a batch larger: while one batch is being committed,
//! the next one gathers.

use std::thread::JoinHandle;
use std::time::Instant;

use rune_store_runtime::{Command, Reply, StoreError};
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use crate::apply::{Encoded, apply_encoded};
use crate::checkpoint::CheckpointHandle;
use crate::health::Health;
use crate::metrics::{self, Outcome};
use crate::{ApplyError, StorageError};

/// Commands in one transaction at the most.
const MAX_BATCH: usize = 512;

/// Bytes of commands in one transaction at the most; one command may exceed it.
const MAX_BATCH_BYTES: usize = 8 << 20;

const NAME: &str = "rune-store-writer";

/// A command and where its answer goes.
pub(crate) struct Job {
    pub(crate) command: Command,
    /// The JSON that it stores, as far as it was made in advance.
    pub(crate) encoded: Encoded,
    /// Its size, for the limit of a batch.
    pub(crate) bytes: usize,
    pub(crate) answer: oneshot::Sender<Result<Reply, StoreError>>,
}

/// Starts the writer. It ends when every sender is dropped and the queue is empty.
pub(crate) fn start(
    connection: Connection,
    queue: usize,
    health: Health,
    checkpoint: CheckpointHandle,
) -> Result<(mpsc::Sender<Job>, JoinHandle<()>), StorageError> {
    let (sender, receiver) = mpsc::channel(queue.max(1));
    let writer = Writer {
        connection,
        health,
        checkpoint,
    };
    let thread = std::thread::Builder::new()
        .name(NAME.to_owned())
        .spawn(move || writer.run(receiver))
        .map_err(|error| StorageError::Thread {
            name: NAME,
            problem: format!("cannot start: {error}"),
        })?;
    Ok((sender, thread))
}

struct Writer {
    connection: Connection,
    health: Health,
    checkpoint: CheckpointHandle,
}

impl Writer {
    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let checkpoint = self.checkpoint.clone();
        let hook = move |_: &mut rusqlite::hooks::Wal, frames| {
            checkpoint.committed(u32::try_from(frames).unwrap_or(0));
            Ok(())
        };
        if let Err(error) = self.connection.wal_hook(Some(hook)) {
            self.health
                .fail(format!("cannot watch the write-ahead log: {error}"));
        }
        let mut waiting = Vec::with_capacity(MAX_BATCH);
        while jobs.blocking_recv_many(&mut waiting, MAX_BATCH) > 0 {
            metrics::queue_depth(jobs.len());
            while !waiting.is_empty() {
                let batch = waiting.drain(..batch_len(&waiting)).collect();
                self.batch(batch);
            }
        }
    }

    /// Applies a batch and answers it.
    fn batch(&mut self, batch: Vec<Job>) {
        if let Err(error) = self.health.check() {
            let reason = error.to_string();
            return refuse(batch, &reason);
        }
        let size = batch.len();
        match self.commit(&batch) {
            Ok(outcomes) => {
                metrics::batch(size);
                for (job, outcome) in batch.into_iter().zip(outcomes) {
                    metrics::command(job.command.op.name(), Outcome::of(&outcome));
                    // The caller may have gone; the change is made all the same.
                    let _ = job.answer.send(outcome);
                }
            }
            Err(error) => {
                let reason = describe(&error);
                if !passes(&error) {
                    self.health.fail(reason.clone());
                }
                refuse(batch, &reason);
            }
        }
    }

    /// One transaction. An error means that nothing of the batch was answered and
    /// nothing of it is known to be durable.
    fn commit(&mut self, batch: &[Job]) -> Result<Vec<Result<Reply, StoreError>>, ApplyError> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut outcomes = Vec::with_capacity(batch.len());
        for job in batch {
            outcomes.push(
                match apply_encoded(&transaction, &job.command, &job.encoded) {
                    Ok(reply) => Ok(reply),
                    Err(ApplyError::Reject(reject)) => Err(StoreError::Rejected(reject)),
                    Err(error) => return Err(error),
                },
            );
        }
        let start = Instant::now();
        transaction.commit()?;
        metrics::commit(start.elapsed());
        Ok(outcomes)
    }
}

/// How many of the waiting commands go into the next transaction.
fn batch_len(waiting: &[Job]) -> usize {
    let mut bytes = 0usize;
    let fits = waiting.iter().take_while(|job| {
        bytes = bytes.saturating_add(job.bytes);
        bytes <= MAX_BATCH_BYTES
    });
    fits.count().max(1)
}

fn refuse(batch: Vec<Job>, reason: &str) {
    for job in batch {
        metrics::command(job.command.op.name(), Outcome::Unavailable);
        // The caller may have gone.
        let _ = job
            .answer
            .send(Err(StoreError::Unavailable(reason.to_owned())));
    }
}

/// Whether the store can go on after this error: the transaction was rolled back
/// for a reason that leaves the files intact and can pass. Any other error, first
/// of all a failed fsync, leaves unknown what is on disk and is never retried.
fn passes(error: &ApplyError) -> bool {
    let ApplyError::Database(rusqlite::Error::SqliteFailure(error, _)) = error else {
        return false;
    };
    matches!(
        error.code,
        ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked
    )
}

fn describe(error: &ApplyError) -> String {
    match error {
        ApplyError::Database(cause) => format!("{error}: {cause}"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: i32) -> ApplyError {
        ApplyError::Database(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(code),
            None,
        ))
    }

    #[test]
    fn only_what_can_pass_lets_the_store_go_on() {
        use rusqlite::ffi;
        assert!(passes(&failure(ffi::SQLITE_FULL)));
        assert!(passes(&failure(ffi::SQLITE_BUSY)));
        assert!(!passes(&failure(ffi::SQLITE_IOERR_FSYNC)));
        assert!(!passes(&failure(ffi::SQLITE_CORRUPT)));
        assert!(!passes(&ApplyError::UnknownVersion {
            found: 2,
            supported: 1
        }));
    }

    #[tokio::test]
    async fn an_unknown_command_version_halts_the_store() {
        use rune_store_runtime::{CacheRemove, Timestamp};

        let health = Health::default();
        let db = crate::open_in_memory(4096).unwrap();
        let (sender, thread) = start(db, 4, health.clone(), CheckpointHandle::default()).unwrap();
        let submit = |v| {
            let sender = sender.clone();
            async move {
                let op = CacheRemove {
                    key: "k".to_owned(),
                };
                let mut command = Command::new(Timestamp::from_millis(1), op);
                command.v = v;
                let (answer, answered) = oneshot::channel();
                let job = Job {
                    command,
                    encoded: Encoded::None,
                    bytes: 1,
                    answer,
                };
                sender.send(job).await.ok().unwrap();
                answered.await.unwrap()
            }
        };
        assert!(submit(Command::VERSION).await.is_ok());
        assert!(matches!(submit(9).await, Err(StoreError::Unavailable(_))));
        assert!(health.failure().unwrap().contains("version 9"));
        assert!(matches!(submit(1).await, Err(StoreError::Unavailable(_))));
        drop(sender);
        thread.join().unwrap();
    }
}
