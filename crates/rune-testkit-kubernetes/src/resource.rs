//! The kinds that the server knows.

use k8s_openapi::api::{
    apps::v1 as apps, coordination::v1 as coordination, core::v1 as core,
    networking::v1 as networking, policy::v1 as policy, rbac::v1 as rbac,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// A kind with its place in the API.
#[derive(Debug)]
pub(crate) struct Resource {
    /// Empty for the core group.
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) short: &'static [&'static str],
    pub(crate) is_namespaced: bool,
    /// Whether it has the subresource `status`.
    pub(crate) has_status: bool,
    /// Reads an object as its type and answers what the type holds of it.
    decode: fn(&Value) -> Result<Value, String>,
}

impl Resource {
    /// The name with its group, as errors say it.
    pub(crate) fn qualified(&self) -> String {
        match self.group {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }

    pub(crate) fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// Reads an object as its type.
    pub(crate) fn decode(&self, object: &Value) -> Result<Value, String> {
        (self.decode)(object)
    }

    /// Subresources beside `status`.
    pub(crate) fn subresources(&self) -> &'static [&'static str] {
        match self.plural {
            "pods" => &["log"],
            "serviceaccounts" => &["token"],
            _ => &[],
        }
    }

    pub(crate) fn has_subresource(&self, name: &str) -> bool {
        (name == "status" && self.has_status) || self.subresources().contains(&name)
    }
}

fn typed<T: Serialize + DeserializeOwned>(object: &Value) -> Result<Value, String> {
    let typed: T = serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
    serde_json::to_value(typed).map_err(|error| error.to_string())
}

const fn resource<T: k8s_openapi::Resource + Serialize + DeserializeOwned>(
    singular: &'static str,
    short: &'static [&'static str],
    is_namespaced: bool,
    has_status: bool,
) -> Resource {
    Resource {
        group: T::GROUP,
        version: T::VERSION,
        kind: T::KIND,
        plural: T::URL_PATH_SEGMENT,
        singular,
        short,
        is_namespaced,
        has_status,
        decode: typed::<T>,
    }
}

/// Every kind, by group.
pub(crate) static RESOURCES: [Resource; 21] = [
    resource::<core::Namespace>("namespace", &["ns"], false, true),
    resource::<core::Node>("node", &["no"], false, true),
    resource::<core::Pod>("pod", &["po"], true, true),
    resource::<core::Service>("service", &["svc"], true, true),
    resource::<core::ConfigMap>("configmap", &["cm"], true, false),
    resource::<core::Secret>("secret", &[], true, false),
    resource::<core::ServiceAccount>("serviceaccount", &["sa"], true, false),
    resource::<core::PersistentVolumeClaim>("persistentvolumeclaim", &["pvc"], true, true),
    resource::<core::PersistentVolume>("persistentvolume", &["pv"], false, true),
    resource::<core::Event>("event", &["ev"], true, false),
    resource::<core::Endpoints>("endpoints", &["ep"], true, false),
    resource::<apps::StatefulSet>("statefulset", &["sts"], true, true),
    resource::<apps::Deployment>("deployment", &["deploy"], true, true),
    resource::<rbac::Role>("role", &[], true, false),
    resource::<rbac::RoleBinding>("rolebinding", &[], true, false),
    resource::<rbac::ClusterRole>("clusterrole", &[], false, false),
    resource::<rbac::ClusterRoleBinding>("clusterrolebinding", &[], false, false),
    resource::<networking::NetworkPolicy>("networkpolicy", &["netpol"], true, false),
    resource::<networking::Ingress>("ingress", &["ing"], true, true),
    resource::<policy::PodDisruptionBudget>("poddisruptionbudget", &["pdb"], true, true),
    resource::<coordination::Lease>("lease", &[], true, false),
];

/// The kind at a place in the API.
pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES
        .iter()
        .find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// A kind by its plural name, which none shares with another here.
pub(crate) fn named(plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.plural == plural)
}
