//! Replicas as pods of a Kubernetes cluster.
//!
//! [`KubernetesReplicas`] is the backend: a pod for each replica, named by its id, with a secret that holds its
//! environment and goes with it. How pods are is watched and never asked for, so [`Backend::health`] costs the
//! cluster nothing; while the API server is away what was seen last holds, and nothing is taken for gone.
//!
//! [`Backend::health`]: rune_backend::Backend::health
//!
//! What is not here: how a replica is talked to, and which one takes a request. A pod outlives the daemon: the next
//! one finds it by its labels.

mod config;
mod connect;
mod error;
mod manifest;
mod network;
mod replicas;
mod state;
mod view;

pub use config::{KubernetesConfig, Spawn};
pub use error::KubernetesError;
pub use replicas::KubernetesReplicas;
