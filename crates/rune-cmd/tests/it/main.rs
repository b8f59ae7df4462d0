//! The `rune` binary as its users see it.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests are part of the tests"
)]

mod agents;
mod background;
mod files;
mod home;
mod one_shot;
mod requests;
