//! What all connections of a process share.

use std::fmt;
use std::sync::Arc;

use rune_tools::{EgressPolicy, Launcher};

/// Where a server of this name is, where the operator says so (`RUNE_MCP_{SERVER}_URL`).
pub type UrlLookup = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Connects to servers.
#[derive(Clone)]
pub struct McpClient {
    pub(crate) search_path: String,
    pub(crate) launcher: Launcher,
    pub(crate) urls: UrlLookup,
    pub(crate) egress: EgressPolicy,
}

impl McpClient {
    /// A client that looks for programs in these directories, separated by `:`; servers that are processes get the same
    /// value as their `PATH` and are started by `launcher`. `urls` says what the operator has set.
    pub fn new(search_path: impl Into<String>, launcher: Launcher, urls: UrlLookup) -> Self {
        Self {
            search_path: search_path.into(),
            launcher,
            urls,
            egress: EgressPolicy::default(),
        }
    }

    /// The same client whose servers may be, and may connect, where this policy allows.
    #[must_use]
    pub fn with_egress(self, egress: EgressPolicy) -> Self {
        Self { egress, ..self }
    }

    /// Where the operator says that a server is.
    #[must_use]
    pub fn url(&self, server: &str) -> Option<String> {
        (self.urls)(server)
    }
}

impl fmt::Debug for McpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("McpClient")
            .field("search_path", &self.search_path)
            .field("launcher", &self.launcher)
            .finish_non_exhaustive()
    }
}
