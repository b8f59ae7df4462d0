//! A compose file that was read, and what the daemon has of its project.

use std::path::{Path, PathBuf};

use rune_spec::{Compose, ComposeAgent, SchemaKind};
use serde_json::Value;

use super::{directory, place};
use crate::client::{Api, Client};
use crate::commands::validate::invalid_file;
use crate::context::Context;
use crate::failure::{Failure, Outcome};

/// The names a compose file has where none is given.
const NAMES: [&str; 2] = ["rune-compose.yml", "rune-compose.yaml"];
/// Most deployments of a project.
const MAX_DEPLOYMENTS: usize = 2000;

/// Whether a variable that is not set is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variables {
    /// It is: the values are used.
    Required,
    /// It is not: only names are used.
    Optional,
}

/// A compose file that was read.
pub(super) struct Project {
    pub(super) compose: Compose,
    file: PathBuf,
}

impl Project {
    pub(super) fn load(
        context: &Context,
        file: Option<&Path>,
        variables: Variables,
    ) -> Outcome<Self> {
        let file = find(file)?;
        let text = std::fs::read_to_string(&file).map_err(|error| {
            Failure::usage(format!("cannot read {}: {error}", file.display()))
                .help("name the compose file: rune compose -f FILE …")
        })?;
        let lookup = |name: &str| {
            let value = context.config.variable(name);
            value.or_else(|| (variables == Variables::Optional).then(String::new))
        };
        let compose = Compose::parse(&file, &text, &lookup).map_err(|errors| {
            let what = "the compose file";
            invalid_file(context.output, &errors, what, SchemaKind::Compose)
        })?;
        Ok(Self { compose, file })
    }

    pub(super) fn name(&self) -> &str {
        &self.compose.project
    }

    /// The agents, dependencies first.
    pub(super) fn agents(&self) -> &[ComposeAgent] {
        &self.compose.agents
    }

    /// What paths are relative to.
    pub(super) fn directory(&self) -> &Path {
        directory(&self.file)
    }

    /// Where an agent stands in the order.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.agents()
            .iter()
            .position(|agent| agent.name.as_str() == name)
    }

    /// For each agent the positions of those it depends on.
    pub(super) fn dependencies(&self) -> Vec<Vec<usize>> {
        let positions = |agent: &ComposeAgent| {
            let names = agent.depends_on.iter();
            names.filter_map(|name| self.position(name)).collect()
        };
        self.agents().iter().map(positions).collect()
    }

    /// What the daemon has of the project.
    pub(super) async fn deployed(&self, client: &Client) -> Outcome<Vec<Deployed>> {
        let query = [("project", self.name())];
        let rows = client
            .list(
                Api::ControlPlane,
                "/v1/deployments",
                &query,
                MAX_DEPLOYMENTS,
            )
            .await?;
        Ok(rows.into_iter().map(Deployed).collect())
    }
}

/// A deployment of a project, as the control plane shows it.
#[derive(Debug, Clone)]
pub(super) struct Deployed(pub(super) Value);

impl Deployed {
    fn text(&self, pointer: &str) -> &str {
        let value = self.0.pointer(pointer);
        value.and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn id(&self) -> &str {
        self.text("/id")
    }

    /// What the project calls it.
    pub(super) fn name(&self) -> &str {
        self.text("/project/agent")
    }

    pub(super) fn agent(&self) -> &str {
        self.text("/agent")
    }

    pub(super) fn namespace(&self) -> &str {
        self.text("/namespace")
    }

    pub(super) fn alias(&self) -> &str {
        self.text("/alias")
    }

    pub(super) fn version_id(&self) -> &str {
        self.text("/version_id")
    }

    pub(super) fn place(&self) -> String {
        place(self.namespace(), self.agent(), self.alias())
    }
}

fn find(file: Option<&Path>) -> Outcome<PathBuf> {
    if let Some(file) = file {
        return Ok(file.to_owned());
    }
    let found = NAMES.iter().map(PathBuf::from).find(|path| path.is_file());
    found.ok_or_else(|| {
        let message = format!("there is no {} here", NAMES.join(" or "));
        Failure::usage(message).help(
            "name the file: rune compose -f FILE …; `rune schema compose` prints what it may hold",
        )
    })
}
