//! `rune-compose.yml`: several agents deployed together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checker::Checker;
use crate::document::{At, Document};
use crate::error::{InvalidValue, SpecErrors};
use crate::graph::waves;
use crate::interpolate::{MissingVariable, interpolate};
use crate::name::{AgentName, label};
use crate::suggest::help_for;

/// Most agents of a project.
const MAX_AGENTS: usize = 1000;

/// A valid compose file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compose {
    /// The project's name.
    pub project: String,
    /// Variables of every agent; raw text, see [`Compose::environment`].
    pub env: BTreeMap<String, String>,
    /// The agents, dependencies first.
    pub agents: Vec<ComposeAgent>,
}

/// One agent of a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComposeAgent {
    /// The name in the file.
    pub name: AgentName,
    /// Where the agent comes from, see [`ComposeSource`].
    pub source: String,
    /// Namespace of the deployment.
    pub namespace: String,
    /// Alias of the deployment.
    pub alias: String,
    /// Replicas wanted; as many as the agent begins with where nobody says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Agents deployed before this one.
    pub depends_on: Vec<String>,
    /// Variables over the project's; raw text, see [`Compose::environment`].
    pub env: BTreeMap<String, String>,
}

impl Compose {
    /// Parses and validates the text of a compose file, with the variables that `lookup` knows. `path` only serves the
    /// messages.
    ///
    /// # Errors
    /// The first error of the YAML, or every missing variable, or every error of meaning.
    pub fn parse(path: &Path, text: &str, lookup: Lookup<'_>) -> Result<Self, SpecErrors> {
        let (mut document, source) = Document::parse::<ComposeDocument>(path, text)?;
        document.interpolate(&source, lookup)?;
        document.validate(&source)
    }

    /// The variables of an agent: its own over the project's.
    ///
    /// # Errors
    /// A variable that `lookup` does not know, where the file was parsed with another one.
    pub fn environment(
        &self,
        agent: &ComposeAgent,
        lookup: Lookup<'_>,
    ) -> Result<BTreeMap<String, String>, MissingVariable> {
        let mut env = self.env.clone();
        env.extend(agent.env.clone());
        env.into_iter()
            .map(|(name, value)| Ok((name, interpolate(&value, lookup)?)))
            .collect()
    }
}

/// The value of a variable.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Where an agent comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ComposeSource {
    /// A directory, relative to the compose file.
    Path(PathBuf),
    /// A git repository.
    Git {
        /// What `git clone` takes.
        url: String,
        /// Directory of the agent inside the repository.
        subdir: Option<String>,
    },
    /// An OCI reference.
    Oci(String),
}

impl FromStr for ComposeSource {
    type Err = InvalidValue;

    /// `git://REPOSITORY[#SUBDIR]` is git (`git://https://…` keeps the inner URL, `git:///…` is a repository on this
    /// machine); `oci://REF`, or text that names a registry, a tag or a digest, is OCI; everything else, and whatever
    /// starts with `.`, `/` or `~`, is a path.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text.trim().is_empty() || text.contains(|c: char| c.is_control()) {
            return Err(InvalidValue::new(
                "expected a path, `git://REPOSITORY[#SUBDIR]` or an OCI reference",
            ));
        }
        if let Some(rest) = text.strip_prefix("git://") {
            let (repository, subdir) = rest
                .split_once('#')
                .map_or((rest, None), |(url, dir)| (url, Some(dir)));
            if repository.is_empty() || repository.starts_with('-') {
                return Err(InvalidValue::new(format!("`{text}` names no repository")));
            }
            let url = if repository.contains("://") {
                repository.to_owned()
            } else if repository.starts_with('/') {
                format!("file://{repository}")
            } else {
                format!("git://{repository}")
            };
            let subdir = subdir
                .filter(|dir| !dir.is_empty())
                .map(crate::checker::inner_path)
                .transpose()?;
            return Ok(Self::Git {
                url,
                subdir: subdir.map(|dir| dir.display().to_string()),
            });
        }
        if let Some(reference) = text.strip_prefix("oci://") {
            return Ok(Self::Oci(reference.to_owned()));
        }
        let explicit_path = text.starts_with(['.', '/', '~']);
        let last = text.rsplit('/').next().unwrap_or_default();
        let registry = text
            .split_once('/')
            .is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost");
        if !explicit_path && (registry || last.contains([':', '@'])) {
            return Ok(Self::Oci(text.to_owned()));
        }
        Ok(Self::Path(PathBuf::from(text)))
    }
}

