//! The public API behind a real listener.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests are part of the tests"
)]

mod events;
mod gateway;
mod invoke;
mod platform;
mod resources;
mod rules;
