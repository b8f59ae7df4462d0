//! Whole clusters in a simulated runtime: one thread, virtual time, one seed that decides
//! everything. The real log store, state machine, snapshots and node run on it; the network and
//! the speed of the disks are simulated, and a power loss takes what was not synced.
//!
//! A failure names its seed and how to repeat it; `RUNE_SIM_SEEDS=n` runs that many seeds in place
//! of [`SEEDS`].

mod client;
pub(crate) mod cluster;
pub(crate) mod dice;
mod disk;
mod history;
pub(crate) mod net;
pub(crate) mod platter;
pub(crate) mod run;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub(crate) use disk::SimDisk;
use run::{Coverage, Run, Trace};

/// Seeds of a normal test run.
const SEEDS: u64 = 500;

/// Tests that they are spread over, to run at the same time.
const PARTS: u64 = 8;

/// Events before a failure that are shown.
const SHOWN: usize = 60;

#[expect(
    clippy::disallowed_methods,
    reason = "how many seeds is said to the test"
)]
fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Runs every seed of a part, and then says which of them failed.
#[expect(
    clippy::print_stdout,
    reason = "what was run, and what failed, is said"
)]
fn part(part: u64) {
    let one = variable("RUNE_SIM_SEED");
    let seeds: Vec<u64> = match one {
        Some(seed) => vec![seed],
        None => (1..=variable("RUNE_SIM_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    let (mut coverage, mut failed, mut count) = (Coverage::default(), Vec::new(), 0);
    for seed in seeds.into_iter().filter(|seed| seed % PARTS == part) {
        let trace = Trace::default();
        match catch_unwind(AssertUnwindSafe(|| Run::of(seed, &trace))) {
            Ok(run) => coverage.add(&run.coverage),
            Err(_) => {
                let events = trace.events();
                for event in &events[events.len().saturating_sub(SHOWN)..] {
                    println!("{event}");
                }
                println!("seed {seed} failed");
                failed.push(seed);
            }
        }
        count += 1;
    }
    assert!(
        failed.is_empty(),
        "seeds {failed:?} failed; to repeat: RUNE_SIM_SEED={} cargo nextest run -p rune-raft -E 'test(sim::seeds::)'",
        failed[0]
    );
    println!("{count} seeds: {coverage:?}");
    if one.is_none() && count > 20 {
        coverage.is_enough(count);
    }
}

/// Nothing is lost, repeated or different, whatever happens.
mod seeds {
    macro_rules! parts {
        ($($name:ident: $part:expr),+ $(,)?) => {
            $(#[test] fn $name() { super::part($part); })+
        };
    }

    parts! {
        part_0: 0, part_1: 1, part_2: 2, part_3: 3, part_4: 4, part_5: 5, part_6: 6, part_7: 7,
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [3, 8] {
        let traces = [(); 2].map(|()| {
            let trace = Trace::default();
            Run::of(seed, &trace);
            trace.events()
        });
        let [first, second] = &traces;
        for (at, (one, other)) in first.iter().zip(second).enumerate() {
            assert_eq!(one, other, "event {at} of seed {seed}");
        }
        assert_eq!(first.len(), second.len());
        assert!(first.len() > 50);
    }
}
