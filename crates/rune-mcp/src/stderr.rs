//! What a server that is a process writes to its standard error.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rune_tools::Secrets;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::time::Instant;

use crate::listing::clean;

/// Lines that are kept to explain why a connection failed.
const KEPT: usize = 8;
/// Characters of a line.
const LINE_CHARS: usize = 500;
/// Bytes that are read as one line.
const LINE_BYTES: u64 = 8 * 1024;
/// Lines that are logged in a [`WINDOW`].
const LOGGED: u32 = 200;
/// After it the count begins again.
const WINDOW: Duration = Duration::from_secs(60);

/// The last lines of a process.
#[derive(Clone, Default)]
pub(crate) struct Stderr(Arc<Mutex<VecDeque<String>>>);

impl Stderr {
    /// Reads to the end: logs within limits, and keeps the last lines. What is not valid UTF-8 is replaced.
    pub(crate) async fn follow(
        self,
        server: String,
        pipe: impl AsyncRead + Unpin,
        secrets: Secrets,
    ) {
        let mut reader = BufReader::new(pipe);
        let (mut window, mut lines) = (Instant::now(), 0_u32);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut reader)
                .take(LINE_BYTES)
                .read_until(b'\n', &mut line)
                .await
            {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
            let text = secrets.redact(String::from_utf8_lossy(&line).into_owned());
            let text = clean(&text, LINE_CHARS);
            if text.is_empty() {
                continue;
            }
            if window.elapsed() >= WINDOW {
                (window, lines) = (Instant::now(), 0);
            }
            lines = lines.saturating_add(1);
            if lines <= LOGGED {
                tracing::info!(mcp_server = server, stderr = text, "MCP server");
            } else if lines == LOGGED + 1 {
                tracing::warn!(
                    mcp_server = server,
                    "an MCP server writes too much; it is not logged for a minute"
                );
            }
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(text);
        }
    }

    /// The end of an error message that shows them, where there are any.
    pub(crate) fn said(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_empty() {
            return String::new();
        }
        let lines: Vec<&str> = kept.iter().map(String::as_str).collect();
        format!("; its standard error ends with:\n{}", lines.join("\n"))
    }
}
