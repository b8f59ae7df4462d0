//! Whether callers are answered.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::HOST;
use http::{HeaderValue, Uri};
use http_body_util::BodyExt as _;
use rune_raft::{Lead, NodeId};

use super::front::{Api, Asked, ClusterFront};

/// How often a node that leads is asked whether it answers, and how often one that does not yet.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long it has to say so.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// What it is asked.
const HEALTH: &str = "/health";

impl ClusterFront {
    /// Tells whether requests are answered, here or at another node, as often as that may have changed. Ends with the process.
    pub async fn watch(&self, tell: impl Fn(bool)) {
        let (mut leader, mut leading) = (self.member().leader(), self.leading());
        loop {
            let is_here = leading.borrow_and_update().is_some();
            let elsewhere = match leader.borrow_and_update().clone() {
                Lead::Other { node, addr } if !is_here => Some((node, addr)),
                Lead::Nobody | Lead::Own(_) | Lead::Other { .. } => None,
            };
            let pause = match elsewhere {
                None => {
                    tell(is_here);
                    None
                }
                Some((node, addr)) => {
                    // Who leads may have no engine, and who is elected has none yet.
                    let answers = self.answers(node, &addr).boxed().await;
                    tell(answers);
                    Some(if answers { LOOK } else { LOOK_AGAIN })
                }
            };
            let again = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            let changed = tokio::select! {
                changed = leader.changed() => changed,
                changed = leading.changed() => changed,
                () = again => Ok(()),
            };
            if changed.is_err() {
                return tell(false);
            }
        }
    }

    /// Whether a node that leads answers.
    async fn answers(&self, node: NodeId, addr: &str) -> bool {
        let mut asked = http::Request::new(Bytes::new());
        *asked.uri_mut() = Uri::from_static(HEALTH);
        let host = HeaderValue::from_static("localhost");
        asked.headers_mut().insert(HOST, host);
        let answered = async {
            match self.forward(node, addr, Api::Gateway, &asked).await {
                Asked::Answered(response) => response.into_body().collect().await.is_ok(),
                Asked::Refused | Asked::Lost => false,
            }
        };
        let answered = tokio::time::timeout(LOOK_LIMIT, answered).await;
        answered.unwrap_or(false)
    }
}
