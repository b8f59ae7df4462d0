//! Integration tests of the cluster's store.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod conformance;
mod crash;
mod log;
mod node;
mod power;
mod retention;
mod sim;
mod snapshot;
mod state;
mod support;
