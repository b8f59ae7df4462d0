//! `rune@knowledge-add-relation`: adds a relation between two entities.

use async_trait::async_trait;
use rune_store_runtime::{Properties, PutRelation, Reject, StoreError};
use serde::Deserialize;
use serde_json::{Value, json};

use super::parse;
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    from: String,
    r#type: String,
    to: String,
    #[serde(default)]
    properties: Properties,
}

/// Adds a relation, or adds to what is known of it. Both entities are there already.
pub(crate) struct KnowledgeAddRelation;

#[async_trait]
impl BuiltinTool for KnowledgeAddRelation {
    fn name(&self) -> &'static str {
        "knowledge-add-relation"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let (from, to) = (input.from.clone(), input.to.clone());
        let put = PutRelation {
            scope: context.scope.clone(),
            from: input.from,
            kind: input.r#type,
            to: input.to,
            properties: input.properties,
        };
        let created = match context.store.write(put).await {
            Ok(created) => created,
            Err(StoreError::Rejected(reject @ Reject::NotFound { .. })) => {
                return Err(ToolError::not_found(format!(
                    "{reject}; add it with knowledge-add-entity first"
                )));
            }
            Err(error) => return Err(error.into()),
        };
        Ok(json!({ "from": from, "to": to, "created": created }))
    }
}
