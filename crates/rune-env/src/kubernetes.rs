//! Replicas as pods of a Kubernetes cluster.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::error::ConfigError;
use crate::resolve::Resolved;

/// Where and how pods of replicas run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesConfig {
    /// `RUNE_KUBECONFIG`; absent: the usual kubeconfig, else the service account of the pod that this process is in.
    pub kubeconfig: Option<PathBuf>,
    /// `RUNE_KUBERNETES_NAMESPACE`: where the pods are; it must exist.
    pub namespace: String,
    /// `RUNE_KUBERNETES_POD`: the pod that this process is in; what owns that one owns the replicas, too.
    pub pod: Option<String>,
    /// `RUNE_KUBERNETES_DAEMON_URL`: where pods reach this daemon, without a slash at its end.
    pub daemon_url: Option<String>,
    /// `RUNE_KUBERNETES_REPLICA_ADDR`: where it listens for them, and for nobody else.
    pub replica_addr: SocketAddr,
    /// `RUNE_KUBERNETES_DAEMON_FROM`: where this daemon comes from, beside the pod of the namespace that `pod` names.
    pub daemon_from: Vec<NetworkPeer>,
    /// `RUNE_KUBERNETES_SERVICE_ACCOUNT` of the pods; absent: the one that the namespace has for all.
    pub service_account: Option<String>,
    /// `RUNE_KUBERNETES_WORKSPACE_CLAIM`: the claim of the volume with the workspaces; absent: each pod has one of its own.
    pub workspace_claim: Option<String>,
    /// `RUNE_KUBERNETES_SECCOMP_PROFILE`: the profile of the nodes that lets tools be confined; absent: that of the runtime.
    pub seccomp_profile: Option<String>,
    /// `RUNE_KUBERNETES_NODE_SELECTOR`: nodes on which pods may be.
    pub node_selector: BTreeMap<String, String>,
    /// `RUNE_KUBERNETES_TOLERATIONS`: taints that pods tolerate.
    pub tolerations: Vec<Toleration>,
    /// `RUNE_KUBERNETES_ANNOTATIONS` of the pods.
    pub annotations: BTreeMap<String, String>,
    /// `RUNE_KUBERNETES_START_TIMEOUT_SECS`: how long a pod may take until it is ready, with the time to pull its image.
    pub start_timeout: Duration,
}

/// A taint that pods tolerate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Toleration {
    /// Absent: every key.
    pub key: Option<String>,
    /// Absent: every value.
    pub value: Option<String>,
    /// Absent: every effect.
    pub effect: Option<String>,
}

/// Who may connect, in a network policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkPeer {
    /// Addresses of a network.
    Net(IpNet),
    /// Pods of the namespace with this name.
    Namespace(String),
}

impl KubernetesConfig {
    pub(crate) fn read(
        resolved: &Resolved,
        kubeconfig: Option<PathBuf>,
        daemon_url: Option<String>,
        replica_addr: SocketAddr,
    ) -> Result<Self, ConfigError> {
        let pairs = |key| {
            let pairs = resolved.parse(key, |text| items(text).map(pair).collect());
            Ok::<_, ConfigError>(pairs?.unwrap_or_default())
        };
        let seconds = resolved.parse("kubernetes.start_timeout_secs", |text| {
            text.parse::<NonZeroU32>().ok()
        });
        Ok(Self {
            kubeconfig,
            namespace: resolved.text("kubernetes.namespace").unwrap_or_default(),
            pod: resolved.text("kubernetes.pod"),
            daemon_url,
            replica_addr,
            daemon_from: resolved
                .parse("kubernetes.daemon_from", |text| {
                    items(text).map(peer).collect()
                })?
                .unwrap_or_default(),
            service_account: resolved.text("kubernetes.service_account"),
            workspace_claim: resolved.text("kubernetes.workspace_claim"),
            seccomp_profile: resolved.text("kubernetes.seccomp_profile"),
            node_selector: pairs("kubernetes.node_selector")?,
            tolerations: resolved
                .parse("kubernetes.tolerations", |text| {
                    items(text).map(toleration).collect()
                })?
                .unwrap_or_default(),
            annotations: pairs("kubernetes.annotations")?,
            start_timeout: Duration::from_secs(seconds?.map_or(0, NonZeroU32::get).into()),
        })
    }
}

