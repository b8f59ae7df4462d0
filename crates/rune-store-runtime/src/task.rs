//! Tasks: work that agents of a namespace leave for each other.
//!
//! A claim is a lease. Where its holder ends without a word the task can be claimed again once the lease is over, and
//! fails after as many claims as it allows.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{SessionId, TaskId, Timestamp};

/// Posts a task. Reply: unit. One that exists already stays as it is. Rejected with `conflict` where the queue is full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PostTask {
    /// The task.
    pub task_id: TaskId,
    /// Namespace of those who may claim it.
    pub namespace: String,
    /// Its queue, 1 to 128 bytes.
    pub queue: String,
    /// What is to be done, for whoever does it.
    pub title: String,
    /// What is needed for it.
    pub payload: Value,
    /// What is higher is claimed first.
    pub priority: i32,
    /// How often it may be claimed before it fails.
    pub max_attempts: u32,
    /// The agent that posted it.
    pub posted_by: String,
}

/// Claims the first task of a queue, or one that is named. Reply: the task as it is then; nothing where there is none to claim.
///
/// First is the highest priority, then the oldest. Tasks whose lease is over can be claimed like those that nobody
/// holds; one that was claimed as often as it allows fails instead. A named task that the holder has already is leased anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimTask {
    /// Namespace of the queue.
    pub namespace: String,
    /// The queue.
    pub queue: String,
    /// The task, where it is one of its own.
    pub task_id: Option<TaskId>,
    /// Who claims it.
    pub holder: TaskHolder,
    /// How long it is theirs.
    pub lease_ms: u64,
}

/// Ends a task or gives it back. Reply: unit. Rejected with `not_found`, and with `conflict` where somebody else holds it or it
/// has ended in another way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompleteTask {
    /// The task.
    pub task_id: TaskId,
    /// Namespace of the holder.
    pub namespace: String,
    /// Who holds it.
    pub holder: TaskHolder,
    /// What becomes of it: `open` gives it back.
    pub state: TaskState,
    /// What came of it.
    pub result: Value,
}

/// Who holds a task: a conversation of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskHolder {
    /// The agent.
    pub agent: String,
    /// Its conversation.
    pub session_id: SessionId,
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Nobody holds it.
    Open,
    /// Somebody holds it, until the lease is over.
    Claimed,
    /// It is done.
    Done,
    /// It will not be done.
    Failed,
}

impl TaskState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Open, Self::Claimed, Self::Done, Self::Failed];

    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Claimed => "claimed",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    /// The state with this stored word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether nothing becomes of the task any more.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

/// A task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRow {
    /// The task.
    pub id: TaskId,
    /// Namespace of those who may claim it.
    pub namespace: String,
    /// Its queue.
    pub queue: String,
    /// What is to be done.
    pub title: String,
    /// What is needed for it.
    pub payload: Value,
    /// What is higher is claimed first.
    pub priority: i32,
    /// How often it may be claimed.
    pub max_attempts: u32,
    /// How often it was claimed.
    pub attempts: u32,
    /// The agent that posted it.
    pub posted_by: String,
    /// Where it stands.
    pub state: TaskState,
    /// Who holds it or held it last.
    pub holder: Option<TaskHolder>,
    /// When the lease is over; of a claimed one.
    pub lease_until: Option<Timestamp>,
    /// What came of it.
    pub result: Value,
    /// When it was posted.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl TaskRow {
    /// Whether somebody may take it at this time.
    #[must_use]
    pub fn is_free(&self, now: Timestamp) -> bool {
        match self.state {
            TaskState::Open => true,
            TaskState::Claimed => self.lease_until.is_none_or(|until| until <= now),
            TaskState::Done | TaskState::Failed => false,
        }
    }

    /// The row of a new task.
    #[must_use]
    pub fn posted(op: &PostTask, at: Timestamp) -> Self {
        Self {
            id: op.task_id,
            namespace: op.namespace.clone(),
            queue: op.queue.clone(),
            title: op.title.clone(),
            payload: op.payload.clone(),
            priority: op.priority,
            max_attempts: op.max_attempts,
            attempts: 0,
            posted_by: op.posted_by.clone(),
            state: TaskState::Open,
            holder: None,
            lease_until: None,
            result: Value::Null,
            created_at: at,
            updated_at: at,
        }
    }

    /// The row once its holder has it, anew or still.
    #[must_use]
    pub fn leased(mut self, op: &ClaimTask, at: Timestamp) -> Self {
        if self.is_free(at) {
            self.attempts += 1;
        }
        self.state = TaskState::Claimed;
        self.holder = Some(op.holder.clone());
        self.lease_until = Some(at.plus(Duration::from_millis(op.lease_ms)));
        self.updated_at = at;
        self
    }

    /// The row once it was claimed too often, by whoever finds it.
    #[must_use]
    pub fn given_up(mut self, at: Timestamp) -> Self {
        self.state = TaskState::Failed;
        self.lease_until = None;
        self.result = Value::from(format!(
            "claimed {} times, and no claim came to an end",
            self.attempts
        ));
        self.updated_at = at;
        self
    }

    /// The row as its holder leaves it, or why they cannot.
    ///
    /// # Errors
    /// A sentence for the holder.
    pub fn completed(mut self, op: &CompleteTask, at: Timestamp) -> Result<Self, String> {
        let id = self.id;
        let theirs = self.holder.as_ref() == Some(&op.holder);
        match self.state {
            TaskState::Claimed if theirs => {}
            // Said twice.
            state if theirs && state == op.state && self.result == op.result => return Ok(self),
            TaskState::Claimed => return Err(format!("task `{id}` is held by somebody else")),
            TaskState::Open => return Err(format!("task `{id}` is not claimed")),
            TaskState::Done | TaskState::Failed => {
                return Err(format!("task `{id}` is {} already", self.state.as_str()));
            }
        }
        self.state = op.state;
        self.lease_until = None;
        self.result = op.result.clone();
        self.updated_at = at;
        Ok(self)
    }
}

/// Which tasks to list, newest first. Empty fields match everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaskFilter {
    /// Only in this namespace.
    pub namespace: Option<String>,
    /// Only of this queue.
    pub queue: Option<String>,
    /// Only in this state.
    pub state: Option<TaskState>,
}
