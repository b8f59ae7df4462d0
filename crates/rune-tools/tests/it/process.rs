use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use rune_spec::Capability;
use rune_tools::{
    BuiltinsConfig, ProcessGrants, ProcessRunner, ProcessTool, Secrets, ToolError, ToolErrorKind,
};
use serde_json::{Value, json};

use crate::support::{Sandbox, is_running, number_in, until};

fn runner() -> ProcessRunner {
    ProcessRunner::new(BuiltinsConfig::default().search_path)
}

/// A tool in a package directory beside the workspace.
fn tool(sandbox: &Sandbox, name: &str, source: &str) -> ProcessTool {
    let module = sandbox.outer().join(name);
    fs::write(&module, source).unwrap();
    ProcessTool::new(module)
}

fn capabilities(texts: &[&str]) -> Vec<Capability> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn secrets(name: &str) -> Secrets {
    Secrets::new(vec![(name.to_owned(), "s3cr3t-value".to_owned().into())])
}

async fn run(sandbox: &Sandbox, tool: &ProcessTool, input: Value) -> Result<Value, ToolError> {
    runner().run(tool, &sandbox.context, &input).await
}

async fn fails(sandbox: &Sandbox, tool: &ProcessTool, kind: ToolErrorKind) -> String {
    let error = run(sandbox, tool, json!({"a": 1})).await.unwrap_err();
    assert_eq!(error.kind, kind, "{error}");
    error.message
}

#[tokio::test]
async fn json_in_json_out_in_every_language() {
    let sandbox = Sandbox::new();
    let input = json!({"text": "grüße \"you\"", "n": [1, 2.5, null]});
    let echoes = [
        (
            "echo.py",
            "import sys, json; json.dump({'got': json.load(sys.stdin)}, sys.stdout)",
        ),
        ("echo.sh", "printf '{\"got\": %s}' \"$(cat)\""),
        (
            "echo.mjs",
            "let s=''; process.stdin.on('data', d => s += d).on('end', () => console.log(JSON.stringify({got: JSON.parse(s)})))",
        ),
        ("echo", "#!/bin/sh\nprintf '{\"got\": %s}' \"$(cat)\""),
    ];
    for (name, source) in echoes {
        let tool = tool(&sandbox, name, source);
        if name == "echo" {
            fs::set_permissions(&tool.module, fs::Permissions::from_mode(0o755)).unwrap();
        }
        if name.ends_with(".mjs") && !std::path::Path::new("/usr/bin/node").exists() {
            rune_testkit::skip("node is not installed");
            continue;
        }
        let output = run(&sandbox, &tool, input.clone()).await.unwrap();
        assert_eq!(output, json!({"got": input}), "{name}");
    }
}

#[tokio::test]
async fn failures_say_what_to_do() {
    let sandbox = Sandbox::new();
    let cases = [
        (
            "exit.sh",
            "echo why >&2; exit 7",
            &["exit code 7", "why"][..],
        ),
        ("kill.sh", "kill -9 $$", &["signal 9"]),
        ("empty.sh", "true", &["wrote nothing", "null"]),
        (
            "text.sh",
            "echo hello there",
            &["not one JSON value", "hello there"],
        ),
        ("two.sh", "echo '{} {}'", &["not one JSON value"]),
        (
            "raise.py",
            "raise ValueError('bad apple')",
            &["exit code 1", "bad apple"],
        ),
        ("plain", "echo 1", &["chmod +x"]),
    ];
    for (name, source, expected) in cases {
        let message = fails(
            &sandbox,
            &tool(&sandbox, name, source),
            ToolErrorKind::Failed,
        )
        .await;
        for part in expected {
            assert!(message.contains(part), "{name}: {message}");
        }
    }
    let gone = ProcessTool::new(sandbox.outer().join("gone.py"));
    fails(&sandbox, &gone, ToolErrorKind::NotFound).await;
    let python = tool(&sandbox, "a.py", "print(1)");
    let nowhere = ProcessRunner::new("/nowhere");
    let error = nowhere
        .run(&python, &sandbox.context, &json!({}))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ToolErrorKind::Unavailable);
    assert!(error.message.contains("python3"), "{error}");
    let script = tool(&sandbox, "no-interpreter", "#!/no/such/thing\n");
    fs::set_permissions(&script.module, fs::Permissions::from_mode(0o755)).unwrap();
    let message = fails(&sandbox, &script, ToolErrorKind::Failed).await;
    assert!(message.contains("interpreter"), "{message}");
}

