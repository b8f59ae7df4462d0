//! The read side of the store, one file per aggregate.

pub(crate) mod approval;
mod audit;
mod budget;
mod cache;
pub(crate) mod deployment;
mod event;
mod knowledge;
mod memory;
mod outbox;
mod push;
pub(crate) mod registry;
mod replica;
mod request;
mod schedule;
pub(crate) mod secret;
mod session;
pub(crate) mod task;
mod usage;
