//! Where the file of a call comes from.

use std::io::Read as _;

use rune_store_runtime::StoredImage;
use serde_json::{Value, json};

use super::{MediaFile, MediaKind, MediaType};
use crate::egress::EgressPolicy;
use crate::image::MAX_IMAGE_BYTES;
use crate::web::WebClient;
use crate::workspace::{Workspace, io_error};
use crate::{ToolContext, ToolError, blocking};

/// Bytes of the largest sound or film: what OpenAI takes.
pub(crate) const MAX_MEDIA_BYTES: usize = 25 << 20;
/// What is asked of a web server.
const ACCEPTED: &str = "image/*, audio/*, video/*, */*;q=0.5";

/// Reads what calls name: a file of the workspace, an image of the conversation by its handle, or something on the web, under
/// the rules of `web-fetch`.
pub(crate) struct Sources {
    client: WebClient,
}

impl Sources {
    pub(crate) fn new(policy: EgressPolicy) -> Self {
        Self {
            client: WebClient::new(policy),
        }
    }

    /// Reads a file that has to be of one of these kinds.
    pub(crate) async fn read(
        &self,
        context: &ToolContext,
        source: &str,
        kinds: &[MediaKind],
    ) -> Result<MediaFile, ToolError> {
        let bytes = if source.starts_with("https://") || source.starts_with("http://") {
            self.fetch(context, source).await?
        } else if StoredImage::is_handle(source) {
            let (store, session) = (&context.store, &context.session_id);
            let bytes = context.outputs.bytes(store, session, source).await?;
            bytes.to_vec()
        } else {
            let workspace = context.workspace.clone();
            let path = source.to_owned();
            blocking(move || read_file(&Workspace::open(&workspace)?, &path)).await?
        };
        checked(source, bytes, kinds)
    }

    async fn fetch(&self, context: &ToolContext, url: &str) -> Result<Vec<u8>, ToolError> {
        let gate = context.egress.as_deref();
        let fetched = self
            .client
            .get_as(url, ACCEPTED, MAX_MEDIA_BYTES, gate)
            .await?;
        if fetched.status != 200 {
            return Err(ToolError::failed(format!(
                "{} answered with status {}",
                fetched.url, fetched.status
            )));
        }
        if fetched.truncated {
            return Err(too_large(url, "more", MAX_MEDIA_BYTES));
        }
        Ok(fetched.body)
    }
}

impl MediaFile {
    /// What is known of it without a model.
    pub(crate) fn facts(&self) -> Value {
        let bytes = &self.bytes;
        let mut facts = json!({ "media_type": self.media_type.mime(), "bytes": bytes.len() });
        if let Some((width, height)) = self.media_type.pixels(bytes) {
            facts["width"] = width.into();
            facts["height"] = height.into();
        }
        if let Some(seconds) = self.media_type.seconds(bytes) {
            facts["seconds"] = seconds.into();
        }
        facts
    }
}

fn read_file(workspace: &Workspace, path: &str) -> Result<Vec<u8>, ToolError> {
    let (file, meta) = workspace.open_file(path)?;
    if meta.len() > MAX_MEDIA_BYTES as u64 {
        return Err(too_large(path, &meta.len().to_string(), MAX_MEDIA_BYTES));
    }
    let mut bytes = Vec::new();
    file.take(MAX_MEDIA_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| io_error("read", path, &error))?;
    if bytes.len() > MAX_MEDIA_BYTES {
        return Err(too_large(path, "more", MAX_MEDIA_BYTES));
    }
    Ok(bytes)
}

fn checked(source: &str, bytes: Vec<u8>, kinds: &[MediaKind]) -> Result<MediaFile, ToolError> {
    let Some(media_type) = MediaType::of(&bytes) else {
        return Err(ToolError::invalid(format!(
            "`{source}` is nothing that models take: its bytes are not PNG, JPEG, GIF, WebP, WAV, MP3, FLAC, Ogg, AAC, \
             M4A, MP4, WebM or QuickTime; convert it first"
        )));
    };
    let kind = media_type.kind();
    if !kinds.contains(&kind) {
        let wanted: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
        return Err(ToolError::invalid(format!(
            "`{source}` is {}; the tool takes {}",
            media_type.mime(),
            wanted.join(" or ")
        )));
    }
    if kind == MediaKind::Image && bytes.len() > MAX_IMAGE_BYTES {
        let size = bytes.len().to_string();
        return Err(too_large(source, &size, MAX_IMAGE_BYTES));
    }
    Ok(MediaFile { media_type, bytes })
}

fn too_large(source: &str, size: &str, limit: usize) -> ToolError {
    ToolError::invalid(format!(
        "`{source}` has {size} bytes, {limit} are allowed; make it smaller or cut it into parts"
    ))
}
