//! Commands on their way: what waits is sent together, one batch after the other.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rune_runtime::Tasks;
use rune_store_runtime::{Command, Reject, Reply, RequestId, StoreError};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connection::{CallError, Connection};
use super::unreadable;
use crate::call::{COMMANDS, MAX_BATCH, MAX_BATCH_BYTES, MAX_COMMAND_BYTES};

type Outcome = Result<Reply, StoreError>;

/// A command that was submitted, and where its answer goes.
struct Job {
    json: Vec<u8>,
    /// The journal that it writes, where a store knows only the last such command again.
    journal: Option<RequestId>,
    submitted: Instant,
    answer: oneshot::Sender<Outcome>,
}

impl Job {
    /// The caller may have gone; the change is made all the same.
    fn answer(self, outcome: Outcome) {
        let _ = self.answer.send(outcome);
    }
}

#[derive(Default)]
struct Queue {
    /// As many as there are callers that wait for an answer.
    jobs: VecDeque<Job>,
    is_sending: bool,
    /// The journals of commands that are sent apart: what else writes them waits.
    apart: HashSet<RequestId>,
}

impl Queue {
    /// The commands that are sent next, in their order.
    fn next_batch(&mut self) -> Vec<Job> {
        let (mut batch, mut bytes, mut journals) = (Vec::new(), 0usize, HashSet::new());
        let mut waiting = VecDeque::new();
        while let Some(job) = self.jobs.pop_front() {
            if job.journal.is_some_and(|it| self.apart.contains(&it)) {
                waiting.push_back(job);
                continue;
            }
            bytes = bytes.saturating_add(job.json.len());
            let is_full = batch.len() >= MAX_BATCH || bytes > MAX_BATCH_BYTES;
            let is_known = job.journal.is_some_and(|journal| !journals.insert(journal));
            if !batch.is_empty() && (is_full || is_known) {
                waiting.push_back(job);
                break;
            }
            batch.push(job);
        }
        waiting.append(&mut self.jobs);
        self.jobs = waiting;
        batch
    }
}

/// Where commands wait, and what sends them.
pub(super) struct Commands {
    connection: Arc<Connection>,
    tasks: Tasks,
    queue: Mutex<Queue>,
}

impl Commands {
    pub(super) fn new(connection: Arc<Connection>, tasks: Tasks) -> Self {
        Self {
            connection,
            tasks,
            queue: Mutex::default(),
        }
    }

    /// Queues a command when it is first polled, and waits for its answer.
    pub(super) async fn submit(self: &Arc<Self>, command: &Command) -> Outcome {
        let json = serde_json::to_vec(command)
            .map_err(|error| Reject::invalid(format!("cannot be written as JSON: {error}")))?;
        if json.len() > MAX_COMMAND_BYTES {
            return Err(Reject::invalid(format!(
                "a command has {} bytes of JSON, the limit is {MAX_COMMAND_BYTES}",
                json.len()
            ))
            .into());
        }
        let (answer, answered) = oneshot::channel();
        self.queue().jobs.push_back(Job {
            json,
            journal: command.op.journal(),
            submitted: Instant::now(),
            answer,
        });
        self.wake();
        answered.await.unwrap_or_else(|_| {
            let reason = "the process ended before the command was answered";
            Err(StoreError::Unavailable(reason.to_owned()))
        })
    }

    /// Has what waits be sent.
    fn wake(self: &Arc<Self>) {
        let is_idle = !std::mem::replace(&mut self.queue().is_sending, true);
        if is_idle {
            self.tasks.spawn("remote-commands", Arc::clone(self).run());
        }
    }

    /// Sends until nothing waits any more.
    async fn run(self: Arc<Self>) {
        loop {
            let batch = {
                let mut queue = self.queue();
                let batch = queue.next_batch();
                queue.is_sending = !batch.is_empty();
                batch
            };
            if batch.is_empty() {
                return;
            }
            for job in self.send(batch).await {
                self.send(vec![job]).await;
            }
        }
    }

    /// Sends a batch until it is answered. Answers those that have to be sent one by one: of which one may not be made, and
    /// nothing was done.
    async fn send(self: &Arc<Self>, batch: Vec<Job>) -> Vec<Job> {
        let Some(first) = batch.first() else {
            return batch;
        };
        let mut patience = self.connection.patience_since(first.submitted);
        loop {
            let reason = match self.outcomes(&batch).await {
                Ok(outcomes) => {
                    for (job, outcome) in batch.into_iter().zip(outcomes) {
                        match outcome {
                            Err(StoreError::Unavailable(why)) => self.set_apart(job, why),
                            outcome => job.answer(outcome),
                        }
                    }
                    return Vec::new();
                }
                Err(CallError::Again(reason)) => reason,
                Err(CallError::Denied(_)) if batch.len() > 1 => return batch,
                Err(CallError::Denied(message)) => {
                    answer_all(batch, &StoreError::Denied(message));
                    return Vec::new();
                }
                Err(CallError::Final(error)) => {
                    answer_all(batch, &error);
                    return Vec::new();
                }
            };
            if !patience.wait().await {
                answer_all(batch, &StoreError::Unavailable(reason));
                return Vec::new();
            }
        }
    }

    /// Goes on with a command that the store cannot take yet, which keeps no other one from being sent.
    fn set_apart(self: &Arc<Self>, job: Job, reason: String) {
        self.queue().apart.extend(job.journal);
        let this = Arc::clone(self);
        self.tasks.spawn("remote-command", async move {
            let outcome = this.persist(&job, reason).await;
            if let Some(journal) = job.journal {
                this.queue().apart.remove(&journal);
            }
            job.answer(outcome);
            this.wake();
        });
    }

    /// Sends a command until the store takes it.
    async fn persist(&self, job: &Job, mut reason: String) -> Outcome {
        let mut patience = self.connection.patience_since(job.submitted);
        while patience.wait().await {
            reason = match self.outcomes(std::slice::from_ref(job)).await {
                Ok(mut outcomes) => match outcomes.pop() {
                    Some(Err(StoreError::Unavailable(why))) => why,
                    Some(outcome) => return outcome,
                    None => continue,
                },
                Err(CallError::Again(why)) => why,
                Err(CallError::Denied(message)) => return Err(StoreError::Denied(message)),
                Err(CallError::Final(error)) => return Err(error),
            };
        }
        Err(StoreError::Unavailable(reason))
    }

    /// One attempt.
    async fn outcomes(&self, batch: &[Job]) -> Result<Vec<Outcome>, CallError> {
        let bytes: usize = batch.iter().map(|job| job.json.len() + 1).sum();
        let mut body = Vec::with_capacity(bytes + 1);
        for job in batch {
            body.push(if body.is_empty() { b'[' } else { b',' });
            body.extend_from_slice(&job.json);
        }
        body.push(b']');
        let answer = self.connection.post(COMMANDS, Bytes::from(body)).await?;
        let outcomes: Vec<Outcome> = serde_json::from_slice(&answer)
            .map_err(|error| CallError::Final(unreadable(&error)))?;
        if outcomes.len() == batch.len() {
            return Ok(outcomes);
        }
        Err(CallError::Final(StoreError::Unavailable(format!(
            "the control plane answered {} results to {} commands",
            outcomes.len(),
            batch.len()
        ))))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer_all(batch: Vec<Job>, error: &StoreError) {
    for job in batch {
        job.answer(Err(error.clone()));
    }
}
