//! What a server may tell a client without being asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rmcp::ClientHandler;
use rmcp::model::{
    ClientCapabilities, ClientConfig, Implementation, ProgressNotificationParam, ProgressToken,
    ProtocolVersion,
};
use rmcp::service::{NotificationContext, RoleClient};
use rune_tools::Secrets;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::limits;
use crate::listing::clean;

/// How far a call is, as its server says.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Rises with every report.
    pub progress: f64,
    /// What it rises to, where that is known.
    pub total: Option<f64>,
    /// For a person.
    pub message: Option<String>,
}

/// Takes reports of progress. Not called more often than ten times a second.
pub type ProgressSink = Arc<dyn Fn(Progress) + Send + Sync>;

/// Hears the notifications of one connection.
#[derive(Clone)]
pub(crate) struct Handler {
    calls: Arc<Mutex<HashMap<ProgressToken, Watched>>>,
    /// Told when the server's tools have changed.
    pub(crate) changed: Arc<Notify>,
    /// What the server was told and must not leave.
    pub(crate) secrets: Secrets,
}

/// A call whose progress is passed on.
struct Watched {
    sink: ProgressSink,
    reports: u32,
    last: Option<Instant>,
}

impl Handler {
    pub(crate) fn new(secrets: Secrets) -> Self {
        Self {
            calls: Arc::default(),
            changed: Arc::default(),
            secrets,
        }
    }

    /// Passes the progress of a call on until the answer is dropped.
    pub(crate) fn watch(&self, token: ProgressToken, sink: ProgressSink) -> Watch {
        let watched = Watched {
            sink,
            reports: 0,
            last: None,
        };
        self.lock().insert(token.clone(), watched);
        Watch {
            handler: self.clone(),
            token,
        }
    }

    fn report(&self, params: ProgressNotificationParam) {
        let mut calls = self.lock();
        let Some(watched) = calls.get_mut(&params.progress_token) else {
            return;
        };
        let now = Instant::now();
        let too_soon = watched
            .last
            .is_some_and(|last| now - last < limits::PROGRESS_EVERY);
        // The last one, where it says so, is not left out.
        let is_last = params.total.is_some_and(|total| params.progress >= total);
        if watched.reports >= limits::PROGRESS_REPORTS || (too_soon && !is_last) {
            return;
        }
        watched.reports += 1;
        watched.last = Some(now);
        let sink = Arc::clone(&watched.sink);
        drop(calls);
        let message = params.message.map(|message| {
            let message = self.secrets.redact(message);
            clean(&message, limits::PROGRESS_CHARS)
        });
        sink(Progress {
            progress: params.progress,
            total: params.total,
            message,
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ProgressToken, Watched>> {
        // Every table of calls is a valid one.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stops passing on the progress of a call when dropped.
pub(crate) struct Watch {
    handler: Handler,
    token: ProgressToken,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.handler.lock().remove(&self.token);
    }
}

impl ClientHandler for Handler {
    async fn on_progress(
        &self,
        params: ProgressNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.report(params);
    }

    async fn on_tool_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.changed.notify_one();
    }

    fn get_info(&self) -> ClientConfig {
        // Nothing is offered to servers: no sampling, no roots, no elicitation.
        let client = Implementation::new("rune", env!("CARGO_PKG_VERSION"));
        ClientConfig::new(ClientCapabilities::default(), client)
            .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE)
    }
}
