use std::collections::BTreeMap;

use rune_tools::{Builtins, BuiltinsConfig, SearchBackend, SearchConfig, ToolErrorKind};
use serde_json::{Value, json};

use crate::support::Sandbox;

/// Tools that are not of this crate: the engine runs the first as it runs calls of other agents, the second is with the
/// containers.
const ELSEWHERE: [&str; 2] = ["agent-send", "docker-exec"];

/// Tools that need the engine.
const WITH_ENGINE: [&str; 18] = [
    "a2a-send",
    "agent-find",
    "agent-kill",
    "agent-list",
    "agent-spawn",
    "cron-cancel",
    "cron-create",
    "cron-list",
    "event-publish",
    "image-analyze",
    "image-generate",
    "media-describe",
    "media-transcribe",
    "schedule-create",
    "schedule-delete",
    "schedule-list",
    "speech-to-text",
    "text-to-speech",
];

const REQUEST: &str = "req_0123456789abcdef0123456789abcdef";
const PROCESS: &str = "prc_0123456789abcdef0123456789abcdef";
const TASK: &str = "tsk_0123456789abcdef0123456789abcdef";

/// Inputs that a model may send, one set per tool.
fn examples() -> BTreeMap<&'static str, Vec<Value>> {
    let patch = "--- /dev/null\n+++ b/new.txt\n@@ -0,0 +1 @@\n+x\n";
    [
        ("a2a-discover", vec![json!({"url": "http://127.0.0.1/"})]),
        (
            "a2a-send",
            vec![
                json!({"url": "http://127.0.0.1/", "message": "Hi"}),
                json!({"url": "http://127.0.0.1/", "data": [1], "context_id": "c", "task_id": "t"}),
            ],
        ),
        ("agent-find", vec![json!({"query": "mail", "limit": 3})]),
        ("agent-kill", vec![json!({"request_id": REQUEST})]),
        ("agent-list", vec![json!({}), json!({"namespace": "dev"})]),
        (
            "agent-spawn",
            vec![json!({"agent": "dev/mailer", "message": "Send"})],
        ),
        ("apply-patch", vec![json!({"patch": patch})]),
        ("browser-back", vec![json!({}), json!({"steps": 2})]),
        (
            "browser-click",
            vec![json!({"target": "12"}), json!({"target": "#a", "double": true})],
        ),
        ("browser-close", vec![json!({"what": "page"}), json!({})]),
        ("browser-navigate", vec![json!({"url": "http://127.0.0.1/"})]),
        (
            "browser-read-page",
            vec![json!({}), json!({"offset": 10, "max_bytes": 1000})],
        ),
        (
            "browser-run-js",
            vec![json!({"script": "1 + 1", "timeout_ms": 100})],
        ),
        (
            "browser-screenshot",
            vec![json!({}), json!({"full_page": true}), json!({"target": "[3]"})],
        ),
        (
            "browser-scroll",
            vec![
                json!({}),
                json!({"target": "#a", "direction": "up", "pixels": 10}),
            ],
        ),
        (
            "browser-type",
            vec![
                json!({"target": "3", "text": "x"}),
                json!({"target": "3", "text": "x", "clear": false, "submit": true}),
            ],
        ),
        (
            "browser-wait",
            vec![
                json!({"text": "x"}),
                json!({"selector": "#a", "url": "b", "gone": true, "timeout_ms": 1}),
            ],
        ),
        (
            "canvas-present",
            vec![json!({"title": "T", "format": "svg", "content": "<svg/>"})],
        ),
        (
            "channel-send",
            vec![json!({"channel": "irc", "to": "#team", "text": "Hi"})],
        ),
        ("cron-cancel", vec![json!({"name": "noon"})]),
        (
            "cron-create",
            vec![
                json!({"name": "noon", "cron": "0 12 * * *", "input": "eat"}),
                json!({"name": "noon", "cron": "0 12 * * *", "timezone": "UTC", "input": 1,
                       "agent": "cook", "overlap": "skip", "same_session": false}),
            ],
        ),
        ("cron-list", vec![json!({}), json!({"name": "noon"})]),
        (
            "event-publish",
            vec![
                json!({"topic": "order.paid"}),
                json!({"topic": "order.paid", "payload": {"total": 7}}),
            ],
        ),
        (
            "file-list",
            vec![
                json!({}),
                json!({"path": ".", "recursive": true, "pattern": "*.md", "limit": 5}),
            ],
        ),
        (
            "file-read",
            vec![
                json!({"path": "a.txt"}),
                json!({"path": "a.txt", "offset": 1, "limit": 1}),
            ],
        ),
        (
            "file-write",
            vec![
                json!({"path": "b.txt", "content": "x"}),
                json!({"path": "b.txt", "content": "x", "append": true}),
            ],
        ),
        (
            "image-analyze",
            vec![json!({"source": "a.png", "question": "What is it?"})],
        ),
        (
            "image-generate",
            vec![
                json!({"prompt": "A cat"}),
                json!({"prompt": "A cat", "shape": "portrait", "path": "pictures/cat.png"}),
            ],
        ),
        (
            "knowledge-add-entity",
            vec![json!({"name": "Ada", "type": "person", "properties": {"born": 1815}})],
        ),
        (
            "knowledge-add-relation",
            vec![json!({"from": "Ada", "type": "knows", "to": "Ada", "properties": {}})],
        ),
        (
            "knowledge-query",
            vec![
                json!({}),
                json!({"entity": "Ada"}),
                json!({"relation": {"type": "knows", "from": "Ada", "to": "Ada"}, "limit": 5}),
                json!({"path": {"from": "Ada", "to": "Ada", "max_depth": 2, "directed": true}}),
                json!({"text": "ada", "type": "person"}),
            ],
        ),
        ("location-get", vec![json!({}), json!({"detail": "region"})]),
        (
            "media-describe",
            vec![
                json!({"source": "a.png"}),
                json!({"source": "a.wav", "question": "Who speaks?"}),
            ],
        ),
        (
            "media-transcribe",
            vec![
                json!({"source": "a.wav"}),
                json!({"source": "a.wav", "format": "srt", "path": "a.srt", "language": "en", "hint": "Rune"}),
            ],
        ),
        (
            "memory-list",
            vec![json!({}), json!({"prefix": "k", "limit": 3})],
        ),
        (
            "memory-recall",
            vec![json!({"key": "k"}), json!({"query": "k", "limit": 3})],
        ),
        (
            "memory-store",
            vec![json!({"key": "k", "value": {"a": [1]}, "tags": ["t"]})],
        ),
        (
            "output-read",
            vec![
                json!({"handle": "out-0123456789abcdef"}),
                json!({"handle": "out-0123456789abcdef", "offset": 0, "length": 1}),
            ],
        ),
        ("process-kill", vec![json!({"process_id": PROCESS})]),
        ("process-list", vec![json!({}), json!({"state": "running"})]),
        (
            "process-poll",
            vec![
                json!({"process_id": PROCESS}),
                json!({"process_id": PROCESS, "offset": 3, "wait_ms": 1, "max_bytes": 10}),
            ],
        ),
        (
            "process-start",
            vec![
                json!({"command": "true"}),
                json!({"command": "true", "cwd": "."}),
            ],
        ),
        (
            "process-write",
            vec![json!({"process_id": PROCESS, "text": "x", "close": true})],
        ),
        (
            "schedule-create",
            vec![
                json!({"name": "tick", "every_ms": 1000, "input": "tick", "agent": "clock"}),
                json!({"name": "bill", "on_event": "order.*", "overlap": "queue", "same_session": true}),
            ],
        ),
        ("schedule-delete", vec![json!({"name": "tick"})]),
        ("schedule-list", vec![json!({}), json!({"name": "tick"})]),
        (
            "shell-exec",
            vec![
                json!({"command": "true"}),
                json!({"command": "true", "timeout_ms": 5000, "cwd": "."}),
            ],
        ),
        (
            "speech-to-text",
            vec![
                json!({"source": "a.wav"}),
                json!({"source": "a.wav", "language": "pt-BR", "hint": "Rune"}),
            ],
        ),
        ("system-time", vec![json!({}), json!({"timezone": "UTC"})]),
        (
            "task-claim",
            vec![
                json!({}),
                json!({"queue": "mail", "task_id": TASK, "lease_ms": 60_000}),
            ],
        ),
        (
            "task-complete",
            vec![json!({"task_id": TASK, "status": "failed", "result": {"why": "no paper"}})],
        ),
        (
            "task-list",
            vec![
                json!({}),
                json!({"queue": "mail", "state": "open", "limit": 5}),
            ],
        ),
        (
            "task-post",
            vec![
                json!({"title": "Send"}),
                json!({"title": "Send", "payload": [1], "queue": "mail", "priority": 5, "max_attempts": 1}),
            ],
        ),
        (
            "text-to-speech",
            vec![
                json!({"text": "Hi"}),
                json!({"text": "Hi", "voice": "alloy", "instructions": "softly", "format": "opus", "path": "hi.ogg"}),
            ],
        ),
        (
            "tool-search",
            vec![
                json!({"query": "issue"}),
                json!({"query": "issue", "limit": 3}),
            ],
        ),
        (
            "web-fetch",
            vec![json!({"url": "http://127.0.0.1/", "format": "text", "max_bytes": 10})],
        ),
        ("web-search", vec![json!({"query": "rust", "limit": 3})]),
    ]
    .into_iter()
    .collect()
}

