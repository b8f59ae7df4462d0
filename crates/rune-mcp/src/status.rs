//! How a server is.

use serde::Serialize;

use crate::listing::SkippedTool;

/// Whether a server can be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// Nothing has come of the first attempt yet.
    Connecting,
    /// It can.
    Ready,
    /// It cannot; it is tried again.
    Unavailable,
}

impl ServerState {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Ready => "ready",
            Self::Unavailable => "unavailable",
        }
    }
}

/// How a server is, for a person.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServerStatus {
    /// Its name.
    pub name: String,
    /// `http` or `stdio`.
    pub transport: &'static str,
    /// Its URL without what may be a secret, or its program.
    pub target: String,
    /// Whether it can be called.
    pub state: ServerState,
    /// Whether its agent cannot start without it.
    pub required: bool,
    /// The version of the protocol that is spoken.
    pub protocol: Option<String>,
    /// What it calls itself.
    pub server: Option<String>,
    /// Tools that were left out of the last list.
    pub skipped: Vec<SkippedTool>,
    /// Connections of its process that were refused, each once, the first ones of many.
    pub refused: Vec<String>,
    /// Why it cannot be called, or could not the last time.
    pub error: Option<String>,
    /// Failures since a connection held.
    pub failures: u32,
    /// When it is tried again, in milliseconds from now.
    pub retry_in_ms: Option<u64>,
}
