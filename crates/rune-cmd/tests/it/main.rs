//! The `rune` binary as its users see it.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests are part of the tests"
)]

mod a2a;
mod ag_ui;
mod agents;
mod answers;
mod authoring;
mod backends;
mod background;
mod boundaries;
mod budgets;
mod builtins;
mod callers;
mod cancel;
mod cassettes;
mod client_approvals;
mod component;
mod compose;
mod containers;
mod crash_loop;
mod dev;
mod docker_example;
mod evals;
mod files;
mod forks;
mod home;
mod hostile;
mod kubernetes_manifests;
mod launcher;
mod mcp;
mod mcp_circle;
mod mcp_sandbox;
mod mcp_serve;
mod mcp_server;
mod models;
mod one_shot;
mod openai;
mod packages;
mod parked;
mod policy;
mod programs;
mod proxies;
mod python;
mod readme;
mod refusals;
mod remote_agents;
mod replicas;
mod requests;
mod retries;
mod rollout_restarts;
mod rollouts;
mod sandbox;
mod scaling;
mod schedules;
mod secrets;
mod shutdown;
mod split;
mod streams;
mod tokens;
mod tool_search;
mod unwell;
mod wasm;
mod wire;
mod workflows;
