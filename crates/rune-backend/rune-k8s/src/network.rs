//! Networks: only members of a network of Rune, and the daemon, reach a replica in it. Daemons that share a namespace share
//! no network: each has a policy of its own for its own pods.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Api;
use kube::api::PostParams;
use rune_backend::BackendError;

use crate::KubernetesConfig;
use crate::error::{code, of_start};
use crate::manifest::{DAEMON, PORT};

/// The label of the daemon's own pods, in the manifests that come with Rune.
const DAEMON_PODS: (&str, &str) = ("app.kubernetes.io/name", "rune");

/// The label of members of a network.
pub(crate) fn label(network: &str) -> String {
    format!("rune.network/{network}")
}

fn policy(
    network: &str,
    config: &KubernetesConfig,
    owner: Option<&OwnerReference>,
) -> NetworkPolicy {
    let selector = |labels: &[(&str, &str)]| {
        let labels = labels.iter();
        let labels = labels.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        LabelSelector {
            match_labels: Some(labels.collect()),
            match_expressions: None,
        }
    };
    let from = |selector| NetworkPolicyPeer {
        pod_selector: Some(selector),
        ..NetworkPolicyPeer::default()
    };
    let own = (DAEMON, config.daemon.as_str());
    let members = || selector(&[own, (&label(network), "member")]);
    let daemon = selector(&[DAEMON_PODS]);
    let labels = BTreeMap::from([(DAEMON.to_owned(), config.daemon.clone())]);
    NetworkPolicy {
        metadata: ObjectMeta {
            name: Some(format!("rune-{}-{network}", config.daemon)),
            namespace: Some(config.settings.namespace.clone()),
            labels: Some(labels),
            owner_references: owner.map(|owner| vec![owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(members()),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some(vec![from(members()), from(daemon)]),
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

/// Makes the policy of a network where there is none.
pub(crate) async fn ensure(
    policies: &Api<NetworkPolicy>,
    network: &str,
    config: &KubernetesConfig,
    owner: Option<&OwnerReference>,
) -> Result<(), BackendError> {
    let policy = policy(network, config, owner);
    match policies.create(&PostParams::default(), &policy).await {
        Ok(_) => Ok(()),
        Err(error) if code(&error) == Some(409) => Ok(()),
        Err(error) => {
            let action = format!("make the network policy of `{network}`");
            Err(of_start(&action, &error))
        }
    }
}
