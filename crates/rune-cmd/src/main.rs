//! The `rune` binary.
fn main() {}
