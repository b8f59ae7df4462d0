//! Models, which are deployed agents.

use std::sync::Arc;

use rune_http::{ApiError, Caller};
use rune_runtime::{Agent, Engine, Invocation, RouteError};
use rune_store_runtime::{DeploymentRow, ErrorCode, IdempotencyKey, RequestId, SessionId};
use serde_json::Value;

use super::Metadata;
use crate::routes::invoke::scope;
use crate::routes::{DEFAULT_ALIAS, DEFAULT_NAMESPACE};

/// A model as a client names it: `[NAMESPACE/]AGENT[:ALIAS]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Model {
    /// As it was written.
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) agent: String,
    pub(crate) alias: String,
}

impl Model {
    pub(crate) fn parse(name: &str) -> Self {
        let (namespace, rest) = name.split_once('/').unwrap_or((DEFAULT_NAMESPACE, name));
        let (agent, alias) = rest.split_once(':').unwrap_or((rest, DEFAULT_ALIAS));
        Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            agent: agent.to_owned(),
            alias: alias.to_owned(),
        }
    }

    /// The deployment that it means.
    pub(crate) fn deployment(&self, engine: &Engine) -> Result<Arc<DeploymentRow>, ApiError> {
        let router = engine.router();
        match router.route(&self.namespace, &self.agent, &self.alias) {
            Ok(route) => Ok(route.deployment),
            Err(error @ RouteError::NotDeployed { .. }) => {
                let message = format!(
                    "the model `{}` does not exist: {error}; `GET /v1/models` lists those that do",
                    self.name
                );
                let error = ApiError::new(ErrorCode::NotFound, message);
                Err(error.of_param("model").labelled("model_not_found"))
            }
            Err(error) => Err(rune_runtime::EngineError::from(error).into()),
        }
    }

    /// Who may share an idempotency key.
    pub(crate) fn scope(&self, caller: &Caller) -> String {
        scope(caller, &self.namespace, &self.agent, &self.alias)
    }

    /// What the agent is asked.
    pub(crate) fn invocation(
        &self,
        caller: &Caller,
        (input, session_id): (Value, Option<SessionId>),
        follows: Option<RequestId>,
        notes: Metadata,
        idempotency: Option<IdempotencyKey>,
    ) -> Invocation {
        Invocation {
            namespace: self.namespace.clone(),
            agent: self.agent.clone(),
            alias: self.alias.clone(),
            input,
            session_id,
            follows,
            metadata: notes.into_iter().collect(),
            caller: caller.id.as_ref().to_owned(),
            idempotency,
        }
    }

    /// The agent, where it is known here.
    pub(crate) fn agent(&self, engine: &Engine) -> Result<Option<Arc<Agent>>, ApiError> {
        let deployment = self.deployment(engine)?;
        Ok(engine.router().agent(deployment.id))
    }
}

/// The shortest name of a deployment as a model.
pub(crate) fn name_of(row: &DeploymentRow) -> String {
    let namespace = match row.namespace.as_str() {
        DEFAULT_NAMESPACE => String::new(),
        namespace => format!("{namespace}/"),
    };
    let alias = match row.alias.as_str() {
        DEFAULT_ALIAS => String::new(),
        alias => format!(":{alias}"),
    };
    format!("{namespace}{}{alias}", row.agent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_namespace_and_an_alias_where_they_are_not_the_usual_ones() {
        let parts = |name: &str| {
            let model = Model::parse(name);
            [model.namespace, model.agent, model.alias].join(" ")
        };
        assert_eq!(parts("hello"), "dev hello stable");
        assert_eq!(parts("prod/hello"), "prod hello stable");
        assert_eq!(parts("hello:canary"), "dev hello canary");
        assert_eq!(parts("prod/hello:canary"), "prod hello canary");
    }
}