#[tokio::test]
async fn inherits_nothing_and_gets_what_it_is_granted() {
    let mut sandbox = Sandbox::new();
    sandbox.context.secrets = secrets("API_KEY");
    // cargo sets this one for every test; it stands for any variable of the daemon.
    assert!(option_env!("CARGO_MANIFEST_DIR").is_some());
    let source = "import os, sys, json; json.dump(dict(os.environ), sys.stdout)";
    let mut granted = tool(&sandbox, "env.py", source);
    let capabilities = capabilities(&[
        "network",
        "env:REGION",
        "env:UNSET",
        "secret:API_KEY",
        "filesystem:ro:data",
    ]);
    let region = |name: &str| (name == "REGION").then(|| "eu".to_owned());
    let grants = ProcessGrants::default().with_capabilities(&capabilities, region);
    granted.grants = grants.unwrap();
    let env = run(&sandbox, &granted, json!({})).await.unwrap();
    let mut names: Vec<&String> = env.as_object().unwrap().keys().collect();
    names.retain(|name| *name != "LC_CTYPE");
    names.sort();
    assert_eq!(
        names,
        [
            "API_KEY",
            "HOME",
            "LANG",
            "PATH",
            "PYTHONDONTWRITEBYTECODE",
            "REGION",
            "RUNE_IDEMPOTENCY_KEY",
            "RUNE_REQUEST_ID",
            "RUNE_SESSION_ID"
        ]
    );
    assert_eq!(env["REGION"], "eu");
    assert_eq!(env["API_KEY"], "s3cr3t-value");
    assert_eq!(env["HOME"], sandbox.context.workspace.display().to_string());
    assert_eq!(env["RUNE_IDEMPOTENCY_KEY"], "key-1");
    assert_eq!(
        env["RUNE_REQUEST_ID"],
        sandbox.context.request_id.to_string()
    );
}

#[tokio::test]
async fn a_secret_is_not_in_messages() {
    let mut sandbox = Sandbox::new();
    sandbox.context.secrets = secrets("KEY");
    for source in ["echo \"key is $KEY\" >&2; exit 1", "echo \"key is $KEY\""] {
        let mut tool = tool(&sandbox, "leak.sh", source);
        let grants =
            ProcessGrants::default().with_capabilities(&capabilities(&["secret:KEY"]), |_| None);
        tool.grants = grants.unwrap();
        let message = fails(&sandbox, &tool, ToolErrorKind::Failed).await;
        assert!(message.contains("key is [redacted]"), "{message}");
        assert!(!format!("{tool:?}").contains("s3cr3t"));
    }
    for reserved in ["env:RUNE_SESSION_ID", "secret:RUNE_SESSION_ID"] {
        let reserved =
            ProcessGrants::default().with_capabilities(&capabilities(&[reserved]), |_| None);
        assert_eq!(reserved.unwrap_err().kind, ToolErrorKind::Denied);
    }
}

#[tokio::test]
async fn input_that_is_not_read_is_no_fault() {
    let sandbox = Sandbox::new();
    let big = json!({"text": "x".repeat(4 << 20)});
    let deaf = tool(&sandbox, "deaf.sh", "echo 1");
    assert_eq!(run(&sandbox, &deaf, big.clone()).await.unwrap(), 1);
    let closes = tool(&sandbox, "closes.sh", "exec <&-; echo 2");
    assert_eq!(run(&sandbox, &closes, big.clone()).await.unwrap(), 2);
    let both = tool(
        &sandbox,
        "both.py",
        "import sys\nfor c in sys.stdin.read(): pass\nprint(3)",
    );
    assert_eq!(run(&sandbox, &both, big).await.unwrap(), 3);
}

#[tokio::test]
async fn output_is_read_while_input_is_written() {
    let mut sandbox = Sandbox::new();
    sandbox.context.output_limit = 16 << 20;
    let cat = tool(&sandbox, "cat.sh", "exec cat");
    let big = json!({"text": "€".repeat(1 << 20)});
    assert_eq!(run(&sandbox, &cat, big.clone()).await.unwrap(), big);
}

