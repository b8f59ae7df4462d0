//! What runs through the launcher runs as without one, and ends with the daemon.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use rune_store_runtime::{MemoryScope, RequestId, SessionId, Store, SystemClock};
use rune_testkit::store::FakeStore;
use rune_testkit::{ModelScript, ModelServer, Reply, TestDaemon, ToolCall};
use rune_tools::{
    BuiltinsConfig, Diagnostics, Launcher, LiveJob, LivePipes, LiveProcess, Outputs, Parts,
    ProcessGrants, ProcessRunner, ProcessTool, Sandbox, Secrets, ShownImages, ToolContext,
    ToolError, ToolErrorKind,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::cancel::processes_of;
use crate::home::{RUNE, Served};
use crate::wire::{Api, LIMIT, POLL, PROTOCOLS, Tool, deploy};

/// Children in the background and in the foreground, none of which wants to end.
const SLOW: &str = "trap '' TERM\nsleep 600 &\n(trap '' TERM; sleep 600) &\nsleep 600\necho '{}'\n";

async fn run(name: &str, source: &str, input: Value, limit: Duration) -> Result<Value, ToolError> {
    let dir = tempfile::tempdir().unwrap();
    let module = dir.path().join(name);
    fs::write(&module, source).unwrap();
    let context = ToolContext {
        request_id: RequestId::generate(),
        session_id: SessionId::generate(),
        scope: MemoryScope {
            namespace: "dev".to_owned(),
            agent: "tester".to_owned(),
        },
        idempotency_key: "key".to_owned(),
        workspace: dir.path().to_owned(),
        store: Store::new(Arc::new(FakeStore::new()), Arc::new(SystemClock)),
        cancel: CancellationToken::new(),
        timeout: limit,
        output_limit: 4 << 20,
        secrets: Secrets::default(),
        egress: None,
        shown_limit: 4 << 20,
        outputs: Outputs::default(),
        images: ShownImages::default(),
        engine: None,
        media: None,
        deferred: Arc::default(),
        diagnostics: Diagnostics::default(),
    };
    let runner = ProcessRunner::new(BuiltinsConfig::default().search_path).with_launcher(
        Launcher::Program {
            program: RUNE.into(),
            args: vec!["__exec".into()],
            sandbox: Sandbox::default(),
        },
    );
    if !name.contains('.') {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&module, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let tool = ProcessTool::new(module);
    runner.run(&tool, &context, &input).await
}

#[tokio::test]
async fn a_launched_tool_gets_and_answers_the_same() {
    let large = json!({"text": "grüße ".repeat(200_000)});
    let echoed = run("echo.sh", "cat", large.clone(), LIMIT).await.unwrap();
    assert_eq!(echoed, large);
    // It does not read its input, which is larger than a pipe.
    let deaf = run("deaf.sh", "echo '{}'", large, LIMIT).await.unwrap();
    assert_eq!(deaf, json!({}));
    let env = run(
        "env.sh",
        "printf '\"%s\"' \"$(env | cut -d= -f1 | sort | tr '\\n' ' ')\"",
        json!({}),
        LIMIT,
    );
    let names = env.await.unwrap();
    let names = names.as_str().unwrap();
    assert!(names.contains("RUNE_REQUEST_ID"), "{names}");
    assert!(!names.contains("CARGO"), "{names}");
    // Not the launcher's socket.
    let stdin = run(
        "stdin.sh",
        "printf '\"%s\"' \"$(readlink /proc/$$/fd/0)\"",
        json!({}),
        LIMIT,
    );
    let stdin = stdin.await.unwrap();
    assert!(stdin.as_str().unwrap().starts_with("pipe:"), "{stdin}");
}

#[tokio::test]
async fn a_launched_tool_fails_the_same() {
    for (name, source, expected) in [
        (
            "exit.sh",
            "echo why >&2; exit 7",
            &["exit code 7", "why"][..],
        ),
        ("kill.sh", "kill -11 $$", &["signal 11"]),
        ("launcher.sh", "kill -9 $PPID; sleep 60", &["signal 9"]),
        (
            "none",
            "#!/no/such/thing\n",
            &["cannot be started", "interpreter"],
        ),
        ("bytes", "\u{1}\u{2}", &["cannot be started", "`#!` line"]),
    ] {
        let error = run(name, source, json!({}), LIMIT).await.unwrap_err();
        assert_eq!(error.kind, ToolErrorKind::Failed, "{name}: {error}");
        for part in expected {
            assert!(error.message.contains(part), "{name}: {error}");
        }
    }
}

#[tokio::test]
async fn a_launched_tool_may_end_politely_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let ended = dir.path().join("ended");
    let source = format!(
        "trap 'echo sorry > {}; exit 3' TERM\nwhile :; do sleep 0.01; done\n",
        ended.display()
    );
    let limit = Duration::from_millis(500);
    let error = run("polite.sh", &source, json!({}), limit)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ToolErrorKind::Timeout, "{error}");
    assert_eq!(fs::read_to_string(ended).unwrap(), "sorry\n");
}

