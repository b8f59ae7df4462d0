//! Agents as tools: the schemas of their arguments.

use rmcp::model::{JsonObject, Tool};
use serde_json::{Map, Value, json};

use super::source::OfferedAgent;

/// The argument with what an agent is asked.
pub(crate) const INPUT: &str = "input";
/// The argument that names the conversation.
pub(crate) const SESSION: &str = "session_id";

/// Where the schema of an agent is within that of its tool.
const PLACE: &str = "/properties/input";
/// Keywords whose values are schemas by names of their own.
const NAMED: [&str; 5] = [
    "properties",
    "patternProperties",
    "$defs",
    "definitions",
    "dependentSchemas",
];
/// Keywords whose values are no schemas.
const VALUES: [&str; 4] = ["const", "enum", "default", "examples"];
/// An annotation that holds only for arguments of a tool itself; clients drop tools that have it elsewhere.
const HEADER: &str = "x-mcp-header";

/// The tool that an agent is.
pub(crate) fn tool(agent: &OfferedAgent) -> Tool {
    let description = if agent.description.is_empty() {
        format!("The agent `{}`.", agent.name)
    } else {
        agent.description.clone()
    };
    let mut tool = Tool::new(agent.name.clone(), description, arguments(agent));
    if let Some(schema) = answers_object(agent) {
        tool = tool.with_raw_output_schema(schema.clone().into());
    }
    tool
}

/// The schema of what an agent answers, where that is an object: the protocol has no place for anything else, and
/// strict clients drop the whole list for it.
pub(crate) fn answers_object(agent: &OfferedAgent) -> Option<&JsonObject> {
    let schema = agent.output_schema.as_ref()?.as_object()?;
    let is_object = schema.get("type").is_some_and(|kind| kind == "object");
    is_object.then_some(schema)
}

/// Whether an agent takes an input without anything in it.
pub(crate) fn takes_nothing(agent: &OfferedAgent) -> bool {
    let Some(schema) = &agent.input_schema else {
        return false;
    };
    let nothing = |required: &Value| required.as_array().is_none_or(Vec::is_empty);
    schema["type"] == "object"
        && nothing(&schema["required"])
        && ["allOf", "anyOf", "oneOf", "minProperties"]
            .iter()
            .all(|word| schema.get(word).is_none())
}

/// The schema of the tool's arguments.
fn arguments(agent: &OfferedAgent) -> JsonObject {
    let mut arguments = Map::new();
    let input = match &agent.input_schema {
        Some(schema) => {
            let mut schema = schema.clone();
            // It says how the whole schema is read, so it stands at the root only.
            if let Some(dialect) = schema.as_object_mut().and_then(|map| map.remove("$schema")) {
                arguments.insert("$schema".to_owned(), dialect);
            }
            move_refs(&mut schema, false);
            schema
        }
        None => json!({"type": "string", "description": "What the agent is asked."}),
    };
    let session = json!({
        "type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z0-9._:@-]+$",
        "description": "The conversation: calls with the same id continue one. Choose any id, such as a UUID, \
                        and send it again; where it is left out a new conversation begins.",
    });
    arguments.insert("type".to_owned(), json!("object"));
    arguments.insert(
        "properties".to_owned(),
        json!({ INPUT: input, SESSION: session }),
    );
    if !takes_nothing(agent) {
        arguments.insert("required".to_owned(), json!([INPUT]));
    }
    arguments.insert("additionalProperties".to_owned(), json!(false));
    arguments
}

