//! `rune@system-time`: the date and time.

use async_trait::async_trait;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::{Value, json};

use super::parse;
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    #[serde(default = "utc")]
    timezone: String,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// Tells the time of the store's clock, so that a replay sees the same time.
pub(crate) struct SystemTime;

#[async_trait]
impl BuiltinTool for SystemTime {
    fn name(&self) -> &'static str {
        "system-time"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let Input { timezone } = parse(input)?;
        let zone = if timezone.eq_ignore_ascii_case("utc") {
            TimeZone::UTC
        } else {
            TimeZone::get(&timezone).map_err(|error| {
                ToolError::invalid(format!(
                    "`{timezone}` is not a known time zone: {error}; use an IANA name such as \
                     Europe/Berlin"
                ))
            })?
        };
        let millis = context.store.now().as_millis();
        let now = Timestamp::from_millisecond(millis)
            .map_err(|error| ToolError::failed(format!("the clock is out of range: {error}")))?
            .to_zoned(zone);
        Ok(json!({
            "time": now.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
            "unix_seconds": now.timestamp().as_second(),
            "weekday": now.strftime("%A").to_string(),
            "timezone": timezone,
            "utc_offset": now.strftime("%:z").to_string(),
        }))
    }
}
