//! Other nodes that do not do what they should.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rune_raft::{BasicNode, NodeConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::server::{TaskExecutor, response};
use crate::wire::{BodyError, PeerBody, whole};
use crate::{ClusterSecret, Identity, Member, MemberConfig};

/// How long anything may take on a slow machine, and less than an object may take from node to node.
const LIMIT: Duration = Duration::from_secs(40);

/// What a node answers for an object.
#[derive(Debug, Clone, Copy)]
enum Gives {
    Whole,
    Other,
    Half,
    /// Half of it, and never the rest.
    HalfAndNothing,
    TooMuch,
    /// It does not take or give any.
    Nothing,
}

const OBJECT: &[u8] = b"an object of some length";

impl Gives {
    fn body(self) -> PeerBody {
        let half = Bytes::from_static(&OBJECT[..10]);
        let frame = move |bytes| Ok::<_, BodyError>(Frame::data(bytes));
        match self {
            Self::Whole => whole(OBJECT),
            Self::Other => whole("another object"),
            Self::Half => {
                let broken: BodyError = "broken off".into();
                let parts = stream::iter([frame(half), Err(broken)]);
                StreamBody::new(parts).boxed_unsync()
            }
            Self::HalfAndNothing => {
                let parts = stream::iter([frame(half)]).chain(stream::pending());
                StreamBody::new(parts).boxed_unsync()
            }
            Self::TooMuch => {
                let part = Bytes::from(vec![0; 1 << 20]);
                let parts = stream::repeat_with(move || frame(part.clone()));
                StreamBody::new(parts).boxed_unsync()
            }
            Self::Nothing => {
                StreamBody::new(stream::pending::<Result<_, BodyError>>()).boxed_unsync()
            }
        }
    }
}

/// A node that holds whatever it is asked for. It says so when `opened` says so, and tells `asked` when it is asked for one.
struct FakePeer {
    gives: Gives,
    opened: Option<Arc<Notify>>,
    asked: Arc<Notify>,
}

impl FakePeer {
    async fn answer(&self, request: Request<Incoming>) -> Response<PeerBody> {
        let (parts, body) = request.into_parts();
        match (parts.method, parts.uri.path()) {
            (Method::POST, "/objects/held") => {
                if let Some(opened) = &self.opened {
                    opened.notified().await;
                }
                let asked = body.collect().await.unwrap().to_bytes();
                response(StatusCode::OK, asked)
            }
            (Method::GET, _) => {
                self.asked.notify_one();
                Response::new(self.gives.body())
            }
            (Method::PUT, _) => match self.gives {
                Gives::Nothing => std::future::pending().await,
                _ => {
                    body.collect().await.unwrap();
                    response(StatusCode::NO_CONTENT, "")
                }
            },
            _ => response(StatusCode::NOT_FOUND, ""),
        }
    }

    async fn connection(
        self: Arc<Self>,
        acceptor: TlsAcceptor,
        stream: TcpStream,
        executor: TaskExecutor,
    ) {
        let tls = acceptor.accept(stream).await.unwrap();
        let service = service_fn(move |request| Arc::clone(&self).serve_one(request));
        let served = Builder::new(executor).serve_connection(TokioIo::new(tls), service);
        // The other side ends it.
        drop(served.await);
    }

    async fn serve_one(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<PeerBody>, Infallible> {
        Ok(self.answer(request).await)
    }

    /// Answers as this node on a socket, whose address it gives.
    async fn serve(self, id: NodeId, tasks: &Tasks) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let identity = Identity::new(&secret(), id).unwrap();
        let (this, own) = (Arc::new(self), tasks.clone());
        let shutdown = tasks.shutdown();
        let serving = async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = TlsAcceptor::from(identity.server());
                let (this, executor) = (Arc::clone(&this), TaskExecutor(own.clone()));
                let shutdown = own.shutdown();
                own.spawn("fake-connection", async move {
                    tokio::select! {
                        () = this.connection(acceptor, stream, executor) => {}
                        () = shutdown.cancelled() => {}
                    }
                });
            }
        };
        tasks.spawn("fake-peer", async move {
            shutdown.run_until_cancelled(serving).await;
        });
        addr
    }
}

fn secret() -> ClusterSecret {
    let text = "a secret of a cluster in a test, long enough".to_owned();
    ClusterSecret::parse(&text.into()).unwrap()
}

/// Node 1 of a cluster with two such others, which never has a leader, and what they are.
async fn among(second: FakePeer, third: FakePeer) -> (Member, Tasks, tempfile::TempDir) {
    let (dir, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().to_string();
    let config = MemberConfig {
        secret: secret(),
        node: 1,
        listener,
        database: dir.path().join("rune.db"),
        objects: ObjectStore::open_directory(&dir.path().join("objects")).unwrap(),
        protocol: NodeConfig::default(),
    };
    let member = Member::open(config).await.unwrap();
    let addrs = [
        own,
        second.serve(2, &tasks).await,
        third.serve(3, &tasks).await,
    ];
    let nodes = addrs.iter().map(BasicNode::new);
    let nodes: BTreeMap<NodeId, BasicNode> = (1..).zip(nodes).collect();
    member.node().initialize(nodes).await.unwrap();
    let known = async {
        while member.node().status().members.membership().nodes().count() < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, known).await.unwrap();
    (member, tasks, dir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_gives_wrong_is_refused_and_the_next_one_asked() {
    let digest = Digest::of(OBJECT);
    let name = digest.to_string();
    for gives in [
        Gives::Other,
        Gives::Half,
        Gives::TooMuch,
        Gives::HalfAndNothing,
    ] {
        let asked = Arc::new(Notify::new());
        // The second node says that it has the object once the third was asked for it.
        let second = FakePeer {
            gives: Gives::Whole,
            opened: Some(Arc::clone(&asked)),
            asked: Arc::default(),
        };
        let third = FakePeer {
            gives,
            opened: None,
            asked,
        };
        let (member, tasks, dir) = among(second, third).await;
        let got = member.objects().get(&name);
        let got = tokio::time::timeout(LIMIT, got).await.unwrap();
        assert_eq!(got.unwrap(), OBJECT, "{gives:?}");
        assert_eq!(member.objects().local().get(digest).await.unwrap(), OBJECT);
        member.close().await.unwrap();
        tasks.stop(LIMIT).await;
        drop(dir);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_answer_is_not_waited_for_by_who_stores() {
    let peer = |gives| FakePeer {
        gives,
        opened: None,
        asked: Arc::default(),
    };
    let (member, tasks, _dir) = among(peer(Gives::Whole), peer(Gives::Nothing)).await;
    let stored = member.objects().put(Bytes::from_static(OBJECT));
    let stored = tokio::time::timeout(LIMIT, stored).await.unwrap();
    assert_eq!(stored.unwrap(), Digest::of(OBJECT).to_string());
    member.close().await.unwrap();
    tasks.stop(LIMIT).await;
}
