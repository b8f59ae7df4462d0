//! Replicas in processes of their own.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

use super::outside::Orphan;
use super::rig::Rig;
use crate::wire::answer;

/// A process with the record of a replica, beside those of a daemon that is down.
pub(super) fn plant(rig: &Rig, id: &str) -> Orphan {
    let child = Command::new("sleep").arg("600").process_group(0).spawn();
    let mut child = child.unwrap();
    let pid = Pid::from_child(&child);
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let began: u64 = fields.split(' ').nth(19).unwrap().parse().unwrap();
    let record = rig.records()[0].with_file_name(format!("{id}.json"));
    let value = json!({"pid": child.id(), "began": began, "endpoint": "unix:/nowhere"});
    std::fs::write(&record, value.to_string()).unwrap();
    std::thread::spawn(move || child.wait());
    let look = move |end: bool| {
        if end {
            // It may have ended by now.
            let _ = kill_process(pid, Signal::KILL);
        }
        record.exists() || test_kill_process(pid).is_ok()
    };
    Orphan {
        look: Box::new(look),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_end_with_the_daemon_and_nothing_of_them_is_left() {
    let mut rig = Rig::start("process", "").await;
    let running = rig.pids();
    assert_eq!(running.len(), 1);
    rig.served.0.terminate().await.unwrap();
    assert!(test_kill_process(running[0]).is_err(), "it still runs");
    let left = std::fs::read_dir(rig.served.0.data_dir().join("replicas")).unwrap();
    assert_eq!(left.count(), 0);
}

/// The processes that are replicas of a daemon, whether it has noted them or not.
fn replicas_of(rig: &Rig) -> Vec<String> {
    let dir = rig.served.0.data_dir().join("replicas");
    let variable = format!("RUNE_REPLICA_DATA_DIR={}/", dir.display());
    let processes = std::fs::read_dir("/proc").unwrap();
    let paths = processes.map(|entry| entry.unwrap().path());
    let of = paths.filter(|path| {
        // Many are no processes, and some have ended by now.
        let env = std::fs::read(path.join("environ")).unwrap_or_default();
        String::from_utf8_lossy(&env).contains(&variable)
    });
    of.map(|path| path.display().to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_replica_is_started_while_the_daemon_waits_for_the_last_one_to_end() {
    let mut rig = Rig::with_replicas("process", "", 2).await;
    assert_eq!(replicas_of(&rig).len(), 2);
    // It hears nothing, and is killed in the end; the loop looks more than once until then.
    kill_process(rig.pids()[0], Signal::STOP).unwrap();
    rig.served.0.terminate().await.unwrap();
    assert_eq!(replicas_of(&rig), Vec::<String>::new());
    assert!(rig.records().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_record_cannot_be_read_goes_on() {
    let rig = Rig::start("process", "").await;
    let running = rig.pids();
    let id = rig.slow().await;
    rig.begun(1).await;
    let record = rig.records()[0].clone();
    let aside = record.with_extension("aside");
    std::fs::rename(&record, &aside).unwrap();
    std::fs::create_dir(&record).unwrap();
    // It answers once the loop has looked.
    let rows = rig.served.rune(&["agent", "ls", "-o", "json"]).json();
    let deployment = rows[0]["id"].as_str().unwrap();
    let url = format!(
        "{}/v1/deployments/{deployment}/scale?wait=ready",
        rig.served.0.control_plane()
    );
    let scale = reqwest::Client::new().post(url);
    let (status, row) = answer(scale.json(&json!({"replicas": 1}))).await.unwrap();
    assert_eq!((status, &row["state"]), (200, &json!("ready")), "{row}");
    let log = rig.served.0.log();
    let why = "it is not known whether the process of a replica runs";
    assert!(log.contains(why), "{log}");
    std::fs::remove_dir(&record).unwrap();
    std::fs::rename(&aside, &record).unwrap();
    rig.go();
    let row = rig.api.ended(&id).await;
    assert_eq!(
        (&row["status"], &row["attempts"]),
        (&json!("completed"), &json!(1)),
        "{row}"
    );
    assert_eq!(rig.pids(), running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_asks_for_the_key_of_its_daemon() {
    let rig = Rig::start("process", "").await;
    let record: Value = serde_json::from_slice(&std::fs::read(&rig.records()[0]).unwrap()).unwrap();
    let endpoint = record["endpoint"].as_str().unwrap();
    let socket = endpoint.strip_prefix("unix:").unwrap();
    let client = reqwest::Client::builder().unix_socket(socket);
    let client = client.build().unwrap();
    let endpoint = "http://replica";
    let health = client.get(format!("{endpoint}/health")).send().await;
    assert_eq!(health.unwrap().status(), 200);
    // Nobody else's processes come that far.
    let mode = std::fs::metadata(socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for (method, path) in [
        (reqwest::Method::GET, "/v1/status"),
        (reqwest::Method::POST, "/v1/run"),
        (reqwest::Method::POST, "/v1/drain"),
    ] {
        let url = format!("{endpoint}{path}");
        for bearer in ["", "wrong"] {
            let asked = client.request(method.clone(), &url).bearer_auth(bearer);
            assert_eq!(asked.send().await.unwrap().status(), 401, "{path}");
        }
    }
    let internal = format!("{}/internal/v1/engine", rig.served.0.control_plane());
    let asked = reqwest::Client::new().post(internal).bearer_auth("wrong");
    assert_eq!(asked.send().await.unwrap().status(), 401);
}
