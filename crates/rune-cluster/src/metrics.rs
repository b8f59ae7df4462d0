//! What a node counts of its cluster.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use futures_util::future::BoxFuture;
use metrics::{counter, gauge};
use rune_raft::NodeId;

use crate::Cluster;

/// How often it is looked at.
const PAUSE: Duration = Duration::from_secs(1);

/// Commands of this node were answered, or were not.
pub(crate) fn proposals(outcome: &'static str, count: usize) {
    counter!("rune_cluster_proposals_total", "outcome" => outcome).increment(count as u64);
}

/// What was seen last.
#[derive(Debug, Default)]
struct Seen {
    lead: Option<(u64, NodeId)>,
    snapshot: Option<u64>,
    /// Whose lag was told.
    told: BTreeSet<NodeId>,
}

impl Cluster {
    /// Tells again and again whether this node takes part in a cluster of which a majority answers,
    /// or why not, and keeps the metrics. Never ends.
    pub async fn watch(self, mut tell: impl FnMut(Result<(), String>)) {
        let mut seen = Seen::default();
        loop {
            // What it is made of is deeper than the compiler follows for whoever spawns this.
            let ready: BoxFuture<'_, _> = Box::pin(self.ready());
            let ready = ready.await;
            gauge!("rune_cluster_quorum").set(f64::from(u8::from(ready.is_ok())));
            tell(ready);
            let observed: BoxFuture<'_, _> = Box::pin(self.observe(&mut seen));
            observed.await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "gauges are numbers with 53 bits, and an index has fewer"
    )]
    async fn observe(&self, seen: &mut Seen) {
        let status = self.node().status();
        let set = |name: &'static str, value: u64| gauge!(name).set(value as f64);
        let next = |index: Option<u64>| index.map_or(0, |index| index + 1);
        let applied = status.applied.map(|id| id.index);
        let snapshot = status.snapshot.map(|id| id.index);
        set("rune_cluster_term", status.term);
        set("rune_cluster_leader", status.leader.unwrap_or(0));
        set("rune_cluster_last_index", status.last.unwrap_or(0));
        set("rune_cluster_applied_index", applied.unwrap_or(0));
        set("rune_cluster_snapshot_index", snapshot.unwrap_or(0));
        let unapplied = next(status.last).saturating_sub(next(applied));
        set("rune_cluster_unapplied_entries", unapplied);
        set("rune_cluster_disk_full", u64::from(status.disk_full));
        set("rune_cluster_log_bytes", log_bytes(self.log()).await);
        if let Some(leader) = status.leader
            && seen.lead.replace((status.term, leader)) != Some((status.term, leader))
        {
            counter!("rune_cluster_elections_total").increment(1);
        }
        if snapshot.is_some() && std::mem::replace(&mut seen.snapshot, snapshot) != snapshot {
            counter!("rune_cluster_snapshots_total").increment(1);
        }
        let about = self.node().about(status.id);
        let lags = about.progress.iter().filter(|(id, _)| **id != status.id);
        let lags = lags.map(|(id, progress)| (*id, progress.lag(about.last)));
        let mut told = BTreeSet::new();
        for (id, lag) in lags {
            gauge!("rune_cluster_lag_entries", "node" => id.to_string()).set(lag as f64);
            told.insert(id);
        }
        for gone in seen.told.difference(&told) {
            gauge!("rune_cluster_lag_entries", "node" => gone.to_string()).set(0.0);
        }
        seen.told = told;
    }
}

/// The size of the log, with what SQLite keeps beside it.
async fn log_bytes(log: &Path) -> u64 {
    let mut wal = log.as_os_str().to_owned();
    wal.push("-wal");
    let mut bytes = 0;
    for file in [log, Path::new(&wal)] {
        // One that is not there has no size.
        let found = tokio::fs::metadata(file).await;
        bytes += found.map_or(0, |found| found.len());
    }
    bytes
}
