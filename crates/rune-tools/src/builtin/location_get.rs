//! `rune@location-get`: where this installation is.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::parse;
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    #[serde(default)]
    detail: Detail,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Detail {
    /// The place as it was configured.
    #[default]
    Full,
    /// Its last part, such as the country.
    Region,
}

/// Tells the place that the operator has configured; nothing is looked up.
pub(crate) struct LocationGet(pub(crate) Option<String>);

#[async_trait]
impl BuiltinTool for LocationGet {
    fn name(&self) -> &'static str {
        "location-get"
    }

    async fn call(&self, _: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let Some(place) = &self.0 else {
            return Err(ToolError::unavailable(
                "no location is configured; ask the user, or the operator sets `tools.location`",
            ));
        };
        let shown = match input.detail {
            Detail::Full => place.as_str(),
            Detail::Region => place.rsplit(',').next().unwrap_or(place).trim(),
        };
        Ok(json!({ "location": shown, "source": "configuration" }))
    }
}
