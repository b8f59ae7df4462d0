//! Claude Code, with a simulated `claude`: a script that plays lines as the real program
//! writes them (version 2.1.197), not the program itself.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use rune_runtime::model::{
    ClaudeCli, ClaudeCodeClient, ClaudeCodeConfig, HttpClient, LlmClient, ModelError,
    ModelErrorKind, ModelEvent, ModelRequest,
};
use rune_store_runtime::{Block, Message, Role, StopReason};
use rune_testkit::{ModelScript, ModelServer, Protocol};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::suite::{KEY, Subject, Tune};
use super::{LIMITS, Shown, ask, guard, message};
use crate::harness::until;

/// A home with a `claude` in its `bin` that plays `lines` and ends with `code`.
struct Machine {
    home: TempDir,
}

impl Machine {
    fn new(lines: &[Value], code: i32) -> Self {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let machine = Self::with(&format!("cat \"$HOME/lines\"; exit {code}"));
        std::fs::write(machine.home.path().join("lines"), text).unwrap();
        machine
    }

    /// With this behaviour after the input was read.
    fn with(behaviour: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let bin = home.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        let program = format!(
            "#!/bin/sh\n\
             if [ \"$1\" = --version ]; then echo '2.1.197 (Claude Code)'; exit 0; fi\n\
             for argument; do printf '%s\\n' \"[$argument]\"; done > \"$HOME/arguments\"\n\
             env > \"$HOME/environment\"\n\
             pwd > \"$HOME/directory\"\n\
             cat > \"$HOME/input\"\n\
             {behaviour}\n"
        );
        let path = bin.join("claude");
        std::fs::write(&path, program).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { home }
    }

    fn cli(&self) -> ClaudeCli {
        let home = self.home.path().to_str().unwrap();
        let path = format!("{home}/bin:/usr/bin:/bin");
        let cli = ClaudeCli::find(|name| match name {
            "PATH" => Some(path.clone()),
            "HOME" => Some(home.to_owned()),
            "RUNE_API_KEY" => Some("the daemon's own".to_owned()),
            _ => None,
        });
        cli.unwrap()
    }

    fn config(&self) -> ClaudeCodeConfig {
        ClaudeCodeConfig {
            cli: Some(Arc::new(self.cli())),
            timeouts: LIMITS,
            ..ClaudeCodeConfig::default()
        }
    }

    fn client(&self) -> ClaudeCodeClient {
        client(self.config())
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.home.path().join(name)).unwrap()
    }
}

fn client(config: ClaudeCodeConfig) -> ClaudeCodeClient {
    ClaudeCodeClient::new(config, HttpClient::new())
}

/// A question of an agent without tools.
fn plain(text: &str) -> ModelRequest {
    let mut request = ask(text);
    request.tools.clear();
    request
}

fn event(event: &Value) -> Value {
    json!({"type": "stream_event", "event": event, "session_id": "s", "parent_tool_use_id": null})
}

fn init() -> Value {
    json!({"type": "system", "subtype": "init", "session_id": "s", "cwd": "/", "tools": [],
        "mcp_servers": [], "model": "m", "permissionMode": "default", "apiKeySource": "none"})
}

fn result(more: &Value) -> Value {
    let mut result = json!({"type": "result", "subtype": "success", "is_error": false, "result": "",
        "num_turns": 1, "duration_ms": 9, "total_cost_usd": 0.1, "session_id": "s",
        "usage": {"input_tokens": 7, "output_tokens": 3, "cache_read_input_tokens": 2}});
    for (name, value) in more.as_object().unwrap() {
        result[name] = value.clone();
    }
    result
}

/// What the real program writes for an answer of two pieces.
fn answer() -> Vec<Value> {
    let start = json!({"type": "message_start", "message": {"id": "msg_1", "type": "message",
        "role": "assistant", "model": "m", "content": [],
        "usage": {"input_tokens": 7, "cache_read_input_tokens": 2, "output_tokens": 1}}});
    let text = |text: &str| {
        json!({"type": "content_block_delta", "index": 0,
            "delta": {"type": "text_delta", "text": text}})
    };
    let whole = json!({"id": "msg_1", "role": "assistant", "stop_reason": null,
        "content": [{"type": "text", "text": "Hello, you"}]});
    vec![
        init(),
        json!({"type": "system", "subtype": "status", "status": "requesting"}),
        event(&start),
        event(&json!({"type": "content_block_start", "index": 0,
            "content_block": {"type": "text", "text": ""}})),
        event(&text("Hello, ")),
        json!({"type": "something_new", "of": "a later version"}),
        event(&text("you")),
        json!({"type": "assistant", "message": whole, "parent_tool_use_id": null}),
        event(&json!({"type": "content_block_stop", "index": 0})),
        event(
            &json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 3}}),
        ),
        event(&json!({"type": "message_stop"})),
        result(&json!({"result": "Hello, you"})),
    ]
}

