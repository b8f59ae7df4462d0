//! `docs/cluster.md`, run as it is written there.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use super::rig::free_addr;
use crate::readme::{Tour, run_page_at};

/// The addresses on the page, beside those that every page has.
const PLACES: [&str; 10] = [
    "127.0.0.1:9001",
    "127.0.0.1:9002",
    "127.0.0.1:9003",
    "127.0.0.1:9004",
    "127.0.0.1:8180",
    "127.0.0.1:8181",
    "127.0.0.1:8280",
    "127.0.0.1:8281",
    "127.0.0.1:8380",
    "127.0.0.1:8381",
];

/// Ends what a page that was not run to its end has left.
struct Left<'a>(&'a Path);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.0).into_iter().flatten().flatten() {
            let pid = std::fs::read_to_string(entry.path().join("daemon.pid"));
            let pid = pid.ok().and_then(|pid| pid.trim().parse().ok());
            if let Some(pid) = pid.and_then(Pid::from_raw) {
                // It may have ended by itself.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

#[test]
fn the_walk_through_works_as_written() {
    let tour = Tour::new();
    let _left = Left(tour.path());
    let free = PLACES.map(|place| (place, free_addr().to_string()));
    let places: Vec<(&str, &str)> = free.iter().map(|(from, to)| (*from, to.as_str())).collect();
    let printed = run_page_at(&tour, "docs/cluster.md", &places).concat();
    // Asked through every node, after each of them that was lost, and of the restored cluster.
    assert!(printed.matches("UTC").count() >= 6, "{printed}");
    for part in [
        "quorum   yes",
        "learner",
        "[ok] backup",
        "[ok] restored backup",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    assert!(!tour.path().join("node-3").exists());
}