/// The lines of a text of several; else what its commas part, which a line may hold.
fn items(text: &str) -> impl Iterator<Item = &str> {
    let between = if text.contains('\n') { '\n' } else { ',' };
    let items = text.split(between).map(str::trim);
    items.filter(|item| !item.is_empty())
}

fn pair(item: &str) -> Option<(String, String)> {
    let (name, value) = item.split_once('=')?;
    let name = name.trim();
    (!name.is_empty()).then(|| (name.to_owned(), value.trim().to_owned()))
}

/// A taint as `kubectl taint` has it, with `*` for every key.
fn toleration(item: &str) -> Option<Toleration> {
    let (taint, effect) = match item.split_once(':') {
        Some((taint, effect)) => (taint, Some(effect)),
        None => (item, None),
    };
    let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    if effect.is_some_and(|effect| !known.contains(&effect)) {
        return None;
    }
    let (key, value) = match taint.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (taint, None),
    };
    // A value without a key would be one of every key.
    let is_every = key == "*";
    (!(key.is_empty() || is_every && value.is_some())).then(|| Toleration {
        key: (!is_every).then(|| key.to_owned()),
        value,
        effect: effect.map(str::to_owned),
    })
}

fn peer(item: &str) -> Option<NetworkPeer> {
    if let Ok(net) = item.parse::<IpNet>() {
        return Some(NetworkPeer::Net(net.trunc()));
    }
    if let Ok(address) = item.parse::<IpAddr>() {
        return Some(NetworkPeer::Net(address.into()));
    }
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_name = item.len() <= 63 && item.bytes().all(is_name);
    is_name.then(|| NetworkPeer::Namespace(item.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_item_by_item() {
        let some = |text: &str| Some(text.to_owned());
        for (text, key, value, effect) in [
            (
                "dedicated=agents:NoSchedule",
                some("dedicated"),
                some("agents"),
                some("NoSchedule"),
            ),
            ("gpu:NoExecute", some("gpu"), None, some("NoExecute")),
            ("spot", some("spot"), None, None),
            ("*", None, None, None),
            ("*:NoSchedule", None, None, some("NoSchedule")),
        ] {
            let expected = Toleration { key, value, effect };
            assert_eq!(toleration(text), Some(expected), "{text}");
        }
        let annotations = "a=1,2\nb = {\"x\": [1, 2]}\n";
        let read: Option<Vec<_>> = items(annotations).map(pair).collect();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = [pair("a", "1,2"), pair("b", "{\"x\": [1, 2]}")];
        assert_eq!(read.unwrap(), expected);
        assert_eq!(items("a=1, b=2").count(), 2);
        for (text, expected) in [
            (
                "10.1.2.3/24",
                NetworkPeer::Net("10.1.2.0/24".parse().unwrap()),
            ),
            ("10.1.2.3", NetworkPeer::Net("10.1.2.3/32".parse().unwrap())),
            ("fd00::1", NetworkPeer::Net("fd00::1/128".parse().unwrap())),
            (
                "rune-system",
                NetworkPeer::Namespace("rune-system".to_owned()),
            ),
        ] {
            assert_eq!(peer(text), Some(expected), "{text}");
        }
        for wrong in ["10.1.2.0/33", "example.org", "Rune", "app=rune"] {
            assert_eq!(peer(wrong), None, "{wrong}");
        }
        for wrong in ["=x", "gpu:Never", "*=x", ":NoSchedule"] {
            assert_eq!(toleration(wrong), None, "{wrong}");
        }
    }
}
