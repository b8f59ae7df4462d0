//! The pod of a replica, and the secret with its environment.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvFromSource,
    EnvVar, HTTPGetAction, PersistentVolumeClaimVolumeSource, Pod, PodSecurityContext, PodSpec,
    Probe, ResourceRequirements, SeccompProfile, Secret, SecretEnvSource, SecurityContext, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rune_backend::ReplicaSpec;
use rune_env::{REPLICA_ADDR, REPLICA_DATA_DIR, REPLICA_WORKSPACE_DIR, Toleration};
use rune_store_runtime::ReplicaId;

use crate::{KubernetesConfig, network};

/// Labels that containers and pods of replicas carry.
pub(crate) const AGENT: &str = "rune.agent";
pub(crate) const DEPLOYMENT: &str = "rune.deployment";
pub(crate) const REPLICA: &str = "rune.replica";
/// Label: which daemon's.
pub(crate) const DAEMON: &str = "rune.daemon";
/// Where a replica listens.
pub(crate) const PORT: u16 = 8090;
/// Where a replica keeps what it needs while it lives.
const DATA_DIR: &str = "/var/lib/rune";
/// Where it finds the workspace of its agent.
const WORKSPACE_DIR: &str = "/workspaces";
/// What each of the writable directories may hold.
const SCRATCH: &str = "256Mi";
/// Who a replica is in its pod: nobody that a node knows.
const USER: i64 = 65_532;
/// How long a pod may take to end; the replica was drained before.
const GRACE_SECS: i64 = 10;

/// The name of a replica's pod, and of its secret: its id, as far as names of pods can hold it.
pub(crate) fn name_of(id: ReplicaId) -> String {
    format!("rune-{id}").replace('_', "-")
}

fn metadata(spec: &ReplicaSpec, config: &KubernetesConfig) -> ObjectMeta {
    let labels = [
        (AGENT, spec.agent.clone()),
        (DEPLOYMENT, spec.deployment_id.to_string()),
        (REPLICA, spec.replica_id.to_string()),
        (DAEMON, config.daemon.clone()),
    ];
    let labels = labels.map(|(name, value)| (name.to_owned(), value));
    ObjectMeta {
        name: Some(name_of(spec.replica_id)),
        namespace: Some(config.settings.namespace.clone()),
        labels: Some(BTreeMap::from(labels)),
        ..ObjectMeta::default()
    }
}

/// The pod of a replica.
pub(crate) fn pod(
    spec: &ReplicaSpec,
    config: &KubernetesConfig,
    owner: Option<&OwnerReference>,
) -> Pod {
    let mut metadata = metadata(spec, config);
    let networks = spec
        .networks
        .iter()
        .map(|name| (network::label(name), "member".to_owned()));
    metadata.labels.get_or_insert_default().extend(networks);
    let settings = &config.settings;
    metadata.annotations = Some(settings.annotations.clone());
    metadata.owner_references = owner.map(|owner| vec![owner.clone()]);
    let scratch = |name: &str| Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit: Some(Quantity(SCRATCH.to_owned())),
            ..EmptyDirVolumeSource::default()
        }),
        ..Volume::default()
    };
    let workspaces = match &settings.workspace_claim {
        None => scratch("workspaces"),
        Some(claim) => Volume {
            name: "workspaces".to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.clone(),
                read_only: None,
            }),
            ..Volume::default()
        },
    };
    let confines = settings.seccomp_profile.is_some();
    Pod {
        metadata,
        spec: Some(PodSpec {
            containers: vec![container(spec, config)],
            volumes: Some(vec![scratch("data"), scratch("tmp"), workspaces]),
            // One that ended has a token that may be old; the daemon starts another one in its place.
            restart_policy: Some("Never".to_owned()),
            termination_grace_period_seconds: Some(GRACE_SECS),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            service_account_name: settings.service_account.clone(),
            node_selector: Some(settings.node_selector.clone()),
            tolerations: Some(settings.tolerations.iter().map(tolerated).collect()),
            // Only in users of its own may a pod have all of its `/proc`.
            host_users: confines.then_some(false),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                seccomp_profile: Some(seccomp(settings.seccomp_profile.as_deref())),
                // The usual profile forbids the mounts that a tool is confined with.
                app_armor_profile: confines.then(|| AppArmorProfile {
                    type_: "Unconfined".to_owned(),
                    localhost_profile: None,
                }),
                ..PodSecurityContext::default()
            }),
            ..PodSpec::default()
        }),
        status: None,
    }
}

