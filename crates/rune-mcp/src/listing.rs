//! The tools of a server, within limits.

use std::collections::BTreeSet;
use std::iter;

use rmcp::model::Tool;
use rune_spec::{McpTool, ToolRef};
use rune_tools::Secrets;
use serde::Serialize;
use serde_json::Value;

use crate::limits;

/// What was taken of a server's list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Listing {
    /// Its tools, by name.
    pub tools: Vec<McpTool>,
    /// Those that were left out.
    pub skipped: Vec<SkippedTool>,
}

/// A tool that a model is not told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SkippedTool {
    /// Its name, as far as it can be shown.
    pub name: String,
    /// Why.
    pub reason: String,
}

impl Listing {
    /// The same without what must not leave: texts lose it, and a tool is left out that cannot be called without it, since its
    /// name or that of something in its schemas holds it.
    #[must_use]
    pub fn without(mut self, secrets: &Secrets) -> Self {
        if secrets.is_empty() {
            return self;
        }
        let mut skipped = Vec::new();
        self.tools.retain_mut(|tool| {
            let name = secrets.redact(tool.name.clone());
            if name != tool.name {
                let reason = "its name holds a secret".to_owned();
                skipped.push(SkippedTool { name, reason });
                return false;
            }
            tool.description = secrets.redact(std::mem::take(&mut tool.description));
            let schemas = iter::once(&mut tool.input_schema).chain(&mut tool.output_schema);
            for schema in schemas {
                redact_texts(schema, secrets);
                if holds(schema, secrets) {
                    let reason = "a name or a rule in its schemas holds a secret".to_owned();
                    skipped.push(SkippedTool { name, reason });
                    return false;
                }
            }
            true
        });
        for tool in &mut self.skipped {
            tool.name = secrets.redact(std::mem::take(&mut tool.name));
            tool.reason = secrets.redact(std::mem::take(&mut tool.reason));
        }
        let room = limits::SKIPPED.saturating_sub(self.skipped.len());
        self.skipped.extend(skipped.into_iter().take(room));
        self
    }
}

/// What a schema says to a reader.
const TEXTS: [&str; 5] = ["title", "description", "$comment", "examples", "default"];
/// The words of JSON Schema: whoever is told one of them was not told a secret.
const WORDS: &[&str] = &[
    "$anchor",
    "$comment",
    "$defs",
    "$id",
    "$ref",
    "$schema",
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "array",
    "boolean",
    "const",
    "contains",
    "contentEncoding",
    "contentMediaType",
    "default",
    "definitions",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "deprecated",
    "description",
    "else",
    "enum",
    "examples",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "if",
    "integer",
    "items",
    "maxContains",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minContains",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "not",
    "null",
    "number",
    "object",
    "oneOf",
    "pattern",
    "patternProperties",
    "prefixItems",
    "properties",
    "propertyNames",
    "readOnly",
    "required",
    "string",
    "then",
    "title",
    "type",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
    "writeOnly",
];