#[tokio::test]
async fn ten_gigabytes_of_output_are_stopped_at_the_limit() {
    let sandbox = Sandbox::new();
    let flood = tool(
        &sandbox,
        "flood.sh",
        "head -c 10737418240 /dev/zero; sleep 300",
    );
    let start = Instant::now();
    let message = fails(&sandbox, &flood, ToolErrorKind::OutputTooLarge).await;
    assert!(message.contains("262144 bytes"), "{message}");
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn output_up_to_the_limit_is_accepted() {
    let mut sandbox = Sandbox::new();
    sandbox.context.output_limit = 1000;
    let exact = tool(
        &sandbox,
        "exact.py",
        "print('\"' + 'x' * 998 + '\"', end='')",
    );
    assert_eq!(
        run(&sandbox, &exact, json!({})).await.unwrap(),
        "x".repeat(998)
    );
    let over = tool(
        &sandbox,
        "over.py",
        "print('\"' + 'x' * 999 + '\"', end='')",
    );
    fails(&sandbox, &over, ToolErrorKind::OutputTooLarge).await;
}

#[tokio::test]
async fn the_time_limit_stops_a_tool_that_ignores_sigterm() {
    let mut sandbox = Sandbox::new();
    sandbox.context.timeout = Duration::from_millis(400);
    let stubborn = tool(
        &sandbox,
        "stubborn.py",
        "import os, signal, time, sys\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
         print(os.getpid(), file=open('pid', 'w'))\nprint('waiting', file=sys.stderr, flush=True)\n\
         time.sleep(300)",
    );
    let start = Instant::now();
    let message = fails(&sandbox, &stubborn, ToolErrorKind::Timeout).await;
    assert!(
        start.elapsed() < Duration::from_millis(1400),
        "{:?}",
        start.elapsed()
    );
    assert!(
        message.contains("400 ms") && message.contains("waiting"),
        "{message}"
    );
    assert!(!is_running(number_in(&sandbox.path("pid")).await));
}

/// A tool with a child that ignores `SIGTERM` and holds the pipes.
const FAMILY: &str = "(trap '' TERM; sleep 300 & echo $! > grandchild; wait; wait) &\n\
                      echo $$ > leader\nwait";

#[tokio::test]
async fn cancel_ends_the_whole_group_within_a_second() {
    let sandbox = Sandbox::new();
    let family = tool(&sandbox, "family.sh", FAMILY);
    let cancel = sandbox.context.cancel.clone();
    let (grandchild, leader) = (sandbox.path("grandchild"), sandbox.path("leader"));
    let (outcome, (pids, cancelled)) = tokio::join!(run(&sandbox, &family, json!({})), async {
        let pids = [number_in(&grandchild).await, number_in(&leader).await];
        cancel.cancel();
        (pids, Instant::now())
    });
    assert!(cancelled.elapsed() < Duration::from_secs(1));
    assert_eq!(outcome.unwrap_err().kind, ToolErrorKind::Cancelled);
    for pid in pids {
        until(|| (!is_running(pid)).then_some(())).await;
    }
    // And a call that comes later does not start anything.
    fs::remove_file(&leader).unwrap();
    fails(&sandbox, &family, ToolErrorKind::Cancelled).await;
    assert!(!leader.exists());
}

#[tokio::test]
async fn a_dropped_call_leaves_no_process() {
    let sandbox = Sandbox::new();
    let family = tool(&sandbox, "family.sh", FAMILY);
    let (grandchild, leader) = (sandbox.path("grandchild"), sandbox.path("leader"));
    let pids = tokio::select! {
        _ = run(&sandbox, &family, json!({})) => panic!("the tool ended"),
        pids = async { [number_in(&grandchild).await, number_in(&leader).await] } => pids,
    };
    for pid in pids {
        until(|| (!is_running(pid)).then_some(())).await;
    }
}

#[tokio::test]
async fn a_daemon_left_behind_is_killed_and_does_not_hold_the_call() {
    let sandbox = Sandbox::new();
    let leaves = tool(
        &sandbox,
        "leaves.sh",
        "(trap '' HUP TERM; sleep 300) & echo $! > pid; echo '\"done\"'",
    );
    let start = Instant::now();
    assert_eq!(run(&sandbox, &leaves, json!({})).await.unwrap(), "done");
    assert!(start.elapsed() < Duration::from_secs(2));
    let pid = number_in(&sandbox.path("pid")).await;
    until(|| (!is_running(pid)).then_some(())).await;
}

#[tokio::test]
async fn a_process_that_left_the_group_does_not_hold_the_call() {
    let sandbox = Sandbox::new();
    let source = "import os, time, sys\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(4)\n    os._exit(0)\nprint('1', flush=True)";
    let start = Instant::now();
    let output = run(&sandbox, &tool(&sandbox, "setsid.py", source), json!({})).await;
    assert_eq!(output.unwrap(), 1);
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn many_calls_at_once_all_end() {
    let sandbox = Sandbox::new();
    let tool = tool(&sandbox, "echo.sh", "exec cat");
    let calls = (0..40).map(|n| {
        let (sandbox, tool) = (&sandbox, &tool);
        async move { run(sandbox, tool, json!({"n": n})).await.unwrap()["n"] == n }
    });
    assert!(
        futures_util::future::join_all(calls)
            .await
            .into_iter()
            .all(|same| same)
    );
}
