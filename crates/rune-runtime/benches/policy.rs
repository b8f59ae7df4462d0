//! What a policy decision costs: `cargo bench -p rune-runtime --bench policy`.
//!
//! Prints medians of batches and their ratios; asserts no time. The wall time of a busy machine says little, so compare
//! the ratios, or run it alone.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark is a program for the terminal"
)]

use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

use rune_runtime::{PolicyEngine, PolicyPrincipal, PolicyQuery, PolicyResource, PolicySet};
use rune_spec::AgentPackage;
use serde_json::json;

const BATCHES: usize = 301;
const BATCH: u32 = 100;

fn package(rules: usize, cedar: bool) -> AgentPackage {
    let dir = tempfile::tempdir().unwrap();
    let mut runefile = "name: a\nversion: 0.1.0\ninstructions: x\ndefault_model: m\ntoolset: \
                        [rune@shell-exec, rune@file-read, rune@file-write, rune@web-fetch]\n"
        .to_owned();
    let mut policies = String::new();
    if rules > 0 {
        runefile.push_str("policy:\n  deny:\n");
    }
    for number in 0..rules {
        let tool = ["shell-exec", "file-read", "file-write", "web-fetch"][number % 4];
        if cedar && number % 2 == 0 {
            let _ = writeln!(
                policies,
                "forbid(principal, action == Action::\"tool\", resource == Tool::\"rune@{tool}\")\n\
                 when {{ context.text has path && context.text.path like \"/secret/{number}/*\" }};"
            );
        } else {
            let _ = writeln!(runefile, "    - rune@{tool}(*forbidden-{number}*)");
        }
    }
    fs::write(dir.path().join("Runefile"), runefile).unwrap();
    if cedar {
        fs::write(dir.path().join("policy.cedar"), policies).unwrap();
    }
    AgentPackage::load(dir.path()).unwrap()
}

/// The median time of one call over batches.
fn median(mut call: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..BATCHES)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..BATCH {
                call();
            }
            start.elapsed() / BATCH
        })
        .collect();
    times.sort();
    times[BATCHES / 2]
}

fn main() {
    // `cargo bench` says so. Whoever builds every target and lists its tests finds none here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let arguments = json!({"command": "cargo test --workspace", "timeout_ms": 60_000});
    let mut floor = None;
    println!("policy decision, median of {BATCHES} batches of {BATCH}");
    for (name, rules, cedar) in [
        ("no rule", 0, false),
        ("100 short rules", 100, false),
        ("50 short rules + 50 in Cedar", 100, true),
    ] {
        let package = package(rules, cedar);
        let principal = PolicyPrincipal::of(&package, "dev");
        let tool = &package.tools[0];
        let resource = PolicyResource::Tool {
            name: "rune@shell-exec",
            descriptor: &tool.descriptor,
            arguments: &arguments,
        };
        let start = Instant::now();
        let set = PolicySet::compile(&package).unwrap();
        let compiled = start.elapsed();
        let query = PolicyQuery {
            principal: &principal,
            caller: "alice",
            resource,
        };
        let uncached = median(|| {
            black_box(set.decide(&query));
        });
        let engine = PolicyEngine::new(set, principal.clone());
        let cached = median(|| {
            black_box(engine.decide("alice", resource));
        });
        let floor = *floor.get_or_insert(uncached);
        println!(
            "{name:<30} compile {:>8.1} ms   uncached {:>7.2} us ({:.2} x no rule)   cached {:>6.2} us",
            compiled.as_secs_f64() * 1e3,
            uncached.as_secs_f64() * 1e6,
            uncached.as_secs_f64() / floor.as_secs_f64(),
            cached.as_secs_f64() * 1e6,
        );
    }
}
