//! One server of an agent: its task, which keeps it connected, and what others see of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rmcp::model::{ServerPeerInfo, SubscriptionFilter};
use rmcp::service::{Peer, RoleClient, ServiceError, Subscription};
use rune_spec::McpTool;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::access::{Gates, SecretLookup, ServerAccess};
use crate::client::McpClient;
use crate::config::ServerConfig;
use crate::connect::{Connection, Process, connect};
use crate::handler::Handler;
use crate::limits;
use crate::list::{ListError, list};
use crate::listing::{Listing, listing};
use crate::status::{ServerState, ServerStatus};

/// A server of an agent. Cheap to clone.
#[derive(Clone)]
pub struct ServerHandle {
    pub(crate) shared: Arc<Shared>,
}

/// What the task of a server and its callers share.
pub(crate) struct Shared {
    pub(crate) config: ServerConfig,
    pub(crate) client: McpClient,
    /// Reads its stored secrets.
    pub(crate) secrets: SecretLookup,
    /// What policy says of hosts, where one speaks about them.
    pub(crate) gates: Option<Arc<Gates>>,
    /// Connections of its process that were refused.
    pub(crate) refused: Arc<Mutex<Vec<String>>>,
    now: watch::Sender<Now>,
    /// Told when a call waits for a connection.
    wanted: Notify,
    /// Told when a call has found the connection broken.
    suspect: Notify,
}

/// How a server is now.
#[derive(Clone, Default)]
pub(crate) struct Now {
    pub(crate) link: Option<Link>,
    /// Attempts to connect that have ended, and connections that were lost.
    attempts: u64,
    /// Failures since a connection held.
    failures: u32,
    /// Why it is not connected.
    error: Option<Arc<str>>,
    retry_at: Option<Instant>,
    info: Option<Arc<ServerPeerInfo>>,
    listing: Arc<Listing>,
    /// Rises when the tools change.
    version: u64,
    /// How many connections there were.
    connections: u64,
}

/// A connection that can be called through.
#[derive(Clone)]
pub(crate) struct Link {
    /// Which one of this server.
    pub(crate) number: u64,
    pub(crate) peer: Peer<RoleClient>,
    pub(crate) handler: Handler,
}

/// Why a connection is not attended to any more.
enum Left {
    /// Nobody needs it.
    Closing,
    /// It does not work any more.
    Lost(String),
}

impl ServerHandle {
    pub(crate) fn new(client: McpClient, config: ServerConfig, access: &ServerAccess) -> Self {
        Self {
            shared: Arc::new(Shared {
                config,
                client,
                secrets: Arc::clone(&access.secrets),
                gates: access.gate.clone().map(Gates::new),
                refused: Arc::default(),
                now: watch::Sender::default(),
                wanted: Notify::new(),
                suspect: Notify::new(),
            }),
        }
    }

    /// The server as it was configured.
    #[must_use]
    pub fn config(&self) -> &ServerConfig {
        &self.shared.config
    }

    /// Its tools as it listed them last, by name.
    #[must_use]
    pub fn tools(&self) -> Vec<McpTool> {
        self.shared.now.borrow().listing.tools.clone()
    }

    /// Whether it has ever listed its tools.
    #[must_use]
    pub fn was_heard(&self) -> bool {
        self.shared.now.borrow().version > 0
    }

