//! WebAssembly tools, called as the engine calls them.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests are part of the tests"
)]

mod agent;
mod audit;
mod calls;
mod files;
mod limits;
mod network;
mod sandbox;
