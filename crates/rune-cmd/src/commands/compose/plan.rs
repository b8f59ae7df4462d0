//! What `up` would change.

use std::collections::BTreeMap;

use rune_spec::{ComposeAgent, ComposeSource, InvalidValue};
use serde::Deserialize;
use serde_json::{Value, json};

use super::place;
use super::project::{Deployed, Project};
use crate::client::{Api, Client};
use crate::commands::run::{Packed, Patience};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{Style, table};
use crate::source::Sources;

/// What `up` would change.
pub(super) struct Plan {
    /// In the order of the project.
    pub(super) steps: Vec<Step>,
    /// What the project has deployed and the file does not name.
    pub(super) orphans: Vec<Deployed>,
}

/// One agent of the file.
pub(super) struct Step {
    pub(super) name: String,
    pub(super) packed: Packed,
    pub(super) action: Action,
    pub(super) changes: Vec<String>,
    /// The deployment as it is.
    pub(super) deployment: Value,
    namespace: String,
    alias: String,
    replicas: Option<u32>,
    env: BTreeMap<String, String>,
    project: String,
}

/// What happens to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Action {
    Create,
    Change,
    Unchanged,
}

impl Action {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Change => "change",
            Self::Unchanged => "unchanged",
        }
    }
}

/// What the control plane says.
#[derive(Deserialize)]
struct Answer {
    action: Action,
    changes: Vec<String>,
    #[serde(default)]
    deployment: Value,
}

impl Plan {
    /// Loads and packs every agent, and compares with what is deployed.
    pub(super) async fn make(
        context: &Context,
        client: &Client,
        project: &Project,
    ) -> Outcome<Self> {
        let mut sources = Sources::default();
        let mut steps: Vec<Step> = Vec::new();
        for agent in project.agents() {
            let named = |failure: Failure| failure.within(&format!("agent `{}`", agent.name));
            let step = Step::load(context, &mut sources, project, agent).await;
            let step = step.map_err(named)?;
            let place = step.place();
            if let Some(other) = steps.iter().find(|other| other.place() == place) {
                let message = format!(
                    "the agents `{}` and `{}` are both {place}",
                    other.name, step.name
                );
                return Err(
                    Failure::usage(message).help("give one of them another `alias` or `namespace`")
                );
            }
            steps.push(step);
        }
        for step in &mut steps {
            step.compare(client).await?;
        }
        let deployed = project.deployed(client).await?;
        let in_file = |row: &Deployed| steps.iter().any(|step| step.place() == row.place());
        let orphans = deployed.into_iter().filter(|row| !in_file(row)).collect();
        Ok(Self { steps, orphans })
    }

    pub(super) fn count(&self, action: Action) -> usize {
        self.steps
            .iter()
            .filter(|step| step.action == action)
            .count()
    }

    /// Whether nothing is to be deployed.
    pub(super) fn is_unchanged(&self) -> bool {
        self.count(Action::Unchanged) == self.steps.len()
    }

    /// For programs.
    pub(super) fn as_json(&self, project: &str) -> Value {
        let agents: Vec<Value> = self.steps.iter().map(Step::as_json).collect();
        let orphans: Vec<Value> = self.orphans.iter().map(|row| row.0.clone()).collect();
        json!({ "project": project, "agents": agents, "orphans": orphans })
    }

    /// For people.
    pub(super) fn text(&self, style: Style, remove_orphans: bool) -> String {
        let mut rows: Vec<Value> = self.steps.iter().map(Step::as_row).collect();
        let orphan = if remove_orphans {
            "remove"
        } else {
            "orphan: not in the file"
        };
        rows.extend(
            self.orphans
                .iter()
                .map(|row| json!({ "name": row.name(), "place": row.place(), "action": orphan })),
        );
        let columns = [
            ("AGENT", "/name"),
            ("DEPLOYMENT", "/place"),
            ("VERSION", "/version"),
            ("PLAN", "/action"),
        ];
        let text = table(&rows, &columns);
        let paint = |line: &str| {
            if line.ends_with(Action::Unchanged.word()) {
                style.dim(line)
            } else {
                line.to_owned()
            }
        };
        text.lines().map(paint).collect::<Vec<_>>().join("\n")
    }
}

impl Step {
    async fn load(
        context: &Context,
        sources: &mut Sources,
        project: &Project,
        agent: &ComposeAgent,
    ) -> Outcome<Self> {
        let source: ComposeSource = agent
            .source
            .parse()
            .map_err(|error: InvalidValue| Failure::usage(error.to_string()))?;
        let found = sources.find(context, &source, project.directory()).await?;
        let lookup = |name: &str| context.config.variable(name);
        let env = project
            .compose
            .environment(agent, &lookup)
            .map_err(|missing| Failure::usage(missing.to_string()))?;
        Ok(Self {
            name: agent.name.to_string(),
            packed: Packed::load(context, &found)?,
            action: Action::Create,
            changes: Vec::new(),
            deployment: Value::Null,
            namespace: agent.namespace.clone(),
            alias: agent.alias.clone(),
            replicas: agent.replicas,
            env,
            project: project.name().to_owned(),
        })
    }

    async fn compare(&mut self, client: &Client) -> Outcome<()> {
        let body = self.body();
        let answer = client
            .post(Api::ControlPlane, "/v1/deployments/plan", &body)
            .await?;
        let answer: Answer = serde_json::from_value(answer).map_err(|error| {
            Failure::because(
                "the control plane answered something else than a plan",
                &error,
            )
        })?;
        self.action = answer.action;
        self.changes = answer.changes;
        self.deployment = answer.deployment;
        Ok(())
    }

    /// What the control plane is asked for.
    pub(super) fn body(&self) -> Value {
        json!({
            "agent": self.packed.name,
            "digest": self.packed.digest,
            "namespace": self.namespace,
            "alias": self.alias,
            "replicas": self.replicas,
            "env": self.env,
            "project": { "name": self.project, "agent": self.name },
        })
    }

    /// Whether the package may have to be published.
    pub(super) fn is_new_version(&self) -> bool {
        self.action == Action::Create || self.changes.iter().any(|change| change == "version")
    }

    pub(super) fn patience(&self) -> Patience {
        self.packed.patience()
    }

    pub(super) fn place(&self) -> String {
        place(&self.namespace, &self.packed.name, &self.alias)
    }

    pub(super) fn as_json(&self) -> Value {
        json!({
            "name": self.name,
            "agent": self.packed.name,
            "namespace": self.namespace,
            "alias": self.alias,
            "version": self.packed.version,
            "digest": self.packed.digest,
            "replicas": self.replicas,
            "action": self.action.word(),
            "changes": self.changes,
        })
    }

    fn as_row(&self) -> Value {
        let mut action = self.action.word().to_owned();
        if !self.changes.is_empty() {
            action.push_str(&format!(" {}", self.changes.join(", ")));
        }
        json!({
            "name": self.name, "place": self.place(), "version": self.packed.version, "action": action,
        })
    }
}
