//! The control-plane API behind a real listener.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests are part of the tests"
)]

mod api;
mod control_plane;
mod internal;
#[path = "../../../rune-gateway/tests/it/platform.rs"]
mod platform;