/// Takes secrets out of the texts of a schema, which go without saying anything to who checks an input.
fn redact_texts(schema: &mut Value, secrets: &Secrets) {
    match schema {
        Value::Object(fields) => {
            for (name, value) in fields {
                // A property may have that name, and is a schema.
                if TEXTS.contains(&name.as_str()) && !value.is_object() {
                    *value = secrets.redact_value(value.take());
                } else {
                    redact_texts(value, secrets);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                redact_texts(item, secrets);
            }
        }
        _ => {}
    }
}

/// Whether a secret is left in the names and rules of a schema.
fn holds(schema: &Value, secrets: &Secrets) -> bool {
    let is_told = |text: &str| !WORDS.contains(&text) && secrets.redact(text.to_owned()) != text;
    match schema {
        Value::Object(fields) => {
            let mut fields = fields.iter();
            fields.any(|(name, value)| is_told(name) || holds(value, secrets))
        }
        Value::Array(items) => items.iter().any(|item| holds(item, secrets)),
        Value::String(text) => is_told(text),
        Value::Number(number) => is_told(&number.to_string()),
        Value::Null | Value::Bool(_) => false,
    }
}

/// Takes the tools of a server that a model can be told of. `trust` says that its word on what they do counts.
#[must_use]
pub fn listing(server: &str, mut listed: Vec<Tool>, trust: bool) -> Listing {
    let mut taken = Listing::default();
    let skip = |name: &str, reason: String, taken: &mut Listing| {
        if taken.skipped.len() < limits::SKIPPED {
            taken.skipped.push(SkippedTool {
                name: clean(name, limits::NAME_CHARS),
                reason,
            });
        }
    };
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    let mut visible = BTreeSet::new();
    let mut room = limits::SCHEMAS_BYTES;
    for tool in listed {
        let name = tool.name.to_string();
        if taken.tools.len() >= limits::TOOLS {
            let reason = format!("the server has more than {} tools", limits::TOOLS);
            skip(&name, reason, &mut taken);
            continue;
        }
        match take(server, tool, trust, &mut room) {
            Ok(tool) if visible.insert(ToolRef::mcp_visible_name(server, &name)) => {
                taken.tools.push(tool);
            }
            Ok(_) => {
                let reason = "a model cannot tell its name from that of another tool".to_owned();
                skip(&name, reason, &mut taken);
            }
            Err(reason) => skip(&name, reason, &mut taken),
        }
    }
    taken
}

fn take(server: &str, tool: Tool, trust: bool, room: &mut usize) -> Result<McpTool, String> {
    let name = tool.name.into_owned();
    if name.chars().count() > limits::NAME_CHARS {
        let most = limits::NAME_CHARS;
        return Err(format!("its name is longer than {most} characters"));
    }
    match format!("{server}/{name}").parse() {
        Ok(ToolRef::Mcp { .. }) => {}
        Ok(_) => return Err("its name is that of all tools".to_owned()),
        Err(error) => return Err(error.to_string()),
    }
    let input_schema = schema(tool.input_schema.as_ref().clone(), room)?;
    let output_schema = match tool.output_schema {
        Some(schema_of) => Some(schema(schema_of.as_ref().clone(), room)?),
        None => None,
    };
    let hints = tool.annotations.filter(|_| trust).unwrap_or_default();
    let described = tool.description.or(tool.title.map(Into::into));
    let read_only = hints.read_only_hint == Some(true);
    Ok(McpTool {
        server: server.to_owned(),
        name,
        description: clean(&described.unwrap_or_default(), limits::DESCRIPTION_CHARS),
        input_schema,
        output_schema,
        read_only,
        idempotent: read_only || hints.idempotent_hint == Some(true),
    })
}

fn schema(schema: serde_json::Map<String, Value>, room: &mut usize) -> Result<Value, String> {
    let schema = Value::Object(schema);
    let bytes = schema.to_string().len();
    if bytes > limits::SCHEMA_BYTES {
        let most = limits::SCHEMA_BYTES;
        return Err(format!(
            "a schema of it has {bytes} bytes, more than {most}"
        ));
    }
    *room = room
        .checked_sub(bytes)
        .ok_or("the schemas of the server's tools are too large together")?;
    Ok(schema)
}

/// A text of a server as a model or a person may be shown it: of so many characters, without those that move the cursor,
/// turn the direction of writing or are not seen.
pub(crate) fn clean(text: &str, most: usize) -> String {
    let hidden = |c: &char| {
        matches!(*c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
            || (c.is_control() && !matches!(*c, '\n' | '\t'))
    };
    let mut shown = text.trim().chars().filter(|c| !hidden(c));
    let mut cut: String = shown.by_ref().take(most).collect();
    if shown.next().is_some() {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tools(listed: Value) -> Vec<Tool> {
        serde_json::from_value(listed).unwrap()
    }

    fn tool(name: &str) -> Value {
        json!({"name": name, "inputSchema": {"type": "object"}})
    }

    #[test]
    fn the_word_of_a_server_counts_only_where_it_is_trusted() {
        let listed = json!([{"name": "a", "inputSchema": {}, "annotations": {"readOnlyHint": true}},
            {"name": "b", "inputSchema": {}, "annotations": {"idempotentHint": true}}]);
        let word = |trust| {
            let taken = listing("s", tools(listed.clone()), trust).tools;
            let word = taken.iter().map(|tool| (tool.read_only, tool.idempotent));
            word.collect::<Vec<_>>()
        };
        assert_eq!(word(false), [(false, false), (false, false)]);
        assert_eq!(word(true), [(true, true), (false, true)]);
    }

    #[test]
    fn a_schema_without_secrets_is_the_same_schema() {
        let told = ["object", "propert", "s3cret-token"].map(|value| (String::new(), value.into()));
        let secrets = Secrets::new(told.into());
        let schema = json!({"type": "object", "required": ["query"], "properties": {
            "query": {"type": "string", "description": "ask s3cret-token", "examples": ["s3cret-token"]},
            "description": {"type": "object", "title": "an object"},
        }});
        let hidden = json!({"type": "object", "required": ["query"], "properties": {
            "query": {"type": "string", "description": "ask [redacted]", "examples": ["[redacted]"]},
            "description": {"type": "object", "title": "an [redacted]"},
        }});
        let named = json!({"type": "object", "properties": {"s3cret-token": {"type": "string"}}});
        let chosen = json!({"properties": {"key": {"enum": ["s3cret-token"]}}});
        let listed = json!([
            {"name": "a", "inputSchema": schema, "outputSchema": schema},
            {"name": "b", "inputSchema": named},
            {"name": "c", "inputSchema": {}, "outputSchema": chosen},
        ]);
        let listing = listing("s", tools(listed), false).without(&secrets);
        let [tool] = listing.tools.as_slice() else {
            panic!("{listing:?}");
        };
        assert_eq!(tool.input_schema, hidden);
        assert_eq!(tool.output_schema.as_ref(), Some(&hidden));
        let reason = "a name or a rule in its schemas holds a secret";
        let skipped = listing.skipped.iter();
        let skipped: Vec<_> = skipped
            .map(|s| (s.name.as_str(), s.reason.as_str()))
            .collect();
        assert_eq!(skipped, [("b", reason), ("c", reason)]);
    }

    #[test]
    fn leaves_out_what_cannot_be_told_to_a_model() {
        let mut large = tool("large");
        large["inputSchema"]["description"] = "x".repeat(limits::SCHEMA_BYTES).into();
        let listed = json!([
            tool("ok"),
            tool(""),
            tool("*"),
            tool("a b"),
            tool(&"n".repeat(129)),
            tool("a.b"),
            tool("a_b"),
            large
        ]);
        let taken = listing("s", tools(listed), false);
        let names: Vec<&str> = taken.tools.iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(names, ["a.b", "ok"]);
        assert_eq!(taken.skipped.len(), 6, "{:?}", taken.skipped);
    }

    #[test]
    fn takes_no_more_than_the_limit_and_the_same_ones_in_any_order() {
        let names = (0..limits::TOOLS + 3).map(|n| format!("t{n:04}"));
        let mut listed: Vec<Value> = names.map(|name| tool(&name)).collect();
        let first = listing("s", tools(Value::Array(listed.clone())), false);
        listed.reverse();
        assert_eq!(listing("s", tools(Value::Array(listed)), false), first);
        assert_eq!(first.tools.len(), limits::TOOLS);
        assert_eq!(first.skipped.len(), 3);
    }

    #[test]
    fn a_description_is_cut_and_hides_nothing() {
        assert_eq!(clean("  a\u{202e}b\u{e0041}\u{1b}[1m\nc  ", 10), "ab[1m\nc");
        assert_eq!(clean("abcdef", 3), "abc…");
    }
}
