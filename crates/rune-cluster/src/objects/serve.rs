//! What other nodes are answered about objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::{TryStreamExt as _, try_unfold};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use rune_raft::NodeId;
use rune_storage::{Digest, ObjectBytes, ObjectError};
use rune_store_runtime::{Reject, StoreError};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::pull::ASKED_AT_ONCE;
use super::{ClusterObjects, Inner, OBJECTS, Peer, arriving};
use crate::server::response;
use crate::wire::{BodyError, PeerBody};

/// Bytes of a question for objects.
const MAX_QUESTION: usize = ASKED_AT_ONCE * 100;

/// How it is with the objects of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectsStatus {
    /// The bucket that they are in, without credentials; nothing where each node has a directory of its own.
    pub bucket: Option<String>,
    /// How many its rows name that other nodes have, or may have, and it does not; nothing where it does not know yet.
    pub missing: Option<usize>,
}

impl ClusterObjects {
    /// Answers a node about objects.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response<PeerBody> {
        let path = request.uri().path().strip_prefix(OBJECTS);
        let path = path.unwrap_or_default().to_owned();
        let digest = path
            .strip_prefix('/')
            .and_then(|digest| digest.parse().ok());
        match (request.method(), &*path, digest) {
            (&Method::GET, "/status", _) => json(&self.status()),
            (&Method::POST, "/held", _) => self.inner.answer_held(request).await,
            (&Method::GET, _, Some(digest)) => self.inner.answer_object(digest).await,
            (&Method::PUT, _, Some(digest)) => self.inner.take_in(digest, request).await,
            _ => response(StatusCode::NOT_FOUND, "there is no such path"),
        }
    }

    /// How it is with the objects of another node.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where it does not say.
    pub async fn status_of(&self, id: NodeId, addr: &str) -> Result<ObjectsStatus, StoreError> {
        let addr = addr.to_owned();
        let peer = Peer { id, addr };
        let asked = self.inner.ask(&peer, Method::GET, "status", Vec::new());
        asked.await.map_err(|reason| {
            StoreError::Unavailable(format!("node {id} does not tell of its objects: {reason}"))
        })
    }

    /// Makes sure that a node that is to join keeps its objects where this one does.
    ///
    /// # Errors
    /// [`StoreError::Rejected`] where it does not, [`StoreError::Unavailable`] where it does not say.
    pub async fn same_place(&self, id: NodeId, addr: &str) -> Result<(), StoreError> {
        let (here, there) = (self.status().bucket, self.status_of(id, addr).await?.bucket);
        if here == there {
            return Ok(());
        }
        let shown =
            |bucket: Option<String>| bucket.unwrap_or_else(|| "a directory of its own".into());
        Err(Reject::conflict(format!(
            "node {id} keeps its objects in {}, and this one in {}; RUNE_OBJECT_STORE_URL is the same on all nodes of a cluster",
            shown(there),
            shown(here)
        ))
        .into())
    }

    /// Makes sure that a member takes no object with it where it leaves for good: the others have all that their rows name. One
    /// that does not answer has nothing to give any more.
    ///
    /// # Errors
    /// [`StoreError::Rejected`] where another one lacks objects, [`StoreError::Unavailable`] where the members are not known.
    pub async fn outlive(&self, leaving: NodeId) -> Result<(), StoreError> {
        if self.inner.is_shared() {
            return Ok(());
        }
        let mut said = BTreeMap::from([(self.inner.id, Ok(self.status()))]);
        for peer in self.inner.peers()? {
            said.insert(peer.id, self.status_of(peer.id, &peer.addr).await);
        }
        if !matches!(said.remove(&leaving), Some(Ok(_))) {
            return Ok(());
        }
        for (id, status) in said {
            let lacks = match status.map(|status| status.missing) {
                // It gets what it lacks from those that have all, or is replaced itself.
                Ok(Some(0)) | Err(_) => continue,
                Ok(Some(1)) => "1 object".to_owned(),
                Ok(Some(missing)) => format!("{missing} objects"),
                Ok(None) => "objects, or does not know yet".to_owned(),
            };
            return Err(Reject::conflict(format!(
                "node {id} lacks {lacks}, which node {leaving} may be the only one to have: try again when it has taken them \
                 over, or stop node {leaving} and remove it as one that is lost"
            ))
            .into());
        }
        Ok(())
    }

    /// How it is with the objects of this node.
    #[must_use]
    pub fn status(&self) -> ObjectsStatus {
        ObjectsStatus {
            bucket: self.inner.local.bucket().map(str::to_owned),
            missing: match self.inner.is_shared() {
                true => Some(0),
                false => self.inner.wanted.missing(),
            },
        }
    }
}

