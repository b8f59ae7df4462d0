//! Whole clusters in a simulated runtime: one thread, virtual time, one seed that decides
//! everything. The real log store, state machine, snapshots and node run on it; the network and
//! the speed of the disks are simulated, and a power loss takes what was not synced.
//!
//! A failure names its seed; `RUNE_SIM_SEED=n` runs that one alone, and `RUNE_SIM_SEEDS=n` that
//! many.

mod client;
pub(crate) mod cluster;
pub(crate) mod dice;
mod disk;
mod history;
pub(crate) mod net;
mod run;

use std::sync::Mutex;

pub(crate) use disk::SimDisk;
use run::{Coverage, Run};

/// Seeds of a normal test run.
const SEEDS: u64 = 50;

#[expect(
    clippy::disallowed_methods,
    reason = "how many seeds is said to the test"
)]
fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn nothing_is_lost_repeated_or_different_whatever_happens() {
    let seeds: Vec<u64> = match variable("RUNE_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (1..=variable("RUNE_SIM_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    let (coverage, failed) = (Mutex::new(Coverage::default()), Mutex::new(Vec::new()));
    let many = seeds.len() > 10;
    let left = Mutex::new(seeds.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some(seed) = left.lock().unwrap().next() else {
                        return;
                    };
                    match std::panic::catch_unwind(|| Run::of(seed)) {
                        Ok(run) => coverage.lock().unwrap().add(&run.coverage),
                        Err(_) => failed.lock().unwrap().push(seed),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(
        failed.is_empty(),
        "seeds {failed:?} failed: run RUNE_SIM_SEED={}",
        failed[0]
    );
    let coverage = coverage.into_inner().unwrap();
    println!("{coverage:?}");
    if many {
        coverage.is_enough();
    }
}

/// Runs in which something went wrong once: a snapshot of a node that has applied nothing; a leader
/// that was restarted and led on under its old vote without what it had not synced.
#[test]
fn runs_that_failed_once_go_well() {
    for seed in [2, 13, 41, 54] {
        Run::of(seed);
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [3, 8] {
        let (first, second) = (Run::of(seed), Run::of(seed));
        for (at, (one, other)) in first.trace.iter().zip(&second.trace).enumerate() {
            assert_eq!(one, other, "event {at} of seed {seed}");
        }
        assert_eq!(first.trace.len(), second.trace.len());
        assert!(first.trace.len() > 50);
    }
}
