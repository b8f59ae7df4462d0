//! What a caller sends to create a schedule.

use std::time::Duration;

use rune_http::ApiError;
use rune_runtime::MAX_JITTER;
use rune_spec::AgentName;
use rune_store_runtime::{CatchUp, Overlap, ScheduleKind, ScheduleSpec, SessionId, Timestamp};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

/// A schedule: `cron` or `every_ms` says when.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateRequest {
    /// Unique within the namespace; 1 to 63 of `a-z0-9-`.
    name: String,
    /// The agent it invokes.
    agent: String,
    /// What the agent is sent: a string, or what its `input_schema` asks for.
    input: Value,
    /// Namespace of schedule and agent, `dev` by default.
    #[serde(default = "dev")]
    #[schema(required = false)]
    namespace: String,
    /// Alias of the agent's deployment, `stable` by default.
    #[serde(default = "stable")]
    #[schema(required = false)]
    alias: String,
    /// Five fields (minute hour day-of-month month day-of-week), or six with the second
    /// first.
    cron: Option<String>,
    /// IANA name of the zone that `cron` is read in, `UTC` by default.
    timezone: Option<String>,
    /// Milliseconds between two planned times, 1000 at least.
    every_ms: Option<u64>,
    /// The first planned time of `every_ms`; one interval from now by default.
    #[schema(value_type = Option<String>)]
    start_at: Option<Timestamp>,
    /// What happens to planned times missed while the daemon was down: `skip`, `one`
    /// (default: one fire makes up for all of them) or `all` (up to 100).
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    catch_up: CatchUp,
    /// What happens to a fire while the request of an earlier one runs: `allow`, `skip`
    /// (default) or `queue`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    overlap: Overlap,
    /// Each fire is up to this much later than planned, one hour at the most, 0 by default.
    #[serde(default)]
    jitter_ms: u64,
    /// The session of every request; each has one of its own by default.
    #[schema(value_type = Option<String>)]
    session_id: Option<SessionId>,
    /// Whether it is held from the beginning.
    #[serde(default)]
    pub(super) paused: bool,
}

fn dev() -> String {
    super::DEV.to_owned()
}

fn stable() -> String {
    "stable".to_owned()
}

impl CreateRequest {
    /// The schedule, as far as it can be checked on its own.
    pub(super) fn into_spec(self, now: Timestamp) -> Result<ScheduleSpec, ApiError> {
        for (what, text) in [
            ("name", &self.name),
            ("agent", &self.agent),
            ("namespace", &self.namespace),
            ("alias", &self.alias),
        ] {
            if let Err(error) = text.parse::<AgentName>() {
                return Err(ApiError::invalid(format!("`{what}`: {error}")));
            }
        }
        let kind = match (self.cron, self.every_ms) {
            (Some(expression), None) => {
                if self.start_at.is_some() {
                    return Err(ApiError::invalid("`start_at` belongs to `every_ms`"));
                }
                ScheduleKind::Cron {
                    expression,
                    timezone: self.timezone.unwrap_or_else(|| "UTC".to_owned()),
                }
            }
            (None, Some(every_ms)) => {
                if self.timezone.is_some() {
                    return Err(ApiError::invalid("`timezone` belongs to `cron`"));
                }
                let first = || now.plus(Duration::from_millis(every_ms));
                ScheduleKind::Interval {
                    every_ms,
                    anchor: self.start_at.unwrap_or_else(first),
                }
            }
            _ => return Err(ApiError::invalid("say when: either `cron` or `every_ms`")),
        };
        let most = u64::try_from(MAX_JITTER.as_millis()).unwrap_or(u64::MAX);
        let most = self.every_ms.map_or(most, |every| most.min(every));
        if self.jitter_ms > most {
            return Err(ApiError::invalid(format!(
                "`jitter_ms` must be 0 to {most}, not {}",
                self.jitter_ms
            )));
        }
        Ok(ScheduleSpec {
            namespace: self.namespace,
            name: self.name,
            agent: self.agent,
            alias: self.alias,
            input: self.input,
            session_id: self.session_id,
            kind,
            catch_up: self.catch_up,
            overlap: self.overlap,
            jitter_ms: self.jitter_ms,
        })
    }
}
