//! Replicas outside this process: the protocol that they speak, the client of it, and the
//! backend that puts them behind the router.
//!
//! A replica runs the agent loop of one deployment. The daemon accepts a request, asks a
//! replica to run it and follows what it says; what lasts goes through the store. Asking
//! again is joining: a run goes on whoever follows it.

mod backend;
mod client;
mod fingerprint;
mod protocol;
mod socket;

pub use backend::{RemoteBackend, ReplicaAccess};
pub use client::{ReplicaClient, ReplicaError, read_run};
pub use fingerprint::deployment_of;
pub use protocol::{ReplicaStatus, ReplicaUsage, Resume, RunItem, RunRequest, Unstored};
