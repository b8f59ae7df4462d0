//! Deploying agents and asking deployed ones.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::home::{Home, Ran, Served};
use crate::wire::{Api, answer};

#[tokio::test]
async fn a_deployed_agent_answers() {
    let served = Served::with_plain().await;
    let answer = served.rune(&["run", "--agent", "plain", "Hello"]).ok();
    assert!(answer.contains("Echo: Hello"), "{answer}");
    let ran = served
        .rune(&[
            "run",
            "--agent",
            "plain",
            "/tool rune@system-time {}",
            "--stream",
        ])
        .ends(0);
    assert!(ran.stdout.contains("unix_seconds"), "{}", ran.stdout);
    assert!(
        ran.stderr.contains("[tool] rune@system-time"),
        "{}",
        ran.stderr
    );

    let say = |text: &str| {
        served
            .rune(&[
                "run",
                "--agent",
                "plain",
                text,
                "--session-id",
                "s1",
                "-o",
                "json",
            ])
            .json()
    };
    assert_eq!(say("one")["session_id"], "s1");
    say("two");
    let session = served.rune(&["sessions", "s1", "-o", "json"]).json();
    assert_eq!(session["session"]["requests"], 2);
    assert_eq!(session["messages"].as_array().unwrap().len(), 4);
    let rows = served
        .rune(&["agent", "sessions", "plain", "-o", "json"])
        .json();
    assert_eq!(rows[0]["id"], "s1");
    assert_eq!(rows[0]["requests"], 2);
    let text = served.rune(&["sessions", "s1"]).ok();
    assert!(text.contains("user  two"), "{text}");

    let ran = served.rune(&["run", "--agent", "nobody", "Hello"]).ends(1);
    assert!(ran.stderr.contains("rune agent ls"), "{}", ran.stderr);
}

#[tokio::test]
async fn agents_are_listed_inspected_stopped_and_removed() {
    let served = Served::with_plain().await;
    let rows = served.rune(&["agent", "ls", "-o", "json"]).json();
    assert_eq!(rows[0]["agent"], "plain");
    assert_eq!(rows[0]["state"], "ready");
    let table = served.rune(&["agent", "ls"]).ok();
    assert!(table.starts_with("AGENT"), "{table}");
    let agent = served
        .rune(&["agent", "inspect", "plain", "-o", "json"])
        .json();
    assert_eq!(agent["replicas"][0]["state"], "ready");
    let status = served.rune(&["status", "-o", "json"]).json();
    assert_eq!(status["deployments"][0]["agent"], "plain");

    served.rune(&["run", "--agent", "plain", "Hello"]).ok();
    let log = served.rune(&["agent", "logs", "plain"]).ok();
    for event in ["accepted", "usage", "done"] {
        assert!(log.contains(event), "{event}: {log}");
    }

    served.rune(&["agent", "stop", "plain"]).ok();
    let ran = served.rune(&["run", "--agent", "plain", "Hello"]).ends(6);
    assert!(ran.stderr.contains("stopped"), "{}", ran.stderr);
    served.rune(&["agent", "rm", "plain"]).ok();
    served.rune(&["agent", "inspect", "plain"]).ends(1);
    served.rune(&["agent", "stop", "plain"]).ends(1);
}

#[tokio::test]
async fn a_deployment_is_stopped_and_removed_by_its_id() {
    let served = Served::with_plain().await;
    let deployed = served
        .rune(&[
            "run",
            "plain",
            "--namespace",
            "other",
            "--alias",
            "next",
            "--replicas",
            "2",
            "-o",
            "json",
        ])
        .json();
    assert_eq!(deployed["replicas"], 2);
    let id = deployed["id"].as_str().unwrap();
    served
        .rune(&[
            "run", "--agent", "plain", "Hello", "--ns", "other", "--alias", "next",
        ])
        .ok();
    served.rune(&["stop", id]).ok();
    served.rune(&["rm", id]).ok();
    let ran = served.rune(&["rm", id]).ends(1);
    assert!(ran.stderr.contains("does not exist"), "{}", ran.stderr);
    let rows = served
        .rune(&["agent", "ls", "--ns", "other", "-o", "json"])
        .json();
    assert_eq!(rows.as_array().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_takes_nothing_more_and_holds_up_nobody_who_changes_it() {
    let served = Served::with_plain().await;
    let api = Api::of(&served.0);
    let client = reqwest::Client::new();
    let deployments = format!("{}/v1/deployments", served.0.control_plane());
    let begun = Instant::now();
    for _ in 0..10 {
        let body = json!({"agent": "plain", "version": "0.1.0"});
        let apply = client.post(format!("{deployments}?wait=ready")).json(&body);
        let (status, row) = answer(apply).await.unwrap();
        assert!(status == 200 || status == 201, "{row}");
        let url = format!("{deployments}/{}", row["id"].as_str().unwrap());
        let scale = client.post(format!("{url}/scale"));
        let scale = answer(scale.json(&json!({"replicas": 2})));
        let (scaled, deleted) = tokio::join!(scale, client.delete(url).send());
        assert_eq!(deleted.unwrap().status(), 204);
        let (status, refused) = api.ask("plain", &json!({"input": "Hello"})).await;
        assert_eq!(status, 404, "{refused}");
        // One of the two came first.
        let (status, row) = scaled.unwrap();
        assert!(status == 200 || status == 404, "{row}");
    }
    assert!(begun.elapsed() < Duration::from_secs(25));
    let metrics = api.get("/metrics").send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let wanted = "rune_replicas_wanted{namespace=\"dev\",agent=\"plain\",alias=\"stable\"} 0\n";
    assert!(metrics.contains(wanted), "{metrics}");
}

#[tokio::test]
async fn a_deployment_that_cannot_start_says_why() {
    let served = Served::with_plain().await;
    let path = served.0.home().join("plain/Runefile");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("Answer.", "\"Answer ${WHO}.\"")).unwrap();
    let ran = served.rune(&["run", "plain"]).ends(1);
    assert!(ran.stderr.contains("WHO"), "{}", ran.stderr);
    served.rune(&["run", "plain", "--env", "WHO=me"]).ok();
}

#[tokio::test]
async fn chat_reads_lines_in_one_session() {
    let served = Served::with_plain().await;
    let command = served.command(&["chat", "plain", "--session-id", "talk"]);
    let ran = Ran::with_input(command, "one\n\ntwo\n/exit\nthree\n").ends(0);
    assert!(ran.stdout.contains("Echo: one"), "{}", ran.stdout);
    assert!(ran.stdout.contains("Echo: two"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("three"), "{}", ran.stdout);
    let session = served.rune(&["sessions", "talk", "-o", "json"]).json();
    assert_eq!(session["session"]["requests"], 2);
}

#[test]
fn without_a_daemon_the_command_that_helps_is_named() {
    let home = Home::new();
    for args in [
        &["status"][..],
        &["agent", "ls"],
        &["run", "--agent", "a", "Hello"],
        &["requests", "ls"],
    ] {
        let args: Vec<&str> = args
            .iter()
            .copied()
            .chain([
                "--gateway",
                "http://127.0.0.1:9",
                "--control-plane",
                "http://127.0.0.1:9",
            ])
            .collect();
        let ran = home.rune(&args).ends(6);
        assert!(
            ran.stderr.contains("rune daemon start"),
            "{args:?}: {}",
            ran.stderr
        );
    }
}
