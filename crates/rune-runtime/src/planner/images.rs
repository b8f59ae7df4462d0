//! Images that are kept outside the journal come back into the conversation.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rune_store_runtime::{BlobStore, Block, ImageSource, Message, StoreError};

use super::{Ended, Planner};
use crate::history::History;

/// What the model is told in place of an image that the blob store does not have.
const LOST_IMAGE: &str = "[an image that is no longer stored]";
/// What it is told in place of an image of a tool that is older than those it is shown.
const OLD_IMAGE: &str = "[an image that is not shown any more]";
/// Images of tools that a model is shown: the newest. Each is up to 5 MiB of a prompt.
const MAX_TOOL_IMAGES: usize = 10;

impl Planner {
    /// Puts the bytes of stored images where their digests are.
    pub(super) async fn load_images(&mut self, earlier: &mut History) -> Result<(), Ended> {
        let messages = earlier.messages_mut().chain(&mut self.state.messages);
        load_into(self.blobs.as_deref(), messages).await?;
        Ok(())
    }
}

/// Puts the bytes of stored images where their digests are in these messages.
///
/// # Errors
/// A [`StoreError`] where the images cannot be read now.
pub(super) async fn load_into<'a>(
    blobs: Option<&dyn BlobStore>,
    messages: impl IntoIterator<Item = &'a mut Message>,
) -> Result<(), StoreError> {
    let mut blocks: Vec<&mut Block> = messages
        .into_iter()
        .flat_map(|message| &mut message.blocks)
        .collect();
    leave_out_old_images(&mut blocks);
    for block in blocks {
        if let Block::Image { source } = block
            && !load(blobs, source).await?
        {
            *block = Block::text(LOST_IMAGE);
        } else if let Block::ToolResult {
            content, images, ..
        } = block
        {
            for mut image in std::mem::take(images) {
                if load(blobs, &mut image).await? {
                    images.push(image);
                } else {
                    note(content, LOST_IMAGE);
                }
            }
        }
    }
    Ok(())
}

/// Of the images that tools have shown the newest stay.
fn leave_out_old_images(blocks: &mut [&mut Block]) {
    let mut shown = 0;
    for block in blocks.iter_mut().rev() {
        let Block::ToolResult {
            content, images, ..
        } = block
        else {
            continue;
        };
        while !images.is_empty() && shown + images.len() > MAX_TOOL_IMAGES {
            images.remove(0);
            note(content, OLD_IMAGE);
        }
        shown += images.len();
    }
}

/// Loads an image; `false` where it is lost.
async fn load(blobs: Option<&dyn BlobStore>, source: &mut ImageSource) -> Result<bool, StoreError> {
    let ImageSource::Stored { media_type, digest } = source else {
        return Ok(true);
    };
    let found = match blobs {
        Some(blobs) => blobs.get(digest).await,
        None => Err(StoreError::Unavailable("there is no blob store".to_owned())),
    };
    match found {
        Ok(bytes) => {
            *source = ImageSource::Data {
                media_type: std::mem::take(media_type),
                data: BASE64_STANDARD.encode(bytes),
            };
            Ok(true)
        }
        Err(error @ StoreError::Unavailable(_)) => Err(error),
        Err(error) => {
            tracing::warn!(digest, %error, "an image of the conversation is lost");
            Ok(false)
        }
    }
}

fn note(content: &mut String, what: &str) {
    if !content.is_empty() {
        content.push('\n');
    }
    content.push_str(what);
}

#[cfg(test)]
mod tests {
    use rune_store_runtime::Role;

    use super::*;

    fn results(images: usize) -> Message {
        let image = ImageSource::Stored {
            media_type: "image/png".to_owned(),
            digest: "sha256:0".to_owned(),
        };
        Message {
            role: Role::Tool,
            blocks: vec![Block::ToolResult {
                call_id: "a".to_owned(),
                name: "look".to_owned(),
                content: "seen".to_owned(),
                images: vec![image; images],
                is_error: false,
            }],
        }
    }

    #[test]
    fn the_newest_images_stay_and_the_others_are_told_of() {
        let leave_out = |messages: &mut [Message]| {
            let blocks = messages.iter_mut().flat_map(|message| &mut message.blocks);
            leave_out_old_images(&mut blocks.collect::<Vec<_>>());
        };
        let mut messages = [results(1), results(4), results(4), results(4)];
        leave_out(&mut messages);
        let left = messages.iter().map(|message| match &message.blocks[0] {
            Block::ToolResult {
                content, images, ..
            } => (images.len(), content.matches(OLD_IMAGE).count()),
            _ => (0, 0),
        });
        assert_eq!(left.collect::<Vec<_>>(), [(0, 1), (2, 2), (4, 0), (4, 0)]);
        let before = messages.clone();
        leave_out(&mut messages);
        assert_eq!(messages, before);
    }
}
