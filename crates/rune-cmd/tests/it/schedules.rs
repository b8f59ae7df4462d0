//! Schedules of a real daemon.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::home::{RUNE, Served};
use crate::readme::{Tour, run_page};
use crate::wire::{POLL, Seeded};

/// How often the daemon is killed.
const KILLS: u64 = 4;
/// Planned times that are waited for between two kills.
const FIRES: usize = 3;
const SEED: u64 = 0x5eed_0009;

fn shown(served: &Served, fires: &str) -> Value {
    let show = ["schedule", "show", "tick", "--fires", fires, "-o", "json"];
    served.rune(&show).json()
}

fn fires(served: &Served) -> Vec<Value> {
    let data = shown(served, "1000");
    data["fires"].as_array().unwrap().clone()
}

/// Milliseconds of the planned time.
fn planned(fire: &Value) -> i64 {
    let time: jiff::Timestamp = fire["planned_at"].as_str().unwrap().parse().unwrap();
    time.as_millisecond()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_second_has_one_request_through_kills() {
    let mut served = Served::with_plain().await;
    let create = [
        "schedule",
        "create",
        "tick",
        "--agent",
        "plain",
        "--every",
        "1s",
        "--catch-up",
        "all",
        "--overlap",
        "allow",
        "tick",
    ];
    served.rune(&create).ok();
    let mut seeded = Seeded::new(SEED);
    for _ in 0..KILLS {
        let before = fires(&served).len();
        while fires(&served).len() < before + FIRES {
            tokio::time::sleep(POLL).await;
        }
        // Somewhere around a planned time.
        tokio::time::sleep(Duration::from_millis(seeded.below(1000))).await;
        served.0.kill9().unwrap();
        tokio::time::sleep(Duration::from_millis(seeded.below(3000))).await;
        served.0.restart().await.unwrap();
    }
    let before = fires(&served).len();
    while fires(&served).len() < before + FIRES {
        tokio::time::sleep(POLL).await;
    }
    served.rune(&["schedule", "pause", "tick"]).ok();
    let pending = |fire: &Value| fire["state"] == "pending";
    while fires(&served).iter().any(pending) {
        tokio::time::sleep(POLL).await;
    }

    let mut fires = fires(&served);
    fires.reverse();
    assert!(fires.len() >= FIRES * 5, "{}", fires.len());
    for pair in fires.windows(2) {
        assert_eq!(planned(&pair[1]) - planned(&pair[0]), 1000, "{pair:?}");
    }
    let list = [
        "requests", "ls", "--agent", "plain", "--limit", "1000", "-o", "json",
    ];
    let requests = served.rune(&list).json();
    let mut by_time: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for request in requests.as_array().unwrap() {
        assert_eq!(request["caller"], "schedule:tick", "{request}");
        let time = request["metadata"]["planned_at"].as_str().unwrap();
        by_time.entry(time).or_default().push(request);
    }
    assert_eq!(by_time.len(), fires.len());
    for fire in &fires {
        assert_eq!(fire["state"], "fired", "{fire}");
        let made = &by_time[fire["planned_at"].as_str().unwrap()];
        assert_eq!(made.len(), 1, "{made:?}");
        assert_eq!(made[0]["id"], fire["request_id"]);
    }
}

#[test]
fn the_page_works_as_written() {
    let tour = Tour::new();
    let printed = run_page(&tour, "docs/schedules.md").concat();
    for part in [
        "0 8 * * MON-FRI (Europe/Berlin)",
        "every 15m",
        "fired daily: request req_",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
}

#[test]
fn the_reporter_works_as_its_readme_says() {
    let tour = Tour::new();
    let printed = run_page(&tour, "examples/reporter/README.md");
    assert!(printed[1].contains("all is well."), "{printed:?}");
    assert!(printed[1].contains("fired daily"), "{printed:?}");
    assert!(printed[2].contains("removed pulse"), "{printed:?}");
}

#[tokio::test]
async fn what_is_wrong_with_a_schedule_is_said_at_once() {
    let served = Served(
        rune_testkit::TestDaemon::builder(RUNE)
            .start()
            .await
            .unwrap(),
    );
    let create = |more: &[&str]| {
        let mut args = vec!["schedule", "create", "x", "--agent", "nobody", "input"];
        args.extend(more);
        served.rune(&args)
    };
    for (more, code, message) in [
        (
            &["--cron", "61 * * * *"][..],
            2,
            "cron expression `61 * * * *` is not valid",
        ),
        (&["--cron", "0 0 30 2 *"], 2, "never comes true"),
        (
            &["--cron", "* * * * *", "--timezone", "Mars/Base"],
            2,
            "time zone `Mars/Base` does not exist",
        ),
        (&["--every", "10ms"], 2, "out of range"),
        (
            &["--every", "1m", "--jitter", "2m"],
            2,
            "`jitter_ms` must be 0 to 60000",
        ),
        (&["--every", "soon"], 2, "expected a time such as"),
        (&[], 2, "--cron"),
        (&["--every", "1m"], 1, "agent `nobody` is not deployed"),
    ] {
        let ran = create(more).ends(code);
        assert!(ran.stderr.contains(message), "{message}: {}", ran.stderr);
    }
    let unknown = served.rune(&["schedule", "run", "x"]).ends(1);
    assert!(
        unknown.stderr.contains("schedule `dev/x` does not exist"),
        "{}",
        unknown.stderr
    );
}
