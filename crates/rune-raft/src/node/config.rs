//! How a node takes part.

use std::time::Duration;

use openraft::{AsyncRuntime, Config, SnapshotPolicy};

use crate::Message;

/// How long a snapshot may take to be installed by the other side.
const INSTALL_TTL: Duration = Duration::from_secs(600);

/// How long a change of who takes part is waited for: it is two entries, each committed by all.
const CHANGE_ATTEMPT: Duration = Duration::from_secs(10);

/// Commands that may wait for the protocol on one node.
const QUEUE: u64 = 4096;

/// How a node takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// How often a leader says that it is there.
    pub heartbeat: Duration,
    /// A follower that heard nothing for twice as long as this, and then for a random time between
    /// one and a half heartbeats and as much again, tries to lead: the wider that is, the less
    /// often two try at once, and the sooner the first of them does. Twice as long as this is also
    /// how long a leader that heard nothing goes on.
    pub election: Duration,
    /// Entries after which a snapshot is taken.
    pub snapshot_entries: u64,
    /// Bytes of commands after which a snapshot is taken.
    pub snapshot_bytes: u64,
    /// Per cent of the last snapshot that the commands after it have to have for one to be taken:
    /// what one of a large database costs.
    pub snapshot_percent: u64,
    /// Entries that stay in the log although a snapshot holds them, for nodes that are a little
    /// behind.
    pub keep_entries: u64,
    /// Bytes of commands that stay in the log although a snapshot holds them.
    pub keep_bytes: u64,
    /// The same per cent of the snapshot, where that is more: for a node that is sent it while
    /// others write.
    pub keep_percent: u64,
    /// The parts in which a snapshot is sent.
    pub chunk_bytes: usize,
    /// How long a write or a linearizable read looks for a leader that answers it.
    pub patience: Duration,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(50),
            election: Duration::from_millis(150),
            snapshot_entries: 20_000,
            snapshot_bytes: 256 << 20,
            snapshot_percent: 25,
            keep_entries: 2_000,
            keep_bytes: 16 << 20,
            keep_percent: 100,
            chunk_bytes: 1 << 20,
            patience: Duration::from_secs(10),
        }
    }
}

impl NodeConfig {
    pub(super) fn protocol(&self, cluster: &str) -> Config {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Config {
            cluster_name: cluster.to_owned(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.heartbeat * 3 / 2),
            election_timeout_max: millis(self.election * 2),
            install_snapshot_timeout: millis(INSTALL_TTL),
            // Both are decided by bytes, too (`compaction.rs`).
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            replication_lag_threshold: self.snapshot_entries.saturating_mul(2),
            api_channel_size: Some(QUEUE),
            enable_pre_vote: Some(true),
            // A leader that starts again stands for election like any other node. Entries that it
            // had sent and not synced are gone: leading on under the old vote, it would put others
            // in their places under the same numbers, and no node could tell the two apart.
            enable_leader_restore: Some(false),
            ..Config::default()
        }
    }

    /// After this an answer that did not come is looked for elsewhere.
    pub(super) fn attempt(&self) -> Duration {
        self.election * 8
    }

    /// The same for what is asked of a leader.
    pub(super) fn attempt_at<R: AsyncRuntime>(&self, message: &Message<R>) -> Duration {
        match message {
            Message::Change(_) => CHANGE_ATTEMPT,
            _ => self.attempt(),
        }
    }
}
