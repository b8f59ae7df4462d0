//! The backend `kubernetes`: whose the pods are, and where they find the daemon.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use rune_env::Config;
use rune_k8s::{KubernetesConfig, KubernetesReplicas, Spawn};
use rune_runtime::Tasks;

use crate::failure::{Exit, Failure, Outcome, chain};

/// Whose pods are the daemon's of this data directory.
const ID_FILE: &str = "daemon.id";
/// Hexadecimal digits that it holds.
const ID_DIGITS: usize = 32;

/// Connects to Kubernetes. Answers the replicas there, and the URL at which they find this daemon. Those of a `cluster` of
/// daemons are the cluster's, whichever node leads.
pub(super) async fn connect(
    config: &Config,
    cluster: Option<&str>,
    tasks: &Tasks,
) -> Outcome<(Arc<KubernetesReplicas>, String)> {
    let url = daemon_url(config)?;
    let pods = KubernetesConfig {
        settings: config.kubernetes.clone(),
        daemon: match cluster {
            Some(name) => name.to_owned(),
            None => own_id(&config.storage.data_dir)?,
        },
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

/// Where pods reach this daemon, which has to be said.
pub(super) fn daemon_url(config: &Config) -> Outcome<String> {
    let settings = &config.kubernetes;
    settings.daemon_url.clone().ok_or_else(|| {
        let message = "it is not known where pods of replicas reach this daemon";
        Failure::usage(message.to_owned()).help(format!(
            "set RUNE_KUBERNETES_DAEMON_URL, such as `http://rune:8082`: it leads to {}, where the daemon listens for \
             them (RUNE_KUBERNETES_REPLICA_ADDR)",
            settings.replica_addr
        ))
    })
}

/// Names this data directory, wherever it is mounted: pods outlive the machine that a daemon is on.
fn own_id(data_dir: &Path) -> Outcome<String> {
    let path = data_dir.join(ID_FILE);
    let cannot = |what: &str| format!("cannot {what} {}", path.display());
    if !path.exists() {
        make_id(&path).map_err(|error| Failure::because(cannot("write"), &error))?;
    }
    let id = std::fs::read_to_string(&path);
    let id = id.map_err(|error| Failure::because(cannot("read"), &error))?;
    let id = id.trim();
    if id.len() != ID_DIGITS || !id.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        let message = format!("{} does not name this daemon's pods", path.display());
        return Err(Failure::new(Exit::Failed, message).help(format!(
            "it holds {ID_DIGITS} hexadecimal digits, which are the label `rune.daemon` of the pods: put them back, or remove \
             the file together with these pods"
        )));
    }
    Ok(id.to_owned())
}

/// Complete or not there, whatever happens.
fn make_id(path: &Path) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let id = uuid::Uuid::new_v4().simple();
    let mut draft = tempfile::NamedTempFile::new_in(dir)?;
    writeln!(draft, "{id}")?;
    draft.as_file().sync_all()?;
    draft.persist_noclobber(path).map_err(|error| error.error)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_keeps_its_name_and_one_that_is_no_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let id = own_id(dir.path()).unwrap();
        assert_eq!(own_id(dir.path()).unwrap(), id);
        // As a full disk may leave it.
        for spoiled in ["", "\n", "0123"] {
            std::fs::write(dir.path().join(ID_FILE), spoiled).unwrap();
            let failure = own_id(dir.path()).unwrap_err();
            assert!(failure.message().contains(ID_FILE), "{failure:?}");
        }
    }
}
