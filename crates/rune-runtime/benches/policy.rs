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

use cedar_policy::{Authorizer, Context, Entities, EntityUid, Request, RestrictedExpression};
use rune_runtime::{PolicyEngine, PolicyPrincipal, PolicyQuery, PolicyResource, PolicySet};
use rune_spec::AgentPackage;
use serde_json::json;

const BATCHES: usize = 301;
const BATCH: u32 = 100;

const TOOLS: [&str; 4] = ["shell-exec", "file-read", "file-write", "web-fetch"];

/// Rules, and what they decide about [`COMMAND`].
struct Case {
    name: &'static str,
    deny: Vec<String>,
    cedar: Vec<String>,
}

const COMMAND: &str = "cargo test --workspace";

fn case(name: &'static str, deny: Vec<String>, cedar: Vec<String>) -> Case {
    Case { name, deny, cedar }
}

fn cases() -> Vec<Case> {
    let none = Vec::new;
    let rule = |tool: &str, number| format!("rune@{tool}(*forbidden-{number}*)");
    let cedar = |tool: &str, number| {
        format!(
            "forbid(principal, action == Action::\"tool\", resource == Tool::\"rune@{tool}\")\n\
             when {{ context.text has path && context.text.path like \"/secret/{number}/*\" }};\n"
        )
    };
    // Numbers are Cedar's.
    let typed = |tool: &str, number| {
        format!(
            "forbid(principal, action == Action::\"tool\", resource == Tool::\"rune@{tool}\")\n\
             when {{ context.arguments has timeout_ms && context.arguments.timeout_ms > 100000 + {number} }};\n"
        )
    };
    let spread = |number: usize| TOOLS[number % TOOLS.len()];
    let mut matching: Vec<String> = (0..100).map(|n| rule("shell-exec", n)).collect();
    matching[50] = "rune@shell-exec(*test*)".to_owned();
    vec![
        case("no rule", none(), none()),
        case(
            "100 over 4 tools",
            (0..100).map(|n| rule(spread(n), n)).collect(),
            none(),
        ),
        case(
            "100 over 4 tools, half in Cedar",
            (0..50).map(|n| rule(spread(n), n)).collect(),
            (50..100).map(|n| cedar(spread(n), n)).collect(),
        ),
        case(
            "100 on one tool",
            (0..100).map(|n| rule("shell-exec", n)).collect(),
            none(),
        ),
        case("100 on one tool, one denies", matching, none()),
        case(
            "100 on one tool, all in Cedar",
            none(),
            (0..100).map(|n| cedar("shell-exec", n)).collect(),
        ),
        case(
            "100 on one tool, typed arguments",
            none(),
            (0..100).map(|number| typed("shell-exec", number)).collect(),
        ),
        case(
            "100 on every tool",
            (0..100)
                .map(|n| rule("*", n).replace("rune@", ""))
                .collect(),
            none(),
        ),
    ]
}

fn package(case: &Case) -> AgentPackage {
    let dir = tempfile::tempdir().unwrap();
    let mut runefile = "name: a\nversion: 0.1.0\ninstructions: x\ndefault_model: m\ntoolset: \
                        [rune@shell-exec, rune@file-read, rune@file-write, rune@web-fetch]\n"
        .to_owned();
    let _ = writeln!(runefile, "policy:\n  deny: {}", json!(case.deny));
    fs::write(dir.path().join("Runefile"), runefile).unwrap();
    if !case.cedar.is_empty() {
        fs::write(dir.path().join("policy.cedar"), case.cedar.concat()).unwrap();
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

/// Cedar by itself on one policy: what one rule costs at the least.
fn floor() -> Duration {
    let policies: cedar_policy::PolicySet =
        "forbid(principal, action == Action::\"tool\", resource == Tool::\"t\")\n\
         when { context.primary like \"*forbidden*\" };"
            .parse()
            .unwrap();
    let uid = |text: &str| text.parse::<EntityUid>().unwrap();
    let primary = RestrictedExpression::new_string(COMMAND.to_owned());
    let request = Request::new(
        uid("Agent::\"a\""),
        uid("Action::\"tool\""),
        uid("Tool::\"t\""),
        Context::from_pairs([("primary".to_owned(), primary)]).unwrap(),
        None,
    );
    let (request, entities) = (request.unwrap(), Entities::empty());
    let authorizer = Authorizer::new();
    median(|| {
        black_box(authorizer.is_authorized(&request, &policies, &entities));
    })
}

fn main() {
    // `cargo bench` says so. Whoever builds every target and lists its tests finds none here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let arguments = json!({"command": COMMAND, "timeout_ms": 60_000});
    let floor = floor();
    println!(
        "policy decision, median of {BATCHES} batches of {BATCH}; target: < 50 us not remembered"
    );
    println!(
        "{:<32} {:>8.2} us",
        "floor: bare Cedar, one policy",
        micros(floor)
    );
    for case in cases() {
        let package = package(&case);
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
        let fresh = median(|| {
            black_box(set.decide(&query));
        });
        let engine = PolicyEngine::new(set, principal.clone());
        let cached = median(|| {
            black_box(engine.decide("alice", resource));
        });
        println!(
            "{:<32} {:>8.2} us ({:>5.1} x floor)   remembered {:>6.2} us   compiled once in {:>6.1} ms",
            case.name,
            micros(fresh),
            fresh.as_secs_f64() / floor.as_secs_f64(),
            micros(cached),
            compiled.as_secs_f64() * 1e3,
        );
    }
}
