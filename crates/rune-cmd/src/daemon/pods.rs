//! The backend `kubernetes`: whose the pods are, and where they find the daemon.

use std::path::Path;
use std::sync::Arc;

use rune_env::Config;
use rune_k8s::{KubernetesConfig, KubernetesReplicas, Spawn};
use rune_runtime::Tasks;

use crate::failure::{Exit, Failure, Outcome, chain};

/// Whose pods are the daemon's of this data directory.
const ID_FILE: &str = "daemon.id";

/// Connects to the cluster. Answers the replicas in it, and the URL at which they find this daemon.
pub(super) async fn connect(
    config: &Config,
    tasks: &Tasks,
) -> Outcome<(Arc<KubernetesReplicas>, String)> {
    let settings = config.kubernetes.clone();
    let Some(url) = settings.daemon_url.clone() else {
        let message = "it is not known where pods of replicas reach this daemon";
        return Err(Failure::usage(message.to_owned()).help(format!(
            "set RUNE_KUBERNETES_DAEMON_URL, such as `http://rune:8082`: it leads to {}, where the daemon listens for \
             them (RUNE_KUBERNETES_REPLICA_ADDR)",
            settings.replica_addr
        )));
    };
    let pods = KubernetesConfig {
        settings,
        daemon: own_id(&config.storage.data_dir)?,
        image: config.runtime.replica_image.clone(),
    };
    let tasks = tasks.clone();
    let spawn: Spawn = Arc::new(move |task| {
        let shutdown = tasks.shutdown();
        tasks.spawn("pods", async move {
            tokio::select! {
                () = task => {}
                () = shutdown.cancelled() => {}
            }
        });
    });
    let pods = KubernetesReplicas::connect(pods, &spawn).await;
    let pods = pods.map_err(|error| {
        let message = format!("replicas cannot run in pods: {}", chain(&error));
        Failure::new(Exit::Unavailable, message)
    })?;
    Ok((pods, url))
}

/// Names this data directory, wherever it is mounted: pods outlive the machine that a daemon is on.
fn own_id(data_dir: &Path) -> Outcome<String> {
    let path = data_dir.join(ID_FILE);
    let cannot = |what: &str| format!("cannot {what} {}", path.display());
    match std::fs::read_to_string(&path) {
        Ok(id) => Ok(id.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let id = uuid::Uuid::new_v4().simple().to_string();
            std::fs::write(&path, format!("{id}\n"))
                .map_err(|error| Failure::because(cannot("write"), &error))?;
            Ok(id)
        }
        Err(error) => Err(Failure::because(cannot("read"), &error)),
    }
}
