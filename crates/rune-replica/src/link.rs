//! A replica's way to the engine of its daemon.

use async_trait::async_trait;
use rune_remote_store::RemoteStore;
use rune_runtime::{EngineAnswer, EngineLink, EngineOp, SecretError};
use rune_store_runtime::{RequestId, StoreError};
use secrecy::SecretString;

use crate::boot::ReplicaBoot;
use crate::daemon::{Acted, BOOT, Booting, ENGINE, Granted, SECRETS, Wanted};

/// Asks the daemon, over the connection that leads to its store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DaemonLink {
    remote: RemoteStore,
}

impl DaemonLink {
    /// The way over this connection.
    #[must_use]
    pub const fn new(remote: RemoteStore) -> Self {
        Self { remote }
    }

    /// What this replica, which was made with this fingerprint, starts from.
    ///
    /// # Errors
    /// A [`StoreError`] where the daemon does not say.
    pub async fn boot(&self, fingerprint: &str) -> Result<ReplicaBoot, StoreError> {
        let booting = Booting {
            fingerprint: fingerprint.to_owned(),
        };
        self.remote.ask(BOOT, &booting).await
    }
}

#[async_trait]
impl EngineLink for DaemonLink {
    async fn act(&self, request_id: RequestId, op: EngineOp) -> Result<EngineAnswer, StoreError> {
        self.remote.ask(ENGINE, &Acted { request_id, op }).await
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<SecretString, SecretError> {
        let wanted = Wanted {
            name: name.to_owned(),
        };
        match self.remote.ask::<_, Granted>(SECRETS, &wanted).await? {
            Granted::Value(value) => Ok(value.into()),
            Granted::Missing => Err(SecretError::Missing {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }),
            Granted::Refused(message) => Err(SecretError::Refused(message)),
        }
    }
}
