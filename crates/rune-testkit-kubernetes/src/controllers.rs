//! What Kubernetes' controller manager does: it makes of objects that say what is wanted the objects that are.

mod endpoints;
mod stateful;
mod storage;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::write::WriteOptions;
use crate::{ApiServer, KubernetesError, task};
use storage::Storage;

/// The controllers of a cluster; they end when dropped, and what is on the volumes that they made with them.
#[derive(Debug)]
pub struct Controllers {
    stop: CancellationToken,
}

impl Controllers {
    /// Starts the controllers of stateful sets, endpoints and volumes.
    ///
    /// # Errors
    /// [`KubernetesError::File`] where there is no place for volumes.
    pub fn start(server: &ApiServer) -> Result<Self, KubernetesError> {
        let stop = CancellationToken::new();
        let (cluster, storage) = (Arc::clone(server.cluster()), Storage::new()?);
        task::spawn_until(stop.clone(), run(cluster, storage));
        Ok(Self { stop })
    }
}

impl Drop for Controllers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn run(cluster: Arc<Cluster>, storage: Storage) {
    let mut latest = cluster.store().subscribe();
    loop {
        latest.mark_unchanged();
        {
            let mut store = cluster.store();
            stateful::reconcile(&mut store);
            storage.reconcile(&mut store);
            endpoints::reconcile(&mut store);
        }
        // What was just written is a change, too: it is looked at until there is nothing to do.
        if latest.changed().await.is_err() {
            return;
        }
    }
}

/// How controllers write.
fn options() -> WriteOptions {
    WriteOptions {
        manager: "kube-controller-manager".to_owned(),
        ..WriteOptions::default()
    }
}
