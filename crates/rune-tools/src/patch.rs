//! Unified diffs: parsed strictly, applied without fuzz.
//!
//! A patch means what its line counts say. Text that a lenient reader would skip, such
//! as lines after a hunk that announced fewer, is an error: skipping it would report
//! success for a change that was not made.

mod apply;
mod error;
mod parse;

pub use apply::apply_hunks;
pub use error::PatchError;
pub use parse::{FilePatch, Hunk, HunkLine, parse_patch};
