//! What is encoded is read back, in both versions; and the official types of 1.0 read it the same way.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests are part of the tests"
)]

mod calls;
mod card;
mod official;
mod round_trip;
mod values;
