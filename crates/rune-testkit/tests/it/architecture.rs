//! The crate list is the architecture: a crate uses only crates on lower rows, and one
//! crate alone names each heavy dependency. A new edge is a decision made here.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// The rows of ARCHITECTURE.md, lowest first. Crates of one row do not know each other.
const ROWS: &[&[&str]] = &[
    &["rune-spec", "rune-env", "rune-bench"],
    &["rune-store-runtime"],
    &[
        "rune-backend",
        "rune-storage",
        "rune-network",
        "rune-a2a",
        "rune-oci",
    ],
    &["rune-tools", "rune-raft"],
    &["rune-wasm", "rune-docker", "rune-k8s", "rune-mcp"],
    &["rune-runtime"],
    &["rune-http", "rune-cluster"],
    &["rune-remote-store"],
    &["rune-replica"],
    &["rune-gateway", "rune-cp"],
    &["rune-cmd"],
];

/// Test support; only ever a development dependency.
const TEST_SUPPORT: &[&str] = &["rune-testkit", "rune-testkit-kubernetes"];

/// Heavy dependencies and the crates that may name them.
const OWNERS: &[(&str, &[&str])] = &[
    ("rusqlite", &["rune-storage", "rune-bench"]),
    ("openraft", &["rune-raft"]),
    ("object_store", &["rune-storage"]),
    (
        "jsonwebtoken",
        &["rune-http", "rune-remote-store", "rune-cmd"],
    ),
    ("sse-stream", &["rune-a2a", "rune-runtime", "rune-cmd"]),
    ("serde-saphyr", &["rune-spec", "rune-cmd", "rune-testkit"]),
    ("cap-std", &["rune-tools", "rune-wasm"]),
    ("wasmtime", &["rune-wasm"]),
    ("landlock", &["rune-tools"]),
    ("seccompiler", &["rune-tools"]),
    ("rmcp", &["rune-mcp"]),
    ("bollard", &["rune-docker"]),
    ("kube", &["rune-k8s"]),
    ("k8s-openapi", &["rune-k8s", "rune-testkit-kubernetes"]),
    ("clap", &["rune-cmd", "rune-testkit"]),
    (
        "axum",
        &[
            "rune-http",
            "rune-remote-store",
            "rune-replica",
            "rune-gateway",
            "rune-cp",
            "rune-testkit",
            "rune-testkit-kubernetes",
            "rune-bench",
        ],
    ),
];

struct Edge {
    from: String,
    to: String,
    dev: bool,
}

fn edges() -> Vec<Edge> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut edges = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        for dependency in package["dependencies"].as_array().unwrap() {
            edges.push(Edge {
                from: package["name"].as_str().unwrap().to_owned(),
                to: dependency["name"].as_str().unwrap().to_owned(),
                dev: dependency["kind"] == "dev",
            });
        }
    }
    edges
}

#[test]
fn crates_depend_downwards_only() {
    let rows: BTreeMap<&str, usize> = ROWS
        .iter()
        .enumerate()
        .flat_map(|(row, names)| names.iter().map(move |name| (*name, row)))
        .collect();
    let wrong: Vec<String> = edges()
        .iter()
        .filter(|edge| !edge.dev && !TEST_SUPPORT.contains(&edge.from.as_str()))
        .filter_map(|edge| {
            let from = rows.get(edge.from.as_str())?;
            if TEST_SUPPORT.contains(&edge.to.as_str()) {
                return Some(format!("{} uses the test support outside tests", edge.from));
            }
            let to = rows.get(edge.to.as_str())?;
            (to >= from).then(|| format!("{} must not use {}", edge.from, edge.to))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_crate_has_a_row() {
    let missing: Vec<String> = edges()
        .into_iter()
        .map(|edge| edge.from)
        .filter(|name| !TEST_SUPPORT.contains(&name.as_str()))
        .filter(|name| !ROWS.iter().any(|row| row.contains(&name.as_str())))
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn heavy_dependencies_have_one_owner() {
    let wrong: Vec<String> = edges()
        .iter()
        .filter(|edge| !edge.dev)
        .filter_map(|edge| {
            let (_, owners) = OWNERS.iter().find(|(name, _)| *name == edge.to)?;
            let allowed = owners.contains(&edge.from.as_str());
            (!allowed).then(|| format!("{} must not name {}", edge.from, edge.to))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
