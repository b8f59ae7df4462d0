//! `rune@knowledge-query`: asks what the agent knows.

mod path;

use async_trait::async_trait;
use rune_store_runtime::{EntityRow, PageRequest, RelationFilter, RelationRow};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{fitting, whole};
use super::parse;
use crate::{BuiltinTool, ToolContext, ToolError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    entity: Option<String>,
    relation: Option<RelationInput>,
    path: Option<path::Ends>,
    text: Option<String>,
    r#type: Option<String>,
    #[serde(default = "default_limit")]
    limit: u32,
    cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RelationInput {
    r#type: Option<String>,
    from: Option<String>,
    to: Option<String>,
}

fn default_limit() -> u32 {
    20
}

/// Answers one entity with its relations, relations, a path, or entities. Finding nothing is an answer.
pub(crate) struct KnowledgeQuery;

#[async_trait]
impl BuiltinTool for KnowledgeQuery {
    fn name(&self) -> &'static str {
        "knowledge-query"
    }

    async fn call(&self, context: &ToolContext, input: Value) -> Result<Value, ToolError> {
        let input: Input = parse(input)?;
        let page = PageRequest {
            cursor: input.cursor,
            ..PageRequest::first(input.limit)
        };
        match (input.entity, input.relation, input.path, input.text) {
            (Some(name), None, None, None) => entity(context, &name, page).await,
            (None, Some(wanted), None, None) => {
                let filter = RelationFilter {
                    entity: None,
                    from: wanted.from,
                    to: wanted.to,
                    kind: wanted.r#type,
                };
                relations(context, &filter, page).await
            }
            (None, None, Some(ends), None) => path::find(context, &ends).await,
            (None, None, None, Some(text)) => {
                let kind = input.r#type.as_deref();
                let (store, limit) = (&context.store, input.limit);
                let rows = store.find_entities(&context.scope, &text, kind, limit);
                let (entities, cut) = fitting(&rows.await?, context.answer_budget(), show_entity);
                Ok(json!({ "entities": entities, "truncated": cut }))
            }
            (None, None, None, None) => entities(context, input.r#type.as_deref(), page).await,
            _ => Err(ToolError::invalid(
                "give one of `entity`, `relation`, `path` and `text`, or none for a list of entities",
            )),
        }
    }
}

async fn entity(context: &ToolContext, name: &str, page: PageRequest) -> Result<Value, ToolError> {
    let Some(row) = context.store.entity(&context.scope, name).await? else {
        return Ok(json!({ "entity": null, "relations": [] }));
    };
    let filter = RelationFilter {
        entity: Some(name.to_owned()),
        ..RelationFilter::default()
    };
    let shown = show_entity(&row);
    let mut answer = json!({ "entity": shown });
    let left = context
        .answer_budget()
        .saturating_sub(shown.to_string().len());
    add_relations(&mut answer, context, &filter, page, left).await?;
    Ok(answer)
}

async fn relations(
    context: &ToolContext,
    filter: &RelationFilter,
    page: PageRequest,
) -> Result<Value, ToolError> {
    let mut answer = json!({});
    let budget = context.answer_budget();
    add_relations(&mut answer, context, filter, page, budget).await?;
    Ok(answer)
}

async fn add_relations(
    answer: &mut Value,
    context: &ToolContext,
    filter: &RelationFilter,
    page: PageRequest,
    budget: usize,
) -> Result<(), ToolError> {
    let mut page = page;
    let (rows, next) = loop {
        let (store, scope) = (&context.store, &context.scope);
        let found = store.relations(scope, filter, &page).await?;
        match whole(&found.items, budget, show_relation) {
            Ok(rows) => break (rows, found.next),
            Err(fewer) => page.limit = fewer,
        }
    };
    answer["relations"] = rows.into();
    add_cursor(answer, next);
    Ok(())
}

async fn entities(
    context: &ToolContext,
    kind: Option<&str>,
    page: PageRequest,
) -> Result<Value, ToolError> {
    let mut page = page;
    let (rows, next) = loop {
        let (store, scope) = (&context.store, &context.scope);
        let found = store.entities(scope, kind, &page).await?;
        match whole(&found.items, context.answer_budget(), show_entity) {
            Ok(rows) => break (rows, found.next),
            Err(fewer) => page.limit = fewer,
        }
    };
    let mut answer = json!({ "entities": rows });
    add_cursor(&mut answer, next);
    Ok(answer)
}

fn add_cursor(answer: &mut Value, next: Option<String>) {
    if let Some(next) = next {
        answer["cursor"] = next.into();
    }
}

fn show_entity(row: &EntityRow) -> Value {
    json!({ "name": row.name, "type": row.kind, "properties": row.properties })
}

fn show_relation(row: &RelationRow) -> Value {
    json!({
        "from": row.from,
        "type": row.kind,
        "to": row.to,
        "properties": row.properties,
    })
}
