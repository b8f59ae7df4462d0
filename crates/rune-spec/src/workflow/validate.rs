//! From what was written to what holds.

use super::document::{StepDocument, WorkflowDocument};
use super::expression::{self, Checked};
use super::{OutputStep, Step, Workflow};
use crate::checker::Checker;
use crate::document::{At, Document};
use crate::error::SpecErrors;
use crate::graph::{waits_for, waves};
use crate::suggest::help_for;

/// Most steps of one workflow.
const MAX_STEPS: usize = 1000;
/// Most attempts a step may ask for.
const MAX_ATTEMPTS: u32 = 10;

pub(super) fn validate(
    document: WorkflowDocument,
    source: &Document,
) -> Result<Workflow, SpecErrors> {
    let mut checker = Checker::new(source);
    checker.filled(&At::top("name"), "`name`", &document.name);
    let version = checker.version(&At::top("version"), &document.version);
    let timeout = checker.millis(&At::top("timeout_ms"), document.timeout_ms);
    if document.steps.is_empty() || document.steps.len() > MAX_STEPS {
        checker.error(
            &At::top("steps"),
            format!("a workflow has between 1 and {MAX_STEPS} steps"),
        );
        return Err(checker.into_errors());
    }
    let ids: Vec<&str> = document.steps.iter().map(|step| step.id.as_str()).collect();
    let dependencies = dependencies(&mut checker, &document.steps, &ids);
    let waves = waves(&dependencies).map_err(|cycle| {
        let names: Vec<&str> = cycle
            .iter()
            .chain(cycle.first())
            .map(|&node| ids[node])
            .collect();
        let at = At::top("steps")
            .index(cycle.first().copied().unwrap_or_default())
            .field("depends_on");
        checker.error(
            &at,
            format!("the steps wait for each other: {}", names.join(" → ")),
        );
    });
    let mut steps = Vec::new();
    for (index, step) in document.steps.iter().enumerate() {
        steps.extend(check_step(&mut checker, index, step, &ids, &dependencies));
    }
    let output_step = output_step(&mut checker, document.output_step.as_deref(), &ids);
    let (Some(version), Some(output_step), Ok(waves)) = (version, output_step, waves) else {
        return Err(checker.into_errors());
    };
    checker.finish(Workflow {
        name: document.name,
        version,
        description: document.description,
        timeout,
        steps,
        output_step,
        waves,
    })
}

fn dependencies(
    checker: &mut Checker<'_>,
    steps: &[StepDocument],
    ids: &[&str],
) -> Vec<Vec<usize>> {
    let mut all = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let at = At::top("steps").index(index);
        let valid = !step.id.is_empty()
            && step
                .id
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if !valid {
            checker.error(
                &at.field("id"),
                format!("step id `{}` must be letters, digits, `_` and `-`", step.id),
            );
        }
        if ids[..index].contains(&step.id.as_str()) {
            checker.error(&at.field("id"), format!("duplicate step id `{}`", step.id));
        }
        let mut nodes = Vec::new();
        for (number, name) in step.depends_on.iter().enumerate() {
            match ids.iter().position(|id| id == name) {
                Some(node) => nodes.push(node),
                None => checker.error_with_help(
                    &at.field("depends_on").index(number),
                    format!("unknown step `{name}`"),
                    help_for(name, ids.iter().copied()),
                ),
            }
        }
        all.push(nodes);
    }
    all
}

fn check_step(
    checker: &mut Checker<'_>,
    index: usize,
    step: &StepDocument,
    ids: &[&str],
    dependencies: &[Vec<usize>],
) -> Option<Step> {
    let at = At::top("steps").index(index);
    let agent_ref = checker.take(&at.field("agent_ref"), step.agent_ref.parse());
    let template_at = at.field("input_template");
    let template = checker.take(
        &template_at,
        expression::template(&step.input_template, ids),
    );
    let template =
        template.map(|checked| reads(checker, &template_at, checked, index, ids, dependencies));
    let condition_at = at.field("condition");
    let condition = match &step.condition {
        Some(text) => {
            let checked = checker.take(&condition_at, expression::condition(text, ids))?;
            Some(reads(
                checker,
                &condition_at,
                checked,
                index,
                ids,
                dependencies,
            ))
        }
        None => None,
    };
    let timeout = step
        .timeout_ms
        .map(|millis| checker.millis(&at.field("timeout_ms"), millis));
    if !(1..=MAX_ATTEMPTS).contains(&step.retry.max_attempts) {
        checker.error(
            &at.field("retry").field("max_attempts"),
            format!("must be between 1 and {MAX_ATTEMPTS}"),
        );
    }
    Some(Step {
        id: step.id.clone(),
        agent_ref: agent_ref?,
        input_template: template?,
        depends_on: step.depends_on.clone(),
        condition,
        timeout,
        max_attempts: step.retry.max_attempts,
    })
}

/// A step may only read what is certain to have ended before it starts.
fn reads<T>(
    checker: &mut Checker<'_>,
    at: &At,
    checked: Checked<T>,
    index: usize,
    ids: &[&str],
    dependencies: &[Vec<usize>],
) -> T {
    for id in &checked.steps {
        match ids.iter().position(|known| known == id) {
            None => checker.error_with_help(
                at,
                format!("unknown step `{id}`"),
                help_for(id, ids.iter().copied()),
            ),
            Some(node) if !waits_for(dependencies, index, node) => checker.error_with_help(
                at,
                format!(
                    "step `{}` reads the output of `{id}` but does not wait for it",
                    ids[index]
                ),
                Some(format!("add `{id}` to its `depends_on`")),
            ),
            Some(_) => {}
        }
    }
    checked.value
}

fn output_step(checker: &mut Checker<'_>, text: Option<&str>, ids: &[&str]) -> Option<OutputStep> {
    let at = At::top("output_step");
    let Some(text) = text else {
        return ids.last().map(|id| OutputStep::Step((*id).to_owned()));
    };
    if ids.contains(&text) {
        return Some(OutputStep::Step(text.to_owned()));
    }
    if !text.contains("{{") && !text.contains("{%") {
        checker.error_with_help(
            &at,
            format!("unknown step `{text}`"),
            help_for(text, ids.iter().copied()),
        );
        return None;
    }
    let checked = checker.take(&at, expression::template(text, ids))?;
    for id in checked
        .steps
        .iter()
        .filter(|id| !ids.contains(&id.as_str()))
    {
        checker.error_with_help(
            &at,
            format!("unknown step `{id}`"),
            help_for(id, ids.iter().copied()),
        );
    }
    Some(OutputStep::Template(checked.value))
}
