//! Whether the store still works.

use std::sync::{Arc, OnceLock};

use rune_store_runtime::StoreError;

/// Shared by the threads of a store. Once failed, it stays failed: after an I/O
/// error the state on disk is only known again when the store is opened anew.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health(Arc<OnceLock<String>>);

impl Health {
    /// Marks the store as failed; the first reason stays.
    pub(crate) fn fail(&self, reason: String) {
        tracing::error!(%reason, "store failed, restart to recover");
        // Already failed for an earlier reason otherwise.
        let _ = self.0.set(reason);
    }

    /// Why the store failed.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    /// An error where the store has failed.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        match self.failure() {
            None => Ok(()),
            Some(reason) => Err(StoreError::Unavailable(reason.to_owned())),
        }
    }
}
