//! Files that calls write into the workspace.

use serde_json::Value;

use super::{MediaFile, MediaType};
use crate::identity::repeatable_id;
use crate::workspace::{Workspace, io_error};
use crate::{ToolContext, ToolError, blocking};

/// Where files go that the call gives no name.
const DIRECTORY: &str = "media";

/// A file that is about to be made, whose place was looked at before anything is paid for.
pub(crate) struct NewFile {
    path: Option<String>,
    stem: String,
}

impl NewFile {
    /// A file at `path`, else one of its own below `media/`, named after what it is and the call.
    pub(crate) async fn new(
        context: &ToolContext,
        path: Option<String>,
        what: &str,
    ) -> Result<Self, ToolError> {
        let id = repeatable_id(&context.idempotency_key, what);
        let id = u32::from_be_bytes([id[0], id[1], id[2], id[3]]);
        let new = Self {
            stem: format!("{DIRECTORY}/{what}-{id:08x}"),
            path: path.clone(),
        };
        let workspace = context.workspace.clone();
        let path = path.unwrap_or_else(|| new.stem.clone());
        blocking(move || Workspace::open(&workspace)?.check_place(&path)).await?;
        Ok(new)
    }

    /// Writes it, and answers its path and what it is.
    pub(crate) async fn write(
        self,
        context: &ToolContext,
        file: &MediaFile,
    ) -> Result<Value, ToolError> {
        let path = self.path_for(file.media_type.extension());
        write_new(context, &path, file.bytes.clone()).await?;
        let mut answer = file.facts();
        answer["path"] = path.into();
        Ok(answer)
    }

    /// The path of a file with this extension, where the call did not name another one.
    pub(crate) fn path_for(&self, extension: &str) -> String {
        let named = self.path.clone();
        named.unwrap_or_else(|| format!("{}.{extension}", self.stem))
    }
}

/// Writes a file in one step.
pub(crate) async fn write_new(
    context: &ToolContext,
    path: &str,
    bytes: Vec<u8>,
) -> Result<(), ToolError> {
    let workspace = context.workspace.clone();
    let path = path.to_owned();
    blocking(move || {
        let staged = Workspace::open(&workspace)?.stage(&path, &bytes)?;
        let written = staged.commit();
        written.map_err(|error| io_error("write", &path, &error))
    })
    .await
}

/// What a model has made, where it is of a format that is known.
pub(crate) fn made(bytes: Vec<u8>, provider: &str) -> Result<MediaFile, ToolError> {
    match MediaType::of(&bytes) {
        Some(media_type) => Ok(MediaFile { media_type, bytes }),
        None => Err(ToolError::failed(format!(
            "`{provider}` answered {} bytes that are no picture or sound; nothing was written",
            bytes.len()
        ))),
    }
}
