//! `runtime`: how replicas run.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checker::Checker;
use crate::document::At;

/// Replicas of an agent at the most.
const MAX_REPLICAS: u32 = 100;

/// `runtime` of a Runefile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuntimeSettings {
    /// Requests one replica runs at a time.
    pub concurrency_limit: u32,
    /// How a replica is asked whether it is well.
    pub health_probe: HealthProbe,
    /// Longest time until a new replica answers its first probe.
    #[serde(
        rename = "startup_timeout_ms",
        serialize_with = "crate::tool::as_millis"
    )]
    pub startup_timeout: Duration,
    /// Longest silence on the way to a replica.
    #[serde(
        rename = "request_timeout_ms",
        serialize_with = "crate::tool::as_millis"
    )]
    pub request_timeout: Duration,
    /// Whether callers may stream.
    pub streaming_enabled: bool,
    /// When journal entries become durable.
    pub checkpoint_policy: CheckpointPolicy,
    /// CPU and memory of a replica.
    pub resource_profile: ResourceProfile,
    /// CPU time of one run of the agent's component, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component_cpu_ms: Option<u64>,
    /// OCI reference for docker and kubernetes; raw text.
    pub image: Option<String>,
    /// Environment of a replica; raw text.
    pub env: BTreeMap<String, String>,
    /// Fewest replicas; 0 where none has to run while nothing is to be done.
    pub min_replicas: u32,
    /// Most replicas, at least 1.
    pub max_replicas: u32,
}

/// How a replica is asked whether it is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthProbe {
    /// HTTP path.
    pub path: String,
    /// Time between two probes.
    #[serde(rename = "interval_ms", serialize_with = "crate::tool::as_millis")]
    pub interval: Duration,
}

/// When journal entries become durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointPolicy {
    /// At every boundary.
    #[default]
    EachStep,
    /// When a request is accepted and when it ends.
    OnFinish,
    /// Never: memory only.
    Never,
}

/// CPU and memory of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResourceProfile {
    /// 1 CPU, 512 MiB.
    #[default]
    Small,
    /// 2 CPUs, 2 GiB.
    Medium,
    /// 4 CPUs, 8 GiB.
    Large,
}

impl ResourceProfile {
    /// Whole CPUs.
    pub fn cpus(self) -> u32 {
        match self {
            Self::Small => 1,
            Self::Medium => 2,
            Self::Large => 4,
        }
    }

    /// Memory in MiB.
    pub fn memory_mib(self) -> u32 {
        match self {
            Self::Small => 512,
            Self::Medium => 2048,
            Self::Large => 8192,
        }
    }

    /// Memory of one run of an agent's component, in MiB: half of the replica's.
    pub fn component_mib(self) -> u32 {
        self.memory_mib() / 2
    }
}

/// How replicas run.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "Runtime")]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RuntimeDocument {
    /// Requests one replica runs at a time.
    concurrency_limit: u32,
    /// How a replica is asked whether it is well.
    health_probe: HealthProbeDocument,
    /// Longest time until a new replica answers its first probe, in milliseconds.
    startup_timeout_ms: u64,
    /// Longest silence on the way to a replica, in milliseconds.
    request_timeout_ms: u64,
    /// Whether callers may stream.
    streaming_enabled: bool,
    /// When journal entries become durable.
    checkpoint_policy: CheckpointPolicy,
    /// CPU and memory of a replica.
    resource_profile: ResourceProfile,
    /// CPU time that one run of the component of `entrypoint` may take, in milliseconds; absent means that only `timeout_ms`
    /// counts.
    component_cpu_ms: Option<u64>,
    /// OCI reference for docker and kubernetes.
    image: Option<String>,
    /// Environment of a replica.
    #[schemars(with = "BTreeMap<String, crate::checker::Scalar>")]
    env: BTreeMap<String, String>,
    /// Fewest replicas, 0 to 100. With 0 none runs while there is nothing to do, and a request starts one.
    #[schemars(range(max = 100))]
    min_replicas: u32,
    /// Most replicas, 1 to 100; where it is more than `min_replicas`, the daemon runs as many as the requests need. Absent:
    /// `min_replicas`, at least 1.
    #[schemars(range(min = 1, max = 100))]
    max_replicas: Option<u32>,
}

impl Default for RuntimeDocument {
    fn default() -> Self {
        Self {
            concurrency_limit: 10,
            health_probe: HealthProbeDocument::default(),
            startup_timeout_ms: 10_000,
            request_timeout_ms: 30_000,
            streaming_enabled: true,
            checkpoint_policy: CheckpointPolicy::default(),
            resource_profile: ResourceProfile::default(),
            component_cpu_ms: None,
            image: None,
            env: BTreeMap::new(),
            min_replicas: 1,
            max_replicas: None,
        }
    }
}

/// How a replica is asked whether it is well.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "HealthProbe")]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HealthProbeDocument {
    /// HTTP path.
    path: String,
    /// Time between two probes, in milliseconds.
    interval_ms: u64,
}

impl Default for HealthProbeDocument {
    fn default() -> Self {
        Self {
            path: "/health".to_owned(),
            interval_ms: 5000,
        }
    }
}

impl RuntimeDocument {
    pub(crate) fn validate(self, checker: &mut Checker<'_>) -> RuntimeSettings {
        let at = At::top("runtime");
        let probe = at.field("health_probe");
        if !self.health_probe.path.starts_with('/') {
            checker.error(&probe.field("path"), "the path must start with `/`");
        }
        if self
            .image
            .as_deref()
            .is_some_and(|image| image.is_empty() || image.contains(char::is_whitespace))
        {
            checker.error(
                &at.field("image"),
                "expected an OCI reference such as `registry.example.org/agent:1.0.0`",
            );
        }
        checker.variables(&at.field("env"), self.env.keys());
        let min_replicas = self.min_replicas;
        let max_replicas = self.max_replicas.unwrap_or(min_replicas.max(1));
        let max_replicas = checker.at_least_one(&at.field("max_replicas"), max_replicas);
        for (field, replicas) in [
            ("min_replicas", min_replicas),
            ("max_replicas", max_replicas),
        ] {
            if replicas > MAX_REPLICAS {
                let message = format!("must not be more than {MAX_REPLICAS}");
                checker.error(&at.field(field), message);
            }
        }
        if max_replicas < min_replicas {
            checker.error(
                &at.field("max_replicas"),
                format!("must not be less than `min_replicas` ({min_replicas})"),
            );
        }
        RuntimeSettings {
            concurrency_limit: checker
                .at_least_one(&at.field("concurrency_limit"), self.concurrency_limit),
            health_probe: HealthProbe {
                interval: checker
                    .millis(&probe.field("interval_ms"), self.health_probe.interval_ms),
                path: self.health_probe.path,
            },
            startup_timeout: checker
                .millis(&at.field("startup_timeout_ms"), self.startup_timeout_ms),
            request_timeout: checker
                .millis(&at.field("request_timeout_ms"), self.request_timeout_ms),
            streaming_enabled: self.streaming_enabled,
            checkpoint_policy: self.checkpoint_policy,
            resource_profile: self.resource_profile,
            component_cpu_ms: self.component_cpu_ms,
            image: self.image,
            env: self.env,
            min_replicas,
            max_replicas,
        }
    }
}
