//! Nodes that reach each other over loopback.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod cluster;
mod membership;
mod objects;
mod peers;
mod store;
mod succession;
