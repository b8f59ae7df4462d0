//! `rune compose config`

use serde_json::{Map, Value, json};

use super::project::Project;
use crate::context::Context;
use crate::failure::{Exit, Failure, Outcome};
use crate::source::shown;

/// Prints the file as it is understood. The variables of agents may be secrets, so they stay as they were written.
pub(super) fn run(context: &Context, project: &Project) -> Outcome {
    let agents: Map<String, Value> = project
        .agents()
        .iter()
        .map(|agent| {
            let mut value = json!({
                "source": shown(&agent.source),
                "namespace": agent.namespace,
                "alias": agent.alias,
                "depends_on": agent.depends_on,
                "env": agent.env,
            });
            if let Some(replicas) = agent.replicas {
                value["replicas"] = replicas.into();
            }
            (agent.name.to_string(), value)
        })
        .collect();
    let data = json!({
        "version": "1",
        "project": project.name(),
        "rune-env": project.compose.env,
        "agents": agents,
    });
    let yaml = serde_saphyr::to_string(&data)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot print as YAML: {error}")))?;
    context.output.data(&data, |_| yaml.trim_end().to_owned())?;
    Ok(Exit::Ok)
}
