//! The daemon in the background: start, stop, and everything that can be in the way.

use std::io::{BufRead, Write};
use std::net::TcpListener;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::home::{Home, Ran};

/// A home whose daemon is killed when the test ends.
struct Background(Home);

impl Background {
    fn new() -> Self {
        Self(Home::new())
    }

    fn data(&self, file: &str) -> PathBuf {
        self.0.path().join(".rune").join(file)
    }

    fn start(&self) -> Ran {
        self.start_with(&[])
    }

    fn start_with(&self, args: &[&str]) -> Ran {
        let ports = [
            "--gateway-addr",
            "127.0.0.1:0",
            "--control-plane-addr",
            "127.0.0.1:0",
        ];
        let all: Vec<&str> = ["daemon", "start"]
            .into_iter()
            .chain(ports)
            .chain(args.iter().copied())
            .collect();
        self.0.rune(&all)
    }

    fn address(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.data("daemon.json")).unwrap()).unwrap()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.address()["pid"].as_i64().unwrap().try_into().unwrap()).unwrap()
    }

    fn status(&self) -> Ran {
        self.0.rune(&["daemon", "status", "-o", "json"])
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.data("daemon.json").exists() && self.status().code == 0 {
            // It has ended already otherwise.
            let _ = kill_process(self.pid(), Signal::KILL);
        }
    }
}

#[test]
fn starts_once_reports_and_stops() {
    let home = Background::new();
    home.status().ends(6);
    let ran = home.0.rune(&["daemon", "stop"]).ends(0);
    assert!(ran.stderr.contains("not running"), "{}", ran.stderr);

    let text = home.start().ok();
    assert!(text.contains("[ok] gateway http://127.0.0.1:"), "{text}");
    let pid = std::fs::read_to_string(home.data("daemon.pid")).unwrap();
    assert_eq!(pid.trim(), home.address()["pid"].to_string());
    assert_eq!(home.status().json()["ready"], true);
    home.0.rune(&["status"]).ok();
    let doctor = home.0.rune(&["doctor"]).ok();
    assert!(doctor.contains("[ok]   daemon: ready"), "{doctor}");

    let second = home.start().ends(1);
    assert!(
        second
            .stderr
            .contains(&format!("already running (pid {})", pid.trim())),
        "{}",
        second.stderr
    );
    assert!(second.stdout.is_empty(), "{}", second.stdout);
    let foreground = home.start_with(&["--foreground"]).ends(1);
    assert!(
        foreground.stderr.contains("already running"),
        "{}",
        foreground.stderr
    );
    assert_eq!(
        home.status().json()["running"],
        true,
        "the winner's files are still there"
    );

    let log = home.0.rune(&["debug", "--no-follow"]).ok();
    assert!(log.contains("ready"), "{log}");
    home.0.rune(&["daemon", "stop"]).ok();
    home.status().ends(6);
    assert!(!home.data("daemon.pid").exists());
    assert!(!home.data("daemon.json").exists());
}

