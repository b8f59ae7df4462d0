use std::time::{Duration, Instant};

use rune_tools::ToolErrorKind;
use serde_json::json;

use crate::support::{Sandbox, is_running, number_in, until};

#[tokio::test]
async fn a_failing_command_is_a_result() {
    let sandbox = Sandbox::new();
    let answer = sandbox
        .call(
            "shell-exec",
            json!({"command": "echo out; echo err >&2; exit 3"}),
        )
        .await
        .unwrap();
    assert_eq!(
        answer,
        json!({"exit_code": 3, "stdout": "out\n", "stderr": "err\n", "truncated": false})
    );
    let killed = sandbox
        .call("shell-exec", json!({"command": "kill -9 $$"}))
        .await
        .unwrap();
    assert_eq!(killed["exit_code"], 137);
}

#[tokio::test]
async fn runs_in_the_workspace_with_a_clean_environment() {
    let sandbox = Sandbox::new();
    sandbox.write("sub/x", "");
    let answer = sandbox
        .call(
            "shell-exec",
            json!({"command": "pwd; env | cut -d= -f1 | sort", "cwd": "sub"}),
        )
        .await
        .unwrap();
    let stdout = answer["stdout"].as_str().unwrap();
    let mut lines = stdout.lines();
    assert_eq!(
        lines.next().unwrap(),
        sandbox.path("sub").display().to_string()
    );
    let names: Vec<&str> = lines
        .filter(|name| !matches!(*name, "_" | "SHLVL"))
        .collect();
    assert_eq!(
        names,
        [
            "HOME",
            "LANG",
            "OLDPWD",
            "PATH",
            "PWD",
            "RUNE_IDEMPOTENCY_KEY",
            "RUNE_REQUEST_ID",
            "RUNE_SESSION_ID",
            "TERM"
        ]
        .into_iter()
        .filter(|name| *name != "OLDPWD" || stdout.contains("OLDPWD"))
        .collect::<Vec<_>>()
    );
    for cwd in ["..", "/etc"] {
        let input = json!({"command": "true", "cwd": cwd});
        sandbox
            .refused("shell-exec", input, ToolErrorKind::Denied)
            .await;
    }
}

#[tokio::test]
async fn keeps_both_ends_of_long_output() {
    let mut sandbox = Sandbox::new();
    sandbox.context.output_limit = 16 * 1024;
    let command = "i=0; while [ $i -lt 20000 ]; do echo \"€ line $i\"; i=$((i+1)); done";
    let answer = sandbox
        .call("shell-exec", json!({"command": command}))
        .await
        .unwrap();
    assert!(answer.to_string().len() <= 16 * 1024);
    assert_eq!(
        (&answer["exit_code"], &answer["truncated"]),
        (&json!(0), &json!(true))
    );
    let stdout = answer["stdout"].as_str().unwrap();
    assert!(stdout.starts_with("€ line 0\n"), "{stdout}");
    assert!(stdout.ends_with("€ line 19999\n"));
    assert!(stdout.contains("bytes left out"));
    assert!(!stdout.contains('\u{fffd}'));
}

#[tokio::test]
async fn endless_output_is_stopped() {
    let sandbox = Sandbox::new();
    let start = Instant::now();
    let message = sandbox
        .refused(
            "shell-exec",
            json!({"command": "yes"}),
            ToolErrorKind::OutputTooLarge,
        )
        .await;
    assert!(message.contains("standard output:\ny\ny\n"), "{message}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn timeout_shows_the_output_and_stops_the_children() {
    let sandbox = Sandbox::new();
    let command = "echo begun; sleep 300 & echo $! > pid; trap '' TERM; wait; sleep 300";
    let start = Instant::now();
    let message = sandbox
        .refused(
            "shell-exec",
            json!({"command": command, "timeout_ms": 300}),
            ToolErrorKind::Timeout,
        )
        .await;
    assert!(
        start.elapsed() < Duration::from_millis(1300),
        "{:?}",
        start.elapsed()
    );
    assert!(
        message.contains("300 ms") && message.contains("begun"),
        "{message}"
    );
    let child = number_in(&sandbox.path("pid")).await;
    until(|| (!is_running(child)).then_some(())).await;
}

#[tokio::test]
async fn a_background_child_does_not_outlive_the_call() {
    let sandbox = Sandbox::new();
    let start = Instant::now();
    let answer = sandbox
        .call("shell-exec", json!({"command": "sleep 300 & echo $!"}))
        .await
        .unwrap();
    assert!(start.elapsed() < Duration::from_secs(2));
    let child: i32 = answer["stdout"].as_str().unwrap().trim().parse().unwrap();
    until(|| (!is_running(child)).then_some(())).await;
}
