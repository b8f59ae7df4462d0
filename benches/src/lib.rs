//! Benchmarks: Rune against the floors of the machine it runs on.
//!
//! Absolute figures say more about the machine than about the program, so every figure
//! is a ratio to a floor measured in the same run, in turns: bare axum answering the
//! same body, with and without committing the same rows with full fsync, and a bare proxy
//! in front of the same model, with and without the same commit. Servers are processes of their own, driven
//! over loopback sockets; figures are medians of rounds.
//!
//! After every throughput run the daemon is killed and started again, and every
//! acknowledged request has to be there.
//!
//! What is not here: a verdict. The report prints ratios beside their targets.

mod client;
mod cluster;
mod cold;
mod daemon;
mod engine;
mod error;
mod floor;
mod load;
mod measure;
mod model;
mod parked;
mod report;
mod serve;
mod suite;

pub use error::BenchError;
pub use report::{Report, Row};
pub use serve::serve;
pub use suite::{BenchConfig, Part, run};
