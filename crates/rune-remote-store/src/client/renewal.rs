//! Keeping a replica's token valid.

use std::time::Duration;

use bytes::Bytes;
use rune_store_runtime::StoreError;
use tokio_util::sync::CancellationToken;

use super::connection::CallError;
use super::{RemoteStore, unreadable};
use crate::call::TOKEN;
use crate::token::RenewedToken;

/// The shortest time between two renewals.
const SHORTEST: Duration = Duration::from_secs(1);

impl RemoteStore {
    /// Renews the token, at once and then after half of the time for which each is valid. Ends
    /// with `stop`, or where the token is not renewed any more: the replica was stopped.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn keep_token(&self, stop: CancellationToken) -> Result<(), StoreError> {
        let ended = stop.run_until_cancelled(self.renew_until_refused()).await;
        ended.map_or(Ok(()), Err)
    }

    async fn renew_until_refused(&self) -> StoreError {
        loop {
            let renewed = self.patiently(|| async {
                let answer = self.connection.post(TOKEN, Bytes::new()).await?;
                serde_json::from_slice::<RenewedToken>(&answer)
                    .map(Ok)
                    .map_err(|error| CallError::Final(unreadable(&error)))
            });
            let renewed = match renewed.await {
                Ok(renewed) => renewed,
                Err(error) => return error,
            };
            self.connection.set_token(&renewed.token.into());
            let half = Duration::from_millis(renewed.valid_for_ms / 2);
            tokio::time::sleep(half.max(SHORTEST)).await;
        }
    }
}
