//! The engine.

pub mod model;
pub mod task;
