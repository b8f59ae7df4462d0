//! The engine from outside.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of tests are part of the tests"
)]

mod models;
