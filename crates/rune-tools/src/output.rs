//! Outputs that were too large to be shown whole.

use std::sync::Arc;

use bytes::Bytes;
use rune_store_runtime::{BlobStore, SessionId, SpilledOutput, Store, StoreError};

use crate::ToolError;

/// What a call can read of the outputs of its session that were too large to be shown whole.
#[derive(Clone, Default)]
pub struct Outputs {
    /// Where they are kept.
    pub blobs: Option<Arc<dyn BlobStore>>,
    /// Those of the request itself, which the store may not know yet.
    pub own: Vec<SpilledOutput>,
}

impl Outputs {
    /// The text of an output of this session.
    pub(crate) async fn read(
        &self,
        store: &Store,
        session: &SessionId,
        handle: &str,
    ) -> Result<String, ToolError> {
        let bytes = self.bytes(store, session, handle).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The bytes of an output, or of an image of one, of this session. Those of other sessions do not exist.
    pub(crate) async fn bytes(
        &self,
        store: &Store,
        session: &SessionId,
        handle: &str,
    ) -> Result<Bytes, ToolError> {
        let own = self.own.iter().find(|output| output.handle == handle);
        let known = match own {
            Some(output) => Some(output.clone()),
            None => store.spilled_output(session, handle).await?,
        };
        let (Some(output), Some(blobs)) = (known, &self.blobs) else {
            return Err(ToolError::not_found(format!(
                "there is no output `{handle}` in this conversation; a shortened output and a picture name their handles"
            )));
        };
        match blobs.get(&output.digest).await {
            Ok(bytes) => Ok(bytes),
            Err(StoreError::Unavailable(reason)) => Err(ToolError::unavailable(reason)),
            Err(error) => {
                tracing::warn!(handle, %error, "a spilled output cannot be read");
                let message = format!("the output `{handle}` is not kept any more");
                Err(ToolError::not_found(message))
            }
        }
    }
}
