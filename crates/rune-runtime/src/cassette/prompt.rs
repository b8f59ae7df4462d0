//! What of an agent its models are told, as digests.

use std::collections::BTreeMap;

use rune_spec::package::digest;
use rune_spec::{CassettePrompt, OUTPUT_READ, TOOL_SEARCH};
use serde_json::{Value, json};

use crate::agent::{Agent, visible};

/// The digests of an agent, without the tools that come with others; of a tool that is searched for as of one that is shown. Of the instructions as they are written: what their `${VAR}` stand for is of the machine.
pub(crate) fn of(agent: &Agent) -> CassettePrompt {
    let extra = [visible(OUTPUT_READ), visible(TOOL_SEARCH)];
    let tools = agent.all_definitions();
    let tools = tools.filter(|tool| !extra.contains(&tool.name));
    let tools = tools.map(|tool| {
        let told = json!([tool.description, sorted(&tool.input_schema)]);
        (tool.name.clone(), digest(told.to_string().as_bytes()))
    });
    CassettePrompt {
        instructions: Some(digest(agent.package().instructions.as_bytes())),
        tools: Some(tools.collect()),
        output_schema: agent
            .output_schema()
            .map(|schema| digest(sorted(schema).to_string().as_bytes())),
    }
}

fn sorted(schema: &Value) -> Value {
    let mut schema = schema.clone();
    schema.sort_all_objects();
    schema
}

/// The first part that differs: its JSON Pointer, what was recorded and what it is now.
pub(crate) fn difference(
    then: &CassettePrompt,
    now: &CassettePrompt,
) -> Option<(String, Value, Value)> {
    if let Some(recorded) = &then.instructions
        && Some(recorded) != now.instructions.as_ref()
    {
        return Some((
            "/instructions".to_owned(),
            json!(recorded),
            json!(now.instructions),
        ));
    }
    if let Some(recorded) = &then.tools {
        let none = BTreeMap::new();
        let tools = now.tools.as_ref().unwrap_or(&none);
        let mut names = recorded.keys().chain(tools.keys());
        if let Some(name) = names.find(|name| recorded.get(*name) != tools.get(*name)) {
            return Some((
                format!("/tools/{name}"),
                json!(recorded.get(name)),
                json!(tools.get(name)),
            ));
        }
    }
    // An agent that had none says so by having instructions.
    let compared = then.output_schema.is_some() || then.instructions.is_some();
    (compared && then.output_schema != now.output_schema).then(|| {
        (
            "/output_schema".to_owned(),
            json!(then.output_schema),
            json!(now.output_schema),
        )
    })
}
