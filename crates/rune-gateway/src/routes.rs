//! Handlers, one file per resource: extract, call, map.

pub(crate) mod a2a;
pub(crate) mod a2a_cards;
pub(crate) mod a2a_http;
pub(crate) mod ag_ui;
pub(crate) mod agents;
pub(crate) mod approvals;
pub(crate) mod calls;
pub(crate) mod canvas;
pub(crate) mod chat_completions;
pub(crate) mod context;
pub(crate) mod events;
pub(crate) mod failures;
pub(crate) mod fork;
pub(crate) mod invoke;
pub(crate) mod mcp;
pub(crate) mod models;
pub(crate) mod outbox;
pub(crate) mod policy;
pub(crate) mod published;
pub(crate) mod replicas;
pub(crate) mod requests;
pub(crate) mod responses;
pub(crate) mod sessions;
pub(crate) mod status;
pub(crate) mod tasks;
pub(crate) mod wakeups;

use serde::Deserialize;
use utoipa::IntoParams;

/// The namespace where none is named.
pub(crate) const DEFAULT_NAMESPACE: &str = "dev";
/// The alias where none is named.
pub(crate) const DEFAULT_ALIAS: &str = "stable";

/// Which deployment of an agent is meant.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    /// Namespace, `dev` by default.
    #[serde(default = "default_namespace")]
    #[param(required = false)]
    pub(crate) ns: String,
    /// Alias, `stable` by default.
    #[serde(default = "default_alias")]
    #[param(required = false)]
    pub(crate) alias: String,
}

fn default_namespace() -> String {
    DEFAULT_NAMESPACE.to_owned()
}

fn default_alias() -> String {
    DEFAULT_ALIAS.to_owned()
}
