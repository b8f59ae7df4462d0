//! Schedules: requests at planned times.
//!
//! [`Recurrence`] says which times a schedule plans, `plan` what is done about those that
//! have come, and [`Scheduler`] is the loop that does it; [`SchedulerHandle`] wakes it and
//! fires by hand.
//!
//! One planned time makes one request. The loop first records the fire with the id of its
//! request and moves the schedule on, in one commit that only the first one to try gets
//! through; then it has the request accepted under that id; then it settles the fire. A
//! fire that is found pending, after a crash or because it waits for its turn, goes on
//! from there, and a request that exists already is not made again.

mod error;
mod fire;
mod plan;
mod recurrence;
mod scheduler;

pub use error::ScheduleError;
pub use recurrence::{MAX_INTERVAL_MS, MIN_INTERVAL_MS, Recurrence, first_planned};
pub use scheduler::{Scheduler, SchedulerHandle};

use std::time::Duration;

/// The most that a fire may be later than planned on purpose.
pub const MAX_JITTER: Duration = Duration::from_secs(60 * 60);
