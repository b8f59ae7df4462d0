//! `rune backup` and `rune restore`, beside daemons that work.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rune_testkit::{ModelScript, ModelServer, Protocol, Reply, TestDaemon, ToolCall};
use serde_json::{Value, json};

use crate::home::{Home, RUNE, Ran, Served};
use crate::wire::{Api, LIMIT, Seeded, Tool, answer, assert_no_panic, deploy, spawn};

/// Its output is too large for a row.
const LARGE: Tool<'static> = Tool {
    name: "large",
    script: "awk 'BEGIN { printf \"\\\"\"; for (i = 0; i < 300000; i++) printf \"x\"; printf \"\\\"\" }'\n",
    yaml: "",
};

const AGENT: &str = "agent";

/// Keeps what it shows as an object that only a text names.
const CANVAS: Tool<'static> = Tool {
    name: "rune@canvas-present",
    script: "",
    yaml: "",
};

/// Says how long its secret is.
const MEASURE: Tool<'static> = Tool {
    name: "measure",
    script: "echo \"{\\\"length\\\": ${#DEPLOY_KEY}}\"\n",
    yaml: "capabilities: [secret:DEPLOY_KEY]\n",
};

/// `slow` takes long enough for a backup to find it under way.
fn script() -> ModelScript {
    ModelScript::new()
        .on_text("large")
        .reply(Reply::calls([ToolCall::new("large", json!({}))]))
        .then(Reply::echo())
        .on_text("show")
        .reply(Reply::calls([ToolCall::new(
            "rune__canvas-present",
            json!({"title": "A page", "format": "markdown", "content": "# Hi"}),
        )]))
        .then(Reply::echo())
        .on_text("measure")
        .reply(Reply::calls([ToolCall::new("measure", json!({}))]))
        .then(Reply::echo())
        .on_text("slow")
        .reply(Reply::echo().first_byte_after(Duration::from_millis(1500)))
}

async fn daemon(server: &ModelServer) -> Served {
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    let models = [(server, Protocol::Openai)];
    let many = "runtime: {concurrency_limit: 100}\n";
    deploy(&served, AGENT, &models, &[LARGE], many);
    served
}

/// Where a test keeps its backups.
fn target(served: &Served) -> PathBuf {
    served.0.home().join("backups")
}

fn backup(served: &Served) -> Value {
    let target = target(served);
    served
        .rune(&["backup", target.to_str().unwrap(), "-o", "json"])
        .json()
}

/// Every file below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let files = entries.flat_map(|entry| match entry.file_type().unwrap().is_dir() {
        true => files(&entry.path()),
        false => vec![entry.path()],
    });
    files.collect()
}

