//! `rune@knowledge-add-entity`: adds an entity to what the agent knows.

use async_trait::async_trait;
use rune_store_runtime::{Properties, PutEntity};
use serde::Deserialize;
use serde_json::{Value, json};

use super::parse;
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    name: String,
    r#type: String,
    #[serde(default)]
    properties: Properties,
}

/// Adds an entity, or adds to what is known of it.
pub(crate) struct KnowledgeAddEntity;

#[async_trait]
impl BuiltinTool for KnowledgeAddEntity {
    fn name(&self) -> &'static str {
        "knowledge-add-entity"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let name = input.name.clone();
        let put = PutEntity {
            scope: context.scope.clone(),
            name: input.name,
            kind: input.r#type,
            properties: input.properties,
        };
        let created = context.store.write(put).await?;
        Ok(json!({ "name": name, "created": created }))
    }
}
