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

/// The sessions of this process, and who began them.
pub(crate) struct Sessions {
    local: LocalSessionManager,
    used: Mutex<LruCache<SessionId, Option<Box<str>>>>,
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

    fn used(&self) -> MutexGuard<'_, LruCache<SessionId, Option<Box<str>>>> {
        // Every order is a valid one.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a session is one that this caller did not begin. One that there is not is nobody's.
    pub(crate) fn is_of_another(&self, id: &str, caller: &str) -> bool {
        let used = self.used();
        let owner = used.peek(id).and_then(Option::as_deref);
        owner.is_some_and(|owner| owner != caller)
    }

    /// Takes note of who has begun a session.
    pub(crate) fn begun_by(&self, id: &str, caller: &str) {
        if let Some(owner) = self.used().get_mut(id) {
            owner.get_or_insert_with(|| caller.into());
        }
    }
}

impl SessionManager for Sessions {
    type Error = LocalSessionManagerError;
    type Transport = <LocalSessionManager as SessionManager>::Transport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        let created = self.local.create_session().await?;
        let oldest = {
            let mut used = self.used();
            used.insert(created.0.clone(), None);
            if used.len() > self.most {
                used.remove_lru()
            } else {
                None
            }
        };
        if let Some((oldest, _)) = oldest {
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
    async fn a_session_is_of_the_caller_that_began_it() {
        let sessions = Sessions::new(2);
        let (id, _transport) = sessions.create_session().await.unwrap();
        assert!(!sessions.is_of_another(&id, "ada"));
        sessions.begun_by(&id, "ada");
        sessions.begun_by(&id, "bob");
        assert!(!sessions.is_of_another(&id, "ada"));
        assert!(sessions.is_of_another(&id, "bob"));
        sessions.close_session(&id).await.unwrap();
        assert!(!sessions.is_of_another(&id, "bob"));
    }

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
