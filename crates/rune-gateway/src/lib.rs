//! The public HTTP API: agents, sessions, requests, their events.
//!
//! [`Gateway::router`] is where every route is listed; `routes/` has one file per resource,
//! and a handler there extracts, calls the engine or the store, and maps. Serving,
//! authentication, limits and errors come from `rune-http`. [`SplitGateway`] is the same API in a process
//! without an engine, and
//! [`ClusterFront`] what stands before it on every node of a cluster.
//!
//! Invariants:
//! * a request whose id was answered is durable, and runs to its end whether or not the
//!   client stays;
//! * the events of a request are its journal: a client that returns with `Last-Event-ID`
//!   gets every entry exactly once and in order;
//! * only `/health`, `/ready` and the cards of agents answer without credentials where
//!   credentials are configured, and cards only as long as the operator has them public.
//!
//! What is not here: deployments and versions (the control plane), and running agents.

mod a2a;
mod ag_ui;
mod cluster;
mod conversation;
mod engine_agents;
mod event_body;
mod fingerprint;
mod gateway;
mod hop;
mod narration;
mod openai;
mod own;
mod routes;
mod split;
mod trace;

pub use a2a::A2aAccess;
pub use cluster::{Api, ClusterFront, Leading};
pub use gateway::{Gateway, NO_OAUTH, NodeGateway, PUBLIC_ROUTES};
pub use split::{SplitError, SplitGateway};
