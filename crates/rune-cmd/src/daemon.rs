//! The daemon: gateway, control plane and engine in one process.
//!
//! [`process`] is what runs, from parse to exit code, and [`cluster`] the same on a node of a cluster; [`running`] starts the engine; [`node`] puts the engine together, for the daemon and for the
//! one-shot mode; [`listeners`] binds; [`instance`] is how others find a running daemon; [`launch`] starts one in the
//! background; [`log`] bounds its log; [`split_gateway`] is a gateway apart from its control plane; [`replicas`] is what replicas outside the daemon are told, and [`process_backend`] starts those that are processes; [`unused`] knows the settings that have no effect yet.

mod backends;
pub(crate) mod cluster;
pub(crate) mod instance;
pub(crate) mod launch;
pub(crate) mod listeners;
pub(crate) mod log;
pub(crate) mod node;
mod objects;
mod pods;
pub(crate) mod process;
mod process_backend;
mod replicas;
mod running;
mod split_gateway;
pub(crate) mod telemetry;
pub(crate) mod unused;
