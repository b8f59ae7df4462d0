//! Keeping a replica's token valid.

use std::time::Duration;

use bytes::Bytes;
use rune_store_runtime::StoreError;

use super::connection::CallError;
use super::{RemoteStore, unreadable};
use crate::call::TOKEN;
use crate::token::RenewedToken;

/// The shortest time between two renewals.
const SHORTEST: Duration = Duration::from_secs(1);

impl RemoteStore {
    /// Renews the token, and answers after how long it is to be renewed again: half of the time
    /// for which the new one is valid.
    ///
    /// # Errors
    /// Why it is not: the replica was stopped, or nobody has answered until patience ended.
    pub async fn renew_token(&self) -> Result<Duration, StoreError> {
        let renewed = self.patiently(|| async {
            let answer = self.connection.post(TOKEN, Bytes::new()).await?;
            serde_json::from_slice::<RenewedToken>(&answer)
                .map(Ok)
                .map_err(|error| CallError::Final(unreadable(&error)))
        });
        let renewed = renewed.await?;
        self.connection.set_token(&renewed.token.into());
        Ok(Duration::from_millis(renewed.valid_for_ms / 2).max(SHORTEST))
    }
}