/// Lets the references of a schema point to where it will be. `named`: the value is a map of schemas.
fn move_refs(value: &mut Value, named: bool) {
    match value {
        Value::Object(map) if named => {
            for schema in map.values_mut() {
                move_refs(schema, false);
            }
        }
        // What has an id of its own is referred to within.
        Value::Object(map) if map.get("$id").is_some_and(Value::is_string) => {}
        Value::Object(map) => {
            if map.get(HEADER).is_some_and(Value::is_string) {
                map.remove(HEADER);
            }
            for (word, value) in map {
                match (word.as_str(), value) {
                    ("$ref" | "$dynamicRef", Value::String(target)) => {
                        if target == "#" || target.starts_with("#/") {
                            target.insert_str(1, PLACE);
                        }
                    }
                    (word, _) if VALUES.contains(&word) => {}
                    (word, value) => move_refs(value, NAMED.contains(&word)),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                move_refs(item, false);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(input_schema: Option<Value>) -> OfferedAgent {
        OfferedAgent {
            name: "adder".to_owned(),
            description: String::new(),
            input_schema,
            output_schema: None,
        }
    }

    fn schema(input_schema: Value) -> Value {
        Value::Object(arguments(&agent(Some(input_schema))))
    }

    #[test]
    fn an_agent_without_a_schema_takes_text() {
        let tool = tool(&agent(None));
        assert_eq!(tool.description.as_deref(), Some("The agent `adder`."));
        let schema = Value::Object((*tool.input_schema).clone());
        assert_eq!(schema["properties"]["input"]["type"], "string");
        assert_eq!(schema["required"], json!(["input"]));
        assert_eq!(schema["properties"]["session_id"]["type"], "string");
    }

    #[test]
    fn references_still_find_what_they_mean() {
        let given = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "$defs": {"part": {"type": "object", "properties": {"next": {"$ref": "#/$defs/part"}}}},
            "properties": {
                "first": {"$ref": "#/$defs/part"},
                "whole": {"$ref": "#"},
                "there": {"$ref": "https://example.org/x#/$defs/part"},
                "default": {"$ref": "#/$defs/part"},
                "word": {"const": {"$ref": "#/$defs/part"}},
                "own": {"$id": "urn:own", "$defs": {"a": {}}, "$ref": "#/$defs/a"},
            },
            "required": ["first"],
        });
        let schema = schema(given);
        assert_eq!(
            schema["$schema"],
            "https://json-schema.org/draft/2020-12/schema"
        );
        let input = &schema["properties"]["input"];
        assert_eq!(input.get("$schema"), None);
        let properties = &input["properties"];
        let moved = "#/properties/input/$defs/part";
        assert_eq!(properties["first"]["$ref"], moved);
        assert_eq!(properties["default"]["$ref"], moved);
        assert_eq!(input["$defs"]["part"]["properties"]["next"]["$ref"], moved);
        assert_eq!(properties["whole"]["$ref"], "#/properties/input");
        assert_eq!(
            properties["there"]["$ref"],
            "https://example.org/x#/$defs/part"
        );
        assert_eq!(properties["word"]["const"]["$ref"], "#/$defs/part");
        assert_eq!(properties["own"]["$ref"], "#/$defs/a");
        for reference in [&properties["first"], &properties["whole"]] {
            let pointer = reference["$ref"]
                .as_str()
                .unwrap()
                .strip_prefix('#')
                .unwrap();
            assert!(schema.pointer(pointer).is_some(), "{pointer}");
        }
    }

    #[test]
    fn only_an_object_has_an_output_schema() {
        let offered = |schema: Value| {
            let mut agent = agent(None);
            agent.output_schema = Some(schema);
            tool(&agent).output_schema
        };
        let object = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
        let schema = offered(object.clone()).unwrap();
        assert_eq!(Value::Object((*schema).clone()), object);
        for other in [
            json!({"type": "array", "items": {"type": "string"}}),
            json!({"type": "string"}),
            json!({"type": ["object", "null"]}),
            json!({"anyOf": [{"type": "object"}]}),
            json!({}),
            json!(true),
        ] {
            assert_eq!(offered(other.clone()), None, "{other}");
        }
    }

    #[test]
    fn input_may_be_left_out_where_nothing_is_required() {
        assert_eq!(schema(json!({"type": "object"})).get("required"), None);
        for needs in [
            json!({"type": "object", "required": ["a"]}),
            json!({"type": "object", "anyOf": [{"required": ["a"]}]}),
            json!({"type": "string"}),
            json!(true),
        ] {
            assert_eq!(
                schema(needs.clone())["required"],
                json!(["input"]),
                "{needs}"
            );
        }
    }

    #[test]
    fn an_annotation_for_headers_does_not_survive() {
        let given = json!({"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "x-mcp-header": {"type": "string"},
        }});
        let input = schema(given)["properties"]["input"].clone();
        assert_eq!(input["properties"]["region"].get("x-mcp-header"), None);
        assert!(input["properties"].get("x-mcp-header").is_some());
    }
}
