//! Behaviour of the file formats, as a user meets it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

mod golden;
mod package;
mod robust;
mod schemas;
