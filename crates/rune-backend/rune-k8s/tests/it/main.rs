//! The backend against an API server on the wire, with a kubelet that runs its pods.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of tests are part of the tests"
)]

mod access;
mod cluster;
mod faults;
mod lifecycle;
mod networks;
mod reasons;
