//! A toy router behind a real listener.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of tests are part of the tests"
)]

mod auth;
mod errors;
mod serving;
mod toy;
