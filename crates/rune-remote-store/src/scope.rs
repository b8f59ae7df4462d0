//! What a caller may touch.
//!
//! A replica is trusted with its own deployment and nothing else, because it runs what the agent
//! and its tools make of their input. Every command and every read is listed here, with whose
//! rows it touches: a new one does not compile before somebody has decided. Whose a row is says
//! the store, never the caller.

mod command;
mod read;

pub(crate) use command::request_of;

use std::ops::Deref;

use rune_runtime::Engine;
use rune_store_runtime::{
    DeploymentId, MemoryScope, ReplicaId, RequestId, RequestRow, RuntimeStore, SessionId,
    StoreError, VersionId,
};

/// What a caller of the store may touch, as authenticated. It is an extension of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everything, as whoever mounts the routes without tokens decides.
    All,
    /// What a replica of this deployment needs.
    Deployment(Box<DeploymentScope>),
}

/// A replica, and what is its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentScope {
    /// The replica.
    pub replica_id: ReplicaId,
    /// Its deployment.
    pub deployment_id: DeploymentId,
    /// The version it runs.
    pub version_id: VersionId,
    /// Namespace of its agent.
    pub namespace: String,
    /// Its agent.
    pub agent: String,
}

/// Why a call is not made.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It touches what is not the caller's.
    Denied(String),
    /// The store could not say whose it is.
    Store(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What a check looks at: the rows of the store, and the engine, which knows the requests that no row tells of.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) store: &'a dyn RuntimeStore,
    pub(crate) engine: Option<&'a Engine>,
}

impl<'a> Deref for Rows<'a> {
    type Target = dyn RuntimeStore + 'a;

    fn deref(&self) -> &Self::Target {
        self.store
    }
}

pub(crate) type Checked<T = ()> = Result<T, Refusal>;

fn denied<T>(reason: impl Into<String>) -> Checked<T> {
    Err(Refusal::Denied(reason.into()))
}

impl DeploymentScope {
    /// The request, where it is one of this deployment. One that does not exist is refused in
    /// the same words.
    async fn request(&self, rows: Rows<'_>, id: RequestId) -> Checked<RequestRow> {
        let row = match self.unstored(rows, |row| row.id == id) {
            Some(row) => Some(row),
            None => rows.request(id).await?,
        };
        match row {
            Some(row) if row.deployment_id == self.deployment_id => Ok(row),
            _ => denied(format!("request `{id}` is none of this deployment")),
        }
    }

    /// A request that this replica runs and no row tells of, as with `checkpoint_policy: never`.
    fn unstored(&self, rows: Rows<'_>, is_it: impl Fn(&RequestRow) -> bool) -> Option<RequestRow> {
        let engine = rows.engine?;
        engine.unstored_at(self.replica_id, is_it)
    }

    /// Whether the session is one of this agent. Sessions belong to agents, so that their
    /// deployments share them.
    async fn session(&self, rows: Rows<'_>, id: &SessionId) -> Checked {
        let is_its = match rows.session(id).await? {
            Some(row) => self.is_agent(&row.namespace, &row.agent),
            None => self.unstored(rows, |row| row.session_id == *id).is_some(),
        };
        match is_its {
            true => Ok(()),
            false => denied(format!("session `{id}` is none of this agent")),
        }
    }

    /// Whether memory and knowledge are those of this agent.
    fn memory(&self, scope: &MemoryScope) -> Checked {
        if self.is_agent(&scope.namespace, &scope.agent) {
            return Ok(());
        }
        denied(format!(
            "`{}/{}` is another agent",
            scope.namespace, scope.agent
        ))
    }

    fn namespace(&self, namespace: &str) -> Checked {
        if namespace == self.namespace {
            return Ok(());
        }
        denied(format!("`{namespace}` is another namespace"))
    }

    fn is_agent(&self, namespace: &str, agent: &str) -> bool {
        namespace == self.namespace && agent == self.agent
    }

    /// How schedules name the agent that made them.
    fn maker(&self) -> String {
        format!("{}/{}", self.namespace, self.agent)
    }
}
