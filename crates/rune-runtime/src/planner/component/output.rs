//! What a component shows and logs before it answers.

use rune_store_runtime::{EntryBody, Failure};
use rune_wasm::LogLevel;

use super::script::Did;
use super::{COMPONENT_LOG, Run};
use crate::planner::{Planner, limit};

/// Lines of a component's log that become notices; all are in the daemon's log.
const MAX_LOGGED: u32 = 200;
/// Bytes of a line that are kept.
const MAX_LINE_BYTES: usize = 4096;
/// Bytes that a component may show, with what each part of them takes.
const MAX_EMITTED: usize = 16 * 1024 * 1024;
const EMIT_OVERHEAD: usize = 64;

impl Planner {
    /// Shows text. What was shown before the component was interrupted is not shown again.
    pub(super) fn emit(&self, run: &mut Run, text: &str) -> Result<(), Failure> {
        run.emitted = run.emitted.saturating_add(text.len() + EMIT_OVERHEAD);
        if run.emitted > MAX_EMITTED {
            return Err(limit(format!(
                "the component shows more than {MAX_EMITTED} bytes of text"
            )));
        }
        if run.script.is_over() && !text.is_empty() {
            self.feed.text(text);
        }
        Ok(())
    }

    pub(super) fn log(
        &mut self,
        run: &mut Run,
        level: LogLevel,
        message: &str,
    ) -> Result<(), Failure> {
        let end = message.floor_char_boundary(MAX_LINE_BYTES);
        let message = message.get(..end).unwrap_or_default();
        let level_name = match level {
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
        };
        let is_new = run.script.is_over();
        run.logged = run.logged.saturating_add(1);
        if run.logged <= MAX_LOGGED {
            let line = format!("{level_name}: {message}");
            let does = Did::Logged(line.clone());
            let known = run.script.next(&does, |did| *did == does)?;
            if known.is_none() {
                self.note(EntryBody::Notice {
                    code: COMPONENT_LOG.to_owned(),
                    message: line,
                });
            }
        }
        if is_new {
            let agent = self.agent.name();
            match level {
                LogLevel::Debug => tracing::debug!(agent, "component: {message}"),
                LogLevel::Info => tracing::info!(agent, "component: {message}"),
                LogLevel::Warn => tracing::warn!(agent, "component: {message}"),
                LogLevel::Error => tracing::error!(agent, "component: {message}"),
            }
        }
        Ok(())
    }
}
