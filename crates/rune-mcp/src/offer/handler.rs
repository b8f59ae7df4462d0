//! What one connection, session or request of a client is answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rmcp::ServerHandler;
use rmcp::model::{
    CacheScope, CallToolRequestParams, CallToolResponse, CancelledNotificationParam, ErrorData,
    Implementation, ListToolsResult, PaginatedRequestParams, RequestId as MessageId,
    ServerCapabilities, ServerConfig, SubscriptionFilter, Tool,
};
use rmcp::service::{
    NotificationContext, RequestContext, RoleServer, SubscriptionContext, SubscriptionSendError,
};
use rune_store_runtime::{ErrorCode, Failure};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::schema::tool;
use super::source::{AgentSource, Asking};

/// Changes that come within this time, such as a new replica and the end of the old one, are one.
const SETTLE: Duration = Duration::from_millis(100);
/// How often a session without news is looked at: it may have ended.
const LOOK: Duration = Duration::from_secs(60);

const INSTRUCTIONS: &str = "Every tool is an AI agent that is deployed on Rune. It works on `input` by itself, which may take \
                            minutes; calls with the same `session_id` are one conversation.";

/// Answers a client.
#[derive(Clone)]
pub(crate) struct AgentsHandler {
    pub(crate) source: Arc<dyn AgentSource>,
    /// Calls of a client with the older handshake, which are cancelled by a message and by nothing else.
    calls: Arc<Mutex<HashMap<MessageId, CancellationToken>>>,
}

impl AgentsHandler {
    pub(crate) fn new(source: Arc<dyn AgentSource>) -> Self {
        Self {
            source,
            calls: Arc::default(),
        }
    }

    /// Fires when the client cancels the message with this id.
    pub(crate) fn cancelled_by_message(
        &self,
        id: &MessageId,
        before: &CancellationToken,
    ) -> Watched {
        let token = CancellationToken::new();
        if before.is_cancelled() {
            token.cancel();
        }
        self.calls().insert(id.clone(), token.clone());
        Watched {
            handler: self.clone(),
            id: id.clone(),
            token,
        }
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<MessageId, CancellationToken>> {
        // Every table of calls is a valid one.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn tools(&self, asking: Asking<'_>) -> Result<Vec<Tool>, Failure> {
        let agents = self.source.agents(asking).await?;
        Ok(agents.iter().map(tool).collect())
    }

    /// The tools as they are now, to be compared with later.
    async fn seen(&self, asking: Asking<'_>) -> Seen {
        let changes = self.source.changes();
        Seen {
            changes,
            tools: self.tools(asking).await.ok(),
        }
    }

    /// Waits until the tools are others, or until it is time to see whether there is somebody to be told. Nothing once they
    /// can change no more.
    async fn changed(&self, asking: Asking<'_>, seen: &mut Seen) -> Option<bool> {
        tokio::select! {
            changed = seen.changes.changed() => changed.ok()?,
            () = sleep(LOOK) => return Some(false),
        }
        sleep(SETTLE).await;
        seen.changes.mark_unchanged();
        let Ok(now) = self.tools(asking).await else {
            return Some(false);
        };
        let others = seen.tools.as_ref() != Some(&now);
        seen.tools = Some(now);
        Some(others)
    }
}

/// What a client may know of the tools.
struct Seen {
    changes: watch::Receiver<()>,
    tools: Option<Vec<Tool>>,
}

/// A call that can be cancelled by a message, until this is dropped.
pub(crate) struct Watched {
    handler: AgentsHandler,
    id: MessageId,
    pub(crate) token: CancellationToken,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.handler.calls().remove(&self.id);
    }
}

/// What a failure is where there is no tool to fail.
pub(crate) fn refusal(failure: Failure) -> ErrorData {
    match failure.code {
        ErrorCode::InvalidInput | ErrorCode::NotFound => {
            ErrorData::invalid_params(failure.message, None)
        }
        _ => ErrorData::internal_error(failure.message, None),
    }
}

impl ServerHandler for AgentsHandler {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_tool_list_changed()
            .build();
        let own = Implementation::new("rune", env!("CARGO_PKG_VERSION")).with_title("Rune");
        ServerConfig::new(capabilities)
            .with_server_info(own)
            .with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tools = self
            .tools(context.extensions.get())
            .await
            .map_err(refusal)?;
        let mut listed = ListToolsResult::with_all_items(tools);
        listed.ttl_ms = Some(0);
        listed.cache_scope = Some(CacheScope::Private);
        Ok(listed)
    }

    async fn call_tool(
        &self,
        call: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        Box::pin(self.call(call, context)).await
    }

    async fn on_cancelled(
        &self,
        cancelled: CancelledNotificationParam,
        _: NotificationContext<RoleServer>,
    ) {
        let token = cancelled
            .request_id
            .and_then(|id| self.calls().get(&id).cloned());
        if let Some(token) = token {
            token.cancel();
        }
    }

    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        let (peer, asking) = (context.peer, context.extensions.get());
        let mut seen = self.seen(asking).await;
        while !peer.is_transport_closed() {
            match self.changed(asking, &mut seen).await {
                Some(true) if peer.notify_tool_list_changed().await.is_err() => return,
                Some(_) => {}
                None => return,
            }
        }
    }

    fn accepted_subscription_filter(
        &self,
        asked: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        let mut accepted = SubscriptionFilter::new();
        accepted.tools_list_changed = asked.tools_list_changed;
        Some(accepted)
    }

    async fn listen(&self, subscription: SubscriptionContext) -> Result<(), ErrorData> {
        let asking = subscription.request_context().extensions.get();
        let mut seen = self.seen(asking).await;
        loop {
            let changed = tokio::select! {
                changed = self.changed(asking, &mut seen) => changed,
                () = subscription.cancelled() => return Ok(()),
            };
            let told = match changed {
                Some(true) => subscription.sink().notify_tool_list_changed().await,
                Some(false) => Ok(()),
                None => return Ok(()),
            };
            match told {
                // It asked for something else, and is told nothing.
                Ok(()) | Err(SubscriptionSendError::NotificationNotAccepted(_)) => {}
                Err(_) => return Ok(()),
            }
        }
    }
}
