//! The store at a Unix socket.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use rune_http::{Listener, Server};
use rune_remote_store::{Scope, StoreServer};
use rune_runtime::Tasks;
use rune_storage::ObjectStore;
use rune_store_runtime::{DeploymentId, DeploymentReader as _, RuntimeStore, Store, SystemClock};

use crate::served::{Served, remote};

/// Serves a router at a socket, until the tasks are stopped.
fn serve(socket: &Path, router: Router) -> Tasks {
    let tasks = Tasks::new();
    let listener = Listener::unix(socket, 0o600).unwrap();
    let server = Server::new("test", listener, router, tasks.clone());
    tasks.spawn("server", server.run(tasks.shutdown(), Duration::ZERO));
    tasks
}

#[tokio::test]
async fn a_store_at_a_socket_is_found_again_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    // Longer than an address of the kernel may be.
    let deep = directory.path().join("a".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let socket = deep.join("s");
    let served = Served::open(directory.path());
    let local = Arc::clone(&served.local) as Arc<dyn RuntimeStore>;
    let objects = ObjectStore::open_directory(&directory.path().join("objects")).unwrap();
    let server = StoreServer::new(Store::new(local, Arc::new(SystemClock)), Arc::new(objects));
    let router = server.router().layer(Extension(Scope::All));

    let first = serve(&socket, router.clone());
    let remote = remote(
        format!("unix:{}", socket.display()),
        Duration::from_secs(30),
    );
    let nobody = DeploymentId::generate();
    assert_eq!(remote.deployment(nobody).await.unwrap(), None);
    assert!(first.stop(Duration::from_secs(10)).await);
    // Who asks meanwhile is answered by the next one.
    let (answer, second) = tokio::join!(remote.deployment(nobody), async {
        tokio::task::yield_now().await;
        serve(&socket, router)
    });
    assert_eq!(answer.unwrap(), None);
    assert!(second.stop(Duration::from_secs(10)).await);
}
