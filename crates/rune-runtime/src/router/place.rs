//! A request's place on a replica, which it gives back while it waits for other agents.

use std::sync::Arc;

use rune_store_runtime::VersionId;

use super::{Lease, ReplicaRouter};
use crate::feed::Feed;

/// A place that its request may give back and take again.
///
/// A request that waits for another agent does nothing itself. If it kept its place, an
/// agent that calls itself, or two agents that call each other, would wait for places that
/// they hold themselves. So `concurrency_limit` bounds the requests that work, and one
/// that goes on comes before those that have not begun.
pub(crate) struct Place {
    router: ReplicaRouter,
    deployment_id: rune_store_runtime::DeploymentId,
    /// The version that the request runs on.
    version: Option<VersionId>,
    lease: Option<Lease>,
    /// Whether it works only with a place.
    needed: bool,
    /// Told when the place is given back and taken again.
    feed: Option<Arc<Feed>>,
}

impl Place {
    /// The place that was leased.
    pub(crate) fn new(lease: Lease, feed: Arc<Feed>) -> Self {
        Self {
            router: lease.router.clone(),
            deployment_id: lease.replica().deployment_id(),
            version: Some(lease.replica().version_id()),
            lease: Some(lease),
            needed: true,
            feed: Some(feed),
        }
    }

    /// For a replay, which takes no place from requests.
    pub(crate) const fn not_needed(
        router: ReplicaRouter,
        deployment_id: rune_store_runtime::DeploymentId,
    ) -> Self {
        Self {
            router,
            deployment_id,
            version: None,
            lease: None,
            needed: false,
            feed: None,
        }
    }

    /// Gives the place to whoever waits for it.
    pub(crate) fn give_back(&mut self) {
        if self.lease.take().is_some() {
            self.tell(false);
        }
    }

    /// Waits for a place, where it has none. Goes on without one where the deployment is
    /// gone or stopped: what runs on it runs to its end.
    pub(crate) async fn take_again(&mut self) {
        if self.needed && self.lease.is_none() {
            self.lease = self
                .router
                .lease_again(self.deployment_id, self.version)
                .await;
            self.tell(true);
        }
    }

    fn tell(&self, placed: bool) {
        if let Some(feed) = &self.feed {
            feed.placed(placed);
        }
    }
}
