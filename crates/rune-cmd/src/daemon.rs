//! The daemon: gateway, control plane and engine in one process.
//!
//! [`process`] is what runs, from parse to exit code; [`node`] puts the engine together, for the daemon and for the
//! one-shot mode; [`listeners`] binds; [`instance`] is how others find a running daemon; [`launch`] starts one in the
//! background; [`log`] bounds its log; [`replicas`] is what replicas outside it are told, and [`process_backend`] starts those that are processes; [`unused`] knows the settings that have no effect yet.

pub(crate) mod instance;
pub(crate) mod launch;
pub(crate) mod listeners;
pub(crate) mod log;
pub(crate) mod node;
pub(crate) mod process;
mod process_backend;
mod replicas;
pub(crate) mod telemetry;
pub(crate) mod unused;
