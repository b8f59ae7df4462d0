//! Integration tests of the SQLite store.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod apply;
mod crash;
mod store;