/// Several agents deployed together.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "Compose")]
#[serde(deny_unknown_fields)]
pub(crate) struct ComposeDocument {
    /// Version of the format: `"1"`.
    version: String,
    /// The project's name.
    project: String,
    /// Variables of every agent.
    #[serde(default, rename = "rune-env")]
    #[schemars(with = "BTreeMap<String, crate::checker::Scalar>")]
    env: BTreeMap<String, String>,
    /// The agents by name.
    agents: BTreeMap<String, ComposeAgentDocument>,
}

/// One agent of a project.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "ComposeAgent")]
#[serde(deny_unknown_fields)]
pub(crate) struct ComposeAgentDocument {
    /// A path, `git://repo-url[#subdir]`, or an OCI reference.
    source: String,
    /// Namespace of the deployment.
    #[serde(default = "default_namespace")]
    namespace: String,
    /// Alias of the deployment.
    #[serde(default = "default_alias")]
    alias: String,
    /// Replicas wanted; absent: the agent's own `min_replicas`, at least 1.
    #[schemars(range(min = 1))]
    replicas: Option<u32>,
    /// Agents deployed before this one.
    #[serde(default)]
    depends_on: Vec<String>,
    /// Variables over `rune-env`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, crate::checker::Scalar>")]
    env: BTreeMap<String, String>,
}

fn default_namespace() -> String {
    "dev".to_owned()
}

fn default_alias() -> String {
    "stable".to_owned()
}

impl ComposeDocument {
    /// Puts the values of variables in, except into `env`: what stands there may be a secret and stays as it was written.
    fn interpolate(&mut self, source: &Document, lookup: Lookup<'_>) -> Result<(), SpecErrors> {
        let mut checker = Checker::new(source);
        let mut resolve = |at: At, text: &str| match interpolate(text, lookup) {
            Ok(text) => text,
            Err(missing) => {
                checker.error(&at, missing.to_string());
                String::new()
            }
        };
        let top = At::top("agents");
        self.project = resolve(At::top("project"), &self.project);
        for (name, value) in &self.env {
            resolve(At::top("rune-env").field(name), value);
        }
        for (name, agent) in &mut self.agents {
            let at = top.field(name);
            agent.source = resolve(at.field("source"), &agent.source);
            agent.namespace = resolve(at.field("namespace"), &agent.namespace);
            agent.alias = resolve(at.field("alias"), &agent.alias);
            for (name, value) in &agent.env {
                resolve(at.field("env").field(name), value);
            }
        }
        checker.finish(())
    }

    fn validate(self, source: &Document) -> Result<Compose, SpecErrors> {
        let mut checker = Checker::new(source);
        if self.version != "1" {
            checker.error_with_help(
                &At::top("version"),
                format!("unknown format version `{}`", self.version),
                Some("write `version: \"1\"`".to_owned()),
            );
        }
        checker.take(&At::top("project"), label(&self.project, "project"));
        checker.variables(&At::top("rune-env"), self.env.keys());
        if self.agents.is_empty() {
            checker.error(&At::top("agents"), "a project has at least one agent");
        }
        if !checker.at_most(&At::top("agents"), self.agents.len(), MAX_AGENTS) {
            return Err(checker.into_errors());
        }
        let names: Vec<&str> = self.agents.keys().map(String::as_str).collect();
        let mut dependencies = Vec::new();
        for (name, agent) in &self.agents {
            dependencies.push(agent.dependencies(&mut checker, name, &names));
        }
        let order = match waves(&dependencies) {
            Ok(waves) => waves.concat(),
            Err(cycle) => {
                let first = cycle.first().copied().unwrap_or_default();
                let path: Vec<&str> = cycle
                    .iter()
                    .chain(cycle.first())
                    .map(|&node| names[node])
                    .collect();
                let at = At::top("agents").field(names[first]).field("depends_on");
                checker.error(
                    &at,
                    format!("the agents wait for each other: {}", path.join(" → ")),
                );
                Vec::new()
            }
        };
        let mut agents: Vec<Option<ComposeAgent>> = self
            .agents
            .into_iter()
            .map(|(name, agent)| agent.validate(&mut checker, &name))
            .collect();
        let agents = order
            .into_iter()
            .filter_map(|index| agents[index].take())
            .collect();
        checker.finish(Compose {
            project: self.project,
            env: self.env,
            agents,
        })
    }
}

