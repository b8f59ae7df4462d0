//! `rune chaos`.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::home::{Home, Ran};

fn chaos(home: &Home, args: &[&str]) -> std::process::Command {
    home.command(&[&["chaos", "-o", "json", "--dir", "."], args].concat())
}

/// Nothing is left of a run that found nothing.
fn assert_nothing_left(home: &Home) {
    let entries = std::fs::read_dir(home.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = names
        .filter(|name| name.starts_with("rune-chaos-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_cluster_stands_what_happens_to_it() {
    let home = Home::new();
    let ran = Ran::new(chaos(&home, &["--duration", "10s", "--seed", "1"]));
    print!("{}", ran.stderr);
    let said = ran.stderr.clone();
    let report = ran.json();
    assert_eq!(
        (&report["seed"], &report["nodes"]),
        (&Value::from(1), &Value::from(3))
    );
    let count = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64).unwrap();
    let asked = count("/requests/asked");
    assert!(asked > 0, "{report}");
    assert_eq!(count("/requests/accepted"), asked, "{report}");
    assert_eq!(count("/requests/completed"), asked, "{report}");
    let faults = report["faults"].as_array().unwrap();
    assert!(!faults.is_empty(), "{report}");
    for fault in faults {
        assert!(said.contains(fault["what"].as_str().unwrap()), "{said}");
    }
    let invariants = report["invariants"].as_array().unwrap();
    assert_eq!(invariants.len(), 13);
    for invariant in invariants {
        assert_eq!(invariant["violations"], json!([]), "{invariant}");
        // There is something in which each could have been violated, but for panics.
        let is_checked = invariant["checked"].as_u64() > Some(0);
        assert!(
            is_checked || invariant["name"] == "no node fails inside",
            "{invariant}"
        );
    }
    assert_nothing_left(&home);
}

#[test]
fn whoever_ends_it_early_is_told_what_there_is() {
    let home = Home::new();
    let mut command = chaos(&home, &["--duration", "1h", "--faults", "pause,transfer"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().unwrap();
    let mut said = BufReader::new(running.stderr.take().unwrap()).lines();
    let first = said.find(|line| line.as_ref().unwrap().contains(" s  node"));
    assert!(first.is_some());
    kill_process(Pid::from_child(&running), Signal::INT).unwrap();
    assert!(said.any(|line| line.unwrap().contains("Ctrl-C again")));
    // It goes on saying what it does.
    let rest: Vec<String> = said.map(Result::unwrap).collect();
    let ran = Ran::from(running.wait_with_output().unwrap());
    println!("{}", rest.join("\n"));
    let report = ran.json();
    assert!(report["faults"][0]["what"].is_string(), "{report}");
    assert!(report["duration_ms"].as_u64() < Some(3_600_000), "{report}");
    assert_nothing_left(&home);
}
