//! Built-in tools and the process runner.
