//! The part of the browser that belongs to one conversation.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rune_store_runtime::{MemoryScope, SessionId};
use serde_json::json;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::cdp::STEP;
use super::chrome::{Chrome, Tabs, VIEWPORT, text};
use crate::egress::{EgressPolicy, EgressProxy, Hosts, LoopbackProxy};
use crate::{EgressGate, ToolContext, ToolError};

/// Whose a context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) session: SessionId,
    pub(super) scope: MemoryScope,
}

impl Owner {
    pub(super) fn of(call: &ToolContext) -> Self {
        Self {
            session: call.session_id.clone(),
            scope: call.scope.clone(),
        }
    }
}

/// A context: nothing of it is shared with another one.
pub(super) struct Context {
    pub(super) owner: Owner,
    pub(super) id: String,
    pub(super) chrome: Arc<Chrome>,
    pub(super) tabs: Arc<Tabs>,
    pub(super) proxy: LoopbackProxy,
    /// Fires when it is closed.
    pub(super) closed: CancellationToken,
    /// Held by the call that uses it.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    gate: Arc<LastGate>,
    used: Mutex<Instant>,
}

/// The gate of the call that used the context last: what a page loads between calls is decided as for that one.
#[derive(Default)]
struct LastGate(Mutex<Option<Arc<dyn EgressGate>>>);

impl EgressGate for LastGate {
    fn connect(&self, host: &str, port: u16) -> Result<(), ToolError> {
        let gate = lock(&self.0).clone();
        gate.map_or(Ok(()), |gate| gate.connect(host, port))
    }
}

impl Context {
    /// Opens a context with one empty page.
    pub(super) async fn open(
        chrome: Arc<Chrome>,
        owner: Owner,
        policy: Arc<EgressPolicy>,
        gate: Option<Arc<dyn EgressGate>>,
    ) -> Result<Arc<Self>, ToolError> {
        let gate = Arc::new(LastGate(Mutex::new(gate)));
        let proxy = EgressProxy::new(Hosts::every(), policy, Some(Arc::clone(&gate) as _));
        let proxy = LoopbackProxy::start(proxy).await.map_err(|error| {
            ToolError::unavailable(format!("no proxy for the browser: {error}"))
        })?;
        let create = json!({
            "disposeOnDetach": true,
            "proxyServer": format!("http://{}", proxy.address()),
            // Not even for this machine is the proxy passed by.
            "proxyBypassList": "<-loopback>",
        });
        let cdp = &chrome.cdp;
        let created = cdp
            .call(None, "Target.createBrowserContext", create)
            .await?;
        let id = text(&created, "/browserContextId").to_owned();
        let context = Arc::new(Self {
            owner,
            tabs: chrome.add_context(&id),
            id: id.clone(),
            chrome: Arc::clone(&chrome),
            proxy,
            closed: CancellationToken::new(),
            turn: Arc::default(),
            gate,
            used: Mutex::new(Instant::now()),
        });
        let opened = async {
            let no_downloads = json!({"behavior": "deny", "browserContextId": id});
            cdp.call(None, "Browser.setDownloadBehavior", no_downloads)
                .await?;
            context.open_page().await
        };
        if let Err(error) = opened.await {
            context.dispose().await;
            return Err(error);
        }
        Ok(context)
    }

    /// Opens an empty page.
    pub(super) async fn open_page(&self) -> Result<(), ToolError> {
        let (width, height) = VIEWPORT;
        let page = json!({
            "url": "about:blank",
            "browserContextId": self.id,
            "width": width,
            "height": height,
        });
        let cdp = &self.chrome.cdp;
        let created = cdp.call(None, "Target.createTarget", page).await?;
        let target = text(&created, "/targetId");
        timeout(STEP, self.tabs.attached(target))
            .await
            .map_err(|_| ToolError::timeout("the browser has not opened a page"))?;
        self.tabs.take_opened();
        // The page's own process answers this: only then it tells what becomes of the page.
        if let Some(page) = self.tabs.current() {
            let session = Some(page.session.as_str());
            cdp.call(session, "Page.enable", json!({})).await?;
        }
        Ok(())
    }

    /// Closes what the browser has of it.
    pub(super) async fn dispose(&self) {
        self.closed.cancel();
        self.chrome.remove_context(&self.id);
        let context = json!({"browserContextId": self.id});
        let cdp = &self.chrome.cdp;
        let disposed = cdp
            .call(None, "Target.disposeBrowserContext", context)
            .await;
        if let Err(error) = disposed {
            tracing::debug!(%error, "a context of the browser is not disposed of");
        }
    }

    /// A call begins to use it.
    pub(super) fn begin(&self, gate: Option<Arc<dyn EgressGate>>) {
        *lock(&self.gate.0) = gate;
        self.touch();
    }

    pub(super) fn touch(&self) {
        *lock(&self.used) = Instant::now();
    }

    /// Returns once it was not used for so long.
    pub(super) async fn unused(&self, limit: Duration) {
        loop {
            let until = *lock(&self.used) + limit;
            tokio::time::sleep_until(until).await;
            // Not in the middle of a call.
            let _turn = self.turn.lock().await;
            if lock(&self.used).elapsed() >= limit {
                return;
            }
        }
    }
}

/// What is behind these locks is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