/// What is in a data directory is not there any more, as after the loss of a disk.
fn lose_data(served: &Served) {
    fs::remove_dir_all(served.0.data_dir()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_restores_to_that_moment_and_what_was_unfinished_goes_on() {
    let server = ModelServer::start(script()).await.unwrap();
    let mut served = daemon(&server).await;
    let api = Api::of(&served.0);
    let (_, large) = api.ask(AGENT, &json!({"input": "large"})).await;
    assert_eq!(large["status"], "completed", "{large}");
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..16)
        .map(|client| {
            let (api, stop) = (api.clone(), Arc::clone(&stop));
            spawn(async move {
                let mut n = 0_usize;
                while !stop.load(Ordering::Relaxed) {
                    let kind = ["plain", "slow"][client % 2];
                    let body = json!({"input": format!("{kind} {client}-{n}")});
                    let _ = answer(api.invoke(AGENT, &body)).await;
                    n += 1;
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let made = tokio::task::block_in_place(|| backup(&served));
    tokio::time::sleep(Duration::from_millis(200)).await;
    served.0.kill9().unwrap();
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let count = |backup: &Value| backup["tables"]["requests"]["rows"].as_u64().unwrap();

    // The daemon went on after the backup was made, which is what shows that the restored one is of that moment.
    let later = backup(&served);
    assert!(count(&later) > count(&made), "{later} {made}");
    lose_data(&served);
    let target = target(&served);
    let (target, id) = (target.to_str().unwrap(), made["backup"].as_str().unwrap());
    served.rune(&["restore", target, "--backup", id]).ok();
    let restored = backup(&served);
    assert_eq!(restored["rows"], made["rows"]);
    assert_eq!(restored["tables"], made["tables"]);
    assert_eq!(restored["objects"], made["objects"]);
    // But for the page that counts changes the file is the same, too.
    assert!(restored["written_parts"].as_u64() <= Some(1), "{restored}");

    served.0.restart().await.unwrap();
    let api = Api::of(&served.0);
    let id = large["request_id"].as_str().unwrap();
    assert_eq!(api.request(id).await["output"], large["output"]);
    let events = api.events(id, 0).await.rest().await;
    assert!(
        events.iter().any(|event| event.name == "tool_done"),
        "{events:?}"
    );
    let mut rows = Vec::new();
    let mut after = String::new();
    let all = async {
        loop {
            let path = format!("/v1/requests?limit=20{after}");
            let (_, page) = answer(api.get(&path)).await.unwrap();
            rows.extend(page["items"].as_array().unwrap().iter().cloned());
            match page["next"].as_str() {
                Some(cursor) => after = format!("&cursor={cursor}"),
                None => break,
            }
        }
    };
    tokio::time::timeout(LIMIT, all).await.unwrap();
    assert_eq!(rows.len() as u64, count(&made));
    for row in rows {
        let row = api.ended(row["id"].as_str().unwrap()).await;
        let input = row["input"].as_str().unwrap();
        assert_eq!(row["status"], "completed", "{row}");
        assert_eq!(row["output"], format!("Echo: {input}"), "{row}");
    }
    let log = served.0.log();
    let (_, recovered) = log.rsplit_once("recovered=").unwrap();
    let recovered: u64 = recovered
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    println!(
        "{} requests, {recovered} of them taken up again",
        count(&made)
    );
    assert!(recovered > 0, "nothing ran when the backup was made");
    assert_no_panic(&served);
    served.0.terminate().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_backup_costs_what_has_changed_and_all_of_it_is_private() {
    let server = ModelServer::start(script()).await.unwrap();
    let served = daemon(&server).await;
    let api = Api::of(&served.0);
    api.ask(AGENT, &json!({"input": "large"})).await;
    let dir = target(&served);
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let first = backup(&served);
    // The package and the output of the tool.
    assert_eq!(first["objects"], 2, "{first}");
    assert_eq!(first["lost"], json!([]));
    api.ask(AGENT, &json!({"input": "plain"})).await;
    let second = backup(&served);
    assert_ne!(second["backup"], first["backup"]);
    let parts = first["written_parts"].as_u64().unwrap();
    let new = second["written_parts"].as_u64().unwrap();
    assert!(new < parts, "{second}");
    for path in files(&dir) {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", path.display());
    }
    let listed = served
        .rune(&["backup", "ls", dir.to_str().unwrap(), "-o", "json"])
        .json();
    let ids: Vec<&Value> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["backup"])
        .collect();
    assert_eq!(ids, [&first["backup"], &second["backup"]]);
    // Nothing of the work is left.
    let names: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_with_a_missing_or_altered_part_is_refused_by_the_name_of_the_part() {
    let mut served = Served::with_plain().await;
    let made = backup(&served);
    served.0.kill9().unwrap();
    let dir = target(&served);
    let at = dir.to_str().unwrap();
    served.rune(&["backup", "verify", at]).ok();
    let refused = |path: &Path| {
        for command in [
            &["backup", "verify", at][..],
            &["restore", at, "--data-dir", "fresh"],
        ] {
            let ran = served.rune(command).ends(1);
            assert!(
                ran.stderr.contains(path.to_str().unwrap()),
                "{}",
                ran.stderr
            );
        }
        let fresh = served.0.home().join("fresh");
        assert!(!fresh.join("rune.db").exists());
        // What it has restored of the parts that are whole would be used.
        let _ = fs::remove_dir_all(fresh);
    };
    let every = files(&dir);
    assert!(every.len() >= 3, "{every:?}");
    for path in every {
        let whole = fs::read(&path).unwrap();
        let mut altered = whole.clone();
        let middle = altered.len() / 2;
        altered[middle] ^= 1;
        fs::write(&path, &altered).unwrap();
        refused(&path);
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        refused(&path);
        if path.extension().is_none() {
            fs::remove_file(&path).unwrap();
            refused(&path);
        }
        fs::write(&path, &whole).unwrap();
    }
    served.rune(&["backup", "verify", at]).ok();
    // A part that is not what it was is written again by the next backup, which needs it, too.
    let part = files(&dir.join("objects")).pop().unwrap();
    let mut altered = fs::read(&part).unwrap();
    altered[0] ^= 1;
    for damaged in [&[][..], &altered] {
        fs::write(&part, damaged).unwrap();
        refused(&part);
        backup(&served);
        let id = made["backup"].as_str().unwrap();
        served.rune(&["backup", "verify", at, "--backup", id]).ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_damaged_is_told_whatever_refers_to_it() {
    let server = ModelServer::start(script()).await.unwrap();
    let served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    let models = [(&server, Protocol::Openai)];
    deploy(&served, AGENT, &models, &[CANVAS], "");
    let api = Api::of(&served.0);
    let (_, done) = api.ask(AGENT, &json!({"input": "show"})).await;
    assert_eq!(done["status"], "completed", "{done}");
    let objects = files(&served.0.data_dir().join("objects"));
    let is_canvas = |path: &&PathBuf| fs::read(path).unwrap() == b"# Hi";
    let canvas = objects.iter().find(is_canvas).unwrap();
    fs::write(canvas, "# Ho").unwrap();
    let lost = backup(&served)["lost"].clone();
    assert_eq!(lost.as_array().unwrap().len(), 1, "{lost}");
    let digest: Vec<_> = canvas.iter().rev().take(2).collect();
    let digest = format!("sha256:{}{}", digest[1].display(), digest[0].display());
    assert_eq!(lost[0], digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_overwrites_nothing_and_a_backup_nothing_foreign() {
    let mut served = Served::with_plain().await;
    backup(&served);
    let dir = target(&served);
    let at = dir.to_str().unwrap();
    let ran = served.rune(&["restore", at]).ends(1);
    assert!(ran.stderr.contains("already running"), "{}", ran.stderr);
    served.0.terminate().await.unwrap();
    let database = served.0.data_dir().join("rune.db");
    let before = fs::read(&database).unwrap();
    let ran = served.rune(&["restore", at]).ends(1);
    let path = database.to_str().unwrap();
    assert!(
        ran.stderr.contains(&format!("{path} exists already")),
        "{}",
        ran.stderr
    );
    assert_eq!(fs::read(&database).unwrap(), before);

    let data_dir = served.0.data_dir();
    let ran = served.rune(&["backup", data_dir.to_str().unwrap()]).ends(1);
    assert!(
        ran.stderr.contains("a directory of its own"),
        "{}",
        ran.stderr
    );
    let home = Home::new();
    let ran = home.rune(&["backup", "somewhere"]).ends(1);
    assert!(
        ran.stderr.contains("there is no database"),
        "{}",
        ran.stderr
    );
    for command in [["backup", "verify"], ["backup", "ls"]] {
        let ran = home.rune(&[command[0], command[1], "nowhere"]).ends(1);
        assert!(
            ran.stderr.contains("there is no backup in nowhere"),
            "{}",
            ran.stderr
        );
    }
    assert!(!home.path().join("nowhere").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_killed_is_none_and_stands_in_nobodys_way() {
    let server = ModelServer::start(script()).await.unwrap();
    let served = daemon(&server).await;
    let api = Api::of(&served.0);
    let input = "x".repeat(200_000);
    for _ in 0..40 {
        api.ask(AGENT, &json!({"input": input})).await;
    }
    let dir = target(&served);
    let at = dir.to_str().unwrap();
    let mut seeded = Seeded::new(7);
    let mut killed = 0;
    for _ in 0..20 {
        let mut child = begin_backup(&served).await;
        tokio::time::sleep(Duration::from_millis(seeded.below(150))).await;
        killed += u32::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(killed > 0, "every backup was faster");
    let listed = served.rune(&["backup", "ls", at, "-o", "json"]).json();
    for whole in listed.as_array().unwrap() {
        let id = whole["backup"].as_str().unwrap();
        served.rune(&["backup", "verify", at, "--backup", id]).ok();
    }
    println!(
        "{killed} of 20 backups killed at work, {} whole",
        listed.as_array().unwrap().len()
    );
    backup(&served);
    served.rune(&["backup", "verify", at]).ok();
    assert!(drafts(&dir).is_empty());
}

/// What backups that are being made, or were killed, have in a place.
fn drafts(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_draft = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with(".rune-backup-")
    };
    paths.filter(is_draft).collect()
}

/// A backup that has begun its work, unless it has ended already.
async fn begin_backup(served: &Served) -> Child {
    let dir = target(served);
    let before = drafts(&dir);
    let mut child = served
        .command(&["backup", dir.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = async {
        while child.try_wait().unwrap().is_none()
            && drafts(&dir).iter().all(|draft| before.contains(draft))
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LIMIT, begun).await.unwrap();
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_leaves_no_backup() {
    let served = Served::with_plain().await;
    let mount = served.0.home().join("small");
    fs::create_dir(&mount).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
        .arg(&mount)
        .output();
    if !mounted.is_ok_and(|ran| ran.status.success()) {
        println!("skipped: a small file system cannot be mounted here (root is needed)");
        return;
    }
    let at = mount.to_str().unwrap();
    let ran = served.rune(&["backup", at]);
    let listed = served.rune(&["backup", "ls", at, "-o", "json"]);
    let _ = Command::new("umount").arg("-l").arg(&mount).output();
    let ran = ran.ends(1);
    assert!(
        ran.stderr.contains("full") || ran.stderr.contains("No space left"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains(at), "{}", ran.stderr);
    assert_eq!(listed.json(), json!([]));
    backup(&served);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_come_back_with_their_key_which_is_not_in_the_backup() {
    let server = ModelServer::start(script()).await.unwrap();
    let mut served = Served(TestDaemon::builder(RUNE).start().await.unwrap());
    let models = [(&server, Protocol::Openai)];
    deploy(&served, AGENT, &models, &[MEASURE], "");
    let value = "a-value-of-some-length";
    let set = Ran::with_input(served.command(&["secret", "set", "DEPLOY_KEY"]), value);
    set.ok();
    let output = async |served: &Served| {
        let api = Api::of(&served.0);
        let (_, done) = api.ask(AGENT, &json!({"input": "measure"})).await;
        let id = done["request_id"].as_str().unwrap();
        let events = api.events(id, 0).await.rest().await;
        let done = events.iter().find(|event| event.name == "tool_done");
        done.unwrap().data["output"].clone()
    };
    let expected = json!({"length": value.len()});
    assert_eq!(output(&served).await, expected);
    let key = fs::read(served.0.data_dir().join("secret.key")).unwrap();
    let made = backup(&served);
    assert_eq!(made["secret_keys"].as_array().unwrap().len(), 1, "{made}");
    let text = String::from_utf8(key.clone()).unwrap();
    for path in files(&target(&served)) {
        let bytes = fs::read(&path).unwrap();
        let found = bytes
            .windows(text.trim().len())
            .any(|it| it == text.trim().as_bytes());
        assert!(!found, "{}", path.display());
    }
    served.0.terminate().await.unwrap();
    lose_data(&served);
    let dir = target(&served);
    let ran = served.rune(&["restore", dir.to_str().unwrap()]).ends(0);
    assert!(ran.stderr.contains("secret.key"), "{}", ran.stderr);
    let id = made["secret_keys"][0].as_str().unwrap();
    assert!(ran.stderr.contains(id), "{}", ran.stderr);
    // With another key it is told, too, and with its own nothing is.
    let file = served.0.data_dir().join("secret.key");
    for (content, told) in [(&b"0".repeat(64), true), (&key, false)] {
        lose_data(&served);
        fs::create_dir(served.0.data_dir()).unwrap();
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let ran = served.rune(&["restore", dir.to_str().unwrap()]).ends(0);
        assert_eq!(ran.stderr.contains(id), told, "{}", ran.stderr);
    }
    served.0.restart().await.unwrap();
    assert_eq!(output(&served).await, expected);
}
