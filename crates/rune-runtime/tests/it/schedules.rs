//! Schedules under a clock that is moved by hand.

mod property;
mod rig;
mod semantics;
