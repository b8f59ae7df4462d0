//! Images that were too large for a row come back into the conversation.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rune_store_runtime::{Block, ImageSource, StoreError};

use super::{Ended, Planner};
use crate::history::History;

/// What the model is told in place of an image that the blob store does not have.
const LOST_IMAGE: &str = "[an image that is no longer stored]";

impl Planner {
    /// Puts the bytes of stored images where their digests are.
    pub(super) async fn load_images(&mut self, earlier: &mut History) -> Result<(), Ended> {
        let blobs = self.blobs.clone();
        let messages = earlier.messages_mut().chain(&mut self.state.messages);
        for block in messages.flat_map(|message| &mut message.blocks) {
            let Block::Image {
                source: ImageSource::Stored { media_type, digest },
            } = block
            else {
                continue;
            };
            let found = match &blobs {
                Some(blobs) => blobs.get(digest).await,
                None => Err(StoreError::Unavailable("there is no blob store".to_owned())),
            };
            *block = match found {
                Ok(bytes) => Block::Image {
                    source: ImageSource::Data {
                        media_type: std::mem::take(media_type),
                        data: BASE64_STANDARD.encode(bytes),
                    },
                },
                Err(error @ StoreError::Unavailable(_)) => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(digest, %error, "an image of the conversation is lost");
                    Block::text(LOST_IMAGE)
                }
            };
        }
        Ok(())
    }
}
