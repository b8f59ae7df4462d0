//! What a container finds around it: the server, the token of its account, and the services of its namespace.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::runtime::Mount;
use crate::ApiServer;
use crate::cluster::Cluster;
use crate::object::{self, list, text};
use crate::resource::named;
use crate::store::Key;

/// Where a container finds the token of its account.
const TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The server, as containers reach it.
#[derive(Debug)]
pub(super) struct Api {
    addr: SocketAddr,
    authority_pem: String,
}

impl Api {
    /// Nothing where it listens on the loopback, to which no container has a way.
    pub(super) fn of(server: &ApiServer) -> Option<Self> {
        let addr = server.addr();
        (!addr.ip().is_loopback()).then(|| Self {
            addr,
            authority_pem: server.authority_pem().to_owned(),
        })
    }

    /// The variables that say where it is.
    pub(super) fn variables(&self) -> [(String, String); 2] {
        let (host, port) = (self.addr.ip().to_string(), self.addr.port().to_string());
        [("HOST", host), ("PORT", port)]
            .map(|(name, value)| (format!("KUBERNETES_SERVICE_{name}"), value))
    }

    /// Writes a new token of the account of a pod into a directory, which its containers mount; nothing where the pod or
    /// its account wants none.
    pub(super) fn token(
        &self,
        cluster: &Cluster,
        pod: &Value,
        dir: &Path,
    ) -> Result<Option<Mount>, String> {
        let namespace = object::namespace(pod);
        let name = match text(pod, "/spec/serviceAccountName") {
            "" => "default",
            name => name,
        };
        let accounts = named("serviceaccounts").ok_or("there is no such kind")?;
        let account = cluster
            .store()
            .get(&Key::new(accounts, namespace, name))
            .cloned();
        let Some(account) = account else {
            return Ok(None);
        };
        let wants = |value: Option<&Value>| value.and_then(Value::as_bool);
        let of_pod = wants(pod.pointer("/spec/automountServiceAccountToken"));
        let of_account = wants(account.get("automountServiceAccountToken"));
        if !of_pod.or(of_account).unwrap_or(true) {
            return Ok(None);
        }
        let token = cluster.tokens().issue(namespace, name);
        let files = [
            ("token", token.as_str()),
            ("ca.crt", &self.authority_pem),
            ("namespace", namespace),
        ];
        for (name, value) in files {
            std::fs::write(dir.join(name), value).map_err(|error| error.to_string())?;
        }
        Ok(Some(Mount {
            source: dir.to_owned(),
            target: TOKEN_DIR.to_owned(),
            read_only: true,
        }))
    }
}

/// The names of the services of a pod's namespace with the address of a pod behind each that has one now, and those of
/// the pods that are behind a service under a name of their own.
fn names(cluster: &Cluster, pod: &Value) -> Vec<(String, String)> {
    let Some(endpoints) = named("endpoints") else {
        return Vec::new();
    };
    let namespace = object::namespace(pod);
    let store = cluster.store();
    let behind = store
        .list(endpoints, Some(namespace))
        .flat_map(|(key, found)| {
            let addresses = list(found, "/subsets").iter();
            let addresses = addresses.flat_map(|subset| list(subset, "/addresses"));
            let ip = |address: &Value| text(address, "/ip").to_owned();
            let own = addresses.clone().filter_map(move |address| {
                let host = text(address, "/hostname");
                (!host.is_empty()).then(|| (format!("{host}.{}", key.name), ip(address)))
            });
            let any = addresses.take(1);
            any.map(move |address| (key.name.clone(), ip(address)))
                .chain(own)
                .collect::<Vec<_>>()
        });
    let names = behind.flat_map(|(name, address)| {
        let qualified = format!("{name}.{namespace}.svc");
        let whole = format!("{qualified}.cluster.local");
        [
            (name, address.clone()),
            (qualified, address.clone()),
            (whole, address),
        ]
    });
    names.collect()
}

/// The file in which the containers of a pod look up names.
#[derive(Debug, Clone)]
pub(super) struct Hosts {
    path: PathBuf,
}

impl Hosts {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn mount(&self) -> Mount {
        Mount {
            source: self.path.clone(),
            target: "/etc/hosts".to_owned(),
            read_only: true,
        }
    }

    /// Writes what the names are now. It is the same file as before: containers have it mounted.
    pub(super) fn write(&self, cluster: &Cluster, pod: &Value) -> Result<(), String> {
        let mut lines = vec!["127.0.0.1 localhost".to_owned()];
        let names = names(cluster, pod).into_iter();
        lines.extend(names.map(|(name, address)| format!("{address} {name}")));
        lines.sort_unstable();
        let content = lines.join("\n") + "\n";
        if std::fs::read_to_string(&self.path).is_ok_and(|before| before == content) {
            return Ok(());
        }
        std::fs::write(&self.path, content).map_err(|error| error.to_string())?;
        let readable = Permissions::from_mode(0o644);
        std::fs::set_permissions(&self.path, readable).map_err(|error| error.to_string())
    }

    /// Keeps it up to date, for as long as the pod is there.
    pub(super) async fn follow(&self, cluster: &Cluster, pod: &Value) {
        let mut latest = cluster.store().subscribe();
        loop {
            latest.mark_unchanged();
            // A look that fails is made again with the next change.
            let _ = self.write(cluster, pod);
            if latest.changed().await.is_err() {
                return;
            }
        }
    }
}
