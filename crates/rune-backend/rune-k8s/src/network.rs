//! Networks: the daemon reaches its replicas, and in a network of Rune its members do; nobody else does. Daemons that share
//! a namespace share no network: each has policies of its own for its own pods.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use rune_backend::BackendError;
use rune_env::NetworkPeer;

use crate::KubernetesConfig;
use crate::connect::{APP, OwnPod};
use crate::error::{code, of_start};
use crate::manifest::{DAEMON, PORT};

/// The label with the name of a namespace, which every namespace has.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// The label of members of a network.
pub(crate) fn label(network: &str) -> String {
    format!("rune.network/{network}")
}

/// The network policies of a daemon.
pub(crate) struct Policies<'a> {
    pub(crate) api: &'a Api<NetworkPolicy>,
    pub(crate) config: &'a KubernetesConfig,
    /// The pod that the daemon is in, where it is known.
    pub(crate) own: Option<&'a OwnPod>,
}

impl Policies<'_> {
    /// Sees to it that a replica in these networks is reached by whom it is to be reached, and by nobody else. The policies
    /// belong to `owner`, too, and go when they belong to nobody any more.
    pub(crate) async fn ensure(
        &self,
        networks: &[String],
        owner: &OwnerReference,
    ) -> Result<(), BackendError> {
        let networks = networks.iter().map(|network| self.of_members(network));
        let policies = std::iter::once(self.of_daemon()).chain(networks);
        let put = policies.map(|mut policy| {
            policy.metadata.owner_references = Some(vec![owner.clone()]);
            self.put(policy)
        });
        try_join_all(put).await.map(drop)
    }

    /// What holds for every replica.
    fn of_daemon(&self) -> NetworkPolicy {
        let own = BTreeMap::from([(DAEMON.to_owned(), self.config.daemon.clone())]);
        // Where it is not known who the daemon is, it could be anybody.
        let from = Some(self.daemon()).filter(|from| !from.is_empty());
        self.policy(&self.config.daemon, own, from)
    }

    /// Where the daemon comes from; nothing where that is not known.
    fn daemon(&self) -> Vec<NetworkPolicyPeer> {
        let app = self.own.and_then(|own| own.app.as_ref());
        let own = app.map(|app| NetworkPolicyPeer {
            pod_selector: Some(selector(BTreeMap::from([(APP.to_owned(), app.clone())]))),
            ..NetworkPolicyPeer::default()
        });
        let from = self.config.settings.daemon_from.iter();
        own.into_iter().chain(from.map(peer)).collect()
    }

    /// What holds in a network beside that.
    fn of_members(&self, network: &str) -> NetworkPolicy {
        let members = BTreeMap::from([
            (DAEMON.to_owned(), self.config.daemon.clone()),
            (label(network), "member".to_owned()),
        ]);
        let from = NetworkPolicyPeer {
            pod_selector: Some(selector(members.clone())),
            ..NetworkPolicyPeer::default()
        };
        let name = format!("{}-{network}", self.config.daemon);
        self.policy(&name, members, Some(vec![from]))
    }

    fn policy(
        &self,
        name: &str,
        pods: BTreeMap<String, String>,
        from: Option<Vec<NetworkPolicyPeer>>,
    ) -> NetworkPolicy {
        let labels = BTreeMap::from([(DAEMON.to_owned(), self.config.daemon.clone())]);
        NetworkPolicy {
            metadata: ObjectMeta {
                name: Some(format!("rune-{name}")),
                namespace: Some(self.config.settings.namespace.clone()),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            spec: Some(NetworkPolicySpec {
                pod_selector: Some(selector(pods)),
                policy_types: Some(vec!["Ingress".to_owned()]),
                ingress: Some(vec![NetworkPolicyIngressRule {
                    from,
                    ports: Some(vec![NetworkPolicyPort {
                        port: Some(IntOrString::Int(i32::from(PORT))),
                        protocol: Some("TCP".to_owned()),
                        end_port: None,
                    }]),
                }]),
                egress: None,
            }),
        }
    }

    /// Has the cluster hold a policy as it is here, with its owner beside those that it has there.
    async fn put(&self, policy: NetworkPolicy) -> Result<(), BackendError> {
        let name = policy.metadata.name.clone().unwrap_or_default();
        let patch = || async {
            // Of all the ways to change an object this one adds to its owners.
            let (params, change) = (PatchParams::default(), Patch::Strategic(&policy));
            self.api.patch(&name, &params, &change).await.map(drop)
        };
        let mut put = patch().await;
        if put.as_ref().is_err_and(|error| code(error) == Some(404)) {
            let made = self.api.create(&PostParams::default(), &policy).await;
            put = match made {
                // That of another replica, which starts at the same time.
                Err(error) if code(&error) == Some(409) => patch().await,
                made => made.map(drop),
            };
        }
        put.map_err(|error| of_start(&format!("put the network policy `{name}`"), &error))
    }
}

fn selector(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector {
        match_labels: Some(labels),
        match_expressions: None,
    }
}

fn peer(peer: &NetworkPeer) -> NetworkPolicyPeer {
    match peer {
        NetworkPeer::Net(net) => NetworkPolicyPeer {
            ip_block: Some(IPBlock {
                cidr: net.to_string(),
                except: None,
            }),
            ..NetworkPolicyPeer::default()
        },
        NetworkPeer::Namespace(name) => NetworkPolicyPeer {
            namespace_selector: Some(selector(BTreeMap::from([(
                NAMESPACE_NAME.to_owned(),
                name.clone(),
            )]))),
            ..NetworkPolicyPeer::default()
        },
    }
}
