//! Records that both APIs show, as they show them.

use rune_runtime::ReplicaRouter;
use rune_store_runtime::{
    Cost, DeploymentId, ReplicaId, ReplicaRow, Scaling, Timestamp, Usage, VersionId,
};
use serde::Serialize;
use utoipa::ToSchema;

/// Tokens of model calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct TokenUsage {
    /// Prompt tokens, all of them.
    pub input_tokens: u64,
    /// Completion tokens, reasoning included.
    pub output_tokens: u64,
    /// Prompt tokens read from the provider's cache.
    pub cached_tokens: u64,
    /// Prompt tokens written to the provider's cache.
    pub cache_write_tokens: u64,
    /// Completion tokens spent on reasoning.
    pub reasoning_tokens: u64,
}

impl From<Usage> for TokenUsage {
    fn from(usage: Usage) -> Self {
        Self {
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            cached_tokens: usage.cached_tokens,
            cache_write_tokens: usage.cache_write_tokens,
            reasoning_tokens: usage.reasoning_tokens,
        }
    }
}

/// What model calls cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct CostView {
    /// Of the calls that have a price, in millionths of a US dollar; `null` where none has.
    pub micro_usd: Option<u64>,
    /// Calls of models without a known price, which `micro_usd` leaves out.
    pub unpriced_calls: u64,
}

impl From<Cost> for CostView {
    fn from(cost: Cost) -> Self {
        Self {
            micro_usd: cost.micro_usd,
            unpriced_calls: cost.unpriced_calls,
        }
    }
}

/// How many replicas of a deployment the daemon has decided for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ScalingView {
    /// Fewest replicas of the version.
    pub min_replicas: u32,
    /// Most replicas of it.
    pub max_replicas: u32,
    /// Why there are to be as many as there are, with the numbers.
    pub reason: String,
    /// When that was decided.
    #[schema(value_type = String, format = DateTime)]
    pub decided_at: Timestamp,
}

impl From<Scaling> for ScalingView {
    fn from(scaling: Scaling) -> Self {
        Self {
            min_replicas: scaling.bounds.min,
            max_replicas: scaling.bounds.max,
            reason: scaling.reason,
            decided_at: scaling.decided_at,
        }
    }
}

/// A running copy of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReplicaView {
    /// The replica.
    #[schema(value_type = String)]
    pub id: ReplicaId,
    /// Its deployment.
    #[schema(value_type = String)]
    pub deployment_id: DeploymentId,
    /// The version it runs.
    #[schema(value_type = String)]
    pub version_id: VersionId,
    /// `starting`, `ready`, `draining` or `unhealthy`.
    pub state: &'static str,
    /// Why, for a person.
    pub reason: String,
    /// Name of the backend.
    pub backend: String,
    /// Requests it runs now; absent where this process does not route to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u32>,
    /// Requests it runs at the most; absent where this process does not route to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// CPU time that it and the processes of its tools have used, in milliseconds, when it was looked at last; absent
    /// where it is a part of this process, or this process does not route to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// Memory that they used then, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

impl ReplicaView {
    /// A replica as stored, with what the router knows of it.
    #[must_use]
    pub fn new(row: ReplicaRow, router: &ReplicaRouter) -> Self {
        let live = router.replica(row.id);
        let usage = live.as_ref().and_then(|replica| replica.usage());
        Self {
            id: row.id,
            deployment_id: row.deployment_id,
            version_id: row.version_id,
            state: row.state.as_str(),
            reason: row.reason,
            backend: row.backend,
            in_flight: live.as_ref().map(|replica| replica.in_flight()),
            limit: live.as_ref().map(|replica| replica.limit()),
            cpu_ms: usage.map(|usage| usage.cpu_ms),
            memory_bytes: usage.map(|usage| usage.memory_bytes),
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}