/// The client without the program.
pub(crate) struct WithKey;

#[async_trait]
impl Subject for WithKey {
    fn wire(&self) -> Protocol {
        Protocol::Anthropic
    }

    async fn client(&self, server: &ModelServer, tune: &Tune) -> Box<dyn LlmClient> {
        let base_url = server.base_url(Protocol::Anthropic);
        let client = client(ClaudeCodeConfig {
            api_key: Some(KEY.into()),
            base_url: Some(tune.base_url.clone().unwrap_or(base_url)),
            timeouts: tune.timeouts,
            ..ClaudeCodeConfig::default()
        });
        Box::new(guard(Arc::new(client)).retry(tune.retry.clone()))
    }
}

async fn failure(client: &dyn LlmClient, request: &ModelRequest) -> ModelError {
    match client.stream(request).await {
        Ok(stream) => Shown::of(stream).await.error.unwrap(),
        Err(error) => error,
    }
}

#[tokio::test]
async fn streams_the_answer_of_the_program() {
    let machine = Machine::new(&answer(), 0);
    let (shown, output) = Shown::output(&machine.client(), &plain("hi")).await;
    assert_eq!(shown.text, "Hello, you");
    assert_eq!(output.blocks, [Block::text("Hello, you")]);
    assert_eq!(output.stop, StopReason::EndTurn);
    let usage = output.usage;
    assert_eq!((usage.input_tokens, usage.cached_tokens), (9, 2));
    assert_eq!(usage.output_tokens, 3);
}

#[tokio::test]
async fn the_program_gets_no_tools_no_settings_and_nothing_of_the_daemon() {
    let machine = Machine::new(&answer(), 0);
    Shown::output(&machine.client(), &plain("hi")).await;
    let arguments = machine.file("arguments");
    for wanted in [
        "[-p]\n",
        "[--verbose]\n",
        "[--output-format]\n[stream-json]\n",
        "[--tools]\n[]\n",
        "[--setting-sources]\n[]\n",
        "[--model]\n[test-model]\n",
        "[--system-prompt]\n[Be brief.]\n",
        "[--max-turns]\n[1]\n",
    ] {
        assert!(arguments.contains(wanted), "{wanted}: {arguments}");
    }
    let environment = machine.file("environment");
    assert!(!environment.contains("the daemon's own"), "{environment}");
    assert!(!environment.contains("ANTHROPIC_API_KEY"), "{environment}");
    let directory = machine.file("directory");
    assert!(
        !Path::new(directory.trim()).exists(),
        "it ran in {directory}"
    );
    let input: Value = serde_json::from_str(&machine.file("input")).unwrap();
    assert_eq!(
        input,
        json!({"type": "user", "message": {"role": "user", "content": "hi"}})
    );
}

