//! The commands of a node on their way to the leader: what waits is sent together, one batch after
//! the other.
//!
//! A batch is put into the log in its order, and the next one goes out when it is answered. So the
//! commands of this node are applied in the order in which they were submitted, also where some
//! have to be sent again: a replicated state knows every one of them again, not the last of a
//! journal alone.
//!
//! What the engine of a leader submits goes to no other one. Once this node does not lead any more it has no answer at
//! all: whoever waits for one is to be ended, and must not take "not done" for something to tell anybody.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rune_raft::{MAX_WRITE_BYTES, MAX_WRITE_COMMANDS, Node, Proposal, Threads, Written};
use rune_runtime::Tasks;
use rune_store_runtime::{Command, CommandLog, Leadership, Reject, Reply, StoreError};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{PeerTransport, metrics};

/// A command that was submitted, and where its answer goes.
struct Job {
    proposal: Proposal,
    submitted: Instant,
    answer: oneshot::Sender<Answer>,
}

/// What came of a command; nothing where the leader that made it is none any more.
type Answer = Option<Result<Written, StoreError>>;

impl Job {
    /// The caller may have gone; the change is made all the same.
    fn answer(self, answer: Answer) {
        let _ = self.answer.send(answer);
    }
}

/// As which leader commands are made.
#[derive(Clone, Default)]
pub(crate) struct Led {
    /// Nothing before the node leads.
    pub(crate) lead: Arc<OnceLock<Leadership>>,
    /// Fires when it turns out that the node is not that leader any more.
    pub(crate) deposed: CancellationToken,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    is_sending: bool,
    /// When a command was answered last: one that waits behind many is not given up as long as
    /// they are answered.
    answered: Option<Instant>,
}

impl Queue {
    /// The commands that are sent next, in their order.
    fn next_batch(&mut self) -> VecDeque<Job> {
        let (mut batch, mut bytes) = (VecDeque::new(), 0usize);
        while let Some(job) = self.jobs.front() {
            bytes = bytes.saturating_add(job.proposal.bytes());
            let is_full = batch.len() >= MAX_WRITE_COMMANDS || bytes > MAX_WRITE_BYTES;
            if !batch.is_empty() && is_full {
                break;
            }
            batch.extend(self.jobs.pop_front());
        }
        batch
    }
}

impl Led {
    fn known(&self) -> Result<Leadership, StoreError> {
        let early = || StoreError::Unavailable("this node does not lead yet".to_owned());
        self.lead.get().copied().ok_or_else(early)
    }
}

/// Has commands ordered by the cluster. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ClusterLog {
    inner: Arc<Inner>,
}

struct Inner {
    node: Node<Threads, PeerTransport>,
    tasks: Tasks,
    /// How long a command is tried after it was submitted, or after the one before it was answered.
    patience: Duration,
    /// As which leader; nothing where that does not matter.
    led: Option<Led>,
    queue: Mutex<Queue>,
}

impl ClusterLog {
    pub(crate) fn new(
        node: Node<Threads, PeerTransport>,
        tasks: Tasks,
        patience: Duration,
        led: Option<Led>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                node,
                tasks,
                patience,
                led,
                queue: Mutex::default(),
            }),
        }
    }

    /// Has what waits be sent.
    fn wake(&self) {
        let is_idle = !std::mem::replace(&mut self.inner.queue().is_sending, true);
        if is_idle {
            let inner = Arc::clone(&self.inner);
            self.inner.tasks.spawn("cluster-commands", inner.run());
        }
    }
}

impl Inner {
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
            self.send(batch).await;
        }
    }

    /// Sends a batch until all of it is answered.
    async fn send(&self, mut batch: VecDeque<Job>) {
        while let Some(first) = batch.front() {
            let since = self.queue().answered.max(Some(first.submitted));
            let waited = since.map_or(Duration::ZERO, |since| since.elapsed());
            let patience = self.patience.saturating_sub(waited);
            let proposals = batch.iter().map(|job| job.proposal.clone()).collect();
            match self.write(proposals, patience).await {
                Ok(Some(written)) => {
                    self.queue().answered = Some(Instant::now());
                    metrics::proposals("written", written.len());
                    for written in written {
                        if let Some(job) = batch.pop_front() {
                            job.answer(self.answer(written));
                        }
                    }
                }
                Ok(None) => {
                    self.depose();
                    return batch.into_iter().for_each(|job| job.answer(None));
                }
                Err(error) => {
                    metrics::proposals("unavailable", batch.len());
                    for job in batch {
                        job.answer(Some(Err(error.clone())));
                    }
                    return;
                }
            }
        }
    }

    /// Writes the first of these, at least one; nothing where the leader that made them is none any more.
    async fn write(
        &self,
        proposals: Vec<Proposal>,
        patience: Duration,
    ) -> Result<Option<Vec<Written>>, StoreError> {
        match &self.led {
            None => self.node.write_some(proposals, patience).await.map(Some),
            Some(led) => {
                let lead = led.known()?;
                let written = self.node.write_leading(lead, proposals, patience);
                written.await
            }
        }
    }

    fn answer(&self, written: Written) -> Answer {
        let is_fenced = matches!(written.outcome, Err(Reject::Fenced { .. }));
        if is_fenced && self.led.is_some() {
            self.depose();
            return None;
        }
        Some(Ok(written))
    }

    fn depose(&self) {
        if let Some(led) = &self.led {
            led.deposed.cancel();
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl CommandLog for ClusterLog {
    async fn submit(&self, mut command: Command) -> Result<Reply, StoreError> {
        if let Some(led) = &self.inner.led {
            command.fence = Some(led.known()?);
        }
        let (answer, answered) = oneshot::channel();
        let job = Job {
            proposal: Proposal::checked(&command)?,
            submitted: Instant::now(),
            answer,
        };
        self.inner.queue().jobs.push_back(job);
        self.wake();
        let written = answered.await.unwrap_or_else(|_| {
            let reason = "the node ended before the command was answered";
            Some(Err(StoreError::Unavailable(reason.to_owned())))
        });
        let Some(written) = written.transpose()? else {
            return std::future::pending().await;
        };
        // Whoever wrote it reads it here.
        self.inner.node.applied(written.index).await?;
        Ok(written.outcome?)
    }
}
