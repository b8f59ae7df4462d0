//! The testkit as its users see it: over sockets and as child processes.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests are part of the tests"
)]

mod architecture;
mod binary;
mod client;
mod clock;
mod daemon;
mod faults;
mod refusals;
mod replies;
mod requests;