fn tolerated(toleration: &Toleration) -> core::Toleration {
    let operator = match toleration.value {
        Some(_) => "Equal",
        None => "Exists",
    };
    core::Toleration {
        key: toleration.key.clone(),
        operator: Some(operator.to_owned()),
        value: toleration.value.clone(),
        effect: toleration.effect.clone(),
        toleration_seconds: None,
    }
}

/// What a pod's processes may ask of the kernel: by the profile of its node that leaves out what tools are confined with,
/// else by the usual one.
fn seccomp(profile: Option<&str>) -> SeccompProfile {
    let type_ = match profile {
        Some(_) => "Localhost",
        None => "RuntimeDefault",
    };
    SeccompProfile {
        type_: type_.to_owned(),
        localhost_profile: profile.map(str::to_owned),
    }
}

fn container(spec: &ReplicaSpec, config: &KubernetesConfig) -> Container {
    let variable = |name: &str, value: String| EnvVar {
        name: name.to_owned(),
        value: Some(value),
        value_from: None,
    };
    let mount = |name: &str, path: &str| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        ..VolumeMount::default()
    };
    let of_agent = format!("{}/{}", spec.namespace, spec.agent);
    let workspace = VolumeMount {
        // Of a volume with many it sees one.
        sub_path: Some(of_agent.clone()),
        ..mount("workspaces", &format!("{WORKSPACE_DIR}/{of_agent}"))
    };
    let resources = [
        ("cpu", spec.resources.cpus.to_string()),
        ("memory", format!("{}Mi", spec.resources.memory_mib)),
    ];
    let resources = resources.map(|(name, value)| (name.to_owned(), Quantity(value)));
    let resources = BTreeMap::from(resources);
    let confines = config.settings.seccomp_profile.is_some();
    let image = spec.image.as_ref().unwrap_or(&config.image);
    Container {
        name: "replica".to_owned(),
        image: Some(image.clone()),
        command: Some(vec!["rune".to_owned(), "replica".to_owned()]),
        env: Some(vec![
            variable(REPLICA_ADDR, format!("0.0.0.0:{PORT}")),
            variable(REPLICA_DATA_DIR, DATA_DIR.to_owned()),
            variable(REPLICA_WORKSPACE_DIR, WORKSPACE_DIR.to_owned()),
        ]),
        env_from: Some(vec![EnvFromSource {
            secret_ref: Some(SecretEnvSource {
                name: name_of(spec.replica_id),
                optional: Some(false),
            }),
            ..EnvFromSource::default()
        }]),
        ports: Some(vec![ContainerPort {
            name: Some("replica".to_owned()),
            container_port: i32::from(PORT),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        resources: Some(ResourceRequirements {
            limits: Some(resources.clone()),
            requests: Some(resources),
            claims: None,
        }),
        // Until the first answer often, so that nobody waits for the next look.
        startup_probe: Some(probe(1, startup_probes(spec.startup))),
        readiness_probe: Some(probe(5, 2)),
        liveness_probe: Some(probe(10, 6)),
        volume_mounts: Some(vec![
            mount("data", DATA_DIR),
            mount("tmp", "/tmp"),
            workspace,
        ]),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            privileged: Some(false),
            // A tool gets a `/proc` of its own, which the kernel only gives where nothing of this one is hidden.
            proc_mount: confines.then(|| "Unmasked".to_owned()),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// How often a container that starts is asked, a second apart.
fn startup_probes(longest: Duration) -> i32 {
    // Seconds may have begun, and the first one is asked at once.
    let seconds = longest.as_secs().saturating_add(2);
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

fn probe(period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/health".to_owned()),
            port: IntOrString::String("replica".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(2),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

/// Says that something belongs to the pod of a replica, and goes with it.
pub(crate) fn owned_by(pod: &Pod) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    }
}

/// The secret with the environment of a replica. It belongs to the pod and goes with it. The deployment's variables come
/// from the daemon when the replica starts.
pub(crate) fn secret(spec: &ReplicaSpec, config: &KubernetesConfig, pod: &Pod) -> Secret {
    let mut metadata = metadata(spec, config);
    metadata.owner_references = Some(vec![owned_by(pod)]);
    Secret {
        metadata,
        immutable: Some(true),
        string_data: Some(spec.launch.clone()),
        ..Secret::default()
    }
}
