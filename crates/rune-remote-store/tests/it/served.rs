//! A SQLite store behind the routes, on a socket of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use rune_http::{Auth, Edge, Server};
use rune_remote_store::{RemoteStore, RemoteStoreConfig, Scope, StoreServer};
use rune_runtime::Tasks;
use rune_storage::{Durability, ObjectStore, SqliteStore, StorageConfig};
use rune_store_runtime::{RuntimeStore, Store, SystemClock};
use tempfile::TempDir;

/// A router on a port of its own, until it is dropped.
pub(crate) struct Listening {
    pub(crate) addr: SocketAddr,
    tasks: Tasks,
}

impl Listening {
    pub(crate) fn start(router: Router) -> Self {
        let tasks = Tasks::new();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let addr = listener.local_addr().unwrap();
        let router = Edge::new("test", Auth::Anonymous, &[]).protect(router);
        let server = Server::new("test", listener, router, tasks.clone());
        tasks.spawn("server", server.run(tasks.shutdown(), Duration::ZERO));
        Self { addr, tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Ends it and everything that it does.
    pub(crate) async fn stop(self) {
        assert!(self.tasks.stop(Duration::from_secs(10)).await);
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.tasks.shutdown().cancel();
    }
}

/// A store and those who may ask it for everything.
pub(crate) struct Served {
    pub(crate) local: Arc<SqliteStore>,
    pub(crate) listening: Listening,
    directory: PathBuf,
}

impl Served {
    pub(crate) fn open(directory: &Path) -> Self {
        Self::with_scope(directory, Scope::All)
    }

    fn with_scope(directory: &Path, scope: Scope) -> Self {
        let mut config = StorageConfig::new(directory.join("rune.db"));
        config.durability = Durability::Normal;
        let local = Arc::new(SqliteStore::open(config).unwrap());
        let objects = ObjectStore::open_directory(&directory.join("objects")).unwrap();
        let store = Store::new(
            Arc::clone(&local) as Arc<dyn RuntimeStore>,
            Arc::new(SystemClock),
        );
        let server = StoreServer::new(store, Arc::new(objects));
        let router = server.router().layer(Extension(scope));
        Self {
            local,
            listening: Listening::start(router),
            directory: directory.to_owned(),
        }
    }

    /// The daemon ends and starts again.
    pub(crate) async fn restart(self) -> Self {
        self.scoped(Scope::All).await
    }

    /// It ends, and starts again for those with this scope.
    pub(crate) async fn scoped(self, scope: Scope) -> Self {
        self.listening.stop().await;
        self.local.close().await.unwrap();
        drop(self.local);
        Self::with_scope(&self.directory, scope)
    }
}

/// A remote store of this address.
pub(crate) fn remote(url: String, patience: Duration) -> RemoteStore {
    let mut config = RemoteStoreConfig::new(url, "token".into());
    config.patience = patience;
    config.attempt = Duration::from_secs(5);
    RemoteStore::new(&config, Tasks::new()).unwrap()
}

/// A store and a remote store of it.
pub(crate) fn pair() -> (RemoteStore, Served, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let served = Served::open(directory.path());
    let remote = remote(served.listening.url(), Duration::from_secs(10));
    (remote, served, directory)
}
