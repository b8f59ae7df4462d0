//! Patches: JSON patch, JSON merge patch, strategic merge patch and server-side apply.

mod apply;
mod fields;
mod keys;
mod strategic;

use serde_json::Value;

use crate::status::{ApiError, ApiResult};

pub(crate) use apply::{Apply, note_update};

/// A patch as it was sent.
#[derive(Debug)]
pub(crate) enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
    Apply(Value),
}

impl Patch {
    /// Reads a patch by its media type.
    pub(crate) fn parse(media_type: &str, body: &[u8]) -> ApiResult<Self> {
        let bad = |error: serde_json::Error| ApiError::bad_request(error.to_string());
        let value = || serde_json::from_slice(body).map_err(bad);
        match media_type {
            "application/json-patch+json" => {
                serde_json::from_slice(body).map(Self::Json).map_err(bad)
            }
            "application/merge-patch+json" => value().map(Self::Merge),
            "application/strategic-merge-patch+json" => value().map(Self::Strategic),
            // YAML, of which clients use JSON.
            "application/apply-patch+yaml" => value().map(Self::Apply),
            other => Err(ApiError::unsupported_media_type(other)),
        }
    }

    /// Changes an object; of an apply this is not all, see [`Apply`].
    pub(crate) fn change(&self, object: &mut Value) -> ApiResult<()> {
        match self {
            Self::Json(patch) => json_patch::patch(object, patch)
                .map_err(|error| ApiError::bad_request(error.to_string())),
            Self::Merge(patch) => {
                json_patch::merge(object, patch);
                Ok(())
            }
            Self::Strategic(patch) | Self::Apply(patch) => {
                strategic::merge(object, patch);
                Ok(())
            }
        }
    }
}