    /// A number that rises when its tools change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.shared.now.borrow().version
    }

    /// Why it cannot be called now; `None` where it can.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let now = self.shared.now.borrow();
        if now.link.is_some() {
            return None;
        }
        let error = now.error.as_deref();
        Some(error.unwrap_or("it is being connected to").to_owned())
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> ServerStatus {
        let now = self.shared.now.borrow().clone();
        let config = &self.shared.config;
        let state = match (&now.link, now.attempts) {
            (Some(_), _) => ServerState::Ready,
            (None, 0) => ServerState::Connecting,
            (None, _) => ServerState::Unavailable,
        };
        let info = now.info.as_deref();
        let itself = info.and_then(|info| info.server_info.as_ref());
        let until = now.retry_at.map(|at| at - Instant::now());
        ServerStatus {
            name: config.name.clone(),
            transport: config.transport.kind(),
            target: config.transport.target(),
            state,
            required: config.required,
            protocol: info.map(|info| info.protocol_version.to_string()),
            server: itself.map(|itself| {
                let name = format!("{} {}", itself.name, itself.version);
                let name = match &now.link {
                    Some(link) => link.handler.secrets.redact(name),
                    None => name,
                };
                crate::listing::clean(&name, limits::NAME_CHARS)
            }),
            skipped: now.listing.skipped.clone(),
            refused: self.shared.refused().clone(),
            error: now.error.as_deref().map(str::to_owned),
            failures: now.failures,
            retry_in_ms: until.map(|until| u64::try_from(until.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// Returns once the first attempt to connect has ended.
    pub async fn tried(&self) {
        let mut now = self.shared.now.subscribe();
        // The sender lives as long as `self`.
        let _ = now.wait_for(|now| now.attempts > 0).await;
    }

    /// A connection other than the one of this number, once there is one. Waits for one attempt to make it. One that was
    /// looked at and works counts as another one.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn link(&self, but: Option<u64>) -> Result<Link, String> {
        let mut watched = self.shared.now.subscribe();
        let before = watched.borrow().attempts;
        let fits = |now: &Now| {
            let link = now.link.as_ref();
            link.filter(|link| Some(link.number) != but).cloned()
        };
        if let Some(link) = fits(&watched.borrow()) {
            return Ok(link);
        }
        self.shared.wanted.notify_one();
        // That a connection is lost counts, too; what comes after it is the attempt that is waited for.
        let broken = u64::from(watched.borrow().link.is_some());
        let ended = |now: &Now| fits(now).is_some() || now.attempts > before + broken;
        match timeout(limits::PATIENCE, watched.wait_for(ended)).await {
            Ok(Ok(now)) => fits(&now).ok_or_else(|| {
                let error = now.error.as_deref();
                error.unwrap_or("the connection failed").to_owned()
            }),
            _ => Err(self
                .trouble()
                .unwrap_or_else(|| "the connection does not answer".to_owned())),
        }
    }

    /// Has the connection looked at.
    pub(crate) fn suspect(&self) {
        self.shared.suspect.notify_one();
    }
}

impl Shared {
    /// Connections of its process that were refused since it was started.
    pub(crate) fn refused(&self) -> MutexGuard<'_, Vec<String>> {
        // A list of sentences is one at any time.
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the server connected until `closing`.
    pub(crate) async fn keep(self: Arc<Self>, closing: CancellationToken) {
        let name = &self.config.name;
        let mut failures = 0_u32;
        loop {
            let connected = tokio::select! {
                biased;
                () = closing.cancelled() => return,
                connected = connect(&self) => connected,
            };
            let error = match connected {
                Err(error) => error,
                Ok(connection) => {
                    let since = Instant::now();
                    let left = Box::pin(self.attend(connection, &closing)).await;
                    if since.elapsed() >= limits::STABLE {
                        failures = 0;
                    }
                    match left {
                        Left::Closing => return,
                        Left::Lost(error) => error,
                    }
                }
            };
            failures = failures.saturating_add(1);
            let wait = backoff(failures);
            tracing::warn!(mcp_server = name, error, failures, retry_in = ?wait, "MCP server is unavailable");
            let tried = Instant::now();
            self.now.send_modify(|now| {
                now.link = None;
                now.attempts += 1;
                now.failures = failures;
                now.error = Some(error.into());
                now.retry_at = Some(tried + wait);
            });
            let soon = async {
                self.wanted.notified().await;
                sleep_until(tried + wait.min(limits::WANTED_BACKOFF)).await;
            };
            tokio::select! {
                () = closing.cancelled() => return,
                () = sleep_until(tried + wait) => {}
                () = soon => {}
            }
        }
    }

    /// Stays with a connection: keeps the list of tools, and looks whether it works.
    async fn attend(&self, connection: Connection, closing: &CancellationToken) -> Left {
        let (peer, info) = (connection.peer(), connection.info());
        let Connection {
            service,
            mut process,
        } = connection;
        let handler = service.service().clone();
        let cancel = service.cancellation_token();
        let waiting = service.waiting();
        tokio::pin!(waiting);
        let mut is_closed = false;
        let mut left = {
            let work = self.serve(&peer, &handler, info.as_deref());
            tokio::pin!(work);
            tokio::select! {
                biased;
                () = closing.cancelled() => Left::Closing,
                how = ended(&mut process) => Left::Lost(how),
                _ = &mut waiting => {
                    is_closed = true;
                    Left::Lost("it closed the connection".to_owned())
                }
                error = &mut work => Left::Lost(error),
            }
        };
        let mut said = String::new();
        if let Some(process) = &mut process {
            if let Left::Lost(why) = &mut left
                && let Some(reason) = process.reason().await
            {
                *why = reason;
            }
            // Before its input is closed: that may be its end at once.
            let grace = match left {
                Left::Closing => limits::END,
                Left::Lost(_) => Duration::ZERO,
            };
            process.stop(grace).await;
            said = process.last_words().await;
        }
        cancel.cancel();
        if !is_closed && timeout(limits::CLOSE, waiting).await.is_err() {
            tracing::debug!(
                mcp_server = self.config.name,
                "the connection was not closed in good order"
            );
        }
        match left {
            Left::Lost(error) => Left::Lost(handler.secrets.redact(format!("{error}{said}"))),
            Left::Closing => Left::Closing,
        }
    }

    /// Lists the tools now and whenever there is a reason; answers why the connection does not work any more.
    async fn serve(
        &self,
        peer: &Peer<RoleClient>,
        handler: &Handler,
        info: Option<&ServerPeerInfo>,
    ) -> String {
        let tools = info.and_then(|info| info.capabilities.tools.as_ref());
        let is_modern = info.is_some_and(|info| !info.protocol_version.has_initialize());
        let tells = tools.is_some_and(|tools| tools.list_changed == Some(true));
        if let Err(error) = self.look(peer, handler, tools.is_some(), true).await {
            return error;
        }
        self.now.send_modify(|now| {
            now.connections += 1;
            now.link = Some(Link {
                number: now.connections,
                peer: peer.clone(),
                handler: handler.clone(),
            });
            now.attempts += 1;
            now.retry_at = None;
            now.error = None;
            now.info = info.cloned().map(Arc::new);
        });
        tracing::info!(
            mcp_server = self.config.name,
            protocol = info.map(|info| info.protocol_version.to_string()),
            tools = self.now.borrow().listing.tools.len(),
            "MCP server is ready"
        );
        let mut subscription = None;
        let start = Instant::now() + limits::LOOK_EVERY;
        let mut looks = interval_at(start, limits::LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Instant::now();
        loop {
            if is_modern && tells && subscription.is_none() {
                subscription = subscribe(peer).await;
            }
            let is_suspect = tokio::select! {
                () = handler.changed.notified() => false,
                () = self.suspect.notified() => true,
                _ = looks.tick() => false,
                () = changed(&mut subscription) => false,
            };
            sleep_until(last + limits::LIST_EVERY).await;
            last = Instant::now();
            if let Err(error) = self.look(peer, handler, tools.is_some(), false).await {
                return error;
            }
            if is_suspect {
                // It works, so whoever waits for another one can have it.
                self.now.send_modify(|now| {
                    now.connections += 1;
                    if let Some(link) = &mut now.link {
                        link.number = now.connections;
                    }
                });
            }
        }
    }

    /// Lists the tools, and publishes them where they have changed.
    async fn look(
        &self,
        peer: &Peer<RoleClient>,
        handler: &Handler,
        has_tools: bool,
        is_first: bool,
    ) -> Result<(), String> {
        let listed = if has_tools {
            match list(peer).await {
                Ok(listed) => listed,
                Err(ListError::Lost(error)) => return Err(error),
                Err(ListError::Refused(error)) if is_first => return Err(error),
                Err(ListError::Refused(error)) => {
                    // The tools that it had may be there all the same.
                    let error = handler.secrets.redact(error);
                    tracing::warn!(
                        mcp_server = self.config.name,
                        error,
                        "the tools of an MCP server are not known anew"
                    );
                    return Ok(());
                }
            }
        } else {
            Vec::new()
        };
        let config = &self.config;
        let listing = listing(&config.name, listed, config.trust_annotations);
        let listing = listing.without(&handler.secrets);
        for skipped in &listing.skipped {
            tracing::warn!(
                mcp_server = config.name,
                tool = skipped.name,
                reason = skipped.reason,
                "a tool of an MCP server is left out"
            );
        }
        self.now.send_if_modified(|now| {
            let is_new = now.version == 0 || *now.listing != listing;
            if is_new {
                now.listing = Arc::new(listing);
                now.version += 1;
            }
            is_new
        });
        Ok(())
    }
}

/// Has the server tell when its tools change; `None` where it does not.
async fn subscribe(peer: &Peer<RoleClient>) -> Option<Subscription> {
    let filter = SubscriptionFilter::builder().tools_list_changed().build();
    match timeout(limits::LIST, peer.listen(filter)).await {
        Ok(Ok(subscription)) => Some(subscription),
        Ok(Err(ServiceError::McpError(error))) => {
            tracing::debug!(%error, "an MCP server does not tell when its tools change");
            None
        }
        Ok(Err(_)) | Err(_) => None,
    }
}

/// Returns once the tools may have changed.
async fn changed(subscription: &mut Option<Subscription>) {
    let Some(open) = subscription else {
        return std::future::pending().await;
    };
    if !matches!(open.next().await, Ok(Some(_))) {
        // What changed since is seen by looking.
        *subscription = None;
    }
}

/// Returns once the process of a server has ended, with how.
async fn ended(process: &mut Option<Process>) -> String {
    match process {
        Some(process) => match process.ended().await {
            Ok(how) => how,
            Err(stopped) => stopped.message,
        },
        None => std::future::pending().await,
    }
}

/// How long is waited after so many failures.
fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let wait = limits::BACKOFF.saturating_mul(1 << doublings);
    wait.min(limits::MAX_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_longer_after_every_failure_and_never_too_long() {
        let waits: Vec<u128> = [1, 2, 3, 9, 40, u32::MAX]
            .map(|failures| backoff(failures).as_millis())
            .into();
        assert_eq!(waits, [250, 500, 1000, 60_000, 60_000, 60_000]);
    }
}
