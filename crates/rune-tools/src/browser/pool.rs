//! The one browser of a daemon, and who has a part of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rune_store_runtime::Store;
use tokio::task::JoinSet;
use tokio::time::interval;
use url::Url;

use super::BrowserConfig;
use super::chrome::Chrome;
use super::context::{Context, Owner};
use super::turn::Turn;
use crate::egress::EgressPolicy;
use crate::process::Launcher;
use crate::processes::abandoned;
use crate::web::refused;
use crate::{ToolContext, ToolError};

/// Conversations that have pages open, at the most.
const MAX_CONTEXTS: usize = 16;
/// How long pages stay open that nobody uses.
const IDLE: Duration = Duration::from_secs(15 * 60);
/// How long the browser stays without pages.
const LINGER: Duration = Duration::from_secs(30);
/// How often it is looked whether it has any.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The browser of a daemon. Nothing runs before the first use; dropped, it ends.
pub(crate) struct Browsers {
    config: BrowserConfig,
    launcher: Launcher,
    policy: Arc<EgressPolicy>,
    shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct Shared {
    /// Held while the browser is started or a context opened.
    chrome: tokio::sync::Mutex<Option<Arc<Chrome>>>,
    contexts: Mutex<Vec<Arc<Context>>>,
}

impl Browsers {
    pub(crate) fn new(config: BrowserConfig, launcher: Launcher, policy: EgressPolicy) -> Self {
        Self {
            config,
            launcher,
            policy: Arc::new(policy),
            shared: Arc::default(),
            tasks: Mutex::default(),
        }
    }

    /// How many conversations have pages.
    pub(crate) fn conversations(&self) -> usize {
        self.shared.lock().len()
    }

    /// The URL, where it may be opened as far as it says itself.
    pub(crate) fn check(&self, url: &str) -> Result<Url, ToolError> {
        let url = Url::parse(url)
            .map_err(|error| ToolError::invalid(format!("`{url}` is not a URL: {error}")))?;
        self.policy
            .check_url(&url)
            .map_err(|error| refused(&error))?;
        Ok(url)
    }

    /// The turn of a call that needs a page to be open.
    pub(crate) async fn turn(&self, call: &ToolContext) -> Result<Turn, ToolError> {
        let turn = self.open_turn(call).await?;
        turn.ok_or_else(|| {
            ToolError::not_found(
                "no page is open in this conversation; open one with browser-navigate",
            )
        })
    }

    /// The turn of a call, where the conversation has pages.
    pub(crate) async fn open_turn(&self, call: &ToolContext) -> Result<Option<Turn>, ToolError> {
        let owner = Owner::of(call);
        while let Some(context) = self.shared.find(&owner) {
            if let Some(turn) = Turn::begin(Arc::clone(&context), call).await {
                return Ok(Some(turn));
            }
            self.shared.close(&context).await;
        }
        Ok(None)
    }

    /// The turn of a call that opens a page where none is.
    pub(crate) async fn first_turn(&self, call: &ToolContext) -> Result<Turn, ToolError> {
        loop {
            if let Some(turn) = self.open_turn(call).await? {
                return Ok(turn);
            }
            self.open(call).await?;
        }
    }

    /// Closes all pages of a conversation.
    pub(crate) async fn close(&self, turn: Turn) {
        self.shared.close(turn.context()).await;
    }

    async fn open(&self, call: &ToolContext) -> Result<(), ToolError> {
        let mut slot = self.shared.chrome.lock().await;
        let owner = Owner::of(call);
        if self.shared.find(&owner).is_some() {
            return Ok(());
        }
        if self.shared.lock().len() >= MAX_CONTEXTS {
            return Err(ToolError::unavailable(format!(
                "{MAX_CONTEXTS} conversations have pages open, which is the most of this daemon; try again later"
            )));
        }
        let chrome = match slot.take().filter(|chrome| !chrome.gone.is_cancelled()) {
            Some(chrome) => chrome,
            None => self.start().await?,
        };
        *slot = Some(Arc::clone(&chrome));
        let policy = Arc::clone(&self.policy);
        let context = Context::open(chrome, owner, policy, call.egress.clone()).await?;
        self.shared.lock().push(Arc::clone(&context));
        let (shared, store) = (Arc::clone(&self.shared), call.store.clone());
        self.spawn(async move { shared.attend(&context, store).await });
        Ok(())
    }

    async fn start(&self) -> Result<Arc<Chrome>, ToolError> {
        let (chrome, running) = Chrome::prepare(&self.config, &self.launcher).await?;
        let (shared, attended) = (Arc::clone(&self.shared), Arc::clone(&chrome));
        self.spawn(async move {
            tokio::select! {
                () = running.attend(&attended) => {}
                () = shared.lonely(&attended) => {}
            }
        });
        chrome.greet().await?;
        Ok(chrome)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that have ended.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

impl Shared {
    fn find(&self, owner: &Owner) -> Option<Arc<Context>> {
        let contexts = self.lock();
        contexts
            .iter()
            .find(|context| context.owner == *owner)
            .cloned()
    }

    /// Closes a context once nobody needs it.
    async fn attend(&self, context: &Arc<Context>, store: Store) {
        let Owner { session, scope } = &context.owner;
        let why = tokio::select! {
            why = abandoned(store, session, scope) => why,
            () = context.unused(IDLE) => "nobody has used them",
            () = context.closed.cancelled() => return,
            () = context.chrome.gone.cancelled() => "the browser has ended",
        };
        tracing::debug!(%session, why, "the pages of a conversation are closed");
        self.close(context).await;
    }

    async fn close(&self, context: &Arc<Context>) {
        self.lock().retain(|other| !Arc::ptr_eq(other, context));
        context.dispose().await;
    }

    /// Has the browser end once nobody has had a part of it for a while. Never returns.
    async fn lonely(&self, chrome: &Arc<Chrome>) {
        let mut looks = interval(LOOK_EVERY);
        let mut alone = Duration::ZERO;
        loop {
            looks.tick().await;
            let is_alone = !self
                .lock()
                .iter()
                .any(|context| Arc::ptr_eq(&context.chrome, chrome));
            alone = if is_alone {
                alone + LOOK_EVERY
            } else {
                Duration::ZERO
            };
            // Not where somebody is about to use it.
            if alone > LINGER
                && let Ok(mut slot) = self.chrome.try_lock()
            {
                if slot.as_ref().is_some_and(|used| Arc::ptr_eq(used, chrome)) {
                    *slot = None;
                }
                chrome.stop.cancel();
                std::future::pending::<()>().await;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Context>>> {
        // A list is one at any time.
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
