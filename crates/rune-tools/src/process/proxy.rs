//! The way out of a process that is granted some hosts: a proxy whose listener is in the process's network.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::launcher::Reports;
use super::reach::Reach;
use super::sandbox::Sandbox;
use crate::egress::{EgressProxy, RefusalSink};

/// Refused connections that are told of.
const SHOWN_REFUSALS: usize = 8;

/// The connections of one process; they end with this.
pub(super) struct Filter {
    proxy: Arc<EgressProxy>,
    /// What serves them, once the launcher has sent its listener.
    serving: JoinSet<()>,
}

impl Filter {
    /// The way out of a process, where there is one that is watched.
    pub(super) fn of(
        reach: &Reach,
        sandbox: Option<&Sandbox>,
        told: Option<RefusalSink>,
    ) -> Option<Self> {
        let is_filtered = sandbox.is_some() && !reach.hosts.is_empty() && !reach.is_unfiltered();
        is_filtered.then(|| {
            let egress = Arc::clone(&reach.egress);
            let proxy = EgressProxy::new(reach.hosts.clone(), egress, reach.gate.clone());
            Self {
                proxy: Arc::new(proxy.telling(told)),
                serving: JoinSet::new(),
            }
        })
    }

    /// What was refused, each once.
    pub(super) fn refused(&self) -> Vec<String> {
        let refused = self.proxy.take_refusals().into_iter();
        let reasons = refused.map(|refusal| refusal.reason);
        reasons.take(SHOWN_REFUSALS).collect()
    }
}

/// Serves the connections of a process, from when it is called first until the filter is dropped.
pub(super) async fn serve(
    filter: Option<&mut Filter>,
    reports: Option<&mut Reports>,
) -> Infallible {
    if let (Some(filter), Some(reports)) = (filter, reports)
        && filter.serving.is_empty()
    {
        match reports.listener().await {
            Ok(Some(listener)) => {
                let proxy = Arc::clone(&filter.proxy);
                filter.serving.spawn(proxy.serve(listener));
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "the connections of a process cannot be served");
            }
        }
    }
    pending().await
}
