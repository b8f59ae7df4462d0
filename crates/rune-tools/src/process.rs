//! Child processes: one group per call, bounded output, no survivors.

mod capture;
#[cfg(target_os = "linux")]
mod confine;
mod exec;
mod fds;
mod grants;
mod group;
mod launcher;
mod live;
mod program;
mod proxy;
mod reach;
mod runner;
mod sandbox;
mod serve;
mod tool;

pub use capture::{Captured, Keep};
pub(crate) use exec::{Ending, Finished, Job, run};
pub use grants::ProcessGrants;
pub use group::ProcessGroup;
pub use launcher::Launcher;
pub use live::{LiveJob, LivePipes, LiveProcess};
pub(crate) use program::base_environment;
pub use program::find_program;
pub(crate) use program::is_executable;
pub use reach::{ProcessLimits, Reach};
pub(crate) use runner::refusal;
pub use runner::{ProcessRunner, describe_exit};
pub use sandbox::{Parts, Sandbox, SandboxSupport};
pub use serve::serve_launch;
pub use tool::ProcessTool;
