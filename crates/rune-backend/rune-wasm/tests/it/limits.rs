//! Guests that want more than they get.

use std::time::{Duration, Instant};

use rune_tools::ToolErrorKind;
use serde_json::json;

use crate::sandbox::{Sandbox, guest};

const LOOP: &str =
    "(module (memory (export \"memory\") 1) (func (export \"_start\") (loop $again (br $again))))";
/// Takes memory until it gets no more, then gives up.
const BOMB: &str = "(module (memory (export \"memory\") 1) (func (export \"_start\")
    (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)))";

#[tokio::test]
async fn a_loop_ends_with_its_time_and_blocks_nobody() {
    let mut sandbox = Sandbox::new();
    sandbox.context.timeout = Duration::from_millis(200);
    let tool = sandbox.module(LOOP, "");
    // On the one thread of this test: the guest gives it back.
    let mut others = 0;
    let call = sandbox.call(&tool, json!({}));
    tokio::pin!(call);
    let error = loop {
        tokio::select! {
            ended = &mut call => break ended.unwrap_err(),
            () = tokio::time::sleep(Duration::from_millis(10)) => others += 1,
        }
    };
    assert!(others > 0);
    assert_eq!(error.kind, ToolErrorKind::Timeout);
    assert!(
        error.message.contains("did not end within 200 ms"),
        "{error}"
    );
}

#[tokio::test]
async fn a_loop_ends_when_it_is_cancelled() {
    let sandbox = Sandbox::new();
    let tool = sandbox.module(LOOP, "");
    let cancelled = async {
        // On the one thread of this test the guest has run in between.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        sandbox.context.cancel.cancel();
        Instant::now()
    };
    let (error, at) = tokio::join!(sandbox.fails(&tool, json!({})), cancelled);
    assert!(at.elapsed() < Duration::from_secs(1));
    assert_eq!(error.kind, ToolErrorKind::Cancelled);
}

#[tokio::test]
async fn fuel_runs_out() {
    let sandbox = Sandbox::new();
    let tool = sandbox.module(LOOP, "limits: {fuel: 1000000}\n");
    let error = sandbox.fails(&tool, json!({})).await;
    assert_eq!(error.kind, ToolErrorKind::LimitExceeded);
    assert!(!error.is_retryable());
    assert!(
        error.message.contains("ran out of fuel: it has 1000000"),
        "{error}"
    );
    let enough = sandbox.guest("echo", "limits: {fuel: 1000000}\n");
    sandbox.call(&enough, json!({})).await.unwrap();
}

#[tokio::test]
async fn cpu_time_runs_out_and_waiting_takes_none() {
    let sandbox = Sandbox::new();
    let tool = sandbox.module(LOOP, "limits: {cpu_ms: 50}\n");
    let error = sandbox.fails(&tool, json!({})).await;
    assert_eq!(error.kind, ToolErrorKind::LimitExceeded);
    let expected = "used more than 50 ms of CPU time (`limits.cpu_ms`) and was stopped";
    assert!(error.message.contains(expected), "{error}");
    // Two guests at the same time have their own each.
    let echo = sandbox.guest("echo", "limits: {cpu_ms: 5000}\n");
    let (error, answer) = tokio::join!(
        sandbox.fails(&tool, json!({})),
        sandbox.call(&echo, json!({}))
    );
    assert_eq!(error.kind, ToolErrorKind::LimitExceeded);
    assert_eq!(answer.unwrap(), json!({}));
}

#[tokio::test]
async fn memory_ends_at_the_limit() {
    let sandbox = Sandbox::new();
    let tool = sandbox.module(BOMB, "limits: {memory_mb: 8}\n");
    let error = sandbox.fails(&tool, json!({})).await;
    assert_eq!(error.kind, ToolErrorKind::LimitExceeded);
    let expected = "ran out of memory: it asked for 8454144 bytes and may have 8388608";
    assert!(error.message.contains(expected), "{error}");
}

#[tokio::test]
async fn output_ends_at_the_limit() {
    let mut sandbox = Sandbox::new();
    sandbox.context.output_limit = 1000;
    let long = json!({"text": "x".repeat(2000)});
    for name in ["echo", "command", "shout"] {
        let tool = sandbox.guest(name, "");
        let error = sandbox.fails(&tool, long.clone()).await;
        assert_eq!(error.kind, ToolErrorKind::OutputTooLarge, "{name}: {error}");
    }
    // One that never stops writing is stopped.
    let text = std::fs::read_to_string(guest("echo")).unwrap();
    let last = "(drop (call $write (i32.const 1)";
    let flood = text.replace(last, &format!("(loop $flood {last}"));
    let flood = flood.replace("(i32.const 8)))))", "(i32.const 8))) (br $flood))))");
    let tool = sandbox.module(&flood, "");
    let error = sandbox.fails(&tool, json!({"a": 1})).await;
    assert_eq!(error.kind, ToolErrorKind::OutputTooLarge, "{error}");
}

#[tokio::test]
async fn a_trap_is_said_plainly() {
    let sandbox = Sandbox::new();
    for (body, expected) in [
        ("(unreachable)", "unreachable"),
        (
            "(drop (i32.load (i32.const 70000)))",
            "out of bounds memory access",
        ),
        (
            "(drop (i32.div_u (i32.const 1) (i32.const 0)))",
            "divide by zero",
        ),
        ("(call $again)", "call stack exhausted"),
    ] {
        let text = format!(
            "(module (memory (export \"memory\") 1) (func $again (export \"_start\") {body}))"
        );
        let tool = sandbox.module(&text, "");
        let error = sandbox.fails(&tool, json!({})).await;
        assert_eq!(error.kind, ToolErrorKind::Failed);
        assert!(error.message.starts_with("the tool trapped: "), "{error}");
        assert!(error.message.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_guest_after_hostile_ones_runs_as_ever() {
    let sandbox = Sandbox::new();
    let bomb = sandbox.module(BOMB, "limits: {memory_mb: 16}\n");
    for _ in 0..70 {
        sandbox.fails(&bomb, json!({})).await;
    }
    let echo = sandbox.guest("echo", "");
    assert_eq!(sandbox.call(&echo, json!({})).await.unwrap(), json!({}));
}