#[test]
fn every_tool_has_a_descriptor_and_every_descriptor_a_tool() {
    let builtins = Builtins::new(BuiltinsConfig::default());
    let described: Vec<&str> = rune_spec::builtin_names()
        .filter(|name| !ELSEWHERE.contains(name))
        .collect();
    assert_eq!(builtins.names().collect::<Vec<_>>(), described);
    assert_eq!(examples().into_keys().collect::<Vec<_>>(), described);
}

#[test]
fn every_tool_is_in_the_documentation_with_what_rules_look_at() {
    let page = include_str!("../../../../docs/tools.md");
    for tool in rune_spec::builtin_names().filter_map(rune_spec::builtin) {
        let argument = tool.primary_argument.as_deref().unwrap();
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{}` |", tool.name)))
            .unwrap_or_else(|| panic!("docs/tools.md has no row for {}", tool.name));
        let end = format!("| `{argument}` |");
        assert!(row.ends_with(&end), "{row} does not end with {end}");
    }
}

#[tokio::test]
async fn what_a_descriptor_accepts_the_tool_takes() {
    let nowhere = SearchConfig {
        backend: SearchBackend::SearXng,
        ..SearchConfig::default()
    };
    let sandbox = Sandbox::with(BuiltinsConfig {
        search: nowhere,
        ..BuiltinsConfig::default()
    });
    sandbox.write("a.txt", "one\n");
    sandbox.write("a.png", b"\x89PNG\r\n\x1a\n");
    sandbox.write("a.wav", b"RIFF\0\0\0\0WAVE");
    for (name, inputs) in examples() {
        let schema = &rune_spec::builtin(name).unwrap().input_schema;
        for input in inputs {
            jsonschema::validate(schema, &input)
                .unwrap_or_else(|error| panic!("{name} {input}: {error}"));
            let outcome = sandbox.call(name, input.clone()).await;
            match name {
                // The input is fine; there is no engine.
                name if WITH_ENGINE.contains(&name) => {
                    assert_eq!(outcome.unwrap_err().kind, ToolErrorKind::Unavailable);
                }
                // The input is fine; there is no such task.
                "task-complete" | "process-kill" | "process-poll" | "process-write" => {
                    assert_eq!(outcome.unwrap_err().kind, ToolErrorKind::NotFound);
                }
                // The input is fine; nothing is configured.
                "web-search" | "location-get" | "canvas-present" => {
                    assert_eq!(outcome.unwrap_err().kind, ToolErrorKind::Unavailable);
                }
                // The input is fine; nothing is open.
                "browser-close" => assert_eq!(outcome.unwrap(), json!({"closed": false})),
                name if name.starts_with("browser-") && name != "browser-navigate" => {
                    assert_eq!(outcome.unwrap_err().kind, ToolErrorKind::NotFound);
                }
                // The input is fine; the policy is not.
                "web-fetch" | "browser-navigate" | "a2a-discover" => {
                    assert_eq!(outcome.unwrap_err().kind, ToolErrorKind::Denied);
                }
                "output-read" => assert_eq!(outcome.unwrap_err().kind, ToolErrorKind::NotFound),
                _ => assert!(outcome.is_ok(), "{name} {input}: {outcome:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_tool_knows_no_argument_that_its_descriptor_does_not() {
    let sandbox = Sandbox::new();
    for (name, inputs) in examples() {
        let mut input = inputs[0].clone();
        input["surprise"] = 1.into();
        let schema = &rune_spec::builtin(name).unwrap().input_schema;
        assert!(jsonschema::validate(schema, &input).is_err(), "{name}");
        sandbox
            .refused(name, input, ToolErrorKind::InvalidInput)
            .await;
    }
}