impl ComposeAgentDocument {
    fn dependencies(&self, checker: &mut Checker<'_>, name: &str, names: &[&str]) -> Vec<usize> {
        let at = At::top("agents").field(name).field("depends_on");
        let mut nodes = Vec::new();
        for (index, wanted) in self.depends_on.iter().enumerate() {
            match names.iter().position(|known| known == wanted) {
                Some(node) => nodes.push(node),
                None => checker.error_with_help(
                    &at.index(index),
                    format!("unknown agent `{wanted}`"),
                    help_for(wanted, names.iter().copied()),
                ),
            }
        }
        nodes
    }

    fn validate(self, checker: &mut Checker<'_>, name: &str) -> Option<ComposeAgent> {
        let at = At::top("agents").field(name);
        let parsed = checker.take(&at.clone().key(), name.parse());
        checker.take(&at.field("source"), self.source.parse::<ComposeSource>());
        checker.take(&at.field("namespace"), label(&self.namespace, "namespace"));
        checker.take(&at.field("alias"), label(&self.alias, "alias"));
        checker.variables(&at.field("env"), self.env.keys());
        Some(ComposeAgent {
            name: parsed?,
            source: self.source,
            namespace: self.namespace,
            alias: self.alias,
            replicas: self
                .replicas
                .map(|it| checker.at_least_one(&at.field("replicas"), it)),
            depends_on: self.depends_on,
            env: self.env,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: ComposeSource) {
        assert_eq!(text.parse(), Ok(expected), "{text}");
    }

    #[test]
    fn tells_paths_git_and_oci_apart() {
        check("agents/hello", ComposeSource::Path("agents/hello".into()));
        check("./v1:beta", ComposeSource::Path("./v1:beta".into()));
        check(
            "ghcr.io/acme/hello",
            ComposeSource::Oci("ghcr.io/acme/hello".into()),
        );
        check("hello:1.0.0", ComposeSource::Oci("hello:1.0.0".into()));
        check(
            "localhost/hello",
            ComposeSource::Oci("localhost/hello".into()),
        );
        check(
            "git://https://example.org/r.git#agents/a",
            ComposeSource::Git {
                url: "https://example.org/r.git".into(),
                subdir: Some("agents/a".into()),
            },
        );
        check(
            "git://example.org/r",
            ComposeSource::Git {
                url: "git://example.org/r".into(),
                subdir: None,
            },
        );
        check(
            "git:///srv/agents.git#a",
            ComposeSource::Git {
                url: "file:///srv/agents.git".into(),
                subdir: Some("a".into()),
            },
        );
        assert!("git://".parse::<ComposeSource>().is_err());
        assert!("git://x#../y".parse::<ComposeSource>().is_err());
    }

    #[test]
    fn an_agent_has_its_own_variables_over_those_of_the_project() {
        let text = "version: '1'\nproject: ${P:-shop}\nrune-env: {A: one, B: \"${TOKEN}\"}\n\
                    agents:\n  a: {source: ./a, env: {A: two}}\n";
        let lookup = |name: &str| (name == "TOKEN").then(|| "secret".to_owned());
        let compose = Compose::parse(Path::new("c.yml"), text, &lookup).unwrap();
        assert_eq!(compose.project, "shop");
        assert_eq!(compose.env["B"], "${TOKEN}");
        let env = compose.environment(&compose.agents[0], &lookup).unwrap();
        let expected = [("A", "two"), ("B", "secret")];
        assert_eq!(
            env,
            expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
        );
    }
}
