//! The engine from outside.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of tests are part of the tests"
)]

mod agents;
mod approvals;
mod budgets;
mod cancel;
mod context;
mod durability;
mod events;
mod faults;
mod guards;
mod harness;
mod images;
mod limits;
mod links;
mod models;
mod outputs;
mod permits;
mod policy;
mod reconcile;
mod recovery;
mod replay;
mod requests;
mod schedules;
mod shared_budgets;
mod take_up;
mod tools;
mod workflows;
