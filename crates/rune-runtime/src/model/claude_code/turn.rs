//! One run of the program: one answer.

use std::collections::VecDeque;
use std::process::Stdio;

use futures_util::StreamExt;
use futures_util::stream;
use rune_store_runtime::{Block, StopReason, Usage};
use rune_tools::ProcessGroup;
use secrecy::ExposeSecret;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout_at};

use super::lines::Lines;
use super::{CLAUDE_CODE_PROVIDER, ClaudeCli, ClaudeCodeConfig, prompt};
use crate::model::wire::{CallIds, Decode, Fault, Reply, Timeouts, error_of};
use crate::model::{
    ModelError, ModelErrorKind, ModelEvent, ModelOutput, ModelRequest, ModelStream, anthropic,
};

/// Bytes of its diagnostics that are kept, from the end.
const STDERR_BYTES: usize = 4 * 1024;
/// How often the program itself asks again; what is left is for the engine.
const RETRIES: &str = "1";

/// Starts the program and waits for the first event. Dropping the stream kills the
/// program with everything it has started.
pub(super) async fn start(
    cli: &ClaudeCli,
    config: &ClaudeCodeConfig,
    request: &ModelRequest,
) -> Result<ModelStream, ModelError> {
    let mut turn = Turn::spawn(cli, config, request).await?;
    match turn.next().await {
        Some(Ok(first)) => {
            let rest = stream::unfold(turn, |mut turn| async move {
                let event = turn.next().await?;
                Some((event, turn))
            });
            Ok(stream::once(async { Ok(first) }).chain(rest).boxed())
        }
        Some(Err(error)) => Err(error),
        None => Err(failure(
            ModelErrorKind::Truncated,
            "the program said nothing",
        )),
    }
}

struct Turn {
    group: ProcessGroup,
    lines: Lines<ChildStdout>,
    stderr: Option<ChildStderr>,
    /// The end of what it wrote there.
    diagnostics: Vec<u8>,
    decoder: anthropic::Decoder,
    /// Whether an answer has begun.
    begun: bool,
    ready: VecDeque<ModelEvent>,
    done: bool,
    limits: Timeouts,
    /// The next line is due by then.
    line_due: Instant,
    /// The next event with something to show is due by then.
    event_due: Instant,
    prompt_bytes: usize,
    /// Taken out of every message.
    key: String,
    /// Where it runs: an empty directory, so that no project's settings count.
    _dir: TempDir,
}

impl Turn {
    async fn spawn(
        cli: &ClaudeCli,
        config: &ClaudeCodeConfig,
        request: &ModelRequest,
    ) -> Result<Self, ModelError> {
        let cannot = |error: std::io::Error| {
            let message = format!("cannot run {}: {error}", cli.program().display());
            failure(ModelErrorKind::Transport, message)
        };
        let dir = tempfile::tempdir().map_err(cannot)?;
        let mut command = cli.command();
        arguments(&mut command, request);
        environment(&mut command, config, request);
        command
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut group = ProcessGroup::spawn(&mut command).map_err(cannot)?;
        let (stdin, stdout, stderr) = group.pipes();
        let stdout = stdout.ok_or_else(|| cannot(std::io::Error::other("no output pipe")))?;
        let line = prompt::input_line(request);
        let now = Instant::now();
        let line_due = now + config.timeouts.first_byte;
        let turn = Self {
            group,
            lines: Lines::new(stdout),
            stderr,
            diagnostics: Vec::new(),
            decoder: anthropic::Decoder::new(CallIds::of(&request.messages)),
            begun: false,
            ready: VecDeque::new(),
            done: false,
            limits: config.timeouts,
            line_due,
            event_due: now + config.timeouts.progress,
            prompt_bytes: request.system.len() + line.len(),
            key: config
                .api_key
                .as_ref()
                .map(|key| key.expose_secret().to_owned())
                .unwrap_or_default(),
            _dir: dir,
        };
        timeout_at(line_due, feed(stdin, line.as_bytes()))
            .await
            .map_err(|_| silent())?;
        Ok(turn)
    }

