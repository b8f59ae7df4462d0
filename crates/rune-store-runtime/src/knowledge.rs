//! What agents know: entities with properties, and relations between them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{MemoryScope, Timestamp};

/// Properties of an entity or a relation.
pub type Properties = Map<String, Value>;

/// Adds an entity or adds to what is known of it: its type is replaced, the properties are merged by name, one that is
/// `null` is removed. Reply: whether it was new.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PutEntity {
    /// Whose knowledge.
    pub scope: MemoryScope,
    /// Its name, 1 to 256 bytes.
    pub name: String,
    /// Its type, 1 to 256 bytes.
    pub kind: String,
    /// What is known of it.
    pub properties: Properties,
}

/// Adds a relation between two entities or adds to what is known of it, as [`PutEntity`] does. Reply: whether it was
/// new. Rejected with `not_found` where an entity does not exist.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PutRelation {
    /// Whose knowledge.
    pub scope: MemoryScope,
    /// The entity that it begins at.
    pub from: String,
    /// Its type, 1 to 256 bytes.
    pub kind: String,
    /// The entity that it leads to.
    pub to: String,
    /// What is known of it.
    pub properties: Properties,
}

/// An entity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EntityRow {
    /// Its name, unique among the entities of the agent.
    pub name: String,
    /// Its type.
    pub kind: String,
    /// What is known of it.
    pub properties: Properties,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A relation. There is one of a type from an entity to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RelationRow {
    /// The entity that it begins at.
    pub from: String,
    /// Its type.
    pub kind: String,
    /// The entity that it leads to.
    pub to: String,
    /// What is known of it.
    pub properties: Properties,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// Which relations to list. Empty fields match everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RelationFilter {
    /// Only those that begin at or lead to this entity.
    pub entity: Option<String>,
    /// Only those that begin at this entity.
    pub from: Option<String>,
    /// Only those that lead to this entity.
    pub to: Option<String>,
    /// Only of this type.
    pub kind: Option<String>,
}

/// Merges properties into others by name; `null` removes.
pub fn merge_properties(known: &mut Properties, new: &Properties) {
    for (name, value) in new {
        if value.is_null() {
            known.shift_remove(name);
        } else {
            known.insert(name.clone(), value.clone());
        }
    }
}

/// The words of an entity that it is found by: its name, its type, and the names, texts and numbers of its properties.
#[must_use]
pub fn entity_text(name: &str, kind: &str, properties: &Properties) -> String {
    let mut text = format!("{name}\n{kind}");
    for (name, value) in properties {
        add(&mut text, name);
        add_value(&mut text, value);
    }
    text
}

fn add(text: &mut String, part: &str) {
    text.push('\n');
    text.push_str(part);
}

fn add_value(text: &mut String, value: &Value) {
    match value {
        Value::Null | Value::Bool(_) => {}
        Value::Number(number) => add(text, &number.to_string()),
        Value::String(part) => add(text, part),
        Value::Array(values) => values.iter().for_each(|value| add_value(text, value)),
        Value::Object(map) => map.iter().for_each(|(name, value)| {
            add(text, name);
            add_value(text, value);
        }),
    }
}

/// The words of a text that is searched for, in lower case.
pub fn search_words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
}
