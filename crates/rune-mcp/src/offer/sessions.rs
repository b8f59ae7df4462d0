//! Sessions of clients with the older handshake: so many, and the ones that were used last.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::Stream;
use hashlink::LruCache;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_server::session::local::{
    LocalSessionManager, LocalSessionManagerError,
};
use rmcp::transport::streamable_http_server::session::{
    ServerSseMessage, SessionId, SessionManager,
};

/// Sessions at the most; one more ends the one that was not used for the longest time.
const SESSIONS: usize = 1000;
/// A session in which nothing happens for this long ends. Clients begin another one then.
const IDLE: Duration = Duration::from_secs(24 * 60 * 60);

/// The sessions of this process.
pub(crate) struct Sessions {
    local: LocalSessionManager,
    used: Mutex<LruCache<SessionId, ()>>,
    most: usize,
}

impl Default for Sessions {
    fn default() -> Self {
        Self::new(SESSIONS)
    }
}

impl Sessions {
    fn new(most: usize) -> Self {
        let mut local = LocalSessionManager::default();
        local.session_config.keep_alive = Some(IDLE);
        Self {
            local,
            used: Mutex::new(LruCache::new_unbounded()),
            most,
        }
    }

    fn used(&self) -> MutexGuard<'_, LruCache<SessionId, ()>> {
        // Every order is a valid one.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionManager for Sessions {
    type Error = LocalSessionManagerError;
    type Transport = <LocalSessionManager as SessionManager>::Transport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        let created = self.local.create_session().await?;
        let oldest = {
            let mut used = self.used();
            used.insert(created.0.clone(), ());
            if used.len() > self.most {
                used.remove_lru()
            } else {
                None
            }
        };
        if let Some((oldest, ())) = oldest {
            self.local.close_session(&oldest).await?;
        }
        Ok(created)
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        self.local.initialize_session(id, message).await
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        let known = self.local.has_session(id).await?;
        if known {
            self.used().get(id);
        }
        Ok(known)
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        self.used().remove(id);
        self.local.close_session(id).await
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.local.create_stream(id, message).await
    }

    async fn accept_message(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<(), Self::Error> {
        self.local.accept_message(id, message).await
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.local.create_standalone_stream(id).await
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.local.resume(id, last_event_id).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_too_many_ends_the_one_that_was_not_used() {
        let sessions = Sessions::new(2);
        let mut made = Vec::new();
        for _ in 0..2 {
            made.push(sessions.create_session().await.unwrap());
        }
        assert!(sessions.has_session(&made[0].0).await.unwrap());
        made.push(sessions.create_session().await.unwrap());
        let mut left = Vec::new();
        for (id, _) in &made {
            left.push(sessions.has_session(id).await.unwrap());
        }
        assert_eq!(left, [true, false, true]);
        sessions.close_session(&made[0].0).await.unwrap();
        assert!(!sessions.has_session(&made[0].0).await.unwrap());
        assert_eq!(sessions.used().len(), 1);
    }
}
