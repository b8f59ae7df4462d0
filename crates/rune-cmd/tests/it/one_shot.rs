//! `rune run SPEC PROMPT`

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::home::{Home, write_plain};

fn plain() -> Home {
    let home = Home::new();
    write_plain(&home.path().join("plain"));
    home
}

#[test]
fn answers_without_a_daemon_and_says_who_answers() {
    let home = plain();
    let ran = home.rune(&["run", "plain", "Hello"]).ends(0);
    assert!(ran.stdout.contains("Echo: Hello"), "{}", ran.stdout);
    assert!(
        ran.stderr.contains("no language model is configured"),
        "{}",
        ran.stderr
    );
    assert!(!home.path().join(".rune/rune.db").exists());
    let streamed = home
        .rune(&["run", "plain/Runefile", "Hello", "--stream"])
        .ends(0);
    assert_eq!(streamed.stdout, ran.stdout);
}

#[test]
fn shows_tools_on_stderr_and_their_result_in_the_answer() {
    let home = plain();
    let ran = home
        .rune(&["run", "plain", "/tool rune@system-time {}"])
        .ends(0);
    assert!(
        ran.stderr.contains("[tool] rune@system-time"),
        "{}",
        ran.stderr
    );
    assert!(ran.stdout.contains("unix_seconds"), "{}", ran.stdout);
}

#[test]
fn prints_json_for_programs() {
    let home = plain();
    let answer = home.rune(&["run", "plain", "Hello", "-o", "json"]).json();
    assert_eq!(answer["status"], "completed");
    assert!(
        answer["output"].as_str().unwrap().contains("Echo: Hello"),
        "{answer}"
    );
    let events = home
        .rune(&["run", "plain", "Hello", "-o", "json", "--stream"])
        .ok();
    let names: Vec<String> = events
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|event| event["event"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names.first().unwrap(), "accepted");
    assert_eq!(names.last().unwrap(), "done");
}

#[test]
fn an_invalid_agent_ends_with_2() {
    let home = plain();
    let path = home.path().join("plain/Runefile");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("instructions:", "instruction:")).unwrap();
    let ran = home.rune(&["run", "plain", "Hello"]).ends(2);
    assert!(
        ran.stderr.contains("did you mean `instructions`"),
        "{}",
        ran.stderr
    );
}

#[test]
fn ctrl_c_cancels_and_leaves_nothing_running() {
    let home = plain();
    let mut command = home.command(&["run", "plain", "/tool wait {}"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The tool has started once its line is there.
    let stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut lines = std::io::BufRead::lines(stderr);
    assert!(lines.any(|line| line.unwrap().contains("[tool] wait")));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    // The end of stderr: no process of the tool holds it any more.
    assert!(lines.any(|line| line.unwrap().contains("cancelled")));
}
