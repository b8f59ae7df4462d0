//! The end of a daemon in good order, and a disk that is full.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rune_testkit::{ModelScript, ModelServer, Protocol, Reply, TestDaemon, ToolCall};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::home::{RUNE, Served};
use crate::wire::{Api, LIMIT, POLL, Tool, answer, assert_no_panic, deploy, spawn};

const SLEEP: Tool<'static> = Tool {
    name: "nap",
    script: "sleep 30\necho '{}'\n",
    yaml: "idempotent: true\ntimeout_ms: 60000\n",
};

fn script() -> ModelScript {
    ModelScript::new()
        .on_text("slow")
        .reply(Reply::echo().first_byte_after(Duration::from_millis(800)))
        .on_text("nap")
        .reply(Reply::calls([ToolCall::new("nap", json!({}))]))
        .then(Reply::text("awake"))
}

async fn serve(server: &ModelServer, drain_seconds: &str) -> Served {
    let builder = TestDaemon::builder(RUNE).env("RUNE_DRAIN_GRACE_SECS", drain_seconds);
    let served = Served(builder.start().await.unwrap());
    deploy(
        &served,
        "agent",
        &[(server, Protocol::Openai)],
        &[SLEEP],
        "",
    );
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_request_ends_before_the_daemon_does() {
    let server = ModelServer::start(script()).await.unwrap();
    let mut served = serve(&server, "20").await;
    let api = Api::of(&served.0);
    let asking = spawn({
        let api = api.clone();
        async move { api.ask("agent", &json!({"input": "slow"})).await }
    });
    server.wait_for_requests(1).await.unwrap();
    let status = served.0.terminate().await.unwrap();
    assert!(status.success(), "{status}");
    let (status, body) = asking.await.unwrap();
    assert_eq!(
        (status, &body["output"]),
        (200, &json!("Echo: slow")),
        "{body}"
    );
    served.0.restart().await.unwrap();
    let row = Api::of(&served.0)
        .request(body["request_id"].as_str().unwrap())
        .await;
    assert_eq!(
        (&row["status"], &row["attempts"]),
        (&json!("completed"), &json!(1))
    );
}

#[tokio::test]
async fn orderly_restarts_do_not_make_a_request_poisonous() {
    let server = ModelServer::start(script()).await.unwrap();
    let mut served = serve(&server, "0").await;
    let id = Api::of(&served.0).start("agent", "nap").await;
    for attempt in 1..=7 {
        let api = Api::of(&served.0);
        let taken = async {
            while api.request(&id).await["attempts"] != attempt {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(LIMIT / 4, taken).await.unwrap();
        served.0.restart().await.unwrap();
    }
    let row = Api::of(&served.0).request(&id).await;
    assert_eq!(row["status"], "running", "{row}");
}

#[tokio::test]
async fn half_a_request_harms_nobody() {
    let server = ModelServer::start(script()).await.unwrap();
    let mut served = serve(&server, "5").await;
    let host = served.0.gateway().trim_start_matches("http://").to_owned();
    let mut open = Vec::new();
    let halves = [
        "POST /v1/agents/agent/inv".to_owned(),
        format!(
            "POST /v1/agents/agent/invoke HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{\"input\""
        ),
    ];
    for half in &halves {
        for _ in 0..20 {
            let mut socket = TcpStream::connect(&host).await.unwrap();
            socket.write_all(half.as_bytes()).await.unwrap();
            open.push(socket);
        }
    }
    let api = Api::of(&served.0);
    assert_eq!(api.ask("agent", &json!({"input": "hi"})).await.0, 200);
    let mut garbage = TcpStream::connect(&host).await.unwrap();
    garbage
        .write_all(b"\x16\x03\x01nonsense\r\n\r\n")
        .await
        .unwrap();
    let mut said = Vec::new();
    // The daemon may close at once.
    let _ = garbage.read_to_end(&mut said).await;
    assert!(
        said.is_empty() || said.starts_with(b"HTTP/1.1 400"),
        "{said:?}"
    );
    assert_eq!(api.ask("agent", &json!({"input": "hi"})).await.0, 200);
    // They do not keep the daemon from ending, either.
    served.0.terminate().await.unwrap();
    assert_no_panic(&served);
}

/// A small file system; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=12m", "tmpfs"])
            .arg(at);
        mount
            .output()
            .is_ok_and(|ran| ran.status.success())
            .then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the daemon may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_clearly_and_loses_nothing() {
    let mount = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&mount.path().join("disk")) else {
        println!("skipped: a small file system cannot be mounted here (root is needed)");
        return;
    };
    let server = ModelServer::start(script()).await.unwrap();
    let url = format!("sqlite:{}", disk.0.join("rune.db").display());
    let builder = TestDaemon::builder(RUNE).arg("--database-url").arg(url);
    let mut served = Served(builder.start().await.unwrap());
    deploy(
        &served,
        "agent",
        &[(&server, Protocol::Openai)],
        &[SLEEP],
        "",
    );
    let api = Api::of(&served.0);
    let (_, before) = api.ask("agent", &json!({"input": "before"})).await;
    let slow = api.start("agent", "slow").await;
    server.wait_for_requests(2).await.unwrap();
    fill(&disk.0.join("ballast"));
    let large = "x".repeat(300_000);
    let mut refused = None;
    for _ in 0..50 {
        let (status, body) = api.ask("agent", &json!({"input": large})).await;
        if status != 200 {
            refused = Some((status, body));
            break;
        }
    }
    let (status, body) = refused.unwrap();
    assert_eq!(
        (status, &body["error"]["code"]),
        (503, &json!("unavailable")),
        "{body}"
    );
    let text = body.to_string();
    assert!(!text.contains("/tmp") && !text.contains("SELECT"), "{text}");
    let id = before["request_id"].as_str().unwrap();
    assert_eq!(api.request(id).await["output"], "Echo: before");

    std::fs::remove_file(disk.0.join("ballast")).unwrap();
    let recovered = async {
        while api.ask("agent", &json!({"input": "after"})).await.0 != 200 {
            tokio::time::sleep(POLL).await;
        }
        // What stopped in the middle is taken up without a restart.
        while api.request(&slow).await["status"] != "completed" {
            tokio::time::sleep(POLL).await;
        }
        loop {
            let path = "/v1/requests?status=accepted,running";
            let (_, page) = answer(api.get(path)).await.unwrap();
            if page["items"].as_array().unwrap().is_empty() {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT / 2, recovered).await.unwrap();
    served.0.restart().await.unwrap();
    let row = Api::of(&served.0).request(id).await;
    assert_eq!(row["output"], "Echo: before");
    assert_no_panic(&served);
    served.0.terminate().await.unwrap();
}

/// Writes until there is no room left.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).unwrap();
    for size in [64 * 1024, 4096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}
