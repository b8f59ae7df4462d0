//! Giving an object to other nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use rune_raft::NodeId;
use rune_storage::Digest;
use rune_store_runtime::StoreError;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Inner, OBJECTS, Peer, SENT_AT_A_TIME, TRANSFER, lock};

/// The pause before a node that did not take an object is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// How often it is looked who has a vote, while an object is given to those that have.
const LOOK: Duration = Duration::from_secs(1);

impl Inner {
    /// Gives an object that is here to every other voter, and answers when a majority has it. The others are sent it to the
    /// end where that has begun.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where no majority took it in time.
    pub(super) async fn replicate(
        self: &Arc<Self>,
        digest: Digest,
        bytes: Bytes,
    ) -> Result<(), StoreError> {
        let enough = CancellationToken::new();
        let _at_the_end = enough.clone().drop_guard();
        let (told, mut sent) = mpsc::unbounded_channel();
        let mut asked = BTreeSet::from([self.id]);
        let mut holders = asked.clone();
        let mut failed = BTreeMap::new();
        loop {
            let members = self.members()?;
            let membership = members.membership();
            if is_majority(membership.get_joint_config(), &holders) {
                return Ok(());
            }
            for id in membership.voter_ids().filter(|id| asked.insert(*id)) {
                let Some(node) = membership.get_node(&id) else {
                    continue;
                };
                let peer = Peer {
                    id,
                    addr: node.addr.clone(),
                };
                let push = Arc::clone(self).push(peer, digest, bytes.clone(), enough.clone());
                let (told, shutdown) = (told.clone(), self.tasks.shutdown());
                self.tasks.spawn("cluster-object", async move {
                    let pushed = shutdown.run_until_cancelled(push).await;
                    let ended = || Err("this node ends".to_owned());
                    // Nobody waits for it any more.
                    let _ = told.send((id, pushed.unwrap_or_else(ended)));
                });
            }
            if asked.len() == holders.len() + failed.len() {
                return Err(too_few(digest, &holders, &failed));
            }
            if let Ok(Some((id, pushed))) = tokio::time::timeout(LOOK, sent.recv()).await {
                match pushed {
                    Ok(()) => {
                        holders.insert(id);
                    }
                    Err(reason) => {
                        failed.insert(id, reason);
                    }
                }
            }
        }
    }

    /// Sends an object until it is taken. It is not tried again once `enough` nodes have it.
    async fn push(
        self: Arc<Self>,
        peer: Peer,
        digest: Digest,
        bytes: Bytes,
        enough: CancellationToken,
    ) -> Result<(), String> {
        let until = Instant::now() + self.patience;
        let places = {
            let mut sending = lock(&self.sending);
            let places = sending.entry(peer.id);
            Arc::clone(places.or_insert_with(|| Arc::new(Semaphore::new(SENT_AT_A_TIME))))
        };
        loop {
            let place = enough.run_until_cancelled(places.acquire());
            let place = tokio::time::timeout_at(until, place).await;
            let Ok(Some(Ok(place))) = place else {
                return Err("it is still being sent others".to_owned());
            };
            let send = self.send(&peer, digest, bytes.clone());
            let sent = tokio::time::timeout(TRANSFER, send).await;
            drop(place);
            let Err(reason) = sent.unwrap_or_else(|_| Err(format!("it took over {TRANSFER:?}")))
            else {
                return Ok(());
            };
            tracing::debug!(node = peer.id, %digest, reason, "an object was not taken");
            let pause = enough.run_until_cancelled(tokio::time::sleep(RETRY)).await;
            if pause.is_none() || Instant::now() >= until {
                return Err(reason);
            }
        }
    }

    async fn send(&self, peer: &Peer, digest: Digest, bytes: Bytes) -> Result<(), String> {
        let request = Request::builder()
            .method(Method::PUT)
            .uri(format!("{OBJECTS}/{digest}"))
            .body(bytes);
        self.request(peer, request).await.map(drop)
    }
}

/// Whether these are a majority of the voters, and of those before where they are being changed.
fn is_majority(voters: &[BTreeSet<NodeId>], holders: &BTreeSet<NodeId>) -> bool {
    let is_held =
        |voters: &BTreeSet<NodeId>| voters.intersection(holders).count() * 2 > voters.len();
    !voters.is_empty() && voters.iter().all(is_held)
}

fn too_few(
    digest: Digest,
    holders: &BTreeSet<NodeId>,
    failed: &BTreeMap<NodeId, String>,
) -> StoreError {
    use std::fmt::Write as _;
    let mut text = format!("object {digest} is on {holders:?} and no majority of the nodes");
    for (id, reason) in failed {
        // Writing to a string cannot fail.
        let _ = write!(text, "; node {id}: {reason}");
    }
    StoreError::Unavailable(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_one_of_the_voters_before_and_after_a_change() {
        let set = |ids: &[NodeId]| ids.iter().copied().collect::<BTreeSet<_>>();
        for (voters, holders, expected) in [
            (vec![], set(&[1]), false),
            (vec![set(&[])], set(&[1]), false),
            (vec![set(&[1])], set(&[1]), true),
            (vec![set(&[1, 2])], set(&[1]), false),
            (vec![set(&[1, 2, 3])], set(&[1, 3]), true),
            (vec![set(&[1, 2, 3])], set(&[1, 4, 5]), false),
            (vec![set(&[1, 2, 3]), set(&[3, 4, 5])], set(&[1, 2]), false),
            (
                vec![set(&[1, 2, 3]), set(&[3, 4, 5])],
                set(&[1, 3, 4]),
                true,
            ),
        ] {
            assert_eq!(
                is_majority(&voters, &holders),
                expected,
                "{voters:?} {holders:?}"
            );
        }
    }
}
