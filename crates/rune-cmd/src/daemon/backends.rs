//! Where replicas run: the backend that was asked for, put together.

use std::path::Path;
use std::sync::Arc;

use rune_docker::DockerReplicas;
use rune_env::{Config, REPLICA_ORPHAN_SECS, ReplicaAddr};
use rune_http::Listener;
use rune_replica::DaemonApi;
use rune_runtime::{LocalBackend, PackageCache, RemoteBackend};
use tokio::net::TcpListener;

use super::node::{Node, Place, hidden, internal_key, own_launcher};
use super::pods;
use super::process_backend::ProcessBackend;
use super::replicas::{Access, Boot};
use crate::commands::daemon::Backend;
use crate::failure::{Exit, Failure, Outcome, chain};

/// What runs replicas.
pub(super) struct Backends {
    /// For the reconcile loop.
    pub(super) driven: Arc<dyn rune_backend::Backend>,
    /// For replicas outside this process.
    pub(super) outside: Option<Outside>,
    /// Those that end with this process.
    pub(super) processes: Option<Arc<ProcessBackend>>,
    /// The packages of agents.
    pub(super) packages: PackageCache,
}

/// What is served to replicas outside this process.
pub(super) struct Outside {
    pub(super) api: DaemonApi,
    /// Where they reach it, if that is a place of their own.
    pub(super) listener: Option<Listener>,
}

/// Replicas outside this process.
struct Platform {
    backend: Arc<dyn rune_backend::Backend>,
    /// Where they find the daemon.
    control_plane: String,
    listener: Option<Listener>,
}

impl Backends {
    /// The backend of this name; `cluster` is the name of the cluster of which this daemon is a node.
    pub(super) async fn new(
        backend: Backend,
        config: &Config,
        place: &Place,
        node: &Node,
        cluster: Option<&str>,
    ) -> Outcome<Self> {
        let dir = config.storage.data_dir.join("packages");
        let packages = PackageCache::new(Arc::clone(&node.blobs), dir);
        match backend {
            Backend::Wasm => Ok(Self::local(node, packages)),
            Backend::Process => Self::processes(config, place, node, packages),
            Backend::Docker => {
                let platform = containers(config, node).await?;
                Ok(Self::outside(config, node, packages, platform))
            }
            Backend::Kubernetes => {
                let (pods, control_plane) = pods::connect(config, cluster, &node.tasks).await?;
                let listener = match cluster {
                    None => Some(for_replicas(config).await?.into()),
                    // Each of its nodes listens for them, whether it leads or not.
                    Some(_) => None,
                };
                let platform = Platform {
                    backend: pods,
                    control_plane,
                    listener,
                };
                Ok(Self::outside(config, node, packages, platform))
            }
        }
    }

    /// Replicas in this process.
    fn local(node: &Node, packages: PackageCache) -> Self {
        let loader = Arc::clone(&node.loader);
        let router = node.router.clone();
        Self {
            driven: Arc::new(LocalBackend::new(loader, packages.clone(), router)),
            outside: None,
            processes: None,
            packages,
        }
    }

    /// Replicas in processes of their own.
    fn processes(
        config: &Config,
        place: &Place,
        node: &Node,
        packages: PackageCache,
    ) -> Outcome<Self> {
        let (program, _) = own_launcher()?;
        let hidden = hidden(config, place);
        let processes = ProcessBackend::new(program, config, &hidden, node.tasks.clone())?;
        let processes = Arc::new(processes);
        let socket = processes
            .daemon_socket()
            .map_err(|error| Failure::because("cannot make the directory of sockets", &error))?;
        let platform = Platform {
            backend: Arc::clone(&processes) as _,
            control_plane: ReplicaAddr::Unix(socket.clone()).to_string(),
            // They run as the daemon's own user.
            listener: Some(at_socket(&socket, 0o600)?),
        };
        Ok(Self {
            processes: Some(processes),
            ..Self::outside(config, node, packages, platform)
        })
    }

    /// Replicas of a platform.
    fn outside(config: &Config, node: &Node, packages: PackageCache, platform: Platform) -> Self {
        let boot = Arc::new(Boot {
            config: config.clone(),
            loader: Arc::clone(&node.loader),
            packages: packages.clone(),
        });
        let access = Access {
            tokens: Arc::clone(&node.tokens),
            control_plane: platform.control_plane,
            keys: internal_key(config),
            orphan_secs: config.variable(REPLICA_ORPHAN_SECS),
            boot: Arc::clone(&boot),
        };
        let driven = RemoteBackend::new(
            platform.backend,
            Arc::new(access),
            Arc::clone(&node.loader),
            packages.clone(),
            node.router.clone(),
            node.tasks.clone(),
        );
        Self {
            driven: Arc::new(driven),
            outside: Some(Outside {
                api: DaemonApi {
                    engine: node.engine.clone(),
                    secrets: node.loader.secrets.clone(),
                    tokens: Arc::clone(&node.tokens),
                    boot,
                },
                listener: platform.listener,
            }),
            processes: None,
            packages,
        }
    }
}

/// Replicas in containers, which reach the daemon at a socket that is mounted into them.
async fn containers(config: &Config, node: &Node) -> Outcome<Platform> {
    let image = config.runtime.replica_image.clone();
    let containers = DockerReplicas::new(node.docker.clone(), image);
    let socket = containers.prepare().await.map_err(|error| {
        let why = chain(&error);
        let message = format!("replicas cannot run in containers: {why}");
        Failure::new(Exit::Unavailable, message)
    })?;
    Ok(Platform {
        backend: Arc::new(containers),
        control_plane: DockerReplicas::CONTROL_PLANE.to_owned(),
        // Where it is nobody comes who is no replica, and these are of several users.
        listener: Some(at_socket(&socket, 0o666)?),
    })
}

/// Listens where only replicas are answered.
fn at_socket(path: &Path, mode: u32) -> Outcome<Listener> {
    Listener::unix(path, mode).map_err(|error| {
        let path = path.display();
        Failure::because(format!("cannot listen for replicas at {path}"), &error)
    })
}

/// The same, at the address that pods reach.
pub(super) async fn for_replicas(config: &Config) -> Outcome<TcpListener> {
    let addr = config.kubernetes.replica_addr;
    let listener = TcpListener::bind(addr).await;
    listener
        .map_err(|error| Failure::because(format!("cannot listen for replicas at {addr}"), &error))
}
