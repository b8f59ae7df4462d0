//! What a caller sends to create a schedule.

use std::time::Duration;

use rune_http::ApiError;
use rune_runtime::MAX_JITTER;
use rune_spec::AgentName;
use rune_store_runtime::limits::MAX_QUEUE_NAME_BYTES;
use rune_store_runtime::{CatchUp, Overlap, ScheduleKind, ScheduleSpec, SessionId, Timestamp};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

/// A schedule: `cron`, `every_ms` or `on_event` says when.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateRequest {
    /// Unique within the namespace; 1 to 63 of `a-z0-9-`.
    name: String,
    /// The agent it invokes.
    agent: String,
    /// What the agent is sent: a string, or what its `input_schema` asks for. With `on_event`, `{{ event.payload }}` in a
    /// string stands for what the event says, and without an input the event itself is sent.
    #[serde(default)]
    #[schema(required = false)]
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
    #[schema(value_type = Option<String>, format = DateTime)]
    start_at: Option<Timestamp>,
    /// The topic of the events of the namespace that fire it; `*` in it stands for any text.
    on_event: Option<String>,
    /// What happens to planned times missed while the daemon was down: `skip`, `one`
    /// (default: one fire makes up for all of them) or `all` (up to 100).
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    catch_up: CatchUp,
    /// What happens to a fire while the request of an earlier one runs: `allow` (default with `on_event`), `skip`
    /// (default without) or `queue`.
    #[schema(value_type = Option<String>)]
    overlap: Option<Overlap>,
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
        let overlap = self.overlap.unwrap_or(match self.on_event {
            Some(_) => Overlap::Allow,
            None => Overlap::Skip,
        });
        if self.input.is_null() && self.on_event.is_none() {
            return Err(ApiError::invalid("`input` is missing"));
        }
        let kind = match (self.cron, self.every_ms, self.on_event) {
            (None, None, Some(topic)) => {
                let timed = self.timezone.is_some() || self.start_at.is_some();
                if timed || self.jitter_ms > 0 {
                    return Err(ApiError::invalid(
                        "`timezone`, `start_at` and `jitter_ms` do not go with `on_event`",
                    ));
                }
                if topic.is_empty() || topic.len() > MAX_QUEUE_NAME_BYTES {
                    return Err(ApiError::invalid(format!(
                        "`on_event` has 1 to {MAX_QUEUE_NAME_BYTES} bytes"
                    )));
                }
                ScheduleKind::Event { topic }
            }
            (Some(expression), None, None) => {
                if self.start_at.is_some() {
                    return Err(ApiError::invalid("`start_at` belongs to `every_ms`"));
                }
                ScheduleKind::Cron {
                    expression,
                    timezone: self.timezone.unwrap_or_else(|| "UTC".to_owned()),
                }
            }
            (None, Some(every_ms), None) => {
                if self.timezone.is_some() {
                    return Err(ApiError::invalid("`timezone` belongs to `cron`"));
                }
                let first = || now.plus(Duration::from_millis(every_ms));
                ScheduleKind::Interval {
                    every_ms,
                    anchor: self.start_at.unwrap_or_else(first),
                }
            }
            _ => {
                return Err(ApiError::invalid(
                    "say when: one of `cron`, `every_ms` and `on_event`",
                ));
            }
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
            overlap,
            jitter_ms: self.jitter_ms,
            created_by: None,
        })
    }
}
