//! Images that a model is shown beside the answer of a tool.

use std::sync::{Arc, Mutex, PoisonError};

use rune_store_runtime::{BlobStore, StoredImage};

use crate::ToolError;

/// Bytes of one image at the most: the least of what the providers take.
pub(crate) const MAX_IMAGE_BYTES: usize = 5 << 20;
/// Images of one call at the most.
const MAX_IMAGES: usize = 4;

/// The images of one call. They are in the object store; the journal refers to them. Clones are the same list.
#[derive(Clone, Default)]
pub struct ShownImages {
    blobs: Option<Arc<dyn BlobStore>>,
    images: Arc<Mutex<Vec<StoredImage>>>,
}

impl ShownImages {
    /// None yet; they go into `blobs`.
    #[must_use]
    pub fn new(blobs: Option<Arc<dyn BlobStore>>) -> Self {
        Self {
            blobs,
            images: Arc::default(),
        }
    }

    /// Adds an image.
    ///
    /// # Errors
    /// [`OutputTooLarge`](crate::ToolErrorKind::OutputTooLarge) where it has more than 5 MiB or the call has shown
    /// four already; [`Unavailable`](crate::ToolErrorKind::Unavailable) without an object store; what the store says.
    pub async fn add(&self, media_type: &str, bytes: Vec<u8>) -> Result<StoredImage, ToolError> {
        if bytes.len() > MAX_IMAGE_BYTES {
            return Err(ToolError::too_large(format!(
                "the image has {} bytes, more than the {MAX_IMAGE_BYTES} that a model can be shown",
                bytes.len()
            )));
        }
        let Some(blobs) = &self.blobs else {
            return Err(ToolError::unavailable(
                "there is no object store to keep an image in",
            ));
        };
        let length = bytes.len() as u64;
        let image = StoredImage {
            media_type: media_type.to_owned(),
            digest: blobs.put(bytes.into()).await?,
            bytes: length,
        };
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if images.len() == MAX_IMAGES {
            return Err(ToolError::too_large(format!(
                "a call can show {MAX_IMAGES} images and not more"
            )));
        }
        images.push(image.clone());
        Ok(image)
    }

    /// The images; afterwards there are none.
    pub fn take(&self) -> Vec<StoredImage> {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *images)
    }
}