    async fn next(&mut self) -> Option<Result<ModelEvent, ModelError>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.event_due = Instant::now() + self.limits.progress;
                return Some(Ok(event));
            }
            if self.done {
                return None;
            }
            if let Err(mut error) = self.step().await {
                self.done = true;
                if !self.key.is_empty() {
                    error.message = error.message.replace(&self.key, "[key]");
                }
                return Some(Err(error));
            }
        }
    }

    /// Reads on: a line, or more diagnostics.
    async fn step(&mut self) -> Result<(), ModelError> {
        let due = self.line_due.min(self.event_due);
        let mut buffer = [0; 1024];
        let line = tokio::select! {
            biased;
            line = timeout_at(due, self.lines.next()) => line.map_err(|_| silent())?,
            read = read_some(self.stderr.as_mut(), &mut buffer), if self.stderr.is_some() => {
                self.keep(&buffer[..read]);
                return Ok(());
            }
        };
        self.line_due = Instant::now() + self.limits.idle;
        let broken = |error: std::io::Error| failure(ModelErrorKind::Malformed, error.to_string());
        match line.map_err(broken)? {
            Some(line) => match serde_json::from_slice::<Value>(&line) {
                Ok(json) => self.take(&json),
                // It is not the only one that writes there.
                Err(_) => Ok(()),
            },
            None => Err(self.ended().await),
        }
    }

    fn take(&mut self, line: &Value) -> Result<(), ModelError> {
        match text_of(line, "/type") {
            "stream_event" => self.event(line.get("event").cloned().unwrap_or_default()),
            "result" => self.result(line),
            _ => Ok(()),
        }
    }

    /// An event of Anthropic's stream.
    fn event(&mut self, event: Value) -> Result<(), ModelError> {
        match text_of(&event, "/type") {
            "message_start" if self.begun => {
                // It asks again by itself after a stream that broke off.
                let message = "the program began its answer anew";
                return Err(failure(ModelErrorKind::Truncated, message));
            }
            "message_start" => self.begun = true,
            // It says in its result what came of it.
            "error" => return Ok(()),
            _ => {}
        }
        let step = self.decoder.event(event, &mut self.ready);
        step.map(drop).map_err(fault)
    }

    /// The last line that counts.
    fn result(&mut self, result: &Value) -> Result<(), ModelError> {
        if result.get("is_error").and_then(Value::as_bool) == Some(true)
            || text_of(result, "/subtype") != "success"
        {
            return Err(failed(result));
        }
        let mut reply = if self.begun {
            if !self.decoder.complete(false) {
                let message = "the answer ended before its end marker";
                return Err(failure(ModelErrorKind::Truncated, message));
            }
            self.decoder.finish().map_err(fault)?
        } else {
            let text = text_of(result, "/result");
            self.ready.push_back(ModelEvent::Text(text.to_owned()));
            Reply {
                blocks: vec![Block::text(text)],
                stop: StopReason::EndTurn,
                usage: None,
            }
        };
        // Its own tools are off; a call of one is none of the agent's.
        reply
            .blocks
            .retain(|block| !matches!(block, Block::ToolCall { .. }));
        reply.usage = reply.usage.or_else(|| usage(result.get("usage")?));
        let output: ModelOutput = reply.into_output(self.prompt_bytes);
        self.ready.push_back(ModelEvent::Done(output));
        self.done = true;
        Ok(())
    }

    /// Why it ended without a result.
    async fn ended(&mut self) -> ModelError {
        let mut buffer = [0; 1024];
        while self.stderr.is_some() {
            let read = read_some(self.stderr.as_mut(), &mut buffer);
            let Ok(read) = timeout_at(self.line_due, read).await else {
                break;
            };
            self.keep(&buffer[..read]);
        }
        let status = timeout_at(self.line_due, self.group.wait()).await;
        let how = match status {
            Ok(Ok(status)) => status.to_string(),
            _ => "no exit status".to_owned(),
        };
        let said = String::from_utf8_lossy(&self.diagnostics);
        let message = match said.trim() {
            "" => format!("the `claude` program ended without a result ({how})"),
            said => format!("the `claude` program ended without a result ({how}): {said}"),
        };
        let kind = if self.begun {
            ModelErrorKind::Truncated
        } else {
            kind_of(&message)
        };
        failure(kind, message)
    }

    fn keep(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            self.stderr = None;
        }
        self.diagnostics.extend_from_slice(bytes);
        let excess = self.diagnostics.len().saturating_sub(STDERR_BYTES);
        self.diagnostics.drain(..excess);
    }
}