#[tokio::test]
async fn earlier_turns_are_part_of_the_question() {
    let machine = Machine::new(&answer(), 0);
    let mut request = plain("one");
    request
        .messages
        .push(message(Role::Assistant, vec![Block::text("two")]));
    request.messages.push(Message::user("three"));
    Shown::output(&machine.client(), &request).await;
    let input: Value = serde_json::from_str(&machine.file("input")).unwrap();
    let content = input["message"]["content"].as_str().unwrap();
    assert!(
        content.contains(r#"{"role":"assistant","text":"two"}"#),
        "{content}"
    );
    assert!(content.ends_with("three"), "{content}");
}

#[tokio::test]
async fn a_failed_call_has_the_subtype_success() {
    let synthetic = json!({"type": "assistant", "error": "authentication_failed",
        "message": {"model": "<synthetic>", "content": [{"type": "text", "text": "x"}]}});
    for (more, kind) in [
        (
            json!({"api_error_status": 401, "result": "API Error: 401 bad"}),
            ModelErrorKind::Unauthenticated,
        ),
        (
            json!({"api_error_status": 429, "result": "API Error: 429 slow down"}),
            ModelErrorKind::RateLimited,
        ),
        (
            json!({"api_error_status": 529, "result": "Overloaded"}),
            ModelErrorKind::Overloaded,
        ),
        (
            json!({"result": "Invalid API key · Please run /login"}),
            ModelErrorKind::Unauthenticated,
        ),
        (
            json!({"subtype": "error_during_execution", "result": null, "errors": ["went wrong"]}),
            ModelErrorKind::Overloaded,
        ),
    ] {
        let mut more = more;
        more["is_error"] = true.into();
        let machine = Machine::new(&[init(), synthetic.clone(), result(&more)], 1);
        let error = failure(&machine.client(), &plain("hi")).await;
        assert_eq!(error.kind, kind, "{error}");
    }
}

#[tokio::test]
async fn a_program_that_ends_early_says_why() {
    let machine = Machine::with("echo 'error: unknown option --tools' >&2; exit 1");
    let error = failure(&machine.client(), &plain("hi")).await;
    assert!(error.message.contains("unknown option --tools"), "{error}");
    assert!(error.message.contains("exit status: 1"), "{error}");
    // In the middle of its answer.
    let machine = Machine::new(&answer()[..6], 0);
    let error = failure(&machine.client(), &plain("hi")).await;
    assert_eq!(error.kind, ModelErrorKind::Truncated, "{error}");
}

#[tokio::test]
async fn the_key_is_given_to_the_program_and_never_shown() {
    let machine = Machine::with("echo \"bad key $ANTHROPIC_API_KEY\" >&2; exit 1");
    let mut config = machine.config();
    config.api_key = Some("sk-secret".into());
    config.fallback_key = Some("sk-other".into());
    let error = failure(&client(config), &plain("hi")).await;
    assert!(error.message.contains("bad key [key]"), "{error}");
    // Somebody else's key is not for the program.
    let mut config = machine.config();
    config.fallback_key = Some("sk-other".into());
    failure(&client(config), &plain("hi")).await;
    assert!(!machine.file("environment").contains("sk-other"));
}

#[tokio::test]
async fn dropping_the_stream_kills_the_program_and_what_it_started() {
    let lines: String = answer()[..5]
        .iter()
        .map(|line| format!("{line}\n"))
        .collect();
    let machine = Machine::with("cat \"$HOME/lines\"; sleep 600 & echo $! > \"$HOME/child\"; wait");
    std::fs::write(machine.home.path().join("lines"), lines).unwrap();
    let mut stream = machine.client().stream(&plain("hi")).await.unwrap();
    let first = stream.next().await;
    assert_eq!(first, Some(Ok(ModelEvent::Text("Hello, ".to_owned()))));
    let child = machine.home.path().join("child");
    let started = || std::fs::read_to_string(&child).is_ok_and(|id| id.ends_with('\n'));
    until("the program", started).await;
    let id = machine.file("child");
    drop(stream);
    let status = format!("/proc/{}/status", id.trim());
    until("the end of its child", || {
        // A zombie has ended; nobody may be left to reap it.
        std::fs::read_to_string(&status).map_or(true, |it| it.contains("State:\tZ"))
    })
    .await;
}

#[tokio::test]
async fn silence_is_a_timeout() {
    let machine = Machine::with("sleep 600");
    let mut config = machine.config();
    config.timeouts.first_byte = Duration::from_millis(300);
    let error = failure(&client(config), &plain("hi")).await;
    assert_eq!(error.kind, ModelErrorKind::Timeout, "{error}");
}

#[tokio::test]
async fn an_agent_with_tools_is_answered_by_the_api() {
    let machine = Machine::new(&answer(), 0);
    let error = failure(&machine.client(), &ask("hi")).await;
    assert_eq!(error.kind, ModelErrorKind::Unauthenticated);
    for wanted in ["tools", "CLAUDE_API_KEY"] {
        assert!(error.message.contains(wanted), "{error}");
    }
    let server = ModelServer::start(ModelScript::new()).await.unwrap();
    let mut config = machine.config();
    config.fallback_key = Some("key".into());
    config.base_url = Some(server.base_url(Protocol::Anthropic));
    let (shown, _) = Shown::output(&client(config), &ask("hi")).await;
    assert_eq!(shown.text, "Echo: hi");
    assert_eq!(server.requests()[0].headers["x-api-key"], "key");
}

#[tokio::test]
async fn without_the_program_the_key_is_used() {
    let server = ModelServer::start(ModelScript::new()).await.unwrap();
    let mut config = ClaudeCodeConfig {
        api_key: Some("key".into()),
        base_url: Some(server.base_url(Protocol::Anthropic)),
        timeouts: LIMITS,
        ..ClaudeCodeConfig::default()
    };
    let (shown, _) = Shown::output(&client(config.clone()), &plain("hi")).await;
    assert_eq!(shown.text, "Echo: hi");
    config.api_key = None;
    let error = failure(&client(config), &plain("hi")).await;
    assert!(error.message.contains("not installed"), "{error}");
}

#[tokio::test]
async fn a_program_of_another_version_is_not_used() {
    let machine = Machine::new(&answer(), 0);
    let program = machine.home.path().join("bin/claude");
    let text = std::fs::read_to_string(&program).unwrap();
    std::fs::write(&program, text.replace("2.1.197", "1.0.3")).unwrap();
    let error = failure(&machine.client(), &plain("hi")).await;
    assert!(error.message.contains("version 1.0"), "{error}");
}
