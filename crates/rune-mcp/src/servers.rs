//! The servers of one agent.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::access::ServerAccess;
use crate::client::McpClient;
use crate::config::ServerConfig;
use crate::error::McpError;
use crate::server::ServerHandle;

/// The servers of one agent, each kept connected by a task of its own once they are started. Dropped, it disconnects them
/// in good order, as far as the process lasts.
pub struct McpServers {
    servers: Vec<ServerHandle>,
    closing: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
}

impl McpServers {
    /// Servers that are not connected to yet.
    #[must_use]
    pub fn new(client: &McpClient, servers: Vec<ServerConfig>, access: &ServerAccess) -> Self {
        let handle = |config| ServerHandle::new(client.clone(), config, access);
        Self {
            servers: servers.into_iter().map(handle).collect(),
            closing: CancellationToken::new(),
            tasks: Mutex::default(),
        }
    }

    /// All of them, in the order of the Runefile.
    #[must_use]
    pub fn all(&self) -> &[ServerHandle] {
        &self.servers
    }

    /// The server of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&ServerHandle> {
        self.servers
            .iter()
            .find(|server| server.config().name == name)
    }

    /// Begins to connect to all of them, and waits for the first attempts: `patience` for those that the agent cannot do
    /// without, no longer than a few seconds for the others.
    ///
    /// # Errors
    /// [`McpError::Required`] names one that cannot be connected to.
    pub async fn start(&self, patience: Duration) -> Result<(), McpError> {
        {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            if tasks.is_empty() {
                for server in &self.servers {
                    tasks.spawn(server.shared.clone().keep(self.closing.clone()));
                }
            }
        }
        let optional = self.servers.iter().filter(|one| !one.config().required);
        let first = async {
            for server in optional {
                server.tried().await;
            }
        };
        // Whoever is late is there for a later request.
        let _ = timeout(patience.min(crate::limits::PATIENCE / 2), first).await;
        for server in self.servers.iter().filter(|one| one.config().required) {
            let _ = timeout(patience, server.tried()).await;
            if let Some(reason) = server.trouble() {
                return Err(McpError::Required {
                    server: server.config().name.clone(),
                    reason,
                });
            }
        }
        Ok(())
    }

    /// Disconnects from all of them; none is connected to again.
    pub async fn stop(&self) {
        self.closing.cancel();
        let mut tasks = {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *tasks)
        };
        while tasks.join_next().await.is_some() {}
    }
}

impl Drop for McpServers {
    fn drop(&mut self) {
        self.closing.cancel();
        let tasks = self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Each ends soon, by itself.
        tasks.detach_all();
    }
}