#[test]
fn debug_follows_a_log_that_was_put_aside() {
    let home = Home::new();
    let dir = home.path().join(".rune");
    std::fs::create_dir_all(&dir).unwrap();
    let log = dir.join("daemon.log");
    std::fs::write(&log, "first\n").unwrap();
    let mut command = home.command(&["debug"]);
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "first");
    let mut old = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
    std::fs::rename(&log, dir.join("daemon.log.1")).unwrap();
    old.write_all(b"second\n").unwrap();
    std::fs::write(&log, "third\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "second");
    assert_eq!(lines.next().unwrap().unwrap(), "third");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn restarts_with_the_options_it_had() {
    let home = Background::new();
    let log = home.0.path().join("other.log");
    home.start_with(&["--log-file", log.to_str().unwrap()]).ok();
    let before = home.address();
    home.0
        .rune(&["debug", "--restart", "--log-level", "debug"])
        .ok();
    let after = home.address();
    assert_ne!(before["pid"], after["pid"]);
    assert_eq!(after["options"]["log_level"], "debug");
    let text = std::fs::read_to_string(log).unwrap();
    assert_eq!(text.matches(" ready ").count(), 2, "{text}");
}

#[test]
fn a_taken_port_is_an_error_and_nothing_is_started() {
    let home = Background::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let ran = home.0.rune(&[
        "daemon",
        "start",
        "--gateway-addr",
        "127.0.0.1:0",
        "--control-plane-addr",
        &addr,
    ]);
    let ran = ran.ends(1);
    assert!(ran.stdout.is_empty(), "{}", ran.stdout);
    assert!(
        ran.stderr.contains(&format!("cannot listen on {addr}")),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("--control-plane-addr"),
        "{}",
        ran.stderr
    );
    assert!(!home.data("daemon.json").exists());
    assert!(!home.data("daemon.pid").exists());
}

#[test]
fn an_open_address_without_a_key_is_refused() {
    let home = Background::new();
    let ran = home
        .0
        .rune(&["daemon", "start", "--gateway-addr", "0.0.0.0:0"])
        .ends(2);
    assert!(ran.stderr.contains("RUNE_API_KEY"), "{}", ran.stderr);
}

#[test]
fn files_of_a_dead_daemon_are_in_nobodys_way() {
    let home = Background::new();
    home.start().ok();
    let pid = home.pid();
    kill_process(pid, Signal::KILL).unwrap();
    while home.status().code == 0 {}
    assert!(
        home.data("daemon.pid").exists(),
        "a killed daemon leaves its files"
    );
    home.start().ok();
    assert_ne!(home.pid(), pid);
    home.0.rune(&["daemon", "stop"]).ok();
}

#[test]
fn a_pid_that_another_program_has_now_is_not_a_daemon() {
    let home = Background::new();
    std::fs::create_dir_all(home.data("")).unwrap();
    // This test is alive and is no daemon.
    let pid = std::process::id();
    std::fs::write(home.data("daemon.pid"), format!("{pid}\n")).unwrap();
    std::fs::write(home.data("rune.lock"), format!("{pid}\n")).unwrap();
    let ran = home.0.rune(&["daemon", "stop"]).ends(0);
    assert!(ran.stderr.contains("not running"), "{}", ran.stderr);
    home.start().ok();
    assert_ne!(home.address()["pid"], pid);
    home.0.rune(&["daemon", "stop"]).ok();
}

#[test]
fn the_key_of_the_daemon_is_used_by_the_commands() {
    let home = Background::new();
    let ports = [
        "--gateway-addr",
        "127.0.0.1:0",
        "--control-plane-addr",
        "127.0.0.1:0",
    ];
    let mut start = home.0.command(&["daemon", "start"]);
    start
        .args(ports)
        .env("RUNE_API_KEY", "k")
        .env("RUNE_JWT_SECRET", "0123456789abcdef0123456789abcdef");
    Ran::new(start).ok();
    let ran = home.0.rune(&["agent", "ls"]).ends(3);
    assert!(ran.stderr.contains("RUNE_API_KEY"), "{}", ran.stderr);
    for (name, value) in [
        ("RUNE_API_KEY", "k"),
        ("RUNE_JWT_SECRET", "0123456789abcdef0123456789abcdef"),
    ] {
        let mut ls = home.0.command(&["agent", "ls"]);
        ls.env(name, value);
        Ran::new(ls).ok();
    }
}

#[test]
fn a_daemon_with_its_database_elsewhere_is_found() {
    let home = Background::new();
    let url = format!(
        "sqlite:{}",
        home.0.path().join("elsewhere/rune.db").display()
    );
    home.start_with(&["--database-url", &url]).ok();
    assert!(home.0.path().join("elsewhere/rune.db").exists());
    home.start().ends(1);
    home.0.rune(&["daemon", "restart"]).ok();
    assert_eq!(home.address()["options"]["database_url"], url);
    home.0.rune(&["daemon", "stop"]).ok();
    home.status().ends(6);
}
