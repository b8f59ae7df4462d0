//! `rune schedule create`

use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value};

use crate::cli::Target;
use crate::commands::duration::duration;
use crate::failure::{Failure, Outcome};

/// What is scheduled, and when.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rune schedule create daily --agent reporter --cron \"0 8 * * MON-FRI\" --timezone Europe/Berlin \"Write the daily report\"\n  rune schedule create pulse --agent reporter --every 15m --overlap queue \"How is it going?\"\n  rune schedule create bill --agent billing --on-event \"order.*\" \"Bill {{ event.payload }}\""
)]
pub(crate) struct CreateArgs {
    /// Its name
    name: String,
    /// What the agent is sent
    #[arg(required_unless_present = "on_event")]
    input: Option<String>,
    /// The agent
    #[arg(long)]
    agent: String,
    #[command(flatten)]
    target: Target,
    /// Cron expression: minute hour day-of-month month day-of-week, or six fields with the second first
    #[arg(long, required_unless_present_any = ["every", "on_event"])]
    cron: Option<String>,
    /// Time zone of the cron expression, such as Europe/Berlin; UTC by default
    #[arg(long, conflicts_with = "every")]
    timezone: Option<String>,
    /// Interval, such as 30s, 15m or 1h 30m
    #[arg(long, conflicts_with = "cron", value_parser = duration)]
    every: Option<Duration>,
    /// First planned time of the interval (RFC 3339); one interval from now by default
    #[arg(long, conflicts_with = "cron")]
    start_at: Option<String>,
    /// Every event of the namespace about this topic, in which `*` stands for any text
    #[arg(long, value_name = "TOPIC", conflicts_with_all = ["cron", "every", "start_at", "timezone", "jitter"])]
    on_event: Option<String>,
    /// What happens to planned times that were missed
    #[arg(long, default_value = "one", value_parser = ["skip", "one", "all"])]
    catch_up: String,
    /// What happens to a fire while the request of an earlier one runs: `skip` by default, `allow` with --on-event
    #[arg(long, value_parser = ["allow", "skip", "queue"])]
    overlap: Option<String>,
    /// Fire up to this much later than planned, such as 30s
    #[arg(long, value_parser = duration)]
    jitter: Option<Duration>,
    /// One session for every request instead of one each
    #[arg(long)]
    session_id: Option<String>,
    /// The input is JSON
    #[arg(long)]
    json: bool,
    /// Hold it from the beginning
    #[arg(long)]
    paused: bool,
}

impl CreateArgs {
    /// The body of the request.
    pub(super) fn body(&self) -> Outcome<Value> {
        let input = match &self.input {
            Some(text) if self.json => serde_json::from_str(text)
                .map_err(|error| Failure::usage(format!("the input is not JSON: {error}")))?,
            text => text.as_deref().map_or(Value::Null, Value::from),
        };
        let mut body: Map<String, Value> = Map::new();
        let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
        set("name", self.name.as_str().into());
        set("agent", self.agent.as_str().into());
        set("input", input);
        set("namespace", self.target.namespace.as_str().into());
        set("alias", self.target.alias.as_str().into());
        set("catch_up", self.catch_up.as_str().into());
        set("paused", self.paused.into());
        let texts = [
            ("on_event", &self.on_event),
            ("overlap", &self.overlap),
            ("cron", &self.cron),
            ("timezone", &self.timezone),
            ("start_at", &self.start_at),
            ("session_id", &self.session_id),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                set(name, text.as_str().into());
            }
        }
        for (name, time) in [("every_ms", self.every), ("jitter_ms", self.jitter)] {
            if let Some(time) = time {
                set(
                    name,
                    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).into(),
                );
            }
        }
        Ok(body.into())
    }
}
