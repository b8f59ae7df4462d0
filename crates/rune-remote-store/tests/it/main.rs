//! A remote store over a real socket, on top of the real store.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests are part of the tests"
)]

mod conformance;
mod faults;
mod proxy;
mod scope;
mod served;
mod socket;
mod tenant;
mod token;
mod wire;
