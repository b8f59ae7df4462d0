//! Child processes: one group per call, bounded output, no survivors.

mod capture;
mod exec;
mod group;
mod launcher;
mod program;
mod runner;
mod serve;
mod tool;

pub use capture::{Captured, Keep};
pub(crate) use exec::{Ending, Finished, Job, run};
pub use group::ProcessGroup;
pub use launcher::Launcher;
pub(crate) use program::base_environment;
pub use program::find_program;
pub use runner::ProcessRunner;
pub use serve::serve_launch;
pub use tool::{Grant, ProcessTool};
