//! The control-plane HTTP API: versions, deployments, replicas, nodes, schedules, secrets,
//! audit, usage, the cluster.
//!
//! [`ControlPlane::router`] is where every route is listed; `routes/` has one file per
//! resource, and a handler there extracts, writes one command, and maps.
//!
//! Invariants:
//! * a package that this Rune could not load is refused before anything is stored;
//! * where keys are trusted, what none of them has signed is neither published nor deployed;
//! * what the operator's policies forbid is neither published nor deployed, and no namespace gets more than its quota;
//! * every refusal of a version or of a deployment is in the audit trail, with its reason;
//! * every change of a deployment leaves an audit row and wakes the reconcile loop;
//! * every change of a schedule leaves an audit row and wakes the scheduler;
//! * the value of a secret comes in, is encrypted, and is never answered, logged or audited;
//! * values of a deployment's environment are never answered, only their names;
//! * the internal routes are not in the document of the API, and ask for tokens of their own.
//!
//! What is not here: running agents, and making what runs match what is deployed (the
//! reconcile loop).

mod admission;
mod audit;
mod cluster;
mod control_plane;
mod package;
mod routes;

pub use admission::Admission;
pub use cluster::ClusterApi;
pub use control_plane::{ControlPlane, NodeInfo, PUBLIC_ROUTES};
