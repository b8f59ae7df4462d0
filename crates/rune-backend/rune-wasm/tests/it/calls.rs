//! What a guest is given and what it answers.

use std::fs;
use std::sync::Arc;

use rune_tools::ToolErrorKind;
use rune_wasm::{WasmConfig, WasmError};
use serde_json::json;

use crate::sandbox::{SECRET, Sandbox, guest};

#[tokio::test]
async fn every_kind_of_module_answers() {
    let sandbox = Sandbox::new();
    let input = json!({"text": "grüße ".repeat(2000)});
    for name in ["echo", "command"] {
        let tool = sandbox.guest(name, "");
        assert_eq!(
            sandbox.call(&tool, input.clone()).await.unwrap(),
            input,
            "{name}"
        );
    }
    let tool = sandbox.guest("shout", "");
    let answer = sandbox.call(&tool, json!({"text": "hello"})).await.unwrap();
    assert_eq!(answer, json!({"TEXT": "HELLO"}));
}

#[tokio::test]
async fn a_guest_begins_anew_at_every_call() {
    let sandbox = Sandbox::new();
    // Answers how often it was called, by what it remembers.
    let tool = sandbox.module(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write"
            (func $write (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (data (i32.const 0) "\64\00\00\00\01\00\00\00")
          (data (i32.const 100) "0")
          (func (export "_start")
            (i32.store8 (i32.const 100) (i32.add (i32.load8_u (i32.const 100)) (i32.const 1)))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
        "",
    );
    for _ in 0..3 {
        assert_eq!(sandbox.call(&tool, json!({})).await.unwrap(), json!(1));
    }
}

#[tokio::test]
async fn more_calls_at_once_than_places_all_end() {
    let sandbox = Sandbox::new();
    let tool = Arc::new(sandbox.guest("command", ""));
    let calls = (0..150).map(|number| {
        let (tool, context) = (Arc::clone(&tool), sandbox.context.clone());
        async move { tool.run(&context, &json!({"n": number})).await }
    });
    let calls: Vec<_> = calls.map(Box::pin).collect();
    let mut set = tokio::task::JoinSet::new();
    for call in calls {
        set.spawn(call);
    }
    let mut answers: Vec<u64> = Vec::new();
    while let Some(answer) = set.join_next().await {
        answers.push(answer.unwrap().unwrap()["n"].as_u64().unwrap());
    }
    answers.sort_unstable();
    assert_eq!(answers, (0..150).collect::<Vec<_>>());
}

#[tokio::test]
async fn variables_are_what_is_granted_and_the_request() {
    // Writes its variables to standard error and ends with an exit code, so that they are shown.
    let text = r#"(module
      (import "wasi_snapshot_preview1" "environ_get" (func $get (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (func (export "_start")
        (drop (call $sizes (i32.const 0) (i32.const 4)))
        (drop (call $get (i32.const 100) (i32.const 1000)))
        (i32.store (i32.const 16) (i32.const 1000))
        (i32.store (i32.const 20) (i32.load (i32.const 4)))
        (drop (call $write (i32.const 2) (i32.const 16) (i32.const 1) (i32.const 24)))
        (call $exit (i32.const 3))))"#;
    let sandbox = Sandbox::new();
    let tool = sandbox.module(text, "capabilities: [env:GRANTED, secret:TOKEN]\n");
    let error = sandbox.fails(&tool, json!({})).await;
    assert_eq!(error.kind, ToolErrorKind::Failed);
    assert!(
        error.message.starts_with("the tool ended with exit code 3"),
        "{error}"
    );
    let shown = error.message.replace('\0', " ");
    let request = format!("RUNE_REQUEST_ID={}", sandbox.context.request_id);
    // What GRANTED holds happens to be the secret, and is taken out of the message.
    for part in [request.as_str(), "GRANTED=[redacted]", "TOKEN=rune-secret-"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(
        !shown.contains("PATH=") && !shown.contains("hunter2"),
        "{shown}"
    );
}

#[tokio::test]
async fn the_memory_of_a_guest_holds_no_secret() {
    // Answers its first page of memory, where its variables are, in hexadecimal.
    let text = r#"(module
      (import "wasi_snapshot_preview1" "environ_get" (func $get (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 4)
      (func $digit (param $n i32) (result i32)
        (select (i32.add (local.get $n) (i32.const 48)) (i32.add (local.get $n) (i32.const 87))
          (i32.lt_u (local.get $n) (i32.const 10))))
      (func (export "_start") (local $from i32) (local $to i32)
        (drop (call $sizes (i32.const 0) (i32.const 4)))
        (drop (call $get (i32.const 100) (i32.const 1000)))
        (i32.store8 (i32.const 65536) (i32.const 34))
        (local.set $to (i32.const 65537))
        (loop $next
          (i32.store8 (local.get $to) (call $digit (i32.shr_u (i32.load8_u (local.get $from)) (i32.const 4))))
          (i32.store8 (i32.add (local.get $to) (i32.const 1))
            (call $digit (i32.and (i32.load8_u (local.get $from)) (i32.const 15))))
          (local.set $to (i32.add (local.get $to) (i32.const 2)))
          (local.set $from (i32.add (local.get $from) (i32.const 1)))
          (br_if $next (i32.lt_u (local.get $from) (i32.const 65536))))
        (i32.store8 (local.get $to) (i32.const 34))
        (local.set $to (i32.add (local.get $to) (i32.const 1)))
        (local.set $from (i32.const 65536))
        (loop $more
          (i32.store (i32.const 16) (local.get $from))
          (i32.store (i32.const 20) (i32.sub (local.get $to) (local.get $from)))
          (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 24)))
          (local.set $from (i32.add (local.get $from) (i32.load (i32.const 24))))
          (br_if $more (i32.lt_u (local.get $from) (local.get $to))))))"#;
    let sandbox = Sandbox::new();
    let tool = sandbox.module(text, "capabilities: [secret:TOKEN]\n");
    let answer = sandbox.call(&tool, json!({})).await.unwrap();
    let digits = answer.as_str().unwrap().as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let memory: Vec<u8> = digits.chunks(2).map(byte).collect();
    assert_eq!(memory.len(), 65536);
    let memory = String::from_utf8_lossy(&memory);
    assert!(memory.contains("TOKEN=rune-secret-"));
    assert!(!memory.contains(SECRET));
}

#[tokio::test]
async fn an_answer_is_one_json_value() {
    let sandbox = Sandbox::new();
    let silent = "(module (memory (export \"memory\") 1) (func (export \"_start\")))";
    let tool = sandbox.module(silent, "");
    let error = sandbox.fails(&tool, json!({})).await;
    assert!(
        error.message.contains("wrote nothing to standard output"),
        "{error}"
    );
    // Cuts the end off its input.
    let text = fs::read_to_string(guest("echo")).unwrap();
    let cut = "(i32.store (i32.const 4) (i32.sub (local.get $length) (i32.const 1)))";
    let cut = text.replace("(i32.store (i32.const 4) (local.get $length))", cut);
    let tool = sandbox.module(&cut, "");
    let error = sandbox.fails(&tool, json!({"a": 1})).await;
    assert!(error.message.contains("is not one JSON value"), "{error}");
    assert!(error.message.contains("{\"a\":1"), "{error}");
}

#[test]
fn what_is_no_tool_is_refused_with_what_to_do() {
    let sandbox = Sandbox::new();
    let file = |name: &str, content: &[u8]| {
        let path = sandbox.outer().join(name);
        fs::write(&path, content).unwrap();
        sandbox.load(&path, "").err().unwrap().to_string()
    };
    for (name, content, expected) in [
        ("text.wasm", "hello", "not a valid WebAssembly module"),
        (
            "broken.wat",
            "(module (func)",
            "not a valid WebAssembly module",
        ),
        (
            "none.wat",
            "(module (func (export \"main\")))",
            "it exports `main`",
        ),
        ("empty.wat", "(component)", "it exports nothing"),
        (
            "env.wat",
            "(module (import \"env\" \"f\" (func)) (func (export \"_start\")))",
            "imports `env::f`, which Rune does not offer",
        ),
        (
            "old.wat",
            "(module (import \"wasi_unstable\" \"fd_write\" (func)) (func (export \"_start\")))",
            "older than preview 1",
        ),
        (
            "typed.wat",
            "(module (import \"wasi_snapshot_preview1\" \"fd_write\" (func)) (func (export \"_start\")))",
            "not a valid WebAssembly module",
        ),
        (
            "large.wat",
            "(module (memory 4096) (func (export \"_start\")))",
            "`limits.memory_mb` allows 134217728",
        ),
    ] {
        let error = file(name, content.as_bytes());
        assert!(
            error.contains(expected) && error.contains(name),
            "{name}: {error}"
        );
    }
    let limit = sandbox
        .load(&guest("echo"), "limits: {memory_mb: 5000}\n")
        .err()
        .unwrap();
    assert!(matches!(limit, WasmError::MemoryLimit(5000)), "{limit}");
    let missing = sandbox
        .load(&sandbox.outer().join("gone.wasm"), "")
        .err()
        .unwrap();
    assert!(missing.to_string().contains("gone.wasm"), "{missing}");
}

#[tokio::test]
async fn compiled_code_that_was_changed_is_compiled_again() {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join("cache");
    let config = WasmConfig {
        cache: Some(cache.clone()),
        ..WasmConfig::default()
    };
    let input = json!({"a": 1});
    for change in [None, Some(200), Some(3)] {
        let codes = || {
            let entries = fs::read_dir(&cache).into_iter().flatten();
            let paths = entries.map(|entry| entry.unwrap().path());
            paths.filter(|path| path.extension().is_some_and(|e| e == "code"))
        };
        if let Some(at) = change {
            for path in codes() {
                let mut code = fs::read(&path).unwrap();
                code[at] ^= 0xff;
                fs::write(&path, code).unwrap();
            }
        }
        let sandbox = Sandbox::with(config.clone());
        for name in ["echo", "command"] {
            let tool = sandbox.guest(name, "");
            assert_eq!(sandbox.call(&tool, input.clone()).await.unwrap(), input);
        }
        assert_eq!(codes().count(), 2);
    }
}
