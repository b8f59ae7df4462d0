//! What the daemon and a replica say to each other.

use rune_store_runtime::{DeploymentId, Entry, ReplicaId, RequestId, RequestRow};
use serde::{Deserialize, Serialize};

use crate::feed::{CallProgress, FeedItem};

/// Asks a replica to run a request, or to go on telling of one that it runs. The answer is a
/// stream of server-sent events, each with a [`RunItem`]; it ends with the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// The request.
    pub request_id: RequestId,
    /// The last journal entry that is known already.
    pub after: u64,
    /// Where an earlier answer broke off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
    /// Whether it may have run before: that it begins counts at once then, whatever its checkpoint policy.
    pub taken_up: bool,
    /// The request itself, where no store has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unstored: Option<Box<Unstored>>,
}

/// How far an answer was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// The run it told of, as [`RunItem::Joined`] said. Of another run everything behind
    /// [`RunRequest::after`] is told.
    pub run: String,
    /// The `id` of the last event.
    pub position: u64,
}

/// A request with `checkpoint_policy: never`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unstored {
    /// Its row, as it would be stored.
    pub row: RequestRow,
    /// The entries so far.
    pub entries: Vec<Entry>,
    /// Whether it is the first one of its conversation, so that there is nothing before it to read.
    pub new_session: bool,
}

/// One thing that happened in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value", rename_all = "snake_case")]
pub enum RunItem {
    /// The first of every answer: which run this is.
    Joined(String),
    /// An entry is committed, or with another `checkpoint_policy` than `each_step` will be.
    Entry(Box<Entry>),
    /// More of the answer.
    Text(String),
    /// More of the reasoning.
    Reasoning(String),
    /// How far a tool call is.
    Progress(CallProgress),
    /// Whether the request has a place on the replica from now on.
    Placed(bool),
}

impl From<FeedItem> for RunItem {
    fn from(item: FeedItem) -> Self {
        match item {
            FeedItem::Entry(entry) => Self::Entry(Box::new((*entry).clone())),
            FeedItem::Text(text) => Self::Text(text.to_string()),
            FeedItem::Reasoning(text) => Self::Reasoning(text.to_string()),
            FeedItem::Progress(progress) => Self::Progress((*progress).clone()),
            FeedItem::Placed(placed) => Self::Placed(placed),
        }
    }
}

/// How a replica is, for the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// The replica.
    pub replica_id: ReplicaId,
    /// Its deployment.
    pub deployment_id: DeploymentId,
    /// What it was started from, see `ReplicaSpec::fingerprint`.
    pub fingerprint: String,
    /// Whether it takes nothing new.
    pub draining: bool,
    /// The requests that it runs.
    pub running: Vec<RequestId>,
    /// How much its tools have begun that goes on beside requests, and ends with it.
    #[serde(default)]
    pub held: usize,
    /// What it uses, where it was asked how it is and its machine says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<ReplicaUsage>,
}

/// What a replica uses of its machine, with the processes that its tools have started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaUsage {
    /// CPU time since it was started, in milliseconds.
    pub cpu_ms: u64,
    /// Memory now, in bytes; what processes share counts for each.
    pub memory_bytes: u64,
}
