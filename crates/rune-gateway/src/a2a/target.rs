//! Which agent a call is for.

use std::sync::Arc;
use std::time::Duration;

use rune_a2a::A2aError;
use rune_http::ApiError;
use rune_runtime::{Agent, Engine, EngineError};
use rune_store_runtime::DeploymentRow;

use crate::routes::{DEFAULT_ALIAS, DEFAULT_NAMESPACE};

/// How long a call waits for its agent to be started.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent as a path names it, `AGENT[:ALIAS]`, and the tenant, which is the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct A2aTarget {
    pub(crate) namespace: String,
    pub(crate) agent: String,
    pub(crate) alias: String,
}

impl A2aTarget {
    pub(crate) fn new(name: &str, tenant: Option<&str>) -> Self {
        let (agent, alias) = name.split_once(':').unwrap_or((name, DEFAULT_ALIAS));
        Self {
            namespace: tenant.unwrap_or(DEFAULT_NAMESPACE).to_owned(),
            agent: agent.to_owned(),
            alias: alias.to_owned(),
        }
    }

    /// The last part of the path.
    pub(crate) fn name(&self) -> String {
        match self.alias.as_str() {
            DEFAULT_ALIAS => self.agent.clone(),
            alias => format!("{}:{alias}", self.agent),
        }
    }

    /// What the client names as tenant; nothing where it is the usual one.
    pub(crate) fn tenant(&self) -> Option<&str> {
        (self.namespace != DEFAULT_NAMESPACE).then_some(self.namespace.as_str())
    }

    /// Whether it is deployed.
    ///
    /// # Errors
    /// `not_found`.
    pub(crate) fn deployment(&self, engine: &Engine) -> Result<Arc<DeploymentRow>, ApiError> {
        let router = engine.router();
        let route = router.route(&self.namespace, &self.agent, &self.alias);
        Ok(route.map_err(EngineError::from)?.deployment)
    }

    /// The agent, as soon as a replica of it runs or can be started for a request.
    ///
    /// # Errors
    /// `not_found` and `unavailable`.
    pub(crate) async fn agent(
        &self,
        engine: &Engine,
    ) -> Result<(Arc<DeploymentRow>, Arc<Agent>), ApiError> {
        let deployment = self.deployment(engine)?;
        let ready = engine.router().ready(deployment.id, PATIENCE).await;
        let ready = ready.map_err(EngineError::from)?;
        Ok((deployment, Arc::clone(ready.agent())))
    }

    /// The same in the namespace that a call names as its tenant.
    ///
    /// # Errors
    /// The tenant has no such agent, or the path names another one.
    pub(crate) fn of_tenant(self, engine: &Engine, tenant: &str) -> Result<Self, A2aError> {
        if self.tenant().is_some_and(|known| known != tenant) {
            return Err(A2aError::invalid(
                "tenant",
                "is not the one that the path names",
            ));
        }
        let target = Self {
            namespace: tenant.to_owned(),
            ..self
        };
        match target.deployment(engine) {
            Ok(_) => Ok(target),
            Err(_) => Err(A2aError::invalid(
                "tenant",
                format!("has no agent `{}`", target.name()),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_an_alias_where_it_is_not_the_usual_one() {
        let target = A2aTarget::new("hello", None);
        assert_eq!((target.name().as_str(), target.tenant()), ("hello", None));
        let target = A2aTarget::new("hello:canary", Some("prod"));
        assert_eq!(
            (target.name().as_str(), target.tenant()),
            ("hello:canary", Some("prod"))
        );
        assert_eq!(target.agent, "hello");
    }
}
