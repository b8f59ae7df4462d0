//! `rune@location-get`: where this installation is.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::parse;
use crate::egress::EgressPolicy;
use crate::location::LocationLookup;
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
    /// The place as it was configured or found.
    #[default]
    Full,
    /// Its last part, such as the country.
    Region,
}

/// Tells the place that the operator has configured, else what the service says that the operator has chosen. Where neither is
/// configured nothing is looked up.
pub(crate) struct LocationGet {
    place: Option<String>,
    lookup: Option<LocationLookup>,
}

impl LocationGet {
    pub(crate) fn new(place: Option<String>, url: Option<String>, policy: EgressPolicy) -> Self {
        Self {
            place,
            lookup: url.map(|url| LocationLookup::new(url, policy)),
        }
    }

    async fn place(&self, context: &ToolContext) -> Result<(String, &'static str), ToolError> {
        if let Some(place) = &self.place {
            return Ok((place.clone(), "configuration"));
        }
        let Some(lookup) = &self.lookup else {
            return Err(ToolError::unavailable(
                "no location is configured; ask the user, or the operator sets `tools.location` or \
                 `tools.location_lookup`",
            ));
        };
        let found = tokio::select! {
            biased;
            () = context.cancel.cancelled() => Err(ToolError::cancelled()),
            found = lookup.place(context.egress.as_deref()) => found,
        };
        Ok((found?, "lookup"))
    }
}

#[async_trait]
impl BuiltinTool for LocationGet {
    fn name(&self) -> &'static str {
        "location-get"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let (place, from) = self.place(context).await?;
        let shown = match input.detail {
            Detail::Full => place.as_str(),
            Detail::Region => place.rsplit(',').next().unwrap_or(&place).trim(),
        };
        Ok(json!({ "location": shown, "source": from }))
    }
}
