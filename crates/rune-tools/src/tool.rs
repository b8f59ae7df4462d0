//! The built-in seam.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rune_store_runtime::{MemoryScope, RequestId, SessionId, Store};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    DeferredTool, Diagnostics, EngineAccess, MediaAccess, Outputs, Secrets, ShownImages, ToolError,
};

/// Room in an answer for everything but its main text.
pub(crate) const ENVELOPE_BYTES: usize = 1024;

/// Everything a tool call may touch.
#[derive(Clone)]
pub struct ToolContext {
    /// The request the call belongs to.
    pub request_id: RequestId,
    /// Its session.
    pub session_id: SessionId,
    /// Whose memory the call sees.
    pub scope: MemoryScope,
    /// The same for every run of this call.
    pub idempotency_key: String,
    /// The directory that the agent may read and write; it exists.
    pub workspace: PathBuf,
    /// The store, for tools that keep something in it.
    pub store: Store,
    /// Fires when the request is cancelled or out of time. A tool ends within a
    /// second of it and leaves nothing running.
    pub cancel: CancellationToken,
    /// The longest the call may take.
    pub timeout: Duration,
    /// The largest output in bytes.
    pub output_limit: usize,
    /// The secrets that the tool is granted.
    pub secrets: Secrets,
    /// Asked before every connection; absent where nothing but the operator's rules counts.
    pub egress: Option<Arc<dyn EgressGate>>,
    /// The largest output that a model is shown whole, in bytes; a tool that can be asked for
    /// the rest returns no more at once.
    pub shown_limit: usize,
    /// The larger ones of the session.
    pub outputs: Outputs,
    /// Where the call puts images that the model is shown beside its answer.
    pub images: ShownImages,
    /// The engine that runs the request; absent where the call is played again.
    pub engine: Option<Arc<dyn EngineAccess>>,
    /// The agent's models that see, hear, draw and speak; absent where the call is played again.
    pub media: Option<Arc<dyn MediaAccess>>,
    /// The tools of the agent that a model has to search for.
    pub deferred: Arc<[DeferredTool]>,
    /// Where goes what a call says beside its answer.
    pub diagnostics: Diagnostics,
}

impl ToolContext {
    /// Bytes of JSON that the rows or the text of an answer may take.
    pub(crate) fn answer_budget(&self) -> usize {
        self.output_limit.saturating_sub(ENVELOPE_BYTES)
    }

    /// The agent's models that see, hear, draw and speak.
    pub(crate) fn media(&self) -> Result<&dyn MediaAccess, ToolError> {
        self.media.as_deref().ok_or_else(|| {
            ToolError::unavailable("the tool works only in a request that a daemon runs")
        })
    }

    /// The engine that runs the request.
    pub(crate) fn engine(&self) -> Result<&dyn EngineAccess, ToolError> {
        self.engine.as_deref().ok_or_else(|| {
            ToolError::unavailable("the tool works only in a request that a daemon runs")
        })
    }
}

impl ToolContext {
    /// The variables that tell a program for whom it runs.
    #[must_use]
    pub fn variables(&self) -> [(&'static str, String); 3] {
        [
            ("RUNE_REQUEST_ID", self.request_id.to_string()),
            ("RUNE_SESSION_ID", self.session_id.to_string()),
            ("RUNE_IDEMPOTENCY_KEY", self.idempotency_key.clone()),
        ]
    }
}

/// Decides whether a tool may connect to a host.
pub trait EgressGate: Send + Sync {
    /// Lets a connection through. `host` is a name in lower case without the root's dot, or an address without brackets;
    /// an IPv4 address in its own form.
    ///
    /// # Errors
    /// The refusal, for the model.
    fn connect(&self, host: &str, port: u16) -> Result<(), ToolError>;
}

/// A built-in tool.
///
/// An implementation checks what a schema cannot say, stays inside its
/// [`ToolContext`], and ends soon after `cancel` fires. The dispatcher has validated
/// the input against the descriptor's schema and enforces the timeout around the
/// call by firing `cancel`.
#[async_trait]
pub trait BuiltinTool: Send + Sync {
    /// The name after `rune@`, such as `file-read`.
    fn name(&self) -> &'static str;

    /// Runs the tool.
    ///
    /// # Errors
    /// A [`ToolError`] that tells the model what failed and what to do.
    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError>;

    /// How much of what it has begun goes on in this process when no call runs, and ends with it.
    fn held(&self) -> usize {
        0
    }
}
