//! Handlers, one file per resource: extract, call, map.

pub(crate) mod agent_versions;
pub(crate) mod audit;
pub(crate) mod budgets;
pub(crate) mod deployments;
pub(crate) mod nodes;
pub(crate) mod replicas;
pub(crate) mod schedules;
pub(crate) mod secrets;
pub(crate) mod status;
pub(crate) mod usage;
