//! Containers of Docker Engine: tools of runtime `container`, and `rune@docker-exec`.
//!
//! * [`DockerEngine`] is the engine that an operator named; nothing is connected before it is needed.
//! * [`ContainerTool`] is a tool that is an image: each call in a container of its own.
//! * [`PackageImage`] is an image with the package of an agent in it.
//! * [`DockerReplicas`] runs replicas, each in a container that outlives the daemon, and has images pulled for them.
//! * [`DockerExec`] runs commands in containers that an operator has opened to agents.
//!
//! What is not here: validation against schemas, policy, the journal and retries, which the engine of Rune does around a
//! call; and pulling for tools, which an operator does.
//!
//! # Invariants
//!
//! * A container reaches what its tool is granted and nothing else: no network, a read-only root, no capability, no way to
//!   gain one, limits on memory, processes, processor and output. Neither the engine's socket nor Rune's own data can be
//!   granted.
//! * A container of a tool does not outlive its call: it is removed when the call's future ends or is dropped; what a killed daemon
//!   leaves is removed at its next start.
//! * A tool gets its input only after the directories that it sees were found to be those that were granted.

mod container;
mod engine;
mod error;
mod exec;
mod grants;
mod image;
mod mounts;
mod network;
mod output;
mod owner;
mod package_image;
mod pull;
mod replicas;
mod sockets;
mod tool;

pub use engine::{DockerConfig, DockerEngine, EngineInfo, Spawn};
pub use error::DockerError;
pub use exec::DockerExec;
pub use package_image::{PACKAGE_DIR, PackageImage};
pub use replicas::DockerReplicas;
pub use tool::ContainerTool;
