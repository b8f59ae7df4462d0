//! The tools through their public interface, with real files, processes and sockets.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the helpers of tests fail the test"
)]

mod apply_patch;
mod descriptors;
mod egress;
mod files;
mod knowledge;
mod memory;
mod process;
mod processes;
mod proxy;
mod search;
mod shell;
mod support;
mod tasks;
mod time;
mod web;
