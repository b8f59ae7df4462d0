//! Drawings of a workflow.

use clap::ValueEnum;
use rune_spec::{OutputStep, Step, Workflow};
use serde_json::{Value, json};

/// How a workflow is drawn.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Drawing {
    /// Waves, one below the other.
    Text,
    /// A Mermaid flowchart.
    Mermaid,
    /// Graphviz.
    Dot,
}

/// The workflow for programs: its waves and steps.
pub(super) fn data(workflow: &Workflow) -> Value {
    let steps: Vec<Value> = workflow
        .steps
        .iter()
        .map(|step| {
            json!({
                "id": step.id,
                "agent_ref": step.agent_ref,
                "depends_on": step.depends_on,
                "conditional": step.condition.is_some(),
            })
        })
        .collect();
    let waves: Vec<Vec<&str>> = waves(workflow)
        .map(|wave| wave.map(|step| step.id.as_str()).collect())
        .collect();
    let output = match &workflow.output_step {
        OutputStep::Step(id) => id.as_str(),
        OutputStep::Template(text) => text.as_str(),
    };
    json!({"name": workflow.name, "waves": waves, "steps": steps, "output_step": output})
}

/// The workflow for people.
pub(super) fn draw(workflow: &Workflow, drawing: Drawing) -> String {
    match drawing {
        Drawing::Text => text(workflow),
        Drawing::Mermaid => mermaid(workflow),
        Drawing::Dot => dot(workflow),
    }
}

fn waves(workflow: &Workflow) -> impl Iterator<Item = impl Iterator<Item = &Step>> {
    let waves = workflow.waves.iter();
    waves.map(|wave| wave.iter().filter_map(|index| workflow.steps.get(*index)))
}

fn text(workflow: &Workflow) -> String {
    let mut out = String::new();
    for (number, wave) in waves(workflow).enumerate() {
        out.push_str(&format!("wave {}\n", number + 1));
        for step in wave {
            out.push_str(&format!("  {}  {}", step.id, step.agent_ref));
            if !step.depends_on.is_empty() {
                out.push_str(&format!("  after {}", step.depends_on.join(", ")));
            }
            if step.condition.is_some() {
                out.push_str("  (conditional)");
            }
            out.push('\n');
        }
    }
    out
}

fn mermaid(workflow: &Workflow) -> String {
    let mut out = String::from("flowchart TD\n");
    for (index, step) in workflow.steps.iter().enumerate() {
        let (open, close) = if step.condition.is_some() {
            ("{{", "}}")
        } else {
            ("[", "]")
        };
        out.push_str(&format!(
            "  s{index}{open}\"{}<br/>{}\"{close}\n",
            step.id, step.agent_ref
        ));
    }
    for (from, to) in edges(workflow) {
        out.push_str(&format!("  s{from} --> s{to}\n"));
    }
    out
}

fn dot(workflow: &Workflow) -> String {
    let mut out = format!("digraph {:?} {{\n  node [shape=box];\n", workflow.name);
    for (index, step) in workflow.steps.iter().enumerate() {
        let shape = if step.condition.is_some() {
            ", shape=hexagon"
        } else {
            ""
        };
        let label = format!("{}\n{}", step.id, step.agent_ref);
        out.push_str(&format!("  s{index} [label={label:?}{shape}];\n"));
    }
    for (from, to) in edges(workflow) {
        out.push_str(&format!("  s{from} -> s{to};\n"));
    }
    out.push_str("}\n");
    out
}

/// Pairs of indexes: what has to end, and what waits for it.
fn edges(workflow: &Workflow) -> impl Iterator<Item = (usize, usize)> {
    let position = |id: &str| workflow.steps.iter().position(|step| step.id == id);
    workflow
        .steps
        .iter()
        .enumerate()
        .flat_map(move |(to, step)| {
            let from = step.depends_on.iter().filter_map(move |id| position(id));
            from.map(move |from| (from, to))
        })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn workflow() -> Workflow {
        let text = "name: w\nversion: 1.0.0\nsteps:\n  - {id: a, agent_ref: local://x}\n  - {id: b, agent_ref: local://y, depends_on: [a], condition: \"input == 'q'\"}\n";
        Workflow::parse(Path::new("workflow.yaml"), text).unwrap()
    }

    #[test]
    fn draws_steps_and_edges() {
        let workflow = workflow();
        assert_eq!(
            draw(&workflow, Drawing::Text),
            "wave 1\n  a  local://x\nwave 2\n  b  local://y  after a  (conditional)\n"
        );
        assert!(draw(&workflow, Drawing::Mermaid).contains("s0 --> s1"));
        assert!(draw(&workflow, Drawing::Dot).contains("s0 -> s1;"));
        assert_eq!(data(&workflow)["waves"], json!([["a"], ["b"]]));
    }
}
