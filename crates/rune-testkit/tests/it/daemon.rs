//! [`TestDaemon`] against a stand-in that does what the real daemon promises: `daemon.json`, `/ready`, SIGTERM.

use std::{
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
};

use rune_testkit::{TestDaemon, TestkitError};

const STAND_IN: &str = r#"#!/usr/bin/env python3
import http.server, json, os, signal, sys
data = sys.argv[sys.argv.index("--data-dir") + 1]
os.makedirs(data, exist_ok=True)
print("environment", sorted(os.environ), file=sys.stderr, flush=True)
if "--broken" in sys.argv:
    sys.exit("no database")
starts = os.path.join(data, "starts")
open(starts, "a").write("x")
asked = 0
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global asked
        asked += 1
        self.send_response(200 if asked > 1 else 503)
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
url = "http://127.0.0.1:%d" % server.server_port
with open(os.path.join(data, "daemon.json.new"), "w") as file:
    json.dump({"pid": os.getpid(), "gateway": url, "control_plane": url}, file)
os.rename(os.path.join(data, "daemon.json.new"), os.path.join(data, "daemon.json"))
server.serve_forever()
"#;

fn stand_in(dir: &Path) -> PathBuf {
    let path = dir.join("rune");
    std::fs::write(&path, STAND_IN).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
async fn survives_kill_and_restart_on_the_same_data() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = TestDaemon::builder(stand_in(dir.path()))
        .env("RUNE_API_KEY", "k")
        .start()
        .await
        .unwrap();
    let first = daemon.pid().unwrap();
    assert!(
        reqwest::get(format!("{}/ready", daemon.gateway()))
            .await
            .unwrap()
            .status()
            .is_success()
    );
    assert_eq!(daemon.kill9().unwrap().signal(), Some(9));
    assert!(matches!(daemon.kill9(), Err(TestkitError::DaemonDown)));
    daemon.restart().await.unwrap();
    assert_ne!(daemon.pid().unwrap(), first);
    daemon.restart().await.unwrap();
    assert_eq!(
        std::fs::read_to_string(daemon.data_dir().join("starts")).unwrap(),
        "xxx"
    );
    assert_eq!(daemon.terminate().await.unwrap().code(), Some(7));
    assert!(
        daemon.log().contains("'HOME', ") && daemon.log().contains("'RUNE_API_KEY', 'TMPDIR'"),
        "{}",
        daemon.log()
    );
    assert!(!daemon.log().contains("CARGO"), "{}", daemon.log());
}

#[tokio::test]
async fn leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = TestDaemon::builder(stand_in(dir.path()))
        .start()
        .await
        .unwrap();
    let (home, url) = (daemon.home().to_owned(), daemon.gateway().to_owned());
    drop(daemon);
    assert!(!home.exists());
    assert!(reqwest::get(url).await.is_err());
}

#[tokio::test]
async fn a_daemon_that_does_not_start_shows_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let error = TestDaemon::builder(stand_in(dir.path()))
        .arg("--broken")
        .start()
        .await
        .unwrap_err();
    assert!(matches!(error, TestkitError::DaemonEnded { .. }));
    assert!(error.to_string().contains("no database"), "{error}");
}
