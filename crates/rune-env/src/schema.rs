//! The JSON Schema of the configuration file.

use serde_json::{Map, Value, json};

use crate::budgets;
use crate::keys::{KEYS, Key, Kind};
use crate::limits::SETTINGS;

/// The JSON Schema (2020-12) of `config.toml`.
pub fn schema() -> Value {
    let mut tables: Map<String, Value> = Map::new();
    for key in KEYS {
        let (table, name) = key.parts();
        let entry = tables.entry(table).or_insert_with(
            || json!({ "type": "object", "additionalProperties": false, "properties": {} }),
        );
        entry["properties"][name] = property(key);
    }
    tables["providers"]["additionalProperties"] = limits();
    tables.insert(budgets::TABLE.to_owned(), caller_budgets());
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Rune configuration",
        "type": "object",
        "additionalProperties": false,
        "properties": tables,
    })
}

/// `[providers.NAME]`.
fn limits() -> Value {
    let settings = SETTINGS.iter().map(|(name, doc)| {
        let limit =
            json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX, "description": doc });
        ((*name).to_owned(), limit)
    });
    json!({
        "type": "object",
        "description": "Limits of the provider of this name.",
        "additionalProperties": false,
        "properties": settings.collect::<Map<String, Value>>(),
    })
}

/// `[budgets]`.
fn caller_budgets() -> Value {
    let settings = budgets::SETTINGS.iter().map(|(name, doc)| {
        let kind = if name.starts_with("tokens") {
            "integer"
        } else {
            "number"
        };
        let limit = json!({ "type": kind, "minimum": 0, "description": doc });
        ((*name).to_owned(), limit)
    });
    let budget = |doc: &str| {
        json!({
            "type": "object",
            "description": doc,
            "additionalProperties": false,
            "properties": settings.clone().collect::<Map<String, Value>>(),
        })
    };
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            budgets::DEFAULT: budget("Of each caller that has none of its own."),
            budgets::CALLERS: {
                "type": "object",
                "additionalProperties": budget("Of the caller of this name, in place of the default."),
            },
        },
    })
}

fn property(key: &Key) -> Value {
    let mut property = match key.kind {
        Kind::Text
        | Kind::Secret
        | Kind::Url
        | Kind::Path
        | Kind::Address
        | Kind::Pairs
        | Kind::Taints
        | Kind::Peers => {
            json!({ "type": "string" })
        }
        Kind::Count => json!({ "type": "integer", "minimum": 0 }),
        Kind::Positive => json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX }),
        Kind::Percent => json!({ "type": "integer", "minimum": 1, "maximum": 100 }),
        Kind::Rate => json!({ "type": "number", "exclusiveMinimum": 0 }),
        Kind::LogFormat => json!({ "enum": ["pretty", "json"] }),
        Kind::OnOff => json!({ "enum": ["on", "off"] }),
        Kind::Search => json!({ "enum": ["duckduckgo", "searxng", "brave", "tavily"] }),
        Kind::Sandbox => json!({ "enum": ["require", "best-effort", "off"] }),
    };
    let variables = key.env.join(", ");
    property["description"] = match key.env {
        [] => Value::from(key.doc),
        _ => Value::from(format!("{} Environment: {variables}.", key.doc)),
    };
    if let Some(default) = key.default {
        let number = default
            .parse::<u64>()
            .ok()
            .filter(|_| matches!(key.kind, Kind::Count | Kind::Positive | Kind::Percent));
        property["default"] = number.map_or_else(|| Value::from(default), Value::from);
    }
    property
}
