//! The server on its port.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::call::Call;
use crate::cluster::Cluster;
use crate::resource;
use crate::tls::Tls;
use crate::{KubernetesError, api, task};

/// Largest body of a request, as of the real server.
const MAX_BODY: u64 = 3 << 20;
/// How long a port that was given back may take to be had again.
const REBIND: Duration = Duration::from_secs(10);
const REBIND_PAUSE: Duration = Duration::from_millis(20);

/// A Kubernetes API server on a port of its own; it stops when dropped. What it holds lives as long as it does.
pub struct ApiServer {
    addr: SocketAddr,
    tls: Tls,
    cluster: Arc<Cluster>,
    /// Kubeconfigs.
    files: TempDir,
    /// Ends the listener and the connections; a new one with every [`ApiServer::up`].
    running: Mutex<CancellationToken>,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("ApiServer");
        shown.field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Starts on a free loopback port, with the namespaces `default` and `kube-system`.
    ///
    /// # Errors
    /// A [`KubernetesError`] where there is no port or no certificate.
    pub async fn start() -> Result<Self, KubernetesError> {
        Self::start_at(IpAddr::V4(Ipv4Addr::LOCALHOST)).await
    }

    /// Starts on a free port of an address of this machine.
    ///
    /// # Errors
    /// A [`KubernetesError`] where there is no port or no certificate.
    pub async fn start_at(address: IpAddr) -> Result<Self, KubernetesError> {
        let addr = SocketAddr::new(address, 0);
        let bind = |source| KubernetesError::Bind { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(bind)?;
        let addr = listener.local_addr().map_err(bind)?;
        let path = std::env::temp_dir();
        let files = TempDir::with_prefix("rune-test-kubernetes-")
            .map_err(|source| KubernetesError::File { path, source })?;
        let names = [
            "localhost".to_owned(),
            "kubernetes.default.svc".to_owned(),
            address.to_string(),
        ];
        let server = Self {
            addr,
            tls: Tls::new(&names)?,
            cluster: Arc::new(Cluster::new()),
            files,
            running: Mutex::new(CancellationToken::new()),
        };
        server.serve(listener);
        for namespace in ["default", "kube-system"] {
            server.put_namespace(namespace);
        }
        Ok(server)
    }

    fn put_namespace(&self, name: &str) {
        let Some(namespaces) = resource::named("namespaces") else {
            return;
        };
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let options = crate::write::WriteOptions::default();
        let created =
            crate::write::create(&mut self.cluster.store(), namespaces, "", object, &options);
        debug_assert!(created.is_ok(), "{created:?}");
    }

    fn serve(&self, listener: TcpListener) {
        let stop = CancellationToken::new();
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = stop.clone();
        let (acceptor, cluster) = (self.tls.acceptor.clone(), Arc::clone(&self.cluster));
        task::spawn_until(stop.clone(), accept(listener, acceptor, cluster, stop));
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.addr)
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The certificate of the authority that clients are to trust.
    #[must_use]
    pub fn authority_pem(&self) -> &str {
        &self.tls.authority_pem
    }

    pub(crate) fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Writes a kubeconfig of who may do everything; its current namespace is `namespace`.
    ///
    /// # Errors
    /// [`KubernetesError::File`].
    pub fn kubeconfig(&self, namespace: &str) -> Result<PathBuf, KubernetesError> {
        let token = self.cluster.tokens().admin().to_owned();
        self.write_kubeconfig("admin", namespace, &token)
    }

    /// Writes a kubeconfig of a service account, whose token is good as long as the account is there.
    ///
    /// # Errors
    /// [`KubernetesError::File`].
    pub fn account_kubeconfig(
        &self,
        namespace: &str,
        account: &str,
    ) -> Result<PathBuf, KubernetesError> {
        let token = self.cluster.tokens().issue(namespace, account);
        self.write_kubeconfig(account, namespace, &token)
    }

    fn write_kubeconfig(
        &self,
        user: &str,
        namespace: &str,
        token: &str,
    ) -> Result<PathBuf, KubernetesError> {
        let authority = STANDARD.encode(&self.tls.authority_pem);
        // YAML, of which this is the part that is JSON.
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": self.url(), "certificate-authority-data": authority,
            }}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {
                "cluster": "test", "user": user, "namespace": namespace,
            }}],
        });
        let path = self.files.path().join(format!("{namespace}-{user}.yaml"));
        write(&path, config.to_string().as_bytes())?;
        Ok(path)
    }

    /// The objects of a kind, by its plural name, in one namespace or in all.
    #[must_use]
    pub fn objects(&self, plural: &str, namespace: Option<&str>) -> Vec<Value> {
        let Some(resource) = resource::named(plural) else {
            return Vec::new();
        };
        let store = self.cluster.store();
        let listed = store.list(resource, namespace);
        listed.map(|(_, object)| Value::clone(object)).collect()
    }

    /// What a user has asked for, each once.
    #[must_use]
    pub fn accesses(&self, user: &str) -> Vec<Access> {
        self.cluster.accesses().of(user)
    }

    /// Breaks the connections of all watches that are open.
    pub fn break_watches(&self) {
        self.cluster.break_watches();
    }

    /// Forgets the past: a watch or a list that goes on from it is told that it is gone.
    pub fn forget_the_past(&self) {
        self.cluster.compact();
    }

    /// How late watches tell what happens.
    pub fn delay_events(&self, delay: Duration) {
        self.cluster.faults().delay = delay;
    }

    /// Whether watches tell everything twice.
    pub fn duplicate_events(&self, duplicates: bool) {
        self.cluster.faults().duplicates = duplicates;
    }

    /// Goes away: connections break, and new ones are refused until [`ApiServer::up`].
    pub fn down(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.cancel();
    }

    /// Comes back on its port, with what it held.
    ///
    /// # Errors
    /// [`KubernetesError::Bind`] where somebody else has the port.
    pub async fn up(&self) -> Result<(), KubernetesError> {
        self.down();
        let bound = async {
            loop {
                // The listener that was has its task's time to end.
                match TcpListener::bind(self.addr).await {
                    Ok(listener) => return listener,
                    Err(_) => tokio::time::sleep(REBIND_PAUSE).await,
                }
            }
        };
        let listener = tokio::time::timeout(REBIND, bound).await;
        let listener = listener.map_err(|elapsed| KubernetesError::Bind {
            addr: self.addr,
            source: elapsed.into(),
        })?;
        self.serve(listener);
        Ok(())
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.down();
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), KubernetesError> {
    std::fs::write(path, bytes).map_err(|source| KubernetesError::File {
        path: path.to_owned(),
        source,
    })
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    cluster: Arc<Cluster>,
    stop: CancellationToken,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (acceptor, cluster) = (acceptor.clone(), Arc::clone(&cluster));
                task::spawn_until(stop.child_token(), connection(stream, acceptor, cluster));
            }
            // Out of descriptors, most likely; others may give some back.
            Err(_) => tokio::time::sleep(REBIND_PAUSE).await,
        }
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, cluster: Arc<Cluster>) {
    // Who breaks off says so to nobody.
    let _ = stream.set_nodelay(true);
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let service = service_fn(move |request: Request<Incoming>| {
        let cluster = Arc::clone(&cluster);
        async move {
            let (parts, body) = request.into_parts();
            let body = collect(body).await;
            let call = Call::new(parts.method, &parts.uri, parts.headers, body);
            Ok::<_, Infallible>(api::answer(&cluster, &call).await)
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let _ = builder
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// The body, or nothing of one that is too large or breaks off, which no call accepts.
async fn collect(body: Incoming) -> Bytes {
    if body.size_hint().lower() > MAX_BODY {
        return Bytes::new();
    }
    let limit = usize::try_from(MAX_BODY).unwrap_or(usize::MAX);
    let read = axum::body::to_bytes(axum::body::Body::new(body), limit).await;
    read.unwrap_or_default()
}
