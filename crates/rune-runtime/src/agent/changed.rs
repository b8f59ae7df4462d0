//! Agents that are made of other ones: that of a fork, with other models, another system prompt or another policy, and
//! one that is led by commands.

use std::collections::BTreeMap;
use std::sync::Arc;

use rune_spec::{AgentPackage, PolicyFile};
use rune_store_runtime::{ForkChanges, ForkPolicy};

use super::{Agent, AgentError, fixed_prompt};
use crate::model::{OFFLINE_PROVIDER, Providers, ProvidersConfig};
use crate::policy::{PolicyEngine, PolicySet};

/// What messages call the Cedar policies of a fork.
const POLICY_NAME: &str = "the fork's policy";

impl Agent {
    /// The same agent, led by the offline model without a script: it calls the tools that its input names. The models that
    /// its tools ask are its own.
    ///
    /// # Errors
    /// An [`AgentError`] where the offline model cannot be had.
    pub fn led_by_commands(mut self) -> Result<Self, AgentError> {
        let config = ProvidersConfig {
            providers: vec![OFFLINE_PROVIDER.to_owned()],
            endpoints: BTreeMap::new(),
            script: None,
            ..self.models_config.asking(OFFLINE_PROVIDER)
        };
        self.models = Providers::new(&config, &self.pool)?;
        Ok(self)
    }

    /// The agent with these changes. What they do not name is shared with it.
    ///
    /// # Errors
    /// An [`AgentError`] that says which change is in the way.
    pub(crate) fn changed(&self, changes: &ForkChanges) -> Result<Self, AgentError> {
        let (models, models_config) = match &changes.model {
            Some(model) => {
                let config = self.models_config.asking(model);
                (Providers::new(&config, &self.pool)?, config)
            }
            None => (self.models.clone(), self.models_config.clone()),
        };
        let package = match &changes.policy {
            Some(policy) => changed_package(&self.package, policy)?,
            None => self.package.clone(),
        };
        let policy = match &changes.policy {
            Some(_) => Arc::new(PolicyEngine::new(
                PolicySet::compile(&package)?,
                self.policy.principal().clone(),
            )),
            None => Arc::clone(&self.policy),
        };
        // As it is: a text from a caller must not read the daemon's variables.
        let instructions = changes.instructions.as_ref();
        let system = instructions.unwrap_or(&self.system).clone();
        let schema = package.runefile.output_schema.as_ref();
        Ok(Self {
            fixed_prompt: fixed_prompt(&system, self.definitions(), schema),
            mcp: self.mcp.clone(),
            package,
            system,
            tools: Arc::clone(&self.tools),
            searcher: Arc::clone(&self.searcher),
            offer: self.offer.clone(),
            models,
            models_config,
            pool: self.pool.clone(),
            policy,
            runner: self.runner.clone(),
            secrets: self.secrets.clone(),
            diagnostics: self.diagnostics.clone(),
            input: self.input.clone(),
            output: self.output.clone(),
            workspace: self.workspace.clone(),
            component: self.component.clone(),
            remotes: self.remotes.clone(),
        })
    }
}

fn changed_package(
    package: &AgentPackage,
    policy: &ForkPolicy,
) -> Result<AgentPackage, AgentError> {
    match policy {
        ForkPolicy::Cedar(text) => Ok(AgentPackage {
            policy: Some(PolicyFile {
                path: POLICY_NAME.into(),
                text: text.clone(),
            }),
            ..package.clone()
        }),
        ForkPolicy::Short(rules) => Ok(package.with_policy(rules)?),
    }
}
