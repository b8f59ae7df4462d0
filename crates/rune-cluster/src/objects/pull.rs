//! Taking an object over from another node.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::{Method, Request};
use hyper::body::Incoming;
use rune_storage::Digest;
use rune_store_runtime::{Reject, StoreError};
use serde::de::DeserializeOwned;

use super::{Inner, OBJECTS, Peer, TRANSFER, arriving, lock};
use crate::client::Lane;
use crate::wire::{collect, parse};

/// How long a node has to say what it holds.
const ASK: Duration = Duration::from_secs(5);

/// Objects that a node is asked for at once.
pub(super) const ASKED_AT_ONCE: usize = 1000;

/// An object that is being taken over, or was; its size.
pub(super) type Pull = Shared<BoxFuture<'static, Result<u64, StoreError>>>;

/// Forgets a pull that has ended, however it did.
struct Pulling {
    inner: Arc<Inner>,
    digest: Digest,
}

impl Drop for Pulling {
    fn drop(&mut self) {
        lock(&self.inner.pulls).remove(&self.digest);
    }
}

impl Inner {
    /// Takes an object over from whoever has it, over what is here. Whoever needs it waits for the same one, and whoever gives
    /// up does not stop it. Answers its size.
    ///
    /// # Errors
    /// [`StoreError::Rejected`] with `not_found` where every member says that it has none,
    /// [`StoreError::Unavailable`] where one did not say, the members are not known, or it cannot be stored here.
    pub(super) async fn pull(self: &Arc<Self>, digest: Digest) -> Result<u64, StoreError> {
        let inner = Arc::clone(self);
        let begin = move || {
            // Begun by the first who waits for it, who has not locked the others then.
            async move {
                let (tasks, shutdown) = (inner.tasks.clone(), inner.tasks.shutdown());
                let pulling = Pulling { inner, digest };
                let task = tasks.spawn("cluster-object", async move {
                    let fetch = pulling.inner.fetch(pulling.digest);
                    shutdown.run_until_cancelled(fetch).await
                });
                let ended = || StoreError::Unavailable("this node ends".to_owned());
                let fetched = task.await.ok().flatten().flatten();
                fetched.unwrap_or_else(|| Err(ended()))
            }
            .boxed()
            .shared()
        };
        let pull = lock(&self.pulls)
            .entry(digest)
            .or_insert_with(begin)
            .clone();
        pull.await
    }

    /// Takes an object from the first node that has it and gives it whole. All are asked at the same time, so that one that is
    /// slow is not waited for.
    async fn fetch(&self, digest: Digest) -> Result<u64, StoreError> {
        let unavailable = |reason: String| {
            StoreError::Unavailable(format!("object {digest} is not here: {reason}"))
        };
        let _place = self.pulling.acquire().await;
        let peers = self.peers()?;
        let asked = peers.iter().map(|peer| async move {
            let held = self.held(peer, &[digest]).await;
            (peer, held.map(|held| held.contains(&digest)))
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut failed = Vec::new();
        while let Some((peer, held)) = asked.next().await {
            let reason = match held {
                Ok(false) => continue,
                Ok(true) => match tokio::time::timeout(TRANSFER, self.take(peer, digest)).await {
                    Ok(Ok(size)) => return Ok(size),
                    Ok(Err(reason)) => reason,
                    Err(_) => format!("it took over {TRANSFER:?}"),
                },
                Err(reason) => reason,
            };
            tracing::warn!(node = peer.id, %digest, reason, "an object was not given");
            failed.push(format!("node {}: {reason}", peer.id));
        }
        if failed.is_empty() {
            return Err(Reject::not_found("object", &digest).into());
        }
        Err(unavailable(failed.join("; ")))
    }

    /// Which of these another node holds.
    pub(super) async fn held(
        &self,
        peer: &Peer,
        digests: &[Digest],
    ) -> Result<Vec<Digest>, String> {
        let question = serde_json::to_vec(digests).map_err(|error| error.to_string())?;
        self.ask(peer, Method::POST, "held", question).await
    }

    /// What another node says of its objects.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        peer: &Peer,
        method: Method,
        what: &str,
        question: Vec<u8>,
    ) -> Result<T, String> {
        let asked = async {
            let request = Request::builder()
                .method(method)
                .uri(format!("{OBJECTS}/{what}"))
                .body(question.into());
            let body = self.request(peer, request).await?;
            let body = collect(body).await.map_err(|error| error.to_string())?;
            parse(&body).map_err(|error| error.to_string())
        };
        let asked = tokio::time::timeout(ASK, asked).await;
        asked.unwrap_or_else(|_| Err(format!("it said nothing within {ASK:?}")))
    }

    /// Takes an object from this node. Answers its size.
    async fn take(&self, peer: &Peer, digest: Digest) -> Result<u64, String> {
        let request = Request::builder()
            .method(Method::GET)
            .uri(format!("{OBJECTS}/{digest}"))
            .body(Bytes::new());
        let body = self.request(peer, request).await?;
        let received = self.local.receive(digest, arriving(body, digest)).await;
        received.map_err(|error| {
            let cause = std::error::Error::source(&error);
            cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
        })
    }

    /// The body of what a node answers where it does what it is asked for, and why it does not where it does not.
    pub(super) async fn request(
        &self,
        peer: &Peer,
        request: http::Result<Request<Bytes>>,
    ) -> Result<Incoming, String> {
        let request = request.map_err(|error| error.to_string())?;
        let response = self
            .transport
            .send(peer.id, &peer.addr, Lane::Objects, request);
        let response = response.await;
        let response = response.map_err(|error| error.to_string())?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let reason = collect(response.into_body()).await;
        let reason = reason.map_err(|error| error.to_string())?;
        Err(format!("{status}: {}", String::from_utf8_lossy(&reason)))
    }
}
