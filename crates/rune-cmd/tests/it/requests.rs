//! Requests and their journals.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::home::Served;

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn requests_are_listed_shown_and_followed() {
    let served = Served::with_plain().await;
    let id = served
        .rune(&["run", "--agent", "plain", "Hello", "--background"])
        .ok();
    let id = id.trim();
    let events = lines(
        &served
            .rune(&["requests", "events", id, "-f", "-o", "json"])
            .ok(),
    );
    let last = events.last().unwrap();
    assert_eq!(last["event"], "done");
    assert!(
        last["data"]["output"]
            .as_str()
            .unwrap()
            .contains("Echo: Hello"),
        "{last}"
    );
    let numbers: Vec<u64> = events
        .iter()
        .filter_map(|event| event["id"].as_u64())
        .collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());

    let replayed = served.rune(&["requests", "replay", id]).ok();
    assert!(replayed.contains("replays the same"), "{replayed}");

    // What has ended is printed without -f, from any point on.
    let after = (numbers.len() - 1).to_string();
    let rest = served
        .rune(&["requests", "events", id, "--after", &after, "-o", "json"])
        .ok();
    assert_eq!(lines(&rest).len(), 1);

    let shown = served.rune(&["requests", "show", id, "-o", "json"]).json();
    assert_eq!(shown["status"], "completed");
    let rows = served.rune(&[
        "requests",
        "ls",
        "--agent",
        "plain",
        "--status",
        "completed",
        "-o",
        "json",
    ]);
    assert_eq!(rows.json()[0]["id"], id);
    let failed = served
        .rune(&["requests", "ls", "--status", "failed", "-o", "json"])
        .json();
    assert_eq!(failed.as_array().unwrap().len(), 0);
    served.rune(&["requests", "show", "req_nonsense"]).ends(2);
    served
        .rune(&["requests", "show", "req_00000000000000000000000000000000"])
        .ends(1);
}

#[tokio::test]
async fn a_running_request_is_cancelled() {
    let served = Served::with_plain().await;
    let id = served
        .rune(&["run", "--agent", "plain", "/tool wait {}", "--background"])
        .ok();
    let id = id.trim();
    let ran = served.rune(&["agent", "rm", "plain"]);
    // It may be accepted and not running yet; then nothing keeps the agent from being removed.
    assert!(
        ran.code == 0 || ran.stderr.contains("--force"),
        "{}",
        ran.stderr
    );
    let text = served.rune(&["requests", "cancel", id]).ok();
    assert!(text.contains("cancelled"), "{text}");
    let events = served
        .rune(&["requests", "events", id, "-f", "-o", "json"])
        .ok();
    assert_eq!(lines(&events).last().unwrap()["data"]["code"], "cancelled");
}

#[tokio::test]
async fn a_second_signal_ends_the_daemon_at_once_and_the_request_goes_on_later() {
    let mut served = Served::with_plain().await;
    let id = served
        .rune(&["run", "--agent", "plain", "/tool wait {}", "--background"])
        .ok();
    let pid = i32::try_from(served.0.pid().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    // The request runs for 50 seconds and would be waited for.
    while !served.0.log().contains("shutting down") {
        tokio::task::yield_now().await;
    }
    assert_eq!(served.0.terminate().await.unwrap().code(), Some(130));
    served.0.restart().await.unwrap();
    let shown = served
        .rune(&["requests", "show", id.trim(), "-o", "json"])
        .json();
    assert_ne!(shown["status"], "failed", "{shown}");
    served.rune(&["requests", "cancel", id.trim()]).ok();
}
