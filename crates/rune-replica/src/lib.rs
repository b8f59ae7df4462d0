//! The replica protocol: what a replica serves to its daemon, and what the daemon serves to its
//! replicas, next to each other.
//!
//! * [`ReplicaApi`] is the API of a replica: run a request, join the run, stop it, drain.
//! * [`DaemonApi`] is what the daemon serves to replicas beside its store: its engine, the
//!   secrets that an agent is granted, and what a replica starts from.
//! * [`DaemonLink`] is a replica's client of the latter.
//!
//! Invariants:
//! * a replica touches what belongs to its own deployment and nothing else, and writes only for
//!   requests that it was given;
//! * no token and no secret is logged or part of an error.
//!
//! What is not here: running requests (the engine), and starting replicas (backends).

mod boot;
mod daemon;
mod link;
mod replica;
mod run_body;
mod usage;

pub use boot::{BootSource, ReplicaBoot, ReplicaSettings};
pub use daemon::DaemonApi;
pub use link::DaemonLink;
pub use replica::ReplicaApi;