/// Starts a shell script whose input stays open.
async fn live(launcher: &Launcher, script: &str) -> (LiveProcess, LivePipes) {
    let reach = ProcessGrants::default().reach("/".as_ref(), None, Arc::default());
    let job = LiveJob {
        program: "/bin/sh".into(),
        args: vec!["-c".to_owned(), script.to_owned()],
        env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
        cwd: "/".into(),
        reach: reach.unwrap(),
        refused: Arc::new(|_| ()),
    };
    launcher.start_live(job).await.unwrap()
}

/// A launcher that confines with these parts.
fn launcher(parts: Parts) -> Launcher {
    Launcher::Program {
        program: RUNE.into(),
        args: vec!["__exec".into()],
        sandbox: Sandbox {
            parts,
            hidden: Vec::new(),
        },
    }
}

#[tokio::test]
async fn a_process_whose_input_stays_open_is_written_to_while_it_runs() {
    for launcher in [
        Launcher::Direct,
        launcher(Parts::default()),
        launcher(Parts::ALL),
    ] {
        let (mut process, mut pipes) = live(&launcher, "cat").await;
        // More than a pipe holds, each way, twice.
        let text = vec![b'x'; 300_000];
        for _ in 0..2 {
            let mut answer = vec![0; text.len()];
            let (written, read) = tokio::join!(
                pipes.input.write_all(&text),
                pipes.output.read_exact(&mut answer)
            );
            written.unwrap();
            read.unwrap();
            assert_eq!(answer, text);
        }
        process.stop(Duration::from_millis(200)).await;

        // It ends by itself, with what it said, and knows the end of its input.
        let script = "cat /dev/stdin > /dev/stderr; exit 3";
        let (mut process, mut pipes) = live(&launcher, script).await;
        pipes.input.write_all(b"enough\n").await.unwrap();
        drop(pipes.input);
        let mut said = String::new();
        pipes.errors.read_to_string(&mut said).await.unwrap();
        // It can be asked again.
        for _ in 0..2 {
            assert_eq!(process.ended().await.unwrap().code(), Some(3));
        }
        assert_eq!(said, "enough\n");
    }
}

#[tokio::test]
async fn a_process_that_nobody_needs_ends_though_it_does_not_read() {
    for parts in [Parts::default(), Parts::ALL] {
        let script = "trap '' TERM; sleep 600 & echo up; sleep 600";
        let (process, mut pipes) = live(&launcher(parts), script).await;
        let mut up = [0; 3];
        pipes.output.read_exact(&mut up).await.unwrap();
        // Its input is full.
        let full = vec![b'x'; 1 << 20];
        let written = tokio::time::timeout(POLL * 10, pipes.input.write_all(&full)).await;
        assert!(written.is_err());
        drop(process);
        // Whatever holds the other end is gone.
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(LIMIT, pipes.output.read_to_end(&mut rest)).await;
        ended.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_is_said() {
    for parts in [Parts::default(), Parts::ALL] {
        let reach = ProcessGrants::default().reach("/".as_ref(), None, Arc::default());
        let job = LiveJob {
            program: "/no/such/program".into(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: "/".into(),
            reach: reach.unwrap(),
            refused: Arc::new(|_| ()),
        };
        let (mut process, _pipes) = launcher(parts).start_live(job).await.unwrap();
        let error = process.ended().await.unwrap_err();
        assert!(error.message.contains("No such file"), "{error}");
    }
}

#[tokio::test]
async fn a_killed_daemon_takes_its_tools_along() {
    let script = ModelScript::new()
        .on_text("sleep")
        .reply(Reply::calls([ToolCall::new("slow", json!({}))]))
        .then(Reply::text("awake"));
    let server = ModelServer::start(script).await.unwrap();
    let mut served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    let tool = Tool {
        name: "slow",
        script: SLOW,
        yaml: "timeout_ms: 600000\n",
    };
    deploy(
        &served,
        "sleeper",
        &[(&server, PROTOCOLS[0].0)],
        &[tool],
        "",
    );
    let id = Api::of(&served.0).start("sleeper", "sleep").await;
    until(|| processes_of(&id).len() >= 4).await;
    served.0.kill9().unwrap();
    until(|| processes_of(&id).is_empty()).await;
}

async fn until(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap();
}
