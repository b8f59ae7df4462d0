//! The server, judged by `kubectl`, and by requests as clients send them.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of tests are part of the tests"
)]

mod access;
mod apply;
mod client;
mod deletion;
mod manifests;
mod objects;
mod pods;
mod stateful;
mod watches;
