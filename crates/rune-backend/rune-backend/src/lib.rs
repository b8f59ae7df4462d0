//! The backend seam: where replicas run.
//!
//! A [`Backend`] starts, watches, drains and stops replicas; the reconcile loop is its
//! only caller. The in-process backend lives in the engine, backends for containers
//! and pods in crates of their own.
//!
//! What is not here: which replica takes a request (the router) and how many there
//! should be (the reconcile loop).

mod backend;
mod error;
mod spec;

pub use backend::{Backend, ReplicaHealth};
pub use error::BackendError;
pub use spec::{ReplicaSpec, Resources};