impl Inner {
    /// Which of the objects in a question are here.
    async fn answer_held(&self, request: Request<Incoming>) -> Response<PeerBody> {
        let body = Limited::new(request.into_body(), MAX_QUESTION);
        let asked: Vec<Digest> = match body.collect().await {
            Ok(body) => match serde_json::from_slice(&body.to_bytes()) {
                Ok(asked) => asked,
                Err(error) => return response(StatusCode::BAD_REQUEST, error.to_string()),
            },
            Err(error) => return response(StatusCode::BAD_REQUEST, error.to_string()),
        };
        let mut held = Vec::new();
        for digest in asked {
            match self.local.head(digest).await {
                Ok(Some(_)) => held.push(digest),
                Ok(None) => {}
                Err(error) => return failed(&error),
            }
        }
        json(&held)
    }

    async fn answer_object(self: &Arc<Self>, digest: Digest) -> Response<PeerBody> {
        match self.local.read(digest).await {
            Ok((_, bytes)) => {
                let bytes = self.checked(digest, bytes);
                let frames = bytes.map_ok(Frame::data).map_err(BodyError::from);
                Response::new(StreamBody::new(frames).boxed_unsync())
            }
            Err(error) => failed(&error),
        }
    }

    /// The bytes of an object, and an error at their end where they are not what was stored. It is taken from another node
    /// then.
    fn checked(
        self: &Arc<Self>,
        digest: Digest,
        bytes: ObjectBytes,
    ) -> impl Stream<Item = Result<Bytes, ObjectError>> + Send + use<> {
        let begin = (Arc::clone(self), bytes, Sha256::new());
        try_unfold(begin, move |(inner, mut bytes, mut hash)| async move {
            if let Some(next) = bytes.try_next().await? {
                hash.update(&next);
                return Ok(Some((next, (inner, bytes, hash))));
            }
            let found = Digest::from_bytes(hash.finalize().into());
            if found == digest {
                return Ok(None);
            }
            tracing::error!(%digest, "an object is damaged and taken from another node");
            let again = Arc::clone(&inner);
            inner.tasks.spawn("cluster-object", async move {
                if let Err(error) = again.pull(digest).await {
                    tracing::error!(%digest, %error, "an object stays damaged");
                }
            });
            Err(ObjectError::Damaged {
                expected: digest,
                found,
            })
        })
    }

    /// Stores what another node sends.
    async fn take_in(&self, digest: Digest, request: Request<Incoming>) -> Response<PeerBody> {
        if let Some(bucket) = self.local.bucket() {
            let reason =
                format!("this node keeps its objects in {bucket}, and the other one does not");
            return response(StatusCode::CONFLICT, reason);
        }
        let _place = self.receiving.acquire().await;
        let bytes = arriving(request.into_body(), digest);
        match self.local.receive(digest, bytes).await {
            Ok(_) => response(StatusCode::NO_CONTENT, Bytes::new()),
            Err(error) => failed(&error),
        }
    }
}

fn failed(error: &ObjectError) -> Response<PeerBody> {
    let status = match error {
        ObjectError::NotFound(_) => StatusCode::NOT_FOUND,
        ObjectError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        ObjectError::Damaged { .. } | ObjectError::Interrupted { .. } => StatusCode::BAD_REQUEST,
        _ => {
            tracing::error!(%error, cause = ?std::error::Error::source(error), "an object was not handled");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    response(status, error.to_string())
}

fn json(value: &impl Serialize) -> Response<PeerBody> {
    match serde_json::to_vec(value) {
        Ok(json) => response(StatusCode::OK, json),
        Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
