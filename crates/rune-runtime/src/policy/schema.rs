//! The Cedar schema that the policies of one agent are checked against.

use std::collections::BTreeMap;

use rune_spec::{AgentPackage, ToolDescriptor};
use serde_json::Value;

use super::shape::{Shape, record_type};

/// What every agent has.
const ENTITIES: &str = r#"
// Who the agent acts for: the caller of the request.
entity Caller;
// Agent::"namespace/name"; a principal is `in` its caller.
entity Agent in [Caller] = {
    "namespace": __cedar::String,
    "name": __cedar::String,
    "version": __cedar::String,
    "networks": Set<__cedar::String>,
};
// Tool::"rune@shell-exec", Tool::"word-count", Tool::"server/tool".
entity Tool = {
    "name": __cedar::String,
    "runtime": __cedar::String,
    "source": __cedar::String,
    "read_only": __cedar::Bool,
    "idempotent": __cedar::Bool,
    "capabilities": Set<__cedar::String>,
};
// Model::"provider/model".
entity Model = { "provider": __cedar::String, "name": __cedar::String };
// Host::"api.example.org".
entity Host = { "name": __cedar::String, "port": __cedar::Long };
action "model" appliesTo { principal: [Agent], resource: [Model], context: {} };
action "agent_call" appliesTo { principal: [Agent], resource: [Agent], context: {} };
action "egress" appliesTo { principal: [Agent], resource: [Host], context: {} };
"#;

/// The schema for an agent with these tools.
pub(super) fn text(package: &AgentPackage) -> String {
    let mut texts: BTreeMap<String, Shape> = BTreeMap::new();
    let mut arguments: BTreeMap<String, Shape> = BTreeMap::new();
    for tool in &package.tools {
        let Shape::Record(fields) = Shape::of(&tool.descriptor.input_schema) else {
            continue;
        };
        for (name, shape) in fields {
            texts.insert(name.clone(), Shape::Text);
            // Tools that disagree on a type leave none that holds for every call.
            arguments
                .entry(name)
                .and_modify(|other| {
                    if *other != shape {
                        *other = Shape::Unknown;
                    }
                })
                .or_insert(shape);
        }
    }
    format!(
        "{ENTITIES}action \"tool\" appliesTo {{ principal: [Agent], resource: [Tool], context: {{\n    \
         \"primary\": __cedar::String,\n    \"text\": {},\n    \"arguments\": {},\n    \
         \"arguments_json\": __cedar::String,\n}} }};\n",
        record_type(&texts),
        record_type(&arguments)
    )
}

/// Whether a tool may have arguments that are not known before it is called.
pub(super) fn is_open(package: &AgentPackage) -> bool {
    let open = |tool: &ToolDescriptor| {
        let properties = tool.input_schema.get("properties");
        properties.and_then(Value::as_object).is_none()
    };
    !package.mcp_tools.is_empty() || package.tools.iter().any(|tool| open(&tool.descriptor))
}