/// One answer without tools, without the user's own settings, kept nowhere.
fn arguments(command: &mut Command, request: &ModelRequest) {
    command
        .args(["-p", "--verbose", "--include-partial-messages"])
        .args(["--output-format", "stream-json"])
        .args(["--input-format", "stream-json"])
        .args([
            "--tools",
            "",
            "--strict-mcp-config",
            "--setting-sources",
            "",
        ])
        .args(["--no-session-persistence", "--max-turns", "1"])
        .args(["--model", &request.model])
        .args(["--system-prompt", &request.system_with_schema()]);
    if let Some(effort) = &request.reasoning_effort {
        command.args(["--effort", effort]);
    }
}

fn environment(command: &mut Command, config: &ClaudeCodeConfig, request: &ModelRequest) {
    command
        .env("CLAUDE_CODE_MAX_RETRIES", RETRIES)
        .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
        .env("DISABLE_AUTOUPDATER", "1");
    if let Some(limit) = request.max_output_tokens {
        command.env("CLAUDE_CODE_MAX_OUTPUT_TOKENS", limit.to_string());
    }
    if let Some(key) = &config.api_key {
        command.env("ANTHROPIC_API_KEY", key.expose_secret());
    }
    let base_url = config.base_url.as_deref();
    if let Some(base_url) = base_url.filter(|url| *url != anthropic::DEFAULT_BASE_URL) {
        command.env("ANTHROPIC_BASE_URL", base_url);
    }
}

/// Writes the input and closes the pipe. Where the program does not read it, its own end
/// says why.
async fn feed(stdin: Option<ChildStdin>, line: &[u8]) {
    if let Some(mut stdin) = stdin
        && let Err(error) = stdin.write_all(line).await
    {
        tracing::debug!(%error, "the claude program did not read its input");
    }
}

/// More diagnostics; nothing at their end.
async fn read_some(stderr: Option<&mut ChildStderr>, buffer: &mut [u8]) -> usize {
    match stderr {
        Some(stderr) => stderr.read(buffer).await.unwrap_or(0),
        None => 0,
    }
}

/// The failure that a result says. A failed call of the API has the subtype `success`.
fn failed(result: &Value) -> ModelError {
    let errors = result.get("errors").and_then(Value::as_array);
    let errors = errors.into_iter().flatten().filter_map(Value::as_str);
    let errors = errors.collect::<Vec<_>>().join("; ");
    let said = match (text_of(result, "/result"), errors.as_str()) {
        ("", "") => text_of(result, "/subtype"),
        ("", errors) => errors,
        (said, _) => said,
    };
    let status = result.get("api_error_status").and_then(Value::as_u64);
    match status.and_then(|status| u16::try_from(status).ok()) {
        Some(status) => error_of(CLAUDE_CODE_PROVIDER, status, said),
        None => failure(kind_of(said), said),
    }
}

/// What the program means where there is no status.
fn kind_of(said: &str) -> ModelErrorKind {
    let said = said.to_ascii_lowercase();
    let any = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if any(&["/login", "not logged in", "api key", "oauth token"]) {
        ModelErrorKind::Unauthenticated
    } else if any(&["prompt is too long"]) {
        ModelErrorKind::ContextOverflow
    } else {
        ModelErrorKind::Overloaded
    }
}

/// As Anthropic counts: its input leaves the cache out.
fn usage(usage: &Value) -> Option<Usage> {
    let count = |name: &str| usage.get(name).and_then(Value::as_u64).unwrap_or(0);
    let (read, written) = (
        count("cache_read_input_tokens"),
        count("cache_creation_input_tokens"),
    );
    usage.is_object().then(|| Usage {
        input_tokens: count("input_tokens") + read + written,
        output_tokens: count("output_tokens"),
        cached_tokens: read,
        cache_write_tokens: written,
        reasoning_tokens: 0,
    })
}

fn fault(fault: Fault) -> ModelError {
    let mut error = failure(fault.kind, fault.message);
    error.retry_after = fault.retry_after;
    error
}

fn failure(kind: ModelErrorKind, message: impl Into<String>) -> ModelError {
    ModelError::new(kind, CLAUDE_CODE_PROVIDER, message)
}

fn silent() -> ModelError {
    let message = "the `claude` program was silent for too long";
    failure(ModelErrorKind::Timeout, message)
}

fn text_of<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or("")
}
